# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Which taps of a window fall inside the data at a position that only the running kernel knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index
from rtcc.targets.tvm.kernels.window import Window


@contextmanager
def each_tap(
    kernel: FunctionBuilder, windows: tuple[Window, Window], at: tuple[Index, Index], pixels: int
) -> Iterator[tuple[Index, Index, list[tuple[range, Expr | None]]]]:
    """A loop over the taps inside the data, for pixels of a row from position `at`: row, column.

    windows: the filter's movement along the height and the width. Gives a tap's row and column in the
    filter, and parts of the pixels, each with the condition on which it has the tap inside (None: always).
    What falls into the padding would add zeros: rows of the filter are left out by the bounds of the loop,
    columns by the conditions, where the position is a number (`OutputRow.edge_tiles`). The loop over columns
    stays a loop: written out, LLVM would keep what neighbouring taps share in registers that the sums need.
    """
    down, across = windows
    y, x = at
    first, end = tap_bounds(down, y)
    first = kernel.bind("first", first)
    with kernel.serial("r", end - first, first) as r, kernel.serial("s", across.taps) as s:
        edges = across.inside(x, pixels) or [range(pixels)] * across.taps
        taps_of = [[tap for tap, inside in enumerate(edges) if m in inside] for m in range(pixels)]
        parts: list[tuple[range, Expr | None]] = []
        for taps, members in groupby(range(pixels), key=lambda m: taps_of[m]):
            same = list(members)
            if taps:
                parts.append((range(same[0], same[-1] + 1), _between(s, taps[0], taps[-1], across.taps)))
        yield r, s, parts


def _between(tap: Index, first: int, last: int, taps: int) -> Expr | None:
    """The condition first ≤ tap ≤ last, or None where all of so many taps fulfil it."""
    bounds = [tirx.GE(tap, first)] * (first > 0) + [tirx.LE(tap, last)] * (last < taps - 1)
    return tirx.all(*bounds) if bounds else None


def tap_bounds(window: Window, position: Index) -> tuple[Index, Index]:
    """The first tap inside the data at a position, and one past the last; numbers where always the same."""
    if window.before == window.overhang == 0:
        return 0, window.taps
    origin = position * window.stride - window.before
    first = tirx.Max(tirx.IntImm("int32", 0), tirx.floordiv(window.dilation - 1 - origin, window.dilation))
    end = tirx.floordiv(window.extent - 1 - origin, window.dilation) + 1
    return first, tirx.Min(tirx.IntImm("int32", window.taps), end)


def padded_taps(window: Window, position: Index) -> Index:
    """How many taps fall inside the data or its padding: what a padded average divides by."""
    if window.overhang <= window.after:
        return window.taps
    room = window.extent + window.after + window.before - 1 - position * window.stride
    if isinstance(room, int):
        return min(window.taps, room // window.dilation + 1)
    return tirx.Min(tirx.IntImm("int32", window.taps), tirx.floordiv(room, window.dilation) + 1)
