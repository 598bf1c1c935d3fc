"""Numbers that know how far from them a computed value may lie, and arithmetic on them.

This is running error analysis (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition,
SIAM 2002, section 3.3), done beside a run in float64 instead of in the precision that is analysed: every
operation passes on what its operands may be off by, and adds its own roundings.

An error that is infinite says that nothing is known: the operation overflows, or leaves its domain, somewhere
within its operands' errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, sqrt
from typing import Any

import numpy as np

from rtcc.ir import DType
from rtcc.ir.op import Array

ARITHMETIC = 2.0
"""Roundings of half an ulp allowed for one of + - · /: x / y may be x · (1 / y)."""

FUNCTION = 8.0
"""The same for one elementary function: those of targets/tvm/vector_math.py err by up to 2.4 ulp."""

DEVIATIONS = 6.0
"""λ of the probabilistic bound of sums: one sum exceeds it with a chance below 2·exp(-λ²/2) = 3e-8."""


@dataclass(frozen=True)
class Unit:
    """A precision to compute in: its unit roundoff, and the smallest number that is not flushed to zero."""

    roundoff: float
    tiny: float


SINGLE = Unit(2.0**-24, 2.0**-126)
DOUBLE = Unit(2.0**-52, 2.0**-1022)
"""Twice the roundoff of float64: the reference is rounded as much as what it is compared with."""


NARROW = {DType.F16: Unit(2.0**-11, 2.0**-24), DType.BF16: Unit(2.0**-8, 2.0**-126)}
"""Float types that are stored more coarsely than computed."""


HALF_TERMS = 72
"""Products of halves that kernels add up in halves before their sum goes to a total in float32, at most."""


def unit_of(dtype: DType) -> Unit:
    """What values of a type are computed in: narrow floats in float32."""
    return DOUBLE if dtype is DType.F64 else SINGLE


@dataclass(frozen=True)
class Bounded:
    """Values (floats as float64, the rest as they are), and the most that each may be off by."""

    value: Array
    error: Array
    unit: Unit = SINGLE

    @staticmethod
    def exact(value: Array, unit: Unit = SINGLE) -> Bounded:
        """Values as they are."""
        return Bounded(value, np.zeros(value.shape), unit)

    @property
    def is_exact(self) -> bool:
        """Whether no element may be off."""
        return not self.error.any()

    @property
    def magnitude(self) -> Array:
        """|value|, in float64."""
        return np.abs(self.value.astype(np.float64))

    def ends(self) -> tuple[Array, Array]:
        """The least and the largest that the values may be, in their type; what is not finite stays."""
        if self.value.dtype.kind == "b":
            unsure = self.error > 0
            return self.value & ~unsure, self.value | unsure
        with np.errstate(all="ignore"):
            fixed = (self.error == 0) | ~np.isfinite(self.value)
            wide = self.value.astype(np.float64)
            low, high = (self._as_value(wide + side * self.error) for side in (-1.0, 1.0))
        return np.where(fixed, self.value, low), np.where(fixed, self.value, high)

    def looser(self, error: Array) -> Bounded:
        """The same values, off by so much more."""
        return Bounded(self.value, self.error + error, self.unit)

    def relatively_looser(self, roundings: float) -> Bounded:
        """The same values, off by so many roundings more; integers stay."""
        if self.value.dtype.kind != "f":
            return self
        with np.errstate(all="ignore"):
            return self.looser(roundings * self.unit.roundoff * finite(self.magnitude))

    def _as_value(self, wide: Array) -> Array:
        if self.value.dtype.kind == "f":
            return wide
        limits = np.iinfo(self.value.dtype)
        return np.clip(np.nan_to_num(wide), float(limits.min), float(limits.max)).astype(self.value.dtype)

    def __add__(self, other: Bounded | float) -> Bounded:
        return combined(np.add, self, self._like(other))

    def __sub__(self, other: Bounded | float) -> Bounded:
        return combined(np.subtract, self, self._like(other))

    def __mul__(self, other: Bounded | float) -> Bounded:
        return combined(np.multiply, self, self._like(other))

    def __truediv__(self, other: Bounded | float) -> Bounded:
        return combined(np.divide, self, self._like(other))

    def __rtruediv__(self, other: float) -> Bounded:
        return combined(np.divide, self._like(other), self)

    def __pow__(self, exponent: float) -> Bounded:
        """exp(exponent · log(x)) at worst, whose argument's rounding the exponential amplifies."""
        with np.errstate(all="ignore"):
            argument = np.nan_to_num(np.abs(exponent * np.log(self.magnitude)), posinf=1.0)
        return combined(partial(_powers, exponent), self, roundings=FUNCTION * (1 + argument))

    def reshape(self, *shape: int) -> Bounded:
        """The same elements in another shape."""
        return Bounded(self.value.reshape(shape), self.error.reshape(shape), self.unit)

    def _like(self, other: Bounded | float) -> Bounded:
        if isinstance(other, Bounded):
            return other
        return Bounded.exact(np.array(other, np.float64), self.unit)


def combined(
    function: Callable[..., Array], *operands: Bounded, roundings: float | Array = ARITHMETIC
) -> Bounded:
    """An elementwise function of bounded numbers; roundings: of its result."""
    unit = operands[0].unit
    with np.errstate(all="ignore"):
        value = np.asarray(function(*(each.value for each in operands)))
        (moved,) = movement(lambda *arrays: (function(*arrays),), operands)
        return Bounded(value, moved + roundings * unit.roundoff * finite(np.abs(value)) + unit.tiny, unit)


def _powers(exponent: float, x: Array) -> Array:
    return x**exponent


def stored(x: Bounded, dtype: DType) -> Bounded:
    """The numbers rounded to an element type, where that is narrower than what they are computed in."""
    if dtype not in NARROW:
        return x
    unit = NARROW[dtype]
    with np.errstate(all="ignore"):
        return x.looser(unit.roundoff * finite(x.magnitude + x.error) + unit.tiny)


def exponential(x: Bounded) -> Bounded:
    """e to the x."""
    return combined(np.exp, x, roundings=FUNCTION)


def logarithm(x: Bounded) -> Bounded:
    """The natural logarithm."""
    return combined(np.log, x, roundings=FUNCTION)


def root(x: Bounded) -> Bounded:
    """The square root."""
    return combined(np.sqrt, x)


def absolute(x: Bounded) -> Bounded:
    """The magnitude, which no rounding touches."""
    return Bounded(np.abs(x.value), x.error, x.unit)


def total(x: Bounded, axes: tuple[int, ...]) -> Bounded:
    """The sum over some axes, which are kept, in any order."""
    count = int(np.prod([x.value.shape[axis] for axis in axes]))
    with np.errstate(all="ignore"):
        magnitudes = np.sum(x.magnitude, axis=axes, keepdims=True)
        errors = np.sum(x.error, axis=axes, keepdims=True)
        error = (1 + sum_error(count, x.unit)) * errors + sum_error(count, x.unit) * magnitudes
        return Bounded(np.sum(x.value, axis=axes, keepdims=True), known(error) + count * x.unit.tiny, x.unit)


def largest(x: Bounded, axes: tuple[int, ...]) -> Bounded:
    """The largest element over some axes, which are kept."""

    def most(array: Array) -> Sequence[Array]:
        return (np.max(array, axis=axes, keepdims=True, initial=-np.inf),)

    (moved,) = movement(most, [x])
    return Bounded(most(x.value)[0], moved, x.unit)


def sum_error(roundings: int, unit: Unit) -> float:
    """By what part of Σ|terms| a sum of products can be off after so many roundings, in any order.

    At worst n·u / (1 - n·u), which Higham's section 3.1 calls gamma_n. Roundings are near enough independent
    and of mean zero that exp(λ·√n·u + n·u² / (1 - u)) - 1 holds but with a chance of 2·exp(-λ²·(1 - u)² / 2)
    (N. J. Higham and T. Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput.
    41, 2019, A2815-A2835). The less of the two: of some thousand terms, gamma_n would let one go missing.
    """
    u = unit.roundoff
    worst = roundings * u / (1 - roundings * u) if roundings * u < 0.5 else float("inf")
    return min(worst, exp(DEVIATIONS * sqrt(roundings) * u + roundings * u * u / (1 - u)) - 1)


def movement(function: Callable[..., Sequence[Array]], operands: Sequence[Bounded | None]) -> list[Array]:
    """How far each result moves when the operands move within their errors.

    Each operand is moved to either end by itself, and all together; a function that is monotone in each
    operand, as smooth ones are over so short a way, moves most there.
    """
    values = [None if each is None else each.value for each in operands]
    unsure = [n for n, each in enumerate(operands) if each is not None and not each.is_exact]
    reference = function(*values)
    moved = [np.zeros(np.shape(result)) for result in reference]
    joint: tuple[list[Array | None], list[Array | None]] = (list(values), list(values))
    for number in unsure:
        each = operands[number]
        assert each is not None
        ends = each.ends()
        found = [function(*values[:number], end, *values[number + 1 :]) for end in ends]
        for n, result in enumerate(reference):
            moved[n] = moved[n] + np.maximum(*(distance(result, other[n]) for other in found))
        for side, end in zip(joint, ends, strict=True):
            side[number] = end
    if len(unsure) > 1:
        for side in joint:
            found = function(*side)
            moved = [np.maximum(m, distance(r, f)) for m, r, f in zip(moved, reference, found, strict=True)]
    return moved


def distance(left: Array, right: Array) -> Array:
    """|left - right| in float64: 0 where equal or both NaN, infinite where nothing finite is between them."""
    left, right = np.asarray(left), np.asarray(right)
    with np.errstate(all="ignore"):
        apart = np.abs(left.astype(np.float64) - right.astype(np.float64))
        same = (left == right) | ((left != left) & (right != right))
    # integers of 64 bits may differ where float64 does not tell them apart
    apart = np.where((apart == 0) & ~same, 1.0, apart)
    return np.where(same, 0.0, known(apart))


def known(error: Array) -> Array:
    """The error, infinite where it came out as no number."""
    return np.where(np.isnan(error), np.inf, error)


def finite(magnitudes: Array) -> Array:
    """The magnitudes, 0 where they are not finite: an infinity is not rounded."""
    return np.where(np.isfinite(magnitudes), magnitudes, 0.0)


Rule = Callable[[Any, Sequence["Bounded | None"], Sequence[Array]], Sequence[Array]]
"""The errors of an op's results, from the op, its operands and its results in float64."""
