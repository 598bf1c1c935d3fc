"""Timing kernels that may be wrong: in a process of their own, which may die of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

from rtcc.system.child_process import Child, ChildDied
from rtcc.target import Target
from rtcc.tuning.timing import Timed
from rtcc.tuning.timing_process import Setting, attempt, prepare, seconds

MOST_SECONDS = 60.0
"""The longest that one kernel may run, and that it may take to be timed."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Failure:
    """How a kernel ended that did not come back: "signal SIGSEGV"."""

    reason: str


class ChildWatch:
    """Times sets of kernels in a process of its own; one that crashes or does not end costs only itself.

    Each kernel runs once alone, which tells the ones that fail from the others. Those are timed in turns, or
    one by one where they fail only then. other_bytes: as a `Stopwatch` has them.
    """

    def __init__(self, target: Target, other_bytes: int, most_seconds: float = MOST_SECONDS) -> None:
        self._setting = Setting(str(target), other_bytes)
        self._most_seconds = most_seconds
        self._child = Child()
        self._kernels: Mapping[str, Timed] = {}

    def __call__(self, kernels: Mapping[str, Timed]) -> dict[str, float | Failure]:
        """Seconds of each kernel, or how it failed."""
        self._kernels = kernels
        if self._child.is_alive:
            self._prepare()
        failed: dict[str, float | Failure] = {}
        for name in kernels:
            tried = self._run(1, attempt, name)
            if isinstance(tried, Failure):
                failed[name] = tried
        return failed | self._timed([name for name in kernels if name not in failed])

    def _timed(self, names: Sequence[str]) -> dict[str, float | Failure]:
        if not names:
            return {}
        found = self._run(len(names), seconds, names)
        if not isinstance(found, Failure):
            return dict(found)
        if len(names) == 1:
            return {names[0]: found}
        return {name: answer for each in names for name, answer in self._timed([each]).items()}

    def _run(
        self,
        kernels: int,
        function: Callable[Concatenate[Setting, Arguments], Result],
        *arguments: Arguments.args,
        **keywords: Arguments.kwargs,
    ) -> Result | Failure:
        """What a function of the process returns that runs so many kernels, or how the process ended."""
        if not self._child.is_alive:
            self._child.stop()
            self._child = Child()
            self._prepare()
        limit = kernels * self._most_seconds
        try:
            return self._child.call(limit, function, self._setting, *arguments, **keywords)
        except ChildDied as death:
            late = f"it did not end: it was stopped after {limit:g} s"
            return Failure(late if death.is_late else f"its process ended with {death}")

    def _prepare(self) -> None:
        self._child.call(None, prepare, self._setting, self._kernels)

    def __enter__(self) -> ChildWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
