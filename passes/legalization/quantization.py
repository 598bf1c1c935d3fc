"""Quantised operators as integer sums and elementwise arithmetic, rounding where ONNX rounds."""

from __future__ import annotations

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir import Constant, DType, Value
from rtcc.ir.dtype import Kind
from rtcc.ir.ops import math, nn, quant, reduce
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.integer import ROUNDED, Requantize
from rtcc.passes.legalization.reciprocal import exact_inverse
from rtcc.passes.legalization.sum_range import convolution_exceeds, product_exceeds
from rtcc.passes.legalization.writer import Writer, is_static
from rtcc.pipeline.rewriter import Rewriter, rewrite


def _is_small_integer(dtype: DType) -> bool:
    return dtype.kind in (Kind.SIGNED, Kind.UNSIGNED) and 8 <= dtype.bits <= 32


def _spread(write: Writer, op: quant.Scaled, parameter: Value) -> Value:
    """A scale or zero point made broadcastable to the data."""
    rank = op.data.type.rank
    if quant.is_single(parameter.type.shape):
        return write.reshape(parameter)
    axis = normal_axis(op, op.axis, rank)
    if not op.block_size:
        return write.per_axis(parameter, rank, axis)
    sizes = list(parameter.type.sizes)
    lead, tail = sizes[: axis + 1], sizes[axis + 1 :]
    repeated = write.expand(write.reshape(parameter, *lead, 1, *tail), *lead, op.block_size, *tail)
    sizes[axis] *= op.block_size
    return write.part(write.reshape(repeated, *sizes), axis, 0, op.data.type.sizes[axis])


def _quantized(write: Writer, scaled: Value, zero: Value | None, dtype: DType) -> Value:
    """x / scale as integers: rounded half to even, the zero point added, saturated; NaN as the zero point."""
    zero = write.number(0, dtype) if zero is None else zero
    return Requantize(scaled, write.number(1, DType.F32), zero).result


@rewrite(quant.QuantizeLinear)
def quantize(op: quant.QuantizeLinear, rw: Rewriter) -> None:
    """quantize_linear(x)  →  requantize(x / scale), or of x · 1/scale where that gives the same integers"""
    if not is_static(op) or op.type.dtype not in ROUNDED:
        return
    write = Writer(rw, "quantize")
    scale = write.widened(_spread(write, op, op.scale))
    if scale.type.dtype is not DType.F32:
        return
    data, inverse = write.cast(op.data, DType.F32), _inverse(op)
    scaled = (
        write.div(data, scale) if inverse is None else write.mul(data, write.number(inverse, DType.F32))
    )
    zero = None if op.zero_point is None else _spread(write, op, op.zero_point)
    rw.replace(op, _quantized(write, scaled, zero, op.type.dtype))


def _inverse(op: quant.QuantizeLinear) -> float | None:
    """What to multiply by in place of dividing by one constant scale, to the same bits."""
    if not isinstance(op.scale, Constant) or not quant.is_single(op.scale.type.shape):
        return None
    found = exact_inverse(np.float32(op.scale.array.reshape(())), op.type.dtype.bits)
    return None if found is None else float(found)


@rewrite(quant.DequantizeLinear)
def dequantize(op: quant.DequantizeLinear, rw: Rewriter) -> None:
    """dequantize_linear(q)  →  (q - zero point) · scale"""
    if not is_static(op) or not _is_small_integer(op.data.type.dtype):
        return
    write = Writer(rw, "dequantize")
    scale = write.widened(_spread(write, op, op.scale))
    zero = None if op.zero_point is None else _spread(write, op, op.zero_point)
    found = write.mul(write.cast(_centred(write, op.data, zero), scale.type.dtype), scale)
    rw.replace(op, write.cast(found, op.type.dtype))


def _centred(write: Writer, data: Value, zero: Value | None) -> Value:
    """Quantised elements less their zero point, as i32."""
    wide = write.cast(data, DType.I32)
    return wide if zero is None else write.sub(wide, write.cast(zero, DType.I32))


@rewrite(quant.DynamicQuantizeLinear)
def dynamic_quantize(op: quant.DynamicQuantizeLinear, rw: Rewriter) -> None:
    """dynamic_quantize_linear(x)  →  scale and zero point from the extremes of x, and quantised x"""
    if not is_static(op) or op.data.type.dtype is not DType.F32:
        return
    write = Writer(rw, "dynamic_quantize")
    zero, axes = write.number(0, DType.F32), range(op.data.type.rank)
    highest = math.Max(write.total(reduce.ReduceMax, op.data, axes, keep=False), zero).result
    lowest = math.Min(write.total(reduce.ReduceMin, op.data, axes, keep=False), zero).result
    span = write.div(write.sub(highest, lowest), write.number(255, DType.F32))
    scale = write.where(math.Equal(span, zero).result, write.number(1, DType.F32), span)
    offset = _quantized(write, write.div(write.sub(zero, lowest), scale), None, DType.U8)
    found = _quantized(write, write.div(op.data, scale), offset, DType.U8)
    rw.replace(op, *(found, scale, offset)[: len(op.results)])


@rewrite(quant.MatMulInteger)
def integer_product(op: quant.MatMulInteger, rw: Rewriter) -> None:
    """mat_mul_integer(a, b)  →  mat_mul(a - zero, b - zero) in i32; Unsupported where that may wrap"""
    if not is_static(op):
        return
    if product_exceeds(op):
        raise _too_long(op, "QLinearMatMul")
    write = Writer(rw, "mat_mul_integer")
    left = _centred(write, op.left, _per_row(write, op.left_zero_point))
    right = _centred(write, op.right, _scalar_or_whole(write, op.right_zero_point))
    rw.replace(op, write.matmul(left, right))


@rewrite(quant.ConvInteger)
def integer_convolution(op: quant.ConvInteger, rw: Rewriter) -> None:
    """Stays as it is; Unsupported where its sums may wrap."""
    if is_static(op) and convolution_exceeds(op):
        raise _too_long(op, "QLinearConv")


def _too_long(op: quant.MatMulInteger | quant.ConvInteger, other: str) -> Unsupported:
    return Unsupported(
        "unsupported-operator", f"{op.name}: some data make its sums leave int32",
        where=str(op.location) or None,
        hint=f"divide the sum among several nodes, or use {other}, which is summed in float64 here",
    )  # fmt: skip


@rewrite(quant.QLinearMatMul)
def quantized_product(op: quant.QLinearMatMul, rw: Rewriter) -> None:
    """qlinear_mat_mul  →  mat_mul in i32 (in f64, where sums may be larger), times the scales, requantised"""
    if not is_static(op) or not all(v.type.dtype in ROUNDED for v in (op.left, op.right, op.result)):
        return
    write = Writer(rw, "qlinear_mat_mul")
    left = _centred(write, op.left, _per_row(write, op.left_zero_point))
    right = _centred(write, op.right, _scalar_or_whole(write, op.right_zero_point))
    left_scale, scale = (_per_row(write, v) for v in (op.left_scale, op.result_scale))
    right_scale = _scalar_or_whole(write, op.right_scale)
    assert left_scale is not None
    assert right_scale is not None
    assert scale is not None
    wide = [write.widened(v) for v in (left_scale, right_scale, scale)]
    factor = write.div(write.mul(wide[0], wide[1]), wide[2])
    if product_exceeds(op):
        left, right = (write.cast(each, DType.F64) for each in (left, right))
    total = write.cast(write.matmul(left, right), factor.type.dtype)
    zero = _per_row(write, op.result_zero_point)
    rw.replace(op, _quantized(write, write.mul(total, factor), zero, op.type.dtype))


def _per_row(write: Writer, parameter: Value | None) -> Value | None:
    """A parameter per row as a column; one element: a scalar."""
    if parameter is None or parameter.type.elements == 1:
        return None if parameter is None else write.reshape(parameter)
    sizes = parameter.type.sizes
    return write.reshape(parameter, *sizes, 1) if len(sizes) == 1 else parameter


def _scalar_or_whole(write: Writer, parameter: Value | None) -> Value | None:
    if parameter is None or parameter.type.elements != 1:
        return parameter
    return write.reshape(parameter)


@rewrite(quant.QLinearConv)
def quantized_convolution(op: quant.QLinearConv, rw: Rewriter) -> None:
    """qlinear_conv  →  conv_integer, the bias added in i32, times the scales, requantised

    Where sums may leave int32, they are those of a convolution in f64, which holds them.
    """
    if not is_static(op) or op.type.dtype not in ROUNDED:
        return
    write, rank = Writer(rw, "qlinear_conv"), op.type.rank
    total = _wide_sum(write, op) if convolution_exceeds(op) else quant.ConvInteger(
        op.data, op.weight, op.data_zero_point, op.weight_zero_point, **op.attributes, location=op.location
    ).result  # fmt: skip
    if op.bias is not None:
        total = write.add(total, write.per_axis(write.cast(op.bias, total.type.dtype), rank))
    scales = [write.widened(v) for v in (op.data_scale, op.weight_scale, op.result_scale)]
    data_scale, weight_scale, scale = (
        write.reshape(v) if v.type.elements == 1 else v for v in scales
    )  # fmt: skip
    factor = write.per_axis(write.div(write.mul(data_scale, weight_scale), scale), rank)
    wide = write.mul(write.cast(total, factor.type.dtype), factor)
    rw.replace(op, _quantized(write, wide, write.reshape(op.result_zero_point), op.type.dtype))


def _wide_sum(write: Writer, op: quant.QLinearConv) -> Value:
    """The convolution of data and weights less their zero points, in f64."""
    zero, rank = op.weight_zero_point, op.weight.type.rank
    spread = write.reshape(zero) if zero.type.elements == 1 else write.per_axis(zero, rank, 0)
    data = write.cast(_centred(write, op.data, write.reshape(op.data_zero_point)), DType.F64)
    weight = write.cast(_centred(write, op.weight, spread), DType.F64)
    return nn.Conv(data, weight, None, **op.attributes, location=op.location).result


RULES = (
    quantize, dequantize, dynamic_quantize, integer_product, integer_convolution, quantized_product,
    quantized_convolution,
)  # fmt: skip
