"""Convolutions and products of quantised tensors as integer sums times a scale."""

from __future__ import annotations

from math import inf, prod

import numpy as np

from rtcc.ir import Constant, DType, Op, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.integer import QUANTIZED, ConvSum, GlobalSum, MatMulSum, WindowSum, padded_offset
from rtcc.ir.ops.math import Add, Mul, Sub
from rtcc.ir.ops.pooling import AveragePool, GlobalAveragePool
from rtcc.ir.ops.quant import MatMulInteger
from rtcc.ir.ops.shapes import Reshape
from rtcc.passes.integer.values import SIGN, Array, constant_numbers, dequantized, weights_of
from rtcc.pipeline import Rewriter, Rule, rewrite
from rtcc.target import GENERIC, Cost, Target

LIMIT = 2**31
LARGEST = 255
"""Of u8 data."""


def rules_for(target: Target) -> tuple[Rule, ...]:
    """The rules, for what the target has kernels for that take no longer than those of floats."""

    def seconds(op: Op, *left_out: str) -> float:
        """Predicted by the best algorithm that there is, infinite where there is none."""
        found = (each for each in target.candidates(op, {1, 2}) if each.algorithm not in left_out)
        return min((each.cost.total for each in found if isinstance(each.cost, Cost)), default=inf)

    def is_offered(op: Op) -> bool:
        return seconds(op, GENERIC) < inf

    def is_faster(total: Op, real: nn.Conv | nn.MatMul | nn.Gemm, data: Value) -> bool:
        """Whether integers take no longer than floats, for which the data would be dequantised first."""
        return seconds(total, GENERIC) <= seconds(real) + target.conversion_cost(data.type, None).total

    @rewrite(nn.Conv)
    def convolution(op: nn.Conv, rw: Rewriter) -> None:
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
        if not is_offered(total) or not is_faster(total, op, op.data):
            total.drop_operands()
            return
        rw.replace(op, scaled(total.result, _along(scale, op.type.rank, 1), rw))

    @rewrite(nn.MatMul, nn.Gemm)
    def product(op: nn.MatMul | nn.Gemm, rw: Rewriter) -> None:
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
        if not is_offered(total) or not is_faster(total, op, op.left):
            total.drop_operands()
            return
        moved = Add(total.result, rw.constant(offset.astype(np.int32), name=f"{weights.name(rw)}.offset"))
        rw.replace(op, scaled(moved.result, scale if scale.size > 1 else scale.reshape(()), rw))

    @rewrite(MatMulInteger)
    def integer_product(op: MatMulInteger, rw: Rewriter) -> None:
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
        if not is_offered(total):
            total.drop_operands()
            return
        if zero is None:
            rw.replace(op, total)
            return
        wide = Cast(zero, to=DType.I32.value).result
        flat = Reshape(wide, rw.constant(np.array([1], np.int64), name="one")).result
        moved = Mul(flat, rw.constant(sums.astype(np.int32), name="sums")).result
        rw.replace(op, Sub(total.result, moved))

    return convolution, product, integer_product, biased, global_average, average


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


@rewrite(GlobalAveragePool)
def global_average(op: GlobalAveragePool, rw: Rewriter) -> None:
    """global_average_pool(dequantize(x))  →  mul(cast(add(global_sum(x), #offset)), #scale)"""
    data = dequantized(op.data)
    if data is None or not op.data.type.is_static or op.data.type.rank < 3:
        return
    count = prod(op.data.type.sizes[2:])
    if not 0 < count * LARGEST < LIMIT:
        return
    data = data.unsigned(rw)
    offset = rw.constant(np.array(-count * data.zero, np.int32), name="offset")
    total = Add(GlobalSum(data.value).result, offset)
    rw.replace(op, scaled(total.result, np.asarray(data.scale / np.float32(count)), rw))


@rewrite(AveragePool)
def average(op: AveragePool, rw: Rewriter) -> None:
    """average_pool(dequantize(x))  →  mul(cast(add(window_sum(x), #offset)), #scale)"""
    data = dequantized(op.data)
    if data is None or not op.data.type.is_static or prod(op.kernel_shape) * LARGEST >= LIMIT:
        return
    sizes, counts = op.data.type.sizes, op.counts(op.data.type.sizes)
    if not counts.all():
        return
    inside = op.reached(sizes, padding=False)
    data = data.unsigned(rw)
    offset = rw.constant(_map(-data.zero * inside).astype(np.int32), name="offset")
    windows = {name: value for name, value in op.attributes.items() if name != "count_include_pad"}
    total = Add(WindowSum(data.value, **windows).result, offset)
    rw.replace(op, scaled(total.result, _map(np.float32(data.scale) / counts.astype(np.float32)), rw))


def _map(array: Array) -> Array:
    """One number where all are the same."""
    return array.reshape(-1)[0].reshape(()) if (array == array.flat[0]).all() else array


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


def scaled(total: Value, scale: Array, rw: Rewriter) -> Value:
    """An integer sum as the numbers that it stands for."""
    factor = rw.constant(scale.astype(np.float32), name="scale")
    return Mul(Cast(total, to=DType.F32.value).result, factor).result


def unscaled(value: Value) -> tuple[Value, Constant] | None:
    """The integer sum and its scale, where a value is what `scaled` makes."""
    op = value.producer
    if not isinstance(op, Mul) or not isinstance(op.right, Constant):
        return None
    cast = op.left.producer
    if not isinstance(cast, Cast) or cast.data.type.dtype is not DType.I32:
        return None
    return cast.data, op.right


def _along(vector: Array, rank: int, axis: int) -> Array:
    """A vector shaped to broadcast along an axis of a tensor of that rank; one number as a scalar."""
    if vector.size == 1:
        return vector.reshape(())
    return vector.reshape(-1, *(1,) * (rank - 1 - axis))
