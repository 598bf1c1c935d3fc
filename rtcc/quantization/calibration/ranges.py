"""Ranges from distributions: what to clip so that what is left is resolved finely enough.

Sources: min-max and percentile as everyone has them; entropy after S. Migacz, 8-bit inference with TensorRT
(GTC 2017), here with a limit on either side; mean squared error after R. Banner, Y. Nahshan, D. Soudry,
Post-training 4-bit quantization of convolution networks for rapid-deployment (NeurIPS 2019), over the
measured distribution in place of a fitted one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import DType
from rtcc.quantization.calibration.histogram import BINS, Histogram
from rtcc.quantization.scheme import Calibration, Form, integer_range

Array = NDArray[np.float64]

ROUNDS = 8
"""How often the two limits are chosen in turn; they settle earlier, as each step only improves."""

ENTROPY_CANDIDATES = 256
"""How many limits of a side the entropy is computed for."""

NOTHING_LEFT = 1e-9
"""The probability that a bin has in a distribution that knows nothing in it."""


@dataclass(frozen=True)
class Range:
    """The real numbers that quantisation keeps; low ≤ 0 ≤ high."""

    low: float
    high: float


def choose_range(
    histogram: Histogram, calibration: Calibration, percentile: float, dtype: DType, form: Form
) -> Range:
    """The range of a tensor with that distribution; percentile: in per cent, for that calibration only.

    For forms without a zero point, or with a fixed one, both limits are the same but for the sign.
    """
    if not histogram.count:
        return Range(0.0, 0.0)
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    if low == high:
        return Range(0.0, 0.0)
    even = form is not Form.AFFINE and low < 0
    if even:
        histogram, low, high = folded(histogram), 0.0, max(-low, high)
    levels = step_count(dtype, form, negative=even)
    match calibration:
        case Calibration.MIN_MAX:
            found = Range(low, high)
        case Calibration.PERCENTILE:
            outside = (100 - percentile) / 100
            share = outside / 2 if low < 0 and high > 0 else outside
            lower = min(histogram.quantile(share), 0.0) if low < 0 else 0.0
            upper = max(histogram.quantile(1 - share), 0.0) if high > 0 else 0.0
            found = Range(lower, upper)
        case Calibration.ENTROPY:
            found = _searched(histogram, Range(low, high), _Divergence(histogram, levels + 1))
        case Calibration.MSE:
            found = _searched(histogram, Range(low, high), _SquaredError(histogram, levels))
    if found.low == found.high:
        found = Range(low, high)
    return Range(-found.high, found.high) if even else found


def folded(histogram: Histogram) -> Histogram:
    """The distribution of the magnitudes."""
    counts = np.zeros_like(histogram.counts)
    counts[BINS:] = histogram.counts[BINS:] + histogram.counts[:BINS][::-1]
    high = max(-histogram.low, histogram.high)
    return Histogram(counts, histogram.exponent, histogram.zeros, 0.0, high, 0.0, histogram.squares)


def step_count(dtype: DType, form: Form, *, negative: bool) -> int:
    """Steps from the lower limit of a range to the upper one, or from zero where the limits are symmetric."""
    unsigned = integer_range(dtype)[0] == 0
    whole = form is Form.AFFINE or (form is Form.LINEAR and unsigned and not negative)
    return 2 ** (dtype.bits - (not whole)) - 1


def squared_error(histogram: Histogram, range: Range, step: float) -> float:
    """Expected squared error of one element quantised in steps of that size within a range."""
    error = _SquaredError(histogram, (range.high - range.low) / step)
    return float(error(np.array([range.low]), np.array([range.high]))[0]) / histogram.count


Objective = Callable[[Array, Array], Array]
"""What to make small, for each pair of limits; zeros, which are kept exactly, do not count."""


def _searched(histogram: Histogram, whole: Range, objective: Objective) -> Range:
    """The limits that make the objective smallest, each chosen in turn; the widest of equals."""
    edges = np.arange(1, BINS + 1) * histogram.width
    highs = np.append(edges[edges < whole.high], whole.high)[::-1] if whole.high > 0 else np.zeros(1)
    lows = np.append(-edges[edges < -whole.low], whole.low)[::-1] if whole.low < 0 else np.zeros(1)
    best = whole
    for _ in range(ROUNDS):
        high = float(highs[np.argmin(objective(np.full_like(highs, best.low), highs))])
        low = float(lows[np.argmin(objective(lows, np.full_like(lows, high)))])
        if (low, high) == (best.low, best.high):
            break
        best = Range(low, high)
    return best


class _SquaredError:
    """Sum of squared errors: step²/12 for what lies between the limits, the distance for what is clipped."""

    def __init__(self, histogram: Histogram, levels: float) -> None:
        self._levels = levels
        self._edges = histogram.edges
        counts, centres = histogram.counts.astype(np.float64), histogram.centres
        sums = [counts, counts * centres, counts * centres**2]
        self._below = [np.concatenate([[0.0], np.cumsum(each)]) for each in sums]
        self._total = [float(each[-1]) for each in self._below]

    def __call__(self, low: Array, high: Array) -> Array:
        below = [np.interp(low, self._edges, each) for each in self._below]
        upto = [np.interp(high, self._edges, each) for each in self._below]
        above = [total - each for total, each in zip(self._total, upto, strict=True)]
        step = (high - low) / self._levels
        inside = (upto[0] - below[0]) * step**2 / 12
        return inside + _distance(below, low) + _distance(above, high)


def _distance(sums: list[Array], limit: Array) -> Array:
    """Σ (x - limit)² from Σ 1, Σ x and Σ x²."""
    return np.maximum(sums[2] - 2 * limit * sums[1] + limit**2 * sums[0], 0.0)


class _Divergence:
    """Kullback-Leibler divergence of what quantisation leaves of a distribution from the distribution.

    Clipped elements are counted at the limits in the one, and left out of the other, whose levels spread
    over the bins that hold anything.
    """

    def __init__(self, histogram: Histogram, levels: int) -> None:
        self._counts = histogram.counts.astype(np.float64)
        self._width = histogram.width
        self._levels = levels

    def __call__(self, low: Array, high: Array) -> Array:
        found = np.full(len(low), np.inf)
        step = max(1, len(low) // ENTROPY_CANDIDATES)
        for index in range(0, len(low), step):
            found[index] = self._of(float(low[index]), float(high[index]))
        return found

    def _of(self, low: float, high: float) -> float:
        first, last = BINS + round(low / self._width), BINS + int(np.ceil(high / self._width - 1e-9))
        inside = self._counts[first:last]
        if len(inside) < self._levels and len(inside) < np.count_nonzero(self._counts):
            return np.inf  # fewer bins than levels: nothing would seem lost however much is clipped
        reference = inside.copy()
        reference[0] += self._counts[:first].sum()
        reference[-1] += self._counts[last:].sum()
        if not inside.any():
            return np.inf
        starts = np.unique((np.arange(self._levels) * len(inside)) // self._levels)
        sums = np.add.reduceat(inside, starts)
        held = np.add.reduceat((inside > 0).astype(np.float64), starts)
        lengths = np.diff(np.append(starts, len(inside)))
        even = np.repeat(sums / np.maximum(held, 1), lengths)
        left = np.where(inside > 0, even, 0.0)
        p, q = reference / reference.sum(), np.maximum(left / left.sum(), NOTHING_LEFT)
        some = p > 0
        return float(np.sum(p[some] * np.log(p[some] / q[some])))
