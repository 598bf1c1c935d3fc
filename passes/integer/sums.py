"""Convolutions and products of quantised tensors as integer sums times a scale."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from rtcc.ir import Constant, DType, Op, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.integer import QUANTIZED, ConvSum, MatMulSum, padded_offset
from rtcc.ir.ops.math import Add, Mul, Sub
from rtcc.ir.ops.quant import MatMulInteger
from rtcc.ir.ops.shapes import Reshape
from rtcc.passes.integer.averages import average, global_average
from rtcc.passes.integer.values import (
    SIGN,
    Array,
    constant_numbers,
    dequantized,
    scaled,
    unscaled,
    weights_of,
)
from rtcc.passes.legalization.sum_range import LARGEST, LIMIT
from rtcc.pipeline import Rewriter, Rule, rewrite
from rtcc.target import GENERIC, Cost, Target


def rules_for(target: Target) -> tuple[Rule, ...]:
    """The rules, for what the target has kernels for that take no longer than those of floats."""
    sums = _Sums(target)
    linear = (
        rewrite(nn.Conv)(sums.convolution),
        rewrite(nn.MatMul, nn.Gemm)(sums.product),
        rewrite(MatMulInteger)(sums.integer_product),
    )
    return *linear, biased, global_average, average


@dataclass(frozen=True)
class _Sums:
    """Rules of linear layers, which ask the target."""

    target: Target

    def convolution(self, op: nn.Conv, rw: Rewriter) -> None:
        """conv(dequantize(x), dequantize(#w), #b)  →  mul(cast(conv_sum(x, #w, #offset)), #scale)"""
        data, weights = dequantized(op.data), weights_of(op.weight, 0)
        if data is None or weights is None or not op.type.is_static or not op.data.type.is_static:
            return
        scale = data.scale * weights.scale
        bias = integer_bias(op.bias, scale, len(weights.array))
        if bias is None:
            return
        data = data.unsigned(rw)
        window = op.window(op.data.type.sizes[2:], weights.array.shape)
        offset = padded_offset(weights.array, bias, data.zero, window, op.data.type.sizes[2:])
        if may_overflow(weights.array, offset):
            return
        moved = rw.constant(offset.astype(np.int32), name=f"{weights.name(rw)}.offset")
        total = ConvSum(data.value, weights.constant(rw), moved, **op.attributes)
        if not self._is_offered(total) or not self._is_faster(total, op, op.data):
            total.drop_operands()
            return
        rw.replace(op, scaled(total.result, _along(scale, op.type.rank, 1), rw))

    def product(self, op: nn.MatMul | nn.Gemm, rw: Rewriter) -> None:
        """mat_mul(dequantize(x), dequantize(#w))  →  mul(cast(add(mat_mul_sum(x, #w), #offset)), #scale)"""
        transposed = isinstance(op, nn.Gemm) and bool(op.transB)
        data, weights = dequantized(op.left), weights_of(op.right, 0 if transposed else 1)
        if data is None or weights is None or weights.array.ndim != 2 or not op.type.is_static:
            return
        if isinstance(op, nn.Gemm) and (op.transA or op.alpha != 1 or op.beta != 1):
            return
        matrix = weights.array.T if transposed else weights.array
        scale = data.scale * weights.scale
        bias = integer_bias(op.addend if isinstance(op, nn.Gemm) else None, scale, matrix.shape[1])
        if bias is None:
            return
        data = data.unsigned(rw)
        offset = bias - data.zero * matrix.sum(0, dtype=np.int64)
        if may_overflow(matrix.T, offset):
            return
        total = MatMulSum(data.value, weights.constant(rw, matrix if transposed else None))
        if not self._is_offered(total) or not self._is_faster(total, op, op.left):
            total.drop_operands()
            return
        moved = Add(total.result, rw.constant(offset.astype(np.int32), name=f"{weights.name(rw)}.offset"))
        rw.replace(op, scaled(moved.result, scale if scale.size > 1 else scale.reshape(()), rw))

    def integer_product(self, op: MatMulInteger, rw: Rewriter) -> None:
        """mat_mul_integer(x, #w, z)  →  sub(mat_mul_sum(x, #w), mul(z, #sums of columns))"""
        matrix = _columns(op)
        if matrix is None or op.left.type.dtype is not DType.U8 or not op.type.is_static:
            return
        zero, sums = op.left_zero_point, matrix.sum(0, dtype=np.int64)
        is_single = zero is None or (zero.type.is_static and zero.type.elements == 1)
        if not is_single or may_overflow(matrix.T, -LARGEST * sums) or may_overflow(matrix.T, 0 * sums):
            return
        weight = op.right
        if weight.type.dtype is not DType.I8:
            weight = rw.constant(matrix, name="weight")
        total = MatMulSum(op.left, weight)
        if not self._is_offered(total):
            total.drop_operands()
            return
        if zero is None:
            rw.replace(op, total)
            return
        wide = Cast(zero, to=DType.I32.value).result
        flat = Reshape(wide, rw.constant(np.array([1], np.int64), name="one")).result
        moved = Mul(flat, rw.constant(sums.astype(np.int32), name="sums")).result
        rw.replace(op, Sub(total.result, moved))

    def _seconds(self, op: Op, *left_out: str) -> float:
        """Predicted by the best algorithm that there is, infinite where there is none."""
        found = (each for each in self.target.candidates(op, {1, 2}) if each.algorithm not in left_out)
        return min((each.cost.total for each in found if isinstance(each.cost, Cost)), default=inf)

    def _is_offered(self, op: Op) -> bool:
        return self._seconds(op, GENERIC) < inf

    def _is_faster(self, total: Op, real: nn.Conv | nn.MatMul | nn.Gemm, data: Value) -> bool:
        """Whether integers take no longer than floats, for which the data would be dequantised first."""
        floats = self._seconds(real) + self.target.conversion_cost(data.type, None).total
        return self._seconds(total, GENERIC) <= floats


def _columns(op: MatMulInteger) -> Array | None:
    """The constant right-hand matrix as s8 with zero point 0; None where it is no such."""
    right, zero = op.right, op.right_zero_point
    if not isinstance(right, Constant) or right.type.rank != 2 or right.type.dtype not in QUANTIZED:
        return None
    if zero is not None and not isinstance(zero, Constant):
        return None
    shift = SIGN if right.type.dtype is DType.U8 else 0
    zeros = np.zeros(1, np.int32) if zero is None else zero.array.astype(np.int32)
    if (zeros != shift).any():
        return None
    return (right.array.astype(np.int32) - shift).astype(np.int8)


@rewrite(Add)
def biased(op: Add, rw: Rewriter) -> None:
    """add(mul(cast(add(mat_mul_sum(x, #w), #offset)), #scale), #b)  →  the same with another #offset"""
    for value, other in ((op.left, op.right), (op.right, op.left)):
        found = unscaled(value)
        if found is None or not value.has_one_use or op.type != value.type:
            continue
        moved, scale = found[0].producer, found[1].array
        if not isinstance(moved, Add) or not isinstance(moved.right, Constant):
            return
        offset = _biased(moved, moved.right.array, scale.reshape(-1), other)
        if offset is not None:
            again = Add(moved.left, rw.constant(offset.astype(np.int32), name=rw.stem(moved.right)))
            rw.replace(op, scaled(again.result, scale, rw))
        return


def _biased(moved: Add, offset: Array, scale: Array, bias: Value) -> Array | None:
    """The offset of a product's sum with a bias per column in it; None where that is no such."""
    total = moved.left.producer
    if not isinstance(total, MatMulSum) or not isinstance(total.right, Constant):
        return None
    matrix = total.right.array
    units = integer_bias(bias, scale, matrix.shape[1])
    if units is None or may_overflow(matrix.T, offset + units):
        return None
    return offset + units


def integer_bias(bias: Value | None, scale: Array, count: int) -> Array | None:
    """A constant bias per filter, the last axis or all of it, in units of the sum's scale, i64.

    None where it is no such or too large.
    """
    if bias is None:
        return np.zeros(count, np.int64)
    numbers = constant_numbers(bias)
    if numbers is None or numbers.size not in (1, count):
        return None
    if numbers.size > 1 and numbers.shape[-1] != count:
        return None
    units = np.broadcast_to(numbers.reshape(-1), count) / scale.astype(np.float64)
    if not (np.abs(units) < LIMIT).all():
        return None
    return np.rint(units).astype(np.int64)


def may_overflow(filters: Array, offset: Array) -> bool:
    """Whether the sum of some u8 data with a filter [M, …], or with its offset added, may exceed int32."""
    flat = filters.reshape(len(filters), -1).astype(np.int64)
    highest = LARGEST * np.maximum(flat, 0).sum(1)
    lowest = LARGEST * np.minimum(flat, 0).sum(1)
    moved = offset.reshape(len(filters), -1)
    top = np.maximum(highest, highest + moved.max(1))
    bottom = np.minimum(lowest, lowest + moved.min(1))
    both = np.concatenate([top, bottom, moved.reshape(-1)])
    return bool((both >= LIMIT).any() or (both < -LIMIT).any())


def _along(vector: Array, rank: int, axis: int) -> Array:
    """A vector shaped to broadcast along an axis of a tensor of that rank; one number as a scalar."""
    if vector.size == 1:
        return vector.reshape(())
    return vector.reshape(-1, *(1,) * (rank - 1 - axis))
