"""What one run of a kernel asks of a machine; a target turns it into seconds."""

from __future__ import annotations

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
    results. units: into how many equal parts the work can be divided.
    """

    cycles: float
    streams: tuple[Stream, ...]
    units: int = 1
