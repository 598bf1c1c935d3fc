"""Linear layers as affine maps: one after the other, side by side, and as an operator again.

A map is held apart from the op that it came from, so that two of them can be made one before anything in the
graph changes: `then` composes, `plus` adds, `write` gives the op. The first two compute in float64, and give
None where the result is no such map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, Op, Value
from rtcc.ir.location import Location
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.nn import Conv, Gemm, MatMul

Array = NDArray[Any]

Keep = Callable[[Array, str], Constant]
"""Makes a constant of an array in float64 (rounded to the data's type), by what it is: "weight", "bias"."""


@dataclass(frozen=True)
class ProductMap:
    """x·matrix + bias over the last axis. matrix: [summands, outputs]. bias: one number per output."""

    matrix: Array
    bias: Array | None = None

    @property
    def summands(self) -> int:
        """Multiply-adds for each element of the result."""
        return len(self.matrix)

    def shifted(self, shift: Array) -> ProductMap:
        """With so much more added to each output."""
        return replace(self, bias=_sum(self.bias, shift))

    def unit(self, scale: Array) -> ProductMap | None:
        """The map that multiplies each of as many channels as this one has."""
        return ProductMap(np.diag(scale)) if len(scale) == len(self.matrix) else None

    def then(self, after: Map) -> ProductMap | None:
        """x → after(self(x))"""
        if not isinstance(after, ProductMap):
            return None
        second = _wide(after.matrix)
        carried = None if self.bias is None else self.bias @ second
        return ProductMap(_wide(self.matrix) @ second, _sum(carried, after.bias))

    def summands_then(self, after: Map) -> int | None:
        """Summands of `then`, without composing; None where there is no such map."""
        return self.summands if isinstance(after, ProductMap) else None

    def plus(self, other: Map) -> ProductMap | None:
        """x → self(x) + other(x)"""
        if not isinstance(other, ProductMap) or self.matrix.shape != other.matrix.shape:
            return None
        return ProductMap(_wide(self.matrix) + other.matrix, _sum(self.bias, other.bias))

    def write(self, data: Value, keep: Keep, location: Location) -> Op:
        """The op that computes it; its producers stand nowhere yet."""
        matrix = keep(self.matrix, "weight")
        if self.bias is None:
            return MatMul(data, matrix, location=location)
        bias = keep(self.bias, "bias")
        if data.type.rank == 2:
            return Gemm(data, matrix, bias, location=location)
        return Add(MatMul(data, matrix, location=location).result, bias, location=location)


@dataclass(frozen=True)
class ConvMap:
    """A convolution. weight: [outputs, channels / group, taps…]. pads: before each axis, then after each."""

    weight: Array
    bias: Array | None
    group: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def summands(self) -> int:
        """Multiply-adds for each element of the result."""
        return prod(self.weight.shape[1:])

    @property
    def kernel(self) -> tuple[int, ...]:
        """Taps along each axis."""
        return self.weight.shape[2:]

    @property
    def is_pointwise(self) -> bool:
        """Whether each result is of one position alone."""
        return set(self.kernel) == {1} and not any(self.pads)

    def shifted(self, shift: Array) -> ConvMap:
        """With so much more added to each output."""
        return replace(self, bias=_sum(self.bias, shift))

    def unit(self, scale: Array) -> ConvMap | None:
        """The map that multiplies each of as many channels as this one has, in as many groups."""
        outputs, inputs = self.weight.shape[:2]
        if len(scale) != outputs or outputs != inputs * self.group or set(self.strides) != {1}:
            return None
        weight = np.zeros((outputs, inputs, *(1 for _ in self.kernel)))
        weight.reshape(outputs, inputs)[np.arange(outputs), np.arange(outputs) % inputs] = scale
        ones = (1,) * len(self.kernel)
        return ConvMap(weight, None, self.group, ones, ones, (0,) * len(self.pads))

    def then(self, after: Map) -> ConvMap | None:
        """x → after(self(x)): one of them is pointwise, and no border is padded that a bias would fill."""
        if not isinstance(after, ConvMap) or self.summands_then(after) is None:
            return None
        groups, (outputs, middle) = self.group, after.weight.shape[:2]
        second = _wide(after.weight).reshape(groups, outputs // groups, middle, -1)
        first = _wide(self.weight).reshape(groups, middle, self.weight.shape[1], -1)
        weight = np.einsum("gomt,gmcu->goctu", second, first, optimize=True)
        taps = (a * b for a, b in zip(self.kernel, after.kernel, strict=True))
        shape = (outputs, self.weight.shape[1], *taps)
        carried = None
        if self.bias is not None:
            carried = np.einsum("gomt,gm->go", second, self.bias.reshape(groups, middle)).reshape(-1)
        bias = _sum(carried, after.bias)
        if after.is_pointwise:
            strides = tuple(a * b for a, b in zip(self.strides, after.strides, strict=True))
            return replace(self, weight=weight.reshape(shape), bias=bias, strides=strides)
        return replace(after, weight=weight.reshape(shape), bias=bias)

    def summands_then(self, after: Map) -> int | None:
        """Summands of `then`, without composing; None where there is no such map."""
        if not isinstance(after, ConvMap) or self.group != after.group:
            return None
        moves_alone = self.is_pointwise and set(self.strides) == {1}
        fills_border = self.bias is not None and self.bias.any() and any(after.pads)
        if not after.is_pointwise and (not moves_alone or fills_border):
            return None
        return self.weight.shape[1] * prod(self.kernel) * prod(after.kernel)

    def plus(self, other: Map) -> ConvMap | None:
        """x → self(x) + other(x): the taps of both, where they lie on one lattice."""
        if not isinstance(other, ConvMap) or (self.group, self.strides) != (other.group, other.strides):
            return None
        if self.weight.shape[:2] != other.weight.shape[:2]:
            return None
        axes = [_Axis.of(self, other, axis) for axis in range(len(self.kernel))]
        known = [axis for axis in axes if axis is not None]
        if len(known) < len(axes):
            return None
        weight = np.zeros((*self.weight.shape[:2], *(axis.taps for axis in known)))
        for map, starts in ((self, [a.first for a in known]), (other, [a.second for a in known])):
            place = tuple(slice(start, start + k) for start, k in zip(starts, map.kernel, strict=True))
            weight[(slice(None), slice(None), *place)] += map.weight
        pads = (*(axis.before for axis in known), *(axis.after for axis in known))
        dilations = tuple(axis.dilation for axis in known)
        return ConvMap(weight, _sum(self.bias, other.bias), self.group, self.strides, dilations, pads)

    def write(self, data: Value, keep: Keep, location: Location) -> Op:
        """The op that computes it."""
        weight = keep(self.weight, "weight")
        bias = None if self.bias is None else keep(self.bias, "bias")
        return Conv(
            data, weight, bias, location=location, group=self.group, strides=self.strides,
            dilations=self.dilations, pads=self.pads, kernel_shape=self.kernel,
        )  # fmt: skip


Map = ProductMap | ConvMap


@dataclass(frozen=True)
class _Axis:
    """How the taps of two convolutions lie along one axis: where each starts among those of the sum."""

    first: int
    second: int
    taps: int
    dilation: int
    before: int
    after: int

    @staticmethod
    def of(one: ConvMap, other: ConvMap, axis: int) -> _Axis | None:
        """None where no lattice has the taps of both."""
        counts = one.kernel[axis], other.kernel[axis]
        steps = {map.dilations[axis] for map in (one, other) if map.kernel[axis] > 1} or {1}
        apart = one.pads[axis] - other.pads[axis]
        (dilation, *others) = steps
        if others or apart % dilation:
            return None
        shift = apart // dilation  # of the other's first tap, behind the one's
        start = min(0, shift)
        taps = max(counts[0], shift + counts[1]) - start
        before = one.pads[axis] - start * dilation
        behind = taps + start - counts[0]  # taps of the sum behind the last of the one
        after = one.pads[len(one.kernel) + axis] + behind * dilation
        return _Axis(-start, shift - start, taps, dilation, before, after)


def _wide(array: Array) -> Array:
    return array.astype(np.float64, copy=False)


def _sum(one: Array | None, other: Array | None) -> Array | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other


@dataclass(frozen=True)
class Applied:
    """A map as it stands in a graph. ops: those that compute it; weights: the constants that they read."""

    map: Map
    data: Value
    ops: tuple[Op, ...]
    weights: tuple[Constant, ...]

    @property
    def multiply_adds(self) -> int:
        """Of all its ops."""
        return sum(op.operations() // 2 for op in self.ops if isinstance(op, Conv | Gemm | MatMul))

    @property
    def is_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(np.isfinite(_wide(weight.data)).all()) for weight in self.weights)

    @property
    def is_alone(self) -> bool:
        """Whether nothing else reads what is inside it, nor its weights."""
        inner = all(op.result.has_one_use for op in self.ops[:-1])
        return inner and all(weight.has_one_use for weight in self.weights)

    def then(self, after: Applied) -> Applied | None:
        """Both as one map, where they are one."""
        map = self.map.then(after.map)  # pyright: ignore[reportArgumentType]
        if map is None:
            return None
        return Applied(map, self.data, (*self.ops, *after.ops), (*self.weights, *after.weights))


def applied(value: Value) -> Applied | None:
    """The map that gives a value: a convolution or product by a constant, with what is added to a product."""
    op = value.producer
    match op:
        case Add():
            for data, added in ((op.left, op.right), (op.right, op.left)):
                product = data.producer
                if isinstance(product, MatMul) and data.has_one_use and data.type == op.type:
                    return _with_added(_product(product), op, added)
            return None
        case Conv():
            return _conv(op)
        case Gemm() | MatMul():
            return _product(op)
        case _:
            return None


def _with_added(found: Applied | None, op: Add, added: Value) -> Applied | None:
    if found is None or not isinstance(added, Constant):
        return None
    numbers = per_channel(added, op.result, -1)
    if numbers is None:
        return None
    return Applied(found.map.shifted(numbers), found.data, (*found.ops, op), (*found.weights, added))


def _conv(op: Conv) -> Applied | None:
    known = _floats(op.weight, op.bias)
    if known is None:
        return None
    weight, bias = known
    pads, strides, dilations = op.geometry()
    constants = tuple(each for each in (op.weight, op.bias) if isinstance(each, Constant))
    return Applied(ConvMap(weight, bias, op.group, strides, dilations, pads), op.data, (op,), constants)


def _product(op: Gemm | MatMul) -> Applied | None:
    known = _floats(op.right, op.addend if isinstance(op, Gemm) else None)
    if known is None or op.right.type.rank != 2 or op.left.type.rank < 2:
        return None
    matrix, bias = known
    if isinstance(op, Gemm):
        if op.transA or (bias is not None and bias.ndim and bias.size != bias.shape[-1]):
            return None
        matrix = matrix.T if op.transB else matrix
        matrix = matrix if op.alpha == 1 else op.alpha * _wide(matrix)
        if bias is not None:
            bias = np.broadcast_to(op.beta * bias.reshape(-1), (matrix.shape[1],))
    constants = tuple(each for each in op.operands[1:] if isinstance(each, Constant))
    return Applied(ProductMap(matrix, bias), op.left, (op,), constants)


def _floats(weight: Value, bias: Value | None) -> tuple[Array, Array | None] | None:
    """The weight as it is, the bias in float64; None where one of them is no constant of floats."""
    if not isinstance(weight, Constant) or not weight.type.dtype.is_float:
        return None
    if bias is None:
        return weight.array, None
    return (weight.array, _wide(bias.array)) if isinstance(bias, Constant) else None


def per_channel(constant: Constant, data: Value, axis: int) -> Array | None:
    """A constant that broadcasts along all axes but the channels', as one float64 number per channel."""
    rank, channels = data.type.rank, data.type.shape[axis]
    shape = (1,) * (rank - constant.type.rank) + constant.type.sizes
    others = [size for i, size in enumerate(shape) if i != axis % rank]
    if not isinstance(channels, int) or any(size != 1 for size in others) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(constant.array.reshape(-1).astype(np.float64), (channels,))
