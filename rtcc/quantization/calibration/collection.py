"""Distributions of values over samples, gathered so that an interruption costs seconds."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rtcc
from rtcc.data import Data, Feeds, read_arrays
from rtcc.errors import InvalidInput
from rtcc.ir import Module, Value
from rtcc.quantization.calibration.histogram import Histogram
from rtcc.quantization.calibration.running import Probe, probe
from rtcc.system.files import replace_file
from rtcc.text import print_module

SECONDS_BETWEEN_SAVES = 10.0
"""What an interruption that gives no notice costs at most."""

Progress = Callable[[int], None]
"""Told the number of samples seen."""


def unseen(samples: int) -> None:
    """Progress that nobody watches."""


@dataclass
class Distributions:
    """Histograms of values by number, over so many samples. engine: how the model was run."""

    histograms: list[Histogram]
    samples: int = 0
    engine: str = ""
    resumed: int = 0
    """Samples that an earlier, interrupted run had seen."""
    seen: str = ""
    """A hash of all samples in their order."""


@dataclass(frozen=True)
class Collecting:
    """How distributions are gathered.

    most: samples to take, None for all. state: a file that holds what was gathered until all is; a run with
    the same model, values and data goes on from it. What was gathered from more samples than `most`, or from
    samples that are others when they are read again, is thrown away.
    """

    most: int | None = None
    state: Path | None = None
    target: str | None = None
    progress: Progress = field(default=unseen)


def collect(module: Module, values: Sequence[Value], data: Data, how: Collecting) -> Distributions:
    """The distributions of values of a module over samples.

    InvalidInput: what `Data.samples` raises; no-data; activation-not-finite (an overflow inside the model).
    """
    key = _key(module, values, data)
    found, rest = _resumed(how, key, len(values), data)
    watch = probe(module, values, how.target)
    found.engine = watch.engine
    saved = time.monotonic()
    try:
        for feeds in rest:
            _add(found, watch, values, feeds, f"{data.name}, sample {found.samples}")
            found.samples += 1
            found.seen = _hash_with(found.seen, feeds)
            how.progress(found.samples)
            if how.state is not None and time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                _save(how.state, key, found)
                saved = time.monotonic()
    except BaseException:
        if how.state is not None and found.samples > found.resumed:
            _save(how.state, key, found)
        raise
    if not found.samples:
        raise InvalidInput("no-data", "there is no sample to calibrate with", where=data.name,
                           hint="give --data a file or script with some samples")  # fmt: skip
    return found


def _add(
    found: Distributions, watch: Probe, values: Sequence[Value], feeds: dict[str, NDArray[Any]], where: str
) -> None:
    """Count one sample's arrays, all of them or none."""
    arrays = watch.watched(feeds)
    for value, array in zip(values, arrays, strict=True):
        if not np.isfinite(array).all():
            message = f"{value.name} becomes infinite or NaN in the float model"
            hint = "leave the sample out, or the layers that read it: --keep-float LAYER"
            raise InvalidInput("activation-not-finite", message, where=where, hint=hint)
    for histogram, array in zip(found.histograms, arrays, strict=True):
        histogram.add(array)


# ------------------------------------------------------------------------------------------ what was gathered


def _key(module: Module, values: Sequence[Value], data: Data) -> str:
    """A hash of all that the distributions depend on."""
    names = ",".join(str(value.name) for value in values)
    text = f"{rtcc.__version__}\n{print_module(module)}\n{names}\n{data.identity}"
    return hashlib.sha256(text.encode()).hexdigest()


def _save(path: Path, key: str, found: Distributions) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "key": np.array(key), "samples": np.array(found.samples), "seen": np.array(found.seen),
    }  # fmt: skip
    for number, histogram in enumerate(found.histograms):
        arrays |= {f"{number}.{name}": array for name, array in histogram.arrays().items()}
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType]
    replace_file(path, stream.getvalue())


def _hash_with(seen: str, feeds: Feeds) -> str:
    """The hash of the samples seen before, by their hash, and one more."""
    digest = hashlib.sha256(seen.encode())
    for name, array in feeds.items():
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _resumed(how: Collecting, key: str, count: int, data: Data) -> tuple[Distributions, Iterator[Feeds]]:
    """What the state holds of these very samples, nothing where it is of others; and the samples to come."""
    found = _stored(how.state, key, count)
    rest = data.samples(how.most)
    if found is not None and (how.most is None or found.samples <= how.most):
        seen = ""
        for feeds in islice(rest, found.samples):
            seen = _hash_with(seen, feeds)
        if seen == found.seen:
            return found, rest
        rest = data.samples(how.most)
    return Distributions([Histogram() for _ in range(count)]), rest


def _stored(path: Path | None, key: str, count: int) -> Distributions | None:
    """What a file holds for this key, None where it is of another model, of other data, or not there."""
    if path is None or not path.exists():
        return None
    try:
        arrays = read_arrays(path)
        if str(arrays["key"]) != key:
            return None
        histograms = [
            Histogram.of_arrays({name: arrays[f"{number}.{name}"] for name in ("counts", "whole", "numbers")})
            for number in range(count)
        ]
        samples = int(arrays["samples"])
        return Distributions(histograms, samples, resumed=samples, seen=str(arrays["seen"]))
    except (ValueError, KeyError) as error:
        message = f"this is no state of a calibration, or a damaged one: {error}"
        raise InvalidInput("calibration-damaged", message, where=str(path), hint="delete it") from error
