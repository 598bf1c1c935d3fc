"""Latency of callables, interleaved: machines drift, so only neighbours in time compare."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Microseconds of one callable over all its runs."""

    least: float
    p50: float
    p99: float
    most: float

    @staticmethod
    def of(seconds: Sequence[float]) -> Latency:
        """The figures of a list of run times."""
        us = np.asarray(seconds) * 1e6
        return Latency(float(us.min()), float(np.median(us)), float(np.percentile(us, 99)), float(us.max()))

    def as_dict(self) -> dict[str, float]:
        """The figures by name."""
        return {"min": self.least, "p50": self.p50, "p99": self.p99, "max": self.most}


@contextmanager
def pinned(cores: Iterable[int]) -> Generator[None]:
    """Keep this thread, and those that it starts meanwhile, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(
    runners: Mapping[str, Callable[[], object]],
    runs: int,
    *,
    cores: Sequence[int] | None = None,
    warmup: int = 3,
) -> dict[str, Latency]:
    """Time each callable `runs` times, in turn: a, b, c, a, b, c…; pinned to `cores` meanwhile."""
    with pinned(cores or os.sched_getaffinity(0)):
        for run in runners.values():
            for _ in range(warmup):
                run()
        seconds: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(runs):
            for name, run in runners.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    return {name: Latency.of(times) for name, times in seconds.items()}
