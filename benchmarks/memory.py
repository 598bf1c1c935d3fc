"""The memory of a process and of all that it started, as Linux counts it; for benchmarks."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")

SAMPLE_SECONDS = 0.05
"""Between two samples; peaks that are shorter are missed."""


def descendants(pid: int) -> list[int]:
    """A process and all that it started, directly or not, which still run."""
    found = [pid]
    for parent in found:
        with suppress(OSError):  # it ended meanwhile
            for thread in (PROC / str(parent) / "task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    return found


def resident_bytes(pid: int) -> int:
    """The proportional set size: pages shared by n processes count 1/n each. 0 of a process that ended."""
    with suppress(OSError):
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


class PeakMemory:
    """The most bytes at one time of a process and all that it started, sampled while this is entered."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        for total in self._totals():
            self.bytes = max(self.bytes, total)

    def _totals(self) -> Iterator[int]:
        yield self._total()
        while not self._ended.wait(SAMPLE_SECONDS):
            yield self._total()

    def _total(self) -> int:
        return sum(map(resident_bytes, descendants(self.pid)))

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
