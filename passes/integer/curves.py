"""Functions of a real number as straight pieces in integers, for `quant.curve`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rtcc.ir.ops.computed import integer_limits
from rtcc.ir.ops.tables import PLACES, SEGMENTS, SHIFT, UNIT
from rtcc.passes.integer.values import Array, TensorParameters

FLAT = 1 / 32
"""Units of the result by which a function may still move where its curve ends."""

TOLERANCE = 0.3
"""Units of the result by which a curve, before it is rounded, may be off the function."""

WIDEST = 1.5
"""The widest piece that is tried, of the least that covers all: bends should fall between pieces."""

WIDTHS = 12
"""How many are tried beside those of which whole ones end where the function does."""

BEYOND = 127
"""Units beyond the ends of the result's type that a piece may reach, in which the function saturates."""

SAMPLES = 8
"""Places of each piece by which widths are compared."""

HALVINGS = 24
"""Steps by which the end of a function is found between two distances of `PER_OCTAVE`."""

LARGEST_SUM = 2.0**31
PER_OCTAVE = 32
OCTAVES = 60

Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Pieces:
    """A curve. step: one place in the function's argument; below, table: operands of `quant.curve`."""

    step: float
    below: int
    table: Array


def curve_of(function: Function, scale: float, to: TensorParameters) -> Pieces | None:
    """The curve of a function of i32 sums times at most `scale`; None where none is near enough."""
    limits = integer_limits(to.dtype.numpy)

    def raw(x: Array) -> Array:
        """The function in units of the result, neither saturated nor rounded, as far as a piece reaches."""
        with np.errstate(all="ignore"):
            found = function(x.astype(np.float64)) / np.float64(to.scale) + to.zero
        return np.clip(found, limits[0] - BEYOND, limits[1] + BEYOND)

    def units(x: Array) -> Array:
        return np.clip(raw(x), *limits)

    reach = [_reach(units, sign * scale * LARGEST_SUM) for sign in (-1, 1)]
    if None in reach:
        return None
    left, right = (0.0 if each is None else each for each in reach)
    least = (left + right) / (SEGMENTS - 1)
    if not np.finfo(np.float32).tiny < least < np.inf:
        return None
    candidates = [_pieces(raw, width, left, limits) for width in _widths(least, (left, right))]
    errors = [_error(units, each, PLACES // SAMPLES, limits) for each in candidates]
    best = candidates[int(np.argmin(errors))]
    return best if _error(units, best, 1, limits) <= TOLERANCE else None


def _reach(units: Function, most: float) -> float | None:
    """How far from 0, at most `most`, a function moves; None where it is not finite somewhere."""
    distances = 2.0 ** (-np.arange(PER_OCTAVE * OCTAVES) / PER_OCTAVE)
    found = units(np.append(most * distances, 0.0))
    if not np.isfinite(found).all():
        return None
    moving = np.flatnonzero(np.abs(found - found[0]) > FLAT)
    if not moving.size:
        return 0.0
    if moving[0] == 0:
        return abs(most)
    still, moves = distances[moving[0] - 1], np.append(distances, 0.0)[moving[0]]
    for _ in range(HALVINGS):
        middle = (still + moves) / 2
        if np.abs(units(np.array([most * middle])) - found[0])[0] > FLAT:
            moves = middle
        else:
            still = middle
    return abs(most) * float(still)


def _widths(least: float, reach: tuple[float, float]) -> list[float]:
    """Widths of a piece between the least and `WIDEST` times that, whole ones to either side first."""
    found = {
        side / count
        for side in reach
        for count in range(1, SEGMENTS + 1)
        if least <= side / count <= WIDEST * least
    }
    return sorted(found | {float(each) for each in np.linspace(least, WIDEST * least, WIDTHS)})


def _pieces(raw: Function, width: float, left: float, limits: tuple[int, int]) -> Pieces:
    """The curve of pieces so wide, of the function or, where that is nearer, of what it is unsaturated."""
    below = min(int(np.ceil(left / width)), SEGMENTS)
    first = np.arange(SEGMENTS) - below
    part = np.linspace(0.0, 1.0, SAMPLES + 1)
    beyond = raw((first[:, None] + part) * width)
    exact = np.clip(beyond, *limits)
    lines = [_line(each, part) for each in (exact, beyond)]
    errors = [
        np.abs(np.clip(start[:, None] + rise[:, None] * part, *limits) - exact).max(1)
        for start, rise in lines
    ]
    is_nearer = errors[1] < errors[0]
    start: Array = np.where(is_nearer, lines[1][0], lines[0][0])
    rise: Array = np.where(is_nearer, lines[1][1], lines[0][1])
    table = np.empty((SEGMENTS, 2), np.int16)
    # half a unit more, since results are rounded down
    table[:, 1] = np.rint(start * UNIT) + UNIT // 2
    table[:, 0] = np.rint(rise * UNIT)
    # places below 0 are found modulo all that there are
    return Pieces(width / PLACES, below, np.roll(table, -below, 0).reshape(-1))


def _line(exact: Array, part: Array) -> tuple[Array, Array]:
    """Start and rise of each piece, moved to where its errors add up to nothing.

    One sign would prevail in the sums of the next layer, in which roundings cancel.
    """
    start, rise = exact[:, 0], exact[:, -1] - exact[:, 0]
    over = exact - (start[:, None] + rise[:, None] * part)
    return start + np.trapezoid(over, part, axis=1), rise


def _error(units: Function, curve: Pieces, stride: int, limits: tuple[int, int]) -> float:
    """How far a curve is off, in units of the result, at every stride-th place or half a place beside it."""
    places = np.arange(0, SEGMENTS * PLACES, stride) - curve.below * PLACES
    piece, beyond = (places // PLACES) % SEGMENTS, places % PLACES
    wide = curve.table.astype(np.float64)
    found = (wide[2 * piece + 1] * PLACES + wide[2 * piece] * beyond) / 2**SHIFT - 0.5
    exact = units((places[:, None] + np.array([-0.5, 0.0, 0.5])) * curve.step)
    return float(np.abs(exact - np.clip(found, *limits)[:, None]).max())
