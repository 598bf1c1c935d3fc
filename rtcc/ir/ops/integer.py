"""Integer arithmetic that `lower-quantization` makes of quantised operators (family `quant`).

Sums of 8-bit data times s8 weights are exact in i32: `check` refuses weights with which some data leave it,
and so many products that some weights do where they are no constants. What follows a sum is elementwise, so
that it runs in the kernel that adds up: `requantize` rounds once to a quantised type, `add` adds two
quantised tensors, `add_to_sum` a quantised tensor to a sum that was not rounded before.
docs/arithmetic.md has the order of the operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from rtcc.ir.dimension import Expression, upper_bound
from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, attribute, operand
from rtcc.ir.ops.computed import INTEGERS, ComputedOp
from rtcc.ir.ops.nn import Convolution, Geometry, product_operations, product_shape, sum_operations
from rtcc.ir.ops.pooling import Pool
from rtcc.ir.ops.requantization import F32, FIXED25, MODES, quantized, scaled_exactly
from rtcc.ir.ops.sum_range import MOST_TERMS, columns_of, may_overflow
from rtcc.ir.ops.window import Window, convolve
from rtcc.ir.regions import is_kernel_parameter, outer_value
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType, broadcast_shapes
from rtcc.ir.value import Constant, Value

QUANTIZED = (DType.U8, DType.I8)

ROUNDED = (*QUANTIZED, DType.U16, DType.I16)
"""What `quant.requantize` can give."""

FACTOR_BITS = 16
"""Significant bits of the factors of `quant.add`: times an 8-bit difference they are exact in float32."""

_DIVIDED = "divide the sum among several operators"

_FACTOR_MASK = np.uint32(2**32 - 2 ** (24 - FACTOR_BITS))


class ConvSum(Convolution):
    """Convolution of 8-bit data by an s8 weight [M, C/group, kernel…] plus an offset, in i32, which holds it.

    Data: u8 or s8. Padding reads zeros. offset: i32[M], or [M, places…] with, per spatial axis, 1 or
    `places`: a window that reaches over an edge has its own, so that data with a zero point are padded with
    it (`padded_offset`).
    """

    name = "quant.conv_sum"
    role = Role.ANCHOR
    data = operand()
    weight = operand()
    offset = operand()

    def geometry(self) -> Geometry:
        """Explicit (pads, strides, dilations), auto_pad resolved."""
        window = self.window(self.data.type.shape[2:], self.weight.type.shape)
        return window.pads, window.strides, window.dilations

    def infer(self) -> tuple[TensorType, ...]:
        _require_sum(self, self.data, self.weight)
        shape = self.convolved(self.data.type.shape, self.weight.type.shape)
        offset = self.offset.type
        if offset.dtype is not DType.I32 or offset.shape[:1] != shape[1:2]:
            raise self.fail(f"the offset must be i32[{shape[1]}, …], found {offset}")
        if offset.rank not in (1, self.data.type.rank - 1):
            raise self.fail(f"the offset has 1 axis or {self.data.type.rank - 1}, found {offset}")
        for each, size, places in zip(offset.shape[1:], shape[2:], self.places(), strict=False):
            if each not in (1, places.count):
                raise self.fail(
                    f"there are {places.count} places along {size} results, the offset has {each}"
                )
        return (TensorType(DType.I32, shape),)

    def check(self) -> None:
        weight, offset = outer_value(self.weight), outer_value(self.offset)
        if isinstance(weight, Constant):
            moved = offset.array if isinstance(offset, Constant) else None
            _require_fit(self, self.data, weight.array, moved)
        elif not is_kernel_parameter(weight):
            _require_few(self, self.weight.type.shape[1:])

    def places(self) -> tuple[Places, ...]:
        """The places of the results along each spatial axis."""
        spatial = self.data.type.shape[2:]
        return places_of(self.window(spatial, self.weight.type.shape), spatial)

    def operations(self) -> int:
        return sum_operations(self.type, self.weight.type)

    def compute(self, data: Array, weight: Array, offset: Array) -> Array:
        window = self.window(data.shape[2:], weight.shape)
        total = convolve(data, weight, window, self.group).astype(np.int64)
        spread = offset.reshape(*offset.shape, *(1,) * (total.ndim - 1 - offset.ndim))
        for axis, places in enumerate(places_of(window, data.shape[2:])):
            if spread.shape[1 + axis] > 1:
                of_result = [places.of(position) for position in range(total.shape[2 + axis])]
                spread = spread.take(of_result, axis=1 + axis)
        return (total + spread).astype(np.int32)


class Places:
    """Which results along an axis have windows that reach over an edge: each such is a place of its own.

    The others, in between, are one place. count: how many places; before: how many at the beginning.
    """

    def __init__(self, inside: Sequence[tuple[bool, ...]]) -> None:
        """inside: for each result, which taps fall inside the data."""
        whole = [position for position, taps in enumerate(inside) if all(taps)]
        self.results = len(inside)
        self.before = whole[0] if whole else self.results
        self.after = self.results - 1 - whole[-1] if whole else 0
        self.count = self.before + self.after + (1 if whole else 0)
        first = [*range(self.before), *whole[:1], *range(self.results - self.after, self.results)]
        self.taps = tuple(inside[position] for position in first)

    def of(self, position: int) -> int:
        """The place of a result."""
        if self.before == self.results:
            return position
        return min(position, self.before) + max(0, position - (self.results - 1 - self.after))


def places_of(window: Window, spatial: Sequence[int | Expression]) -> tuple[Places, ...]:
    """The places along each spatial axis of a convolution over data of these sizes."""
    found: list[Places] = []
    for axis, count in enumerate(window.output_sizes(tuple(spatial))):
        assert isinstance(count, int)
        size = spatial[axis]
        first = [position * window.strides[axis] - window.pads[axis] for position in range(count)]
        reach = [tap * window.dilations[axis] for tap in range(window.kernel[axis])]
        assert isinstance(size, int)
        found.append(Places([tuple(0 <= start + tap < size for tap in reach) for start in first]))
    return tuple(found)


def padded_offset(weight: Array, bias: Array, zero: int, window: Window, spatial: tuple[int, ...]) -> Array:
    """The offset with which `conv_sum` of raw data is the biased convolution of data less their zero point.

    bias - zero · Σ of the weights whose taps fall inside the data, in i64: i64[M], or [M, places…].
    """
    places = places_of(window, spatial)
    if zero == 0 or all(all(taps) for each in places for taps in each.taps):
        return bias - zero * weight.reshape(len(weight), -1).sum(1, dtype=np.int64)
    sums = weight.sum(1, dtype=np.int64)
    for axis, each in enumerate(places):
        inside = np.array(each.taps, np.int64)
        sums = np.moveaxis(np.tensordot(inside, sums, (1, 1 + axis)), 0, 1 + axis)
    return bias.reshape(-1, *(1,) * len(places)) - zero * sums


class MatMulSum(ComputedOp):
    """Product of u8 or s8 [..., M, K] and s8 [K, N], in i32, which holds all sums."""

    name = "quant.mat_mul_sum"
    role = Role.ANCHOR
    left = operand()
    right = operand()

    def infer(self) -> tuple[TensorType, ...]:
        _require_sum(self, self.left, self.right)
        return (TensorType(DType.I32, product_shape(self, self.left.type.shape, self.right.type.shape)),)

    def check(self) -> None:
        right = outer_value(self.right)
        if isinstance(right, Constant):
            _require_fit(self, self.left, columns_of(right.array), None)
        elif not is_kernel_parameter(right):
            _require_few(self, self.left.type.shape[-1:])

    def operations(self) -> int:
        return product_operations(self.type, self.left.type)

    def compute(self, left: Array, right: Array) -> Array:
        # exact: a product of fewer than 2³⁷ terms stays below 2⁵³
        return np.matmul(left.astype(np.float64), right.astype(np.float64)).astype(np.int64).astype(np.int32)


class GlobalSum(ComputedOp):
    """The sum of each channel of u8 [N, C, spatial…], as i32 [N, C, 1…] (it must hold all sums)."""

    name = "quant.global_sum"
    role = Role.ANCHOR
    data = operand()

    def infer(self) -> tuple[TensorType, ...]:
        data = self.data.type
        if data.dtype is not DType.U8 or data.rank < 3:
            raise self.fail(f"needs u8 [N, C, spatial…], found {data}")
        return (TensorType(DType.I32, (*data.shape[:2], *(1 for _ in data.shape[2:]))),)

    def compute(self, data: Array) -> Array:
        return data.sum(axis=tuple(range(2, data.ndim)), keepdims=True, dtype=np.int64).astype(np.int32)


class WindowSum(Pool):
    """The sum of each window of u8 [N, C, spatial…], in i32, of what of it lies inside the data."""

    name = "quant.window_sum"
    kinds = INTEGERS

    def infer(self) -> tuple[TensorType, ...]:
        if self.data.type.dtype is not DType.U8:
            raise self.fail(f"needs u8 [N, C, spatial…], found {self.data.type}")
        (result,) = super().infer()
        return (result.with_dtype(DType.I32),)

    def compute(self, data: Array) -> Array:
        views = self.views(data, 0)
        return views.sum(axis=self.kernel_axes(views), dtype=np.int64).astype(np.int32)


SUMS = (ConvSum, MatMulSum, GlobalSum, WindowSum)
"""The anchors that add up in i32."""


class Requantize(ComputedOp):
    """saturate(round(float32(data) · factor) + zero point): an i32 sum, or f32, in the zero point's type.

    Rounded as `requantization.quantized` says. factor: f32; zero point: u8, s8, u16 or s16; both broadcast to
    the data. mode=fixed25, of sums: the factor is a multiplier of 25 bits and a shift, the product is exact
    and rounded once, half to even (`requantization.scaled_exactly`); the zero point may be i32 as well.
    """

    name = "quant.requantize"
    role = Role.ELEMENTWISE
    data = operand()
    factor = operand()
    zero_point = operand()
    mode = attribute(F32)

    def infer(self) -> tuple[TensorType, ...]:
        data, factor = self.data.type, self.factor.type
        if self.mode not in MODES or (self.mode == FIXED25 and data.dtype is not DType.I32):
            raise self.fail(f"the mode is {F32}, or of i32 data {FIXED25}; found {self.mode} of {data}")
        if data.dtype not in (DType.I32, DType.F32) or factor.dtype is not DType.F32:
            raise self.fail(f"data must be i32 or f32, the factor f32: {data}, {factor}")
        is_wide = self.mode == FIXED25 and self.zero_point.type.dtype is DType.I32
        if self.zero_point.type.dtype not in ROUNDED and not is_wide:
            raise self.fail(f"a zero point is u8, s8, u16 or s16, found {self.zero_point.type}")
        shape = broadcast_shapes(data.shape, factor.shape, self.zero_point.type.shape)
        return (TensorType(self.zero_point.type.dtype, shape),)

    def compute(self, data: Array, factor: Array, zero: Array) -> Array:
        if self.mode == FIXED25:
            return scaled_exactly(data, factor, zero, self.type.dtype)
        scaled = data.astype(np.float32) * factor.astype(np.float32)
        is_sum = self.data.type.dtype is DType.I32
        return quantized(scaled, zero, self.type.dtype, nan_is_least=is_sum)


class QuantizedAdd(ComputedOp):
    """saturate(round((left - zero) · factor + (right - zero) · factor) + zero point), of quantised tensors.

    Factors are f32, of which `FACTOR_BITS` significant bits count (`add_factor` rounds to them), so that
    products are exact and their sum is rounded once. Zero points: u8 or s8, one element, of the type of
    their tensor; the result has `zero_point`'s.
    """

    name = "quant.add"
    role = Role.ELEMENTWISE
    left, left_factor, left_zero = operand(), operand(), operand()
    right, right_factor, right_zero = operand(), operand(), operand()
    zero_point = operand()

    def infer(self) -> tuple[TensorType, ...]:
        for data, zero in ((self.left, self.left_zero), (self.right, self.right_zero)):
            _require_zero(self, zero)
            if zero.type.dtype is not data.type.dtype:
                raise self.fail(f"zero point {zero.type} and data {data.type} must have one element type")
        for factor in (self.left_factor, self.right_factor):
            if factor.type.dtype is not DType.F32:
                raise self.fail(f"factors must be f32, found {factor.type}")
        _require_zero(self, self.zero_point)
        shape = broadcast_shapes(*(value.type.shape for value in self.present_operands))
        return (TensorType(self.zero_point.type.dtype, shape),)

    def compute(self, *arrays: Array) -> Array:
        left, left_factor, left_zero, right, right_factor, right_zero, zero = arrays
        terms = [
            (data.astype(np.int32) - offset).astype(np.float32) * masked(factor)
            for data, factor, offset in (
                (left, left_factor, left_zero),
                (right, right_factor, right_zero),
            )
        ]
        return quantized(terms[0] + terms[1], zero, self.type.dtype, nan_is_least=True)


class AddToSum(ComputedOp):
    """saturate(round(float32(data) · factor + (right - right_zero) · right_factor) + zero point).

    A residual addition to an i32 sum: the first product is rounded to float32, the second is exact (`add`
    has the bits of its factor that count), and their sum is rounded to float32 before it is to an integer,
    half to even. factor: f32, broadcast to the data; zero points: u8 or s8, one element.
    """

    name = "quant.add_to_sum"
    role = Role.ELEMENTWISE
    data, factor = operand(), operand()
    right, right_factor, right_zero = operand(), operand(), operand()
    zero_point = operand()

    def infer(self) -> tuple[TensorType, ...]:
        if self.data.type.dtype is not DType.I32:
            raise self.fail(f"the sum must be i32, found {self.data.type}")
        for factor in (self.factor, self.right_factor):
            if factor.type.dtype is not DType.F32:
                raise self.fail(f"factors must be f32, found {factor.type}")
        _require_zero(self, self.right_zero)
        _require_zero(self, self.zero_point)
        right, zero = self.right.type, self.right_zero.type
        if zero.dtype is not right.dtype:
            raise self.fail(f"zero point {zero} and data {right} must have one element type")
        shape = broadcast_shapes(*(value.type.shape for value in self.present_operands))
        return (TensorType(self.zero_point.type.dtype, shape),)

    def compute(self, *arrays: Array) -> Array:
        data, factor, right, right_factor, right_zero, zero = arrays
        scaled = data.astype(np.float32) * factor.astype(np.float32)
        difference = (right.astype(np.int32) - right_zero).astype(np.float32)
        total = scaled + difference * masked(right_factor)
        return quantized(total, zero, self.type.dtype, nan_is_least=True)


def masked(factor: Array) -> Array:
    """The significant bits of a factor that count."""
    return (factor.astype(np.float32).view(np.uint32) & _FACTOR_MASK).view(np.float32)


def add_factor(factor: float) -> np.float32:
    """A factor rounded to the bits that count."""
    raw = int(np.float32(factor).view(np.uint32))
    half = 2 ** (24 - FACTOR_BITS - 1)
    return np.uint32((raw + half) & int(_FACTOR_MASK)).view(np.float32)


def _require_sum(op: ComputedOp, data: Value, weight: Value) -> None:
    if data.type.dtype not in QUANTIZED or weight.type.dtype is not DType.I8:
        raise op.fail(f"needs u8 or s8 data and s8 weights, found {data.type} and {weight.type}")


def _require_fit(op: ComputedOp, data: Value, filters: Array, offset: Array | None) -> None:
    if may_overflow(filters, offset, is_signed=data.type.dtype is DType.I8):
        raise op.fail("with these weights some data make its sum leave int32", hint=_DIVIDED)


def _require_few(op: ComputedOp, sizes: Sequence[int | Expression]) -> None:
    """The shape of each filter, or its upper bound, allows no weights with which a sum leaves i32."""
    terms = prod(upper_bound(size) for size in sizes)
    if terms > MOST_TERMS:
        raise op.fail(f"some weights make a sum of {terms} products leave int32", hint=_DIVIDED)


def _require_zero(op: ComputedOp, zero: Value) -> None:
    if zero.type.dtype not in QUANTIZED or zero.type.elements != 1:
        raise op.fail(f"a zero point is one u8 or s8, found {zero.type}")
