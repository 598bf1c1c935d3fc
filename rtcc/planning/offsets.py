"""Placing buffers with known lives in one arena so that those alive together do not overlap.

Greedy by size: the largest buffer first, each in the tightest gap that is free over its whole life. As long
as the arena is larger than the most bytes alive at once, the buffer that reaches highest is placed earlier
and all is done again, a bounded number of times; the best arena is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64
"""Every buffer in the arena starts at a multiple of this many bytes."""

MOST_ROUNDS = 64
"""Times that an order of placement is improved."""

PLACEMENTS = 50_000
"""Buffers placed in all these rounds together, so that large plans take few."""

COMPARISONS = 20_000_000
"""Pairs of buffers alive together that are looked at in all these rounds, so that crowded plans take few."""


@dataclass(eq=False)
class Buffer:
    """Bytes that are needed from position `first` to position `last`, both included.

    offset: where they lie in the arena; set by `assign_offsets`.
    """

    bytes: int
    first: int
    last: int
    offset: int = 0

    def overlaps(self, other: Buffer) -> bool:
        """Whether the two are alive together and share a byte."""
        together = self.first <= other.last and other.first <= self.last
        is_below_end = self.offset < other.offset + other.bytes
        return together and is_below_end and other.offset < self.offset + self.bytes


_ORDERS: tuple[Callable[[Buffer], tuple[int, ...]], ...] = (
    lambda b: (-b.bytes, b.first, b.last),
    lambda b: (-(b.last - b.first + 1) * b.bytes, b.first),
)


def aligned(size: int) -> int:
    """The size rounded up to a multiple of ALIGNMENT."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def assign_offsets(buffers: Sequence[Buffer]) -> int:
    """Set every buffer's offset; returns the arena's size in bytes.

    Each round makes as many calls of NumPy as there are buffers, over those alive together with each.
    Deterministic.
    """
    needed = [b for b in buffers if b.bytes > 0]
    bound = live_range_bound(needed)
    rounds = min(MOST_ROUNDS, PLACEMENTS // max(1, len(needed)), COMPARISONS // max(1, pairs_alive(needed)))
    best: list[tuple[Buffer, int]] = []
    smallest: int | None = None
    for key in _ORDERS:
        ordered = sorted(needed, key=key)
        for turn in range(1 + rounds):
            if smallest == bound:
                break
            offsets, arena = _place(ordered)
            if smallest is None or arena < smallest:
                best, smallest = list(zip(ordered, offsets.tolist(), strict=True)), arena
            _move_up(ordered, offsets, turn)
    for buffer, offset in best:
        buffer.offset = offset
    return smallest or 0


def pairs_alive(buffers: Sequence[Buffer]) -> int:
    """How many pairs of buffers are alive at a common position; takes n log n steps."""
    firsts = np.sort([b.first for b in buffers])
    lasts = np.sort([b.last for b in buffers])
    ended_before = int(np.searchsorted(lasts, firsts, "left").sum())
    return len(buffers) * (len(buffers) - 1) // 2 - ended_before


def live_range_bound(buffers: Sequence[Buffer]) -> int:
    """The most bytes alive at any one position, in whole multiples of ALIGNMENT: no arena can be smaller."""
    return peak(buffers)[0]


def peak(buffers: Sequence[Buffer]) -> tuple[int, int]:
    """The most bytes alive at any one position, and the first such position; 0, 0 without buffers."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        size = aligned(buffer.bytes)
        changes[buffer.first] = changes.get(buffer.first, 0) + size
        changes[buffer.last + 1] = changes.get(buffer.last + 1, 0) - size
    most = current = at = 0
    for position in sorted(changes):
        current += changes[position]
        if current > most:
            most, at = current, position
    return most, at


def _move_up(ordered: list[Buffer], offsets: NDArray[np.int64], turn: int) -> None:
    """Have the buffer that reaches highest placed earlier: before the first or a middle one of its rivals."""
    if not ordered:
        return
    ends = offsets + np.array([aligned(b.bytes) for b in ordered], np.int64)
    at = int(np.argmax(ends))
    highest = ordered.pop(at)
    rivals = [n for n, b in enumerate(ordered[:at]) if b.first <= highest.last and b.last >= highest.first]
    chosen = rivals[len(rivals) // 2 if turn % 2 else 0] if rivals else 0
    ordered.insert(chosen, highest)


def _place(buffers: Sequence[Buffer]) -> tuple[NDArray[np.int64], int]:
    """Offsets for buffers placed one after the other, and the arena's size."""
    count = len(buffers)
    sizes = np.array([aligned(b.bytes) for b in buffers], np.int64)
    first = np.array([b.first for b in buffers], np.int64)
    last = np.array([b.last for b in buffers], np.int64)
    offsets = np.zeros(count, np.int64)
    arena = 0
    for n in range(count):
        rivals = np.flatnonzero((first[:n] <= last[n]) & (last[:n] >= first[n]))
        rivals = rivals[np.argsort(offsets[rivals], kind="stable")]
        offsets[n] = _tightest_gap(int(sizes[n]), offsets[rivals], offsets[rivals] + sizes[rivals])
        arena = max(arena, int(offsets[n] + sizes[n]))
    return offsets, arena


def _tightest_gap(size: int, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> int:
    """Where the smallest gap between rivals (sorted by start) that holds `size` bytes begins, or the end."""
    if not starts.size:
        return 0
    reached = np.maximum.accumulate(ends)
    before = np.concatenate((np.zeros(1, np.int64), reached[:-1]))
    slack = starts - before - size
    fitting = np.flatnonzero(slack >= 0)
    if not fitting.size:
        return int(reached[-1])
    return int(before[fitting[np.argmin(slack[fitting])]])
