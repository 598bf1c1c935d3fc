"""Time rtcc beside other runtimes: one process, pinned cores, taking turns.

    python benchmarks/compare.py                                      every benchmark network, one thread
    python benchmarks/compare.py --models resnet18 ppocr-det my.onnx --threads 2 --rounds 30 --json out.json

A model is a name from benchmarks/models/networks.py or from benchmarks/models/zoo.py (fetched before), or a
file with fixed input shapes. Machines drift by tens of per cent over minutes, so only the ratios count.
"""

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import rtcc
from benchmarks.models.networks import MODELS, sample_inputs, write_model
from benchmarks.models.zoo import ZOO, zoo_feeds, zoo_path
from rtcc.measure import Latency
from rtcc.peers import PEERS, load_peer

BURST_SECONDS = 0.03
ALL_CORES = os.sched_getaffinity(0)

Arrays = Mapping[str, NDArray[Any]]


@dataclass
class Result:
    """One model's figures: latency per runtime, or why there is none.

    deviation: how far rtcc's outputs are from the first peer's, relative to the largest magnitude.
    """

    model: str
    latencies: dict[str, Latency] = field(default_factory=dict[str, Latency])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    versions: dict[str, str] = field(default_factory=dict[str, str])
    compile_seconds: float | None = None
    deviation: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "compile_seconds": self.compile_seconds,
            "deviation": self.deviation,
            "versions": self.versions,
            "failures": self.failures,
            "latency_us": {name: latency.as_dict() for name, latency in self.latencies.items()},
        }


@contextmanager
def on_cores(cores: Set[int]) -> Generator[None]:
    """Let this thread, and those it starts meanwhile, use these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def find_model(name: str, folder: Path) -> tuple[Path, dict[str, NDArray[Any]]]:
    """The file of a model (written where needed) and inputs to feed."""
    from onnx import ModelProto

    if name in ZOO:
        if not zoo_path(name).exists():
            raise SystemExit(f"{name} was not fetched: run `python -m benchmarks.models.zoo fetch {name}`")
        return zoo_path(name), zoo_feeds(name)
    path = write_model(name, folder) if name in MODELS else Path(name)
    if not path.exists():
        raise SystemExit(f"no model {name!r}: neither a file nor one of {', '.join([*MODELS, *ZOO])}")
    return path, sample_inputs(ModelProto.FromString(path.read_bytes()))


def interleave(runners: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Latency]:
    """Bursts of calls in turn, each of about 30 ms, the first of a round changing: latency per runner.

    Within a burst a model finds its weights and code in the caches as far as they fit, as in a real-time
    loop; between bursts the runtimes change places.
    """
    bursts: dict[str, int] = {}
    for name, run in runners.items():
        for _ in range(3):
            started = time.perf_counter()
            run()
            seconds = time.perf_counter() - started
            bursts[name] = max(1, int(BURST_SECONDS / seconds))
    times: dict[str, list[float]] = {name: [] for name in runners}
    names = list(runners)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                _burst(runners[name], bursts[name], times[name])
    finally:
        gc.enable()
    return {name: Latency.of(seconds) for name, seconds in times.items()}


def _burst(run: Callable[[], object], calls: int, times: list[float]) -> None:
    run()
    for _ in range(calls):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)


def measure_model(
    name: str, peers: Sequence[str], threads: int, rounds: int, folder: Path, pipeline: str
) -> Result:
    """Compile or load the model with every runtime, compare the answers, then time them in turns."""
    path, feeds = find_model(name, folder)
    shapes = {input_name: array.shape for input_name, array in feeds.items()}
    result = Result(name)
    runners: dict[str, Callable[[], object]] = {}
    answers: dict[str, Arrays] = {}
    try:
        started = time.perf_counter()
        with on_cores(ALL_CORES):
            compiled = rtcc.compile(path, target="x86", threads=threads, shapes=shapes, pipeline=pipeline)
        result.compile_seconds = time.perf_counter() - started
        artifact = rtcc.load(compiled.path, threads=threads)
        answers["rtcc"] = artifact.run(feeds)
        runners["rtcc"] = artifact.bind(feeds)
        result.versions["rtcc"] = rtcc.__version__
    except rtcc.RtccError as error:
        result.failures["rtcc"] = str(error)
    for peer_name in peers:
        try:
            peer = load_peer(peer_name, path, shapes, threads)
            answers[peer_name] = peer.run(feeds)
            runners[peer_name] = peer.bind(feeds)
            result.versions[peer_name] = peer.version
        except rtcc.RtccError as error:
            result.failures[peer_name] = str(error)
    references = [answers[peer_name] for peer_name in peers if peer_name in answers]
    if "rtcc" in answers and references:
        result.deviation = deviation(answers["rtcc"], references[0])
    result.latencies = interleave(runners, rounds) if runners else {}
    return result


def deviation(found: Arrays, expected: Arrays) -> float:
    """The largest difference, relative to the largest magnitude of each output."""
    worst = 0.0
    for name, exact in expected.items():
        if exact.size:
            difference = np.abs(found[name].astype(np.float64) - exact.astype(np.float64)).max()
            worst = max(worst, float(difference / max(np.abs(exact).max(), 1e-30)))
    return worst


def table_of(results: Sequence[Result], runtimes: Sequence[str], threads: int) -> Table:
    """Median (least) in ms per runtime, and how many times faster rtcc is than each peer."""
    table = Table(title=f"median (least) ms, {threads} thread{'s' if threads > 1 else ''}")
    table.add_column("model")
    peers = [name for name in runtimes if name != "rtcc"]
    for column in [*runtimes, *(f"{name} / rtcc" for name in peers), "deviation", "compile s"]:
        table.add_column(column, justify="right")
    for result in results:
        cells = [_milliseconds(result.latencies.get(name)) for name in runtimes]
        for peer in peers:
            ours, theirs = result.latencies.get("rtcc"), result.latencies.get(peer)
            cells.append(f"{theirs.p50 / ours.p50:.2f}" if ours and theirs else "-")
        cells.append("-" if result.deviation is None else f"{result.deviation:.1e}")
        cells.append("-" if result.compile_seconds is None else f"{result.compile_seconds:.1f}")
        table.add_row(result.model, *cells)
    return table


def _milliseconds(latency: Latency | None) -> str:
    return f"{latency.p50 / 1e3:.3f} ({latency.least / 1e3:.3f})" if latency else "-"


def processor() -> str:
    """The processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time rtcc beside other runtimes, taking turns.")
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--against", nargs="*", default=list(PEERS), choices=list(PEERS), metavar="RUNTIME")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=20, metavar="N")
    parser.add_argument("--pipeline", default="-O2", help="rtcc's pipeline, such as --pipeline=-O1")
    parser.add_argument("--folder", type=Path, default=Path("build/models"), help="where models are written")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(given)
    if not 1 <= options.threads <= len(ALL_CORES):
        parser.error(f"--threads must be between 1 and {len(ALL_CORES)}, the cores this process may use")
    return options


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    cores = sorted(ALL_CORES)[: options.threads]
    console = Console(width=None if sys.stdout.isatty() else 140)
    results: list[Result] = []
    for name in options.models:
        # Pinned before any runtime starts a thread: threads inherit the cores of the one that makes them.
        with on_cores(set(cores)):
            result = measure_model(
                name, options.against, options.threads, options.rounds, options.folder, options.pipeline
            )
        results.append(result)
        for runtime, failure in result.failures.items():
            console.print(f"{name}: {runtime}: {failure}", style="red", markup=False)
        if sys.stdout.isatty():
            console.print(f"{name} done")
    console.print(table_of(results, ["rtcc", *options.against], options.threads))
    if options.json:
        report = {
            "processor": processor(),
            "cores": cores,
            "threads": options.threads,
            "results": [result.as_dict() for result in results],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if any("rtcc" in result.failures for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
