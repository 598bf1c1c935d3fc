"""Time against accuracy of models in which some layers stay float: predicted, measured, and what is chosen.

    python benchmarks/mixed_precision.py [nudenet] [minilm6] [--min-sqnr 30] [--samples 32] [--rounds 20]

`nudenet` is YOLOv8n. Each model is calibrated on three quarters of the samples and searched for the fastest
form that holds the floor on the rest; then every model that the search measured is compiled and all of them
take turns on one core, in bursts of which the fastest counts, by the thread's own time, so that other
programs on the core count little. Printed are milliseconds as predicted and as measured, each with its ratio
to the float model's, decibels of the worst output, and the point that was chosen. Inputs: rendered pages for
YOLOv8n, random tokens for MiniLM, whose weights are random too.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.named import find_model, require_models
from benchmarks.quantized_accuracy import text_lines
from rtcc.measure import pinned
from rtcc.quantization.quantizer import Step
from rtcc.tuning.timing import least_seconds

FLOORS = {"nudenet": 50.0, "minilm6": 30.0}
"""Decibels that are asked for where the command names none."""

OPTIONS: dict[str, dict[str, Any]] = {"minilm6": {"equalization": "all"}}
"""How models are quantised where the defaults do badly."""

TOKENS = 30522
BURST_SECONDS = 0.05


def pages(height: int, width: int) -> Iterator[NDArray[Any]]:
    """Rendered pages of values between 0 and 1."""
    return ((each + 1) / 2 for each in text_lines(height, width)())


def samples_of(name: str, feeds: dict[str, NDArray[Any]], count: int) -> dict[str, NDArray[Any]]:
    """So many samples for a model, which takes what `feeds` looks like."""
    if name == "nudenet":
        (images,) = feeds
        return {images: np.concatenate(list(islice(pages(*feeds[images].shape[2:]), count)))}
    generator = np.random.default_rng(0)
    found: dict[str, NDArray[Any]] = {}
    for input, array in feeds.items():
        shape = (count, *array.shape[1:])
        if input == "input_ids":
            found[input] = generator.integers(0, TOKENS, shape)
        elif array.dtype.kind == "i":
            found[input] = np.broadcast_to(array[:1], shape).copy()
        else:
            found[input] = generator.standard_normal(shape).astype(array.dtype)
    return found


def told(started: float) -> Callable[[Step], None]:
    """Prints each step once, on standard error."""
    last = ""

    def say(step: Step) -> None:
        nonlocal last
        if step.doing != last:
            last = step.doing
            print(f"  {time.perf_counter() - started:6.0f} s  {last}", file=sys.stderr, flush=True)

    return say


def compare(name: str, min_sqnr: float, count: int, rounds: int, state: Path | None) -> None:
    """Search one model and print its front."""
    with tempfile.TemporaryDirectory() as folder:
        path, feeds = find_model(name, Path(folder))
        module = rtcc.read(path, shapes={input: array.shape for input, array in feeds.items()})
    samples, options = samples_of(name, feeds, count), OPTIONS.get(name, {})
    say = told(time.perf_counter())
    quantized = rtcc.quantize(module, samples, min_sqnr=min_sqnr, state=state, progress=say, **options)
    found = quantized.found
    assert found is not None
    calibrated = {input: np.delete(array, slice(1, None, 4), axis=0) for input, array in samples.items()}
    one = {input: array[:1] for input, array in samples.items()}
    runners: dict[int, Callable[[], object]] = {}
    for number, point in enumerate(found.points):
        say(Step(f"compiling point {number + 1} of {len(found.points)}"))
        kept = tuple(point.kept)
        is_float = len(kept) == len(found.layers)
        made = module if is_float else rtcc.quantize(module, calibrated, keep_float=kept, **options).module
        runners[number] = rtcc.compile(made).bind(one)
    with pinned(sorted(os.sched_getaffinity(0))[:1]):
        seconds = least_seconds(runners, rounds, BURST_SECONDS)
    exact = found.points.index(found.exact)
    print(
        f"{name}: {len(found.layers)} layers, {found.samples} samples held out, load {os.getloadavg()[0]:.1f}"
    )
    print("  float   predicted  of float   measured  of float     dB")
    for number, point in enumerate(found.points):
        measured = f"{seconds[number] * 1e3:6.3f} ms  {seconds[number] / seconds[exact]:8.2f}"
        predicted = f"{point.seconds * 1e3:6.3f} ms  {point.seconds / found.exact.seconds:8.2f}"
        marks = f"{'front' if point.is_front else '':6}{'chosen' if point is found.chosen else ''}"
        row = f"  {len(point.kept):5}   {predicted}  {measured}  {point.quality.sqnr:5.1f}  {marks}"
        print(row.rstrip())
    print(f"  chosen for {found.floor}: float stay {', '.join(found.names(found.chosen.kept)) or 'none'}")


def main() -> None:
    """Search the models named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(FLOORS), metavar="MODEL")
    parser.add_argument("--min-sqnr", type=float, metavar="DB", help="50 for nudenet, else 30 by default")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--state", type=Path, metavar="DIR", help="where a stopped search goes on from")
    arguments = parser.parse_args()
    require_models(arguments.models)
    for name in arguments.models:
        floor = FLOORS.get(name, 30.0) if arguments.min_sqnr is None else arguments.min_sqnr
        state = None if arguments.state is None else arguments.state / name
        compare(name, floor, arguments.samples, arguments.rounds, state)


if __name__ == "__main__":
    main()
