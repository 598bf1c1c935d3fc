"""Reductions over axes, positions of extremes, running sums (ONNX names and semantics)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from rtcc.ir.dimension import Expression
from rtcc.ir.dtype import DType, Kind
from rtcc.ir.op import Array, attribute, operand, optional_operand
from rtcc.ir.ops.axes import integers, normal_axes, normal_axis
from rtcc.ir.ops.computed import FLOATS, NUMBERS, ComputedOp, SameType, integer_limits
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType


class Reduction(ComputedOp):
    """One value per slice along `axes`; subclasses give `total(array, axes)` with kept axes.

    Without axes, or with an empty list, all axes are reduced; with `noop_with_empty_axes` none are.
    """

    kinds: ClassVar[frozenset[Kind]] = NUMBERS
    role = Role.REDUCTION
    total: ClassVar[Callable[[Array, tuple[int, ...]], Array]]
    over_sizes: ClassVar[Callable[[list[Any]], Any] | None] = None
    """The total of numbers and Expressions, None where it has no such form."""
    data = operand()
    axes = optional_operand(static=True)
    keepdims = attribute(1)
    noop_with_empty_axes = attribute(0)

    def reduced_axes(self) -> tuple[int, ...]:
        """The reduced axes, counted from the front, in ascending order."""
        given = () if self.axes is None else integers(self, self.axes, "the list of axes")
        return self._axes(given, self.data.type.rank)

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, self.kinds, "the operand")
        return (self.data.type.with_shape(without_axes(self.data.type, self.reduced_axes(), self.keepdims)),)

    def compute(self, data: Array, axes: Array | None = None) -> Array:
        chosen = self._axes(() if axes is None else tuple(map(int, axes.reshape(-1))), data.ndim)
        found = type(self).total(data, chosen)
        return found if self.keepdims else found.reshape(np.delete(np.array(data.shape, int), list(chosen)))

    def known_result(self, *known: Array | None) -> Array | None:
        rule, data = type(self).over_sizes, known[0]
        if rule is None or data is None or data.ndim != 1 or self.type.elements != 1:
            return None
        elements = list(data)
        return np.full(self.type.sizes, None if None in elements else rule(elements), object)

    def _axes(self, given: tuple[int, ...], rank: int) -> tuple[int, ...]:
        if not given:
            return () if self.noop_with_empty_axes else tuple(range(rank))
        return tuple(sorted(normal_axes(self, given, rank)))


def without_axes(type: TensorType, axes: tuple[int, ...], keep: int) -> tuple[int | Expression, ...]:
    """The shape with some axes reduced: to 1, or away."""
    shape = [1 if axis in axes else size for axis, size in enumerate(type.shape)]
    return tuple(shape) if keep else tuple(s for axis, s in enumerate(shape) if axis not in axes)


def _sum(data: Array, axes: tuple[int, ...]) -> Array:
    return np.sum(data, axis=axes, keepdims=True, dtype=data.dtype)


def _extreme(data: Array, axes: tuple[int, ...], *, largest: bool) -> Array:
    """The largest or smallest element; over nothing the type's own extreme (infinite for floats)."""
    if data.dtype.kind == "b":
        return np.any(data, axis=axes, keepdims=True) if largest else np.all(data, axis=axes, keepdims=True)
    if data.dtype.kind == "f":
        start = -np.inf if largest else np.inf
    else:
        start = integer_limits(data.dtype)[0 if largest else 1]
    choose = np.max if largest else np.min
    return choose(data, axis=axes, keepdims=True, initial=data.dtype.type(start))


def _max(data: Array, axes: tuple[int, ...]) -> Array:
    return _extreme(data, axes, largest=True)


def _min(data: Array, axes: tuple[int, ...]) -> Array:
    return _extreme(data, axes, largest=False)


def _mean(data: Array, axes: tuple[int, ...]) -> Array:
    count = int(np.prod([data.shape[axis] for axis in axes]))
    if data.dtype.kind == "f":
        return _sum(data, axes) / data.dtype.type(count)
    total = _sum(data, axes)
    quotient: Array = np.abs(total) // data.dtype.type(max(count, 1))
    return np.where(total < 0, 0 - quotient, quotient)


def _product(data: Array, axes: tuple[int, ...]) -> Array:
    return np.prod(data, axis=axes, keepdims=True, dtype=data.dtype)


def _sum_of_absolutes(data: Array, axes: tuple[int, ...]) -> Array:
    return _sum(np.abs(data), axes)


def _sum_of_squares(data: Array, axes: tuple[int, ...]) -> Array:
    return _sum(data * data, axes)


def _norm(data: Array, axes: tuple[int, ...]) -> Array:
    if data.dtype.kind == "f":
        return np.sqrt(_sum_of_squares(data, axes))
    return np.sqrt(_sum_of_squares(data.astype(np.float64), axes)).astype(data.dtype)


def _log_of_sum(data: Array, axes: tuple[int, ...]) -> Array:
    return np.log(_sum(data, axes))


def _log_of_sum_of_exponentials(data: Array, axes: tuple[int, ...]) -> Array:
    """Shifted by the largest element, so that nothing overflows; -inf over nothing."""
    largest = _max(data, axes)
    shift = np.where(np.isfinite(largest), largest, data.dtype.type(0))
    return np.log(_sum(np.exp(data - shift), axes)) + shift


class ReduceSum(Reduction):
    """The sum; integers wrap (ONNX ReduceSum)."""

    name = "reduce.reduce_sum"
    over_sizes = staticmethod(sum)
    total = staticmethod(_sum)


class ReduceMean(Reduction):
    """The mean; of integers the wrapped sum's quotient, truncated; NaN over nothing (ONNX ReduceMean)."""

    name = "reduce.reduce_mean"
    total = staticmethod(_mean)


class ReduceMax(Reduction):
    """The largest element; NaN where any is NaN; booleans: any (ONNX ReduceMax)."""

    name = "reduce.reduce_max"
    kinds = NUMBERS | {Kind.BOOL}
    total = staticmethod(_max)


class ReduceMin(Reduction):
    """The smallest element; NaN where any is NaN; booleans: all (ONNX ReduceMin)."""

    name = "reduce.reduce_min"
    kinds = NUMBERS | {Kind.BOOL}
    total = staticmethod(_min)


class ReduceProd(Reduction):
    """The product; integers wrap (ONNX ReduceProd)."""

    name = "reduce.reduce_prod"
    over_sizes = staticmethod(math.prod)
    total = staticmethod(_product)


class ReduceL1(Reduction):
    """The sum of absolute values (ONNX ReduceL1)."""

    name = "reduce.reduce_l1"
    total = staticmethod(_sum_of_absolutes)


class ReduceL2(Reduction):
    """The square root of the sum of squares; of integers truncated (ONNX ReduceL2)."""

    name = "reduce.reduce_l2"
    total = staticmethod(_norm)


class ReduceLogSum(Reduction):
    """The logarithm of the sum (ONNX ReduceLogSum)."""

    name = "reduce.reduce_log_sum"
    kinds = FLOATS
    total = staticmethod(_log_of_sum)


class ReduceLogSumExp(Reduction):
    """The logarithm of the sum of exponentials (ONNX ReduceLogSumExp)."""

    name = "reduce.reduce_log_sum_exp"
    kinds = FLOATS
    total = staticmethod(_log_of_sum_of_exponentials)


class ReduceSumSquare(Reduction):
    """The sum of squares (ONNX ReduceSumSquare)."""

    name = "reduce.reduce_sum_square"
    total = staticmethod(_sum_of_squares)


class ArgReduction(ComputedOp):
    """The i64 position of an extreme along one axis: the first, or with `select_last_index` the last."""

    role = Role.OPAQUE
    positions_result = 0
    position: ClassVar[Callable[..., Any]]
    data = operand()
    axis = attribute(0)
    keepdims = attribute(1)
    select_last_index = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, NUMBERS, "the operand")
        axis = normal_axis(self, self.axis, self.data.type.rank)
        return (TensorType(DType.I64, without_axes(self.data.type, (axis,), self.keepdims)),)

    def compute(self, data: Array) -> Array:
        axis = normal_axis(self, self.axis, data.ndim)
        if not self.select_last_index:
            return type(self).position(data, axis=axis, keepdims=bool(self.keepdims))
        flipped = type(self).position(np.flip(data, axis), axis=axis, keepdims=bool(self.keepdims))
        return data.shape[axis] - 1 - flipped


class ArgMax(ArgReduction):
    """Where the largest element stands; NaN counts as largest (ONNX ArgMax)."""

    name = "reduce.arg_max"
    position = staticmethod(np.argmax)


class ArgMin(ArgReduction):
    """Where the smallest element stands; NaN counts as smallest (ONNX ArgMin)."""

    name = "reduce.arg_min"
    position = staticmethod(np.argmin)


class Cumulation(SameType):
    """Running totals along one axis; `exclusive` leaves out the element itself, `reverse` starts last."""

    role = Role.OPAQUE
    accumulate: ClassVar[Callable[..., Any]]
    start: ClassVar[int]
    data = operand()
    axis = operand(static=True)
    exclusive = attribute(0)
    reverse = attribute(0)

    def compute(self, data: Array, axis: Array) -> Array:
        chosen = normal_axis(self, int(axis.reshape(-1)[0]), data.ndim)
        data = np.flip(data, chosen) if self.reverse else data
        if self.exclusive and data.shape[chosen]:
            kept = np.take(data, range(data.shape[chosen] - 1), axis=chosen)
            first = np.full_like(np.take(data, [0], axis=chosen), self.start)
            data = np.concatenate([first, kept], axis=chosen)
        found = type(self).accumulate(data, axis=chosen, dtype=data.dtype)
        return np.flip(found, chosen) if self.reverse else found


class CumSum(Cumulation):
    """Running sums (ONNX CumSum)."""

    name = "reduce.cum_sum"
    accumulate = staticmethod(np.cumsum)
    start = 0


class CumProd(Cumulation):
    """Running products (ONNX CumProd)."""

    name = "reduce.cum_prod"
    accumulate = staticmethod(np.cumprod)
    start = 1
