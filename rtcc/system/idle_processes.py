"""Processes that wait for more work for a while: to start one takes longer than most of what they do."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Process(Protocol):
    """One that is kept."""

    @property
    def is_usable(self) -> bool:
        """Whether it would do what a new one does."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


Kept = TypeVar("Kept", bound=Process)


class IdleProcesses(Generic[Kept]):
    """Processes between two uses. A forked child starts with none: the pipes are its parent's.

    start: makes a new one. seconds: how long they wait.
    """

    def __init__(self, start: Callable[[], Kept], seconds: Callable[[], float]) -> None:
        self._start, self._seconds = start, seconds
        self._is_registered = False
        self._forget()

    def take(self) -> Kept:
        """A usable process, else a new one."""
        with self._lock:
            self._cancel()
            kept = [each for each in self._waiting if each.is_usable]
            spent = [each for each in self._waiting if each not in kept]
            found = kept.pop() if kept else None
            self._waiting = kept
            self._schedule()
        for each in spent:
            each.stop()
        return found or self._start()

    def give(self, process: Kept) -> None:
        """Keep a process for the next use, for a while."""
        if not process.is_usable:
            process.stop()
            return
        with self._lock:
            if not self._is_registered:
                atexit.register(self.clear)
                os.register_at_fork(after_in_child=self._forget)
                self._is_registered = True
            self._waiting.append(process)
            self._schedule()

    def clear(self) -> None:
        """Stop all that wait."""
        with self._lock:
            self._cancel()
            waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.stop()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Kept] = []
        self._timer: threading.Timer | None = None

    def _schedule(self) -> None:
        self._cancel()
        if self._waiting:
            self._timer = threading.Timer(self._seconds(), self.clear)
            self._timer.daemon = True
            self._timer.start()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
