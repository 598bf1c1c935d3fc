"""What one run of a kernel asks of a machine; a target turns it into seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Stream:
    """Bytes that a kernel goes through, once or several times.

    size: bytes of one time. times: how often. reach: bytes that pass by between two times, which decide the
    cache in which the bytes are found again; 0 for as many as `size`. is_constant: weights, which the rest of
    the model has driven out of the near caches since the last run.
    """

    size: float
    times: float = 1.0
    reach: float = 0.0
    is_constant: bool = False


@dataclass(frozen=True)
class Demand:
    """The work of one run on one core.

    cycles: of arithmetic, with operands in the first cache. streams: what is read from farther off, and
    results. units: into how many parts the work can be divided. uneven: how much longer the busiest of so
    many tasks works than if all did the same, where tiles know that; else the parts count as equal.
    """

    cycles: float
    streams: tuple[Stream, ...]
    units: int = 1
    uneven: Callable[[int], float] | None = None

    def busiest(self, tasks: int) -> float:
        """The part of all work that the busiest of so many tasks does."""
        if self.uneven is None:
            return -(-self.units // tasks) / self.units
        return self.uneven(tasks) / tasks
