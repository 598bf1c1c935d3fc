"""Convolutions and products of quantised tensors as integer sums times a scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, DType, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.integer import ConvSum, MatMulSum, padded_offset
from rtcc.ir.ops.math import Add, Mul, Sub
from rtcc.ir.ops.quant import MatMulInteger
from rtcc.ir.ops.shapes import Reshape
from rtcc.ir.ops.sum_range import LIMIT, may_overflow
from rtcc.passes.integer.arithmetic import Arithmetic, Linear
from rtcc.passes.integer.averages import average, global_average
from rtcc.passes.integer.values import (
    SIGN,
    Array,
    constant_numbers,
    read_data,
    read_weights,
    scaled,
    unscaled,
)
from rtcc.pipeline import Rewriter, Rule, rewrite
from rtcc.target import Illegal

SYMBOLIC = Illegal("its sizes are symbolic")
OVERFLOW = Illegal("some data make its sum leave int32")


def rules_for(arithmetic: Arithmetic) -> tuple[Rule, ...]:
    """The rules; layers become integer sums where that is how they are to be computed."""
    sums = _Sums(arithmetic)
    linear = (
        rewrite(nn.Conv)(sums.convolution),
        rewrite(nn.MatMul, nn.Gemm)(sums.product),
        rewrite(MatMulInteger)(sums.product_of_integers),
    )
    return *linear, biased, global_average, average


@dataclass(frozen=True)
class _Sum:
    """What could take a layer's place. total: the op that adds up; scale: of its unit, shaped to broadcast
    along the channels; offset: what is added to the sum, where that does not.
    """

    total: ConvSum | MatMulSum
    scale: Array
    offset: Constant | None = None

    def value(self, rw: Rewriter) -> Value:
        """The numbers that the sum stands for."""
        whole = self.total.result if self.offset is None else Add(self.total.result, self.offset).result
        return scaled(whole, self.scale, rw)


@dataclass(frozen=True)
class _Sums:
    """Rules of linear layers, which ask whether to compute in integers."""

    arithmetic: Arithmetic

    @property
    def _kind(self) -> DType:
        """Of data: what the target's sums take."""
        return self.arithmetic.target.sum_data

    def convolution(self, op: nn.Conv, rw: Rewriter) -> None:
        """conv(dequantize(x), dequantize(#w), #b)  →  mul(cast(conv_sum(x, #w, #offset)), #scale)"""
        self._replace(op, op.data, _convolution_sum(op, self._kind, rw), rw)

    def product(self, op: nn.MatMul | nn.Gemm, rw: Rewriter) -> None:
        """mat_mul(dequantize(x), dequantize(#w))  →  mul(cast(add(mat_mul_sum(x, #w), #offset)), #scale)"""
        self._replace(op, op.left, _product_sum(op, self._kind, rw), rw)

    def _replace(self, op: Linear, data: Value, found: _Sum | Illegal, rw: Rewriter) -> None:
        total = found if isinstance(found, Illegal) else found.total
        if self.arithmetic.takes_integers(op, total, data):
            assert isinstance(found, _Sum)
            rw.replace(op, found.value(rw))

    def product_of_integers(self, op: MatMulInteger, rw: Rewriter) -> None:
        """mat_mul_integer(x, #w, z)  →  sub(mat_mul_sum(x, #w), mul(z, #sums of columns))"""
        matrix = _bytes_product(op)
        if isinstance(matrix, Illegal):
            self.arithmetic.takes_sum(op, matrix)
            return
        weight = op.right
        if weight.type.dtype is not DType.I8:
            weight = rw.constant(matrix, name="weight")
        total = MatMulSum(op.left, weight)
        if not self.arithmetic.takes_sum(op, total):
            return
        zero = op.left_zero_point
        if zero is None:
            rw.replace(op, total)
            return
        wide = Cast(zero, to=DType.I32.value).result
        flat = Reshape(wide, rw.constant(np.array([1], np.int64), name="one")).result
        sums = matrix.sum(0, dtype=np.int64).astype(np.int32)
        moved = Mul(flat, rw.constant(sums, name="sums")).result
        rw.replace(op, Sub(total.result, moved))


def _convolution_sum(op: nn.Conv, kind: DType, rw: Rewriter) -> _Sum | Illegal:
    """A convolution as an integer sum, or why it is none."""
    data, weights = read_data(op.data), read_weights(op.weight, 0)
    if isinstance(data, Illegal):
        return data
    if isinstance(weights, Illegal):
        return weights
    if not op.type.is_static or not op.data.type.is_static:
        return SYMBOLIC
    scale = data.scale * weights.scale
    bias = integer_bias(op.bias, scale, len(weights.array))
    if isinstance(bias, Illegal):
        return bias
    data = data.of_kind(kind, rw)
    window = op.window(op.data.type.sizes[2:], weights.array.shape)
    offset = padded_offset(weights.array, bias, data.zero, window, op.data.type.sizes[2:])
    if may_overflow(weights.array, offset, is_signed=kind is DType.I8):
        return OVERFLOW
    moved = rw.constant(offset.astype(np.int32), name=f"{weights.name(rw)}.offset")
    total = ConvSum(data.value, weights.constant(rw), moved, **op.attributes)
    return _Sum(total, _along(scale, op.type.rank, 1))


def _product_sum(op: nn.MatMul | nn.Gemm, kind: DType, rw: Rewriter) -> _Sum | Illegal:
    """A matrix product as an integer sum, or why it is none."""
    transposed = isinstance(op, nn.Gemm) and bool(op.transB)
    data, weights = read_data(op.left), read_weights(op.right, 0 if transposed else 1)
    if isinstance(data, Illegal):
        return data
    if isinstance(weights, Illegal):
        return weights
    if weights.array.ndim != 2:
        return Illegal("its weights are no matrix")
    if not op.type.is_static:
        return SYMBOLIC
    if isinstance(op, nn.Gemm) and (op.transA or op.alpha != 1 or op.beta != 1):
        return Illegal("its data are transposed, or alpha or beta is not 1")
    matrix = weights.array.T if transposed else weights.array
    scale = data.scale * weights.scale
    bias = integer_bias(op.addend if isinstance(op, nn.Gemm) else None, scale, matrix.shape[1])
    if isinstance(bias, Illegal):
        return bias
    data = data.of_kind(kind, rw)
    offset = bias - data.zero * matrix.sum(0, dtype=np.int64)
    if may_overflow(matrix.T, offset, is_signed=kind is DType.I8):
        return OVERFLOW
    total = MatMulSum(data.value, weights.constant(rw, matrix if transposed else None))
    moved = rw.constant(offset.astype(np.int32), name=f"{weights.name(rw)}.offset")
    return _Sum(total, scale if scale.size > 1 else scale.reshape(()), moved)


def _bytes_product(op: MatMulInteger) -> Array | Illegal:
    """The s8 matrix of a product that is a sum of bytes, or why it is none."""
    matrix = _columns(op)
    if isinstance(matrix, Illegal):
        return matrix
    if op.left.type.dtype is not DType.U8:
        return Illegal(f"its data are {op.left.type.dtype.value} while running, sums of bytes take u8")
    if not op.type.is_static:
        return SYMBOLIC
    zero = op.left_zero_point
    if zero is not None and not (zero.type.is_static and zero.type.elements == 1):
        return Illegal("its data have several zero points")
    if may_overflow(matrix.T, is_centred=zero is not None):
        return OVERFLOW
    return matrix


def _columns(op: MatMulInteger) -> Array | Illegal:
    """The constant right-hand matrix as s8 with zero point 0, or why it is no such."""
    right, zero = op.right, op.right_zero_point
    if not isinstance(right, Constant) or right.type.rank != 2:
        return Illegal("its weights are no constant matrix")
    if zero is not None and not isinstance(zero, Constant):
        return Illegal("its weights: the zero point is not constant")
    shift = SIGN if right.type.dtype is DType.U8 else 0
    zeros = np.zeros(1, np.int32) if zero is None else zero.array.astype(np.int32)
    if (zeros != shift).any():
        return Illegal(f"its weights have a zero point other than {shift}")
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
    if isinstance(units, Illegal) or may_overflow(matrix.T, offset + units):
        return None
    return offset + units


def integer_bias(bias: Value | None, scale: Array, count: int) -> Array | Illegal:
    """A constant bias per filter, the last axis or all of it, in units of the sum, i64; or why not."""
    if bias is None:
        return np.zeros(count, np.int64)
    numbers = constant_numbers(bias)
    if numbers is None:
        return Illegal("its bias is not constant")
    if numbers.size not in (1, count) or (numbers.size > 1 and numbers.shape[-1] != count):
        return Illegal("its addend is no bias per filter")
    units = np.broadcast_to(numbers.reshape(-1), count) / scale.astype(np.float64)
    if not (np.abs(units) < LIMIT).all():
        return Illegal("its bias in units of the sum leaves int32")
    return np.rint(units).astype(np.int64)


def _along(vector: Array, rank: int, axis: int) -> Array:
    """A vector shaped to broadcast along an axis of a tensor of that rank; one number as a scalar."""
    if vector.size == 1:
        return vector.reshape(())
    return vector.reshape(-1, *(1,) * (rank - 1 - axis))
