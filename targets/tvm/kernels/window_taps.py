# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Which taps of a window fall inside the data at a position that only the running kernel knows."""

from __future__ import annotations

from tvm import tirx

from rtcc.targets.tvm.function_builder import Index
from rtcc.targets.tvm.kernels.window import Window


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
