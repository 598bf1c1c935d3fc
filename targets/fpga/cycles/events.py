"""Simulated time: processes that wait for a moment or for each other."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial

Process = Generator["int | Signal", None, None]
"""It yields the time to which it sleeps, or a signal for which it waits."""


@dataclass
class Signal:
    """Something that processes wait for; who is woken looks again whether what it wants is so."""

    waiting: list[Process] = field(default_factory=list[Process])


class Clock:
    """Runs processes in order of time; those of one moment in the order in which they came to sleep."""

    def __init__(self) -> None:
        self.now = 0
        self._sequence = 0
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []

    def at(self, time: int, what: Callable[[], None]) -> None:
        """Call a function at a time, which is not in the past."""
        assert time >= self.now
        self._sequence += 1
        heapq.heappush(self._agenda, (time, self._sequence, what))

    def begin(self, process: Process) -> None:
        """Let a process run up to what it waits for, and so on from there."""
        awaited = next(process, None)
        if isinstance(awaited, Signal):
            awaited.waiting.append(process)
        elif awaited is not None:
            self.at(awaited, partial(self.begin, process))

    def wake(self, signal: Signal) -> None:
        """Continue, now, whoever waits for a signal."""
        for process in signal.waiting:
            self.at(self.now, partial(self.begin, process))
        signal.waiting.clear()

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._agenda:
            self.now, _, what = heapq.heappop(self._agenda)
            what()
