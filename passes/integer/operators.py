"""ONNX's quantised operators as what they quantise, between dequantize_linear and quantize_linear."""

from __future__ import annotations

import numpy as np

from rtcc.ir import Constant, DType, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.integer import QUANTIZED
from rtcc.ir.ops.quant import DequantizeLinear, QLinearConv, QLinearMatMul, QuantizeLinear, is_single
from rtcc.passes.integer.values import constant_numbers, dequantized, weights_of
from rtcc.passes.legalization.transposed import by_phases, has_phases, phase_weights
from rtcc.passes.legalization.writer import Writer
from rtcc.pipeline import Rewriter, rewrite


@rewrite(QLinearConv)
def quantized_convolution(op: QLinearConv, rw: Rewriter) -> None:
    """qlinear_conv(x, #w, #b)  →  quantize_linear(conv(dequantize_linear(x), dequantize_linear(#w), …))"""
    scaled = ((op.data, op.data_scale), (op.result, op.result_scale))
    if not all(_has_one_scale(*each) for each in scaled):
        return
    weight = _weights(op.weight, op.weight_scale, op.weight_zero_point, 0)
    if weight is None:
        return
    data = DequantizeLinear(op.data, op.data_scale, op.data_zero_point)
    bias = None
    if op.bias is not None:
        bias = DequantizeLinear(op.bias, _product(op.data_scale, op.weight_scale, rw), axis=0).result
    real = nn.Conv(data.result, weight.result, bias, **op.attributes)
    rw.replace(op, QuantizeLinear(real.result, op.result_scale, op.result_zero_point))


@rewrite(nn.ConvTranspose)
def transposed_convolution(op: nn.ConvTranspose, rw: Rewriter) -> None:
    """conv_transpose(dequantize_linear(x), dequantize_linear(#w))  →  depth_to_space(conv(…)) of phases"""
    weights = weights_of(op.weight, 1)
    if dequantized(op.data) is None or weights is None or op.group != 1 or not has_phases(op):
        return
    numbers = None if op.bias is None else constant_numbers(op.bias)
    if op.bias is not None and numbers is None:
        return
    write, phases = Writer(rw, f"{weights.name(rw)}.phases"), op.geometry()[1][0] ** 2
    scale = np.repeat(weights.scale, phases if weights.scale.size > 1 else 1)
    integers = phase_weights(weights.array, 1, op.geometry()[1][0])
    known = DequantizeLinear(
        rw.constant(integers, name=write.name),
        rw.constant(scale if scale.size > 1 else scale.reshape(()), name="scale"), axis=0,
    )  # fmt: skip
    bias = (
        None if numbers is None else rw.constant(np.repeat(numbers.astype(np.float32), phases), name="bias")
    )
    rw.replace(op, by_phases(op, known.result, bias, write))


@rewrite(QLinearMatMul)
def quantized_product(op: QLinearMatMul, rw: Rewriter) -> None:
    """qlinear_mat_mul(x, #w)  →  quantize_linear(mat_mul(dequantize_linear(x), dequantize_linear(#w)))"""
    scaled = ((op.left, op.left_scale), (op.result, op.result_scale))
    if op.right.type.rank != 2 or not all(_has_one_scale(*each) for each in scaled):
        return
    right = _weights(op.right, op.right_scale, op.right_zero_point, 1)
    if right is None:
        return
    left = DequantizeLinear(op.left, op.left_scale, op.left_zero_point)
    real = nn.MatMul(left.result, right.result)
    rw.replace(op, QuantizeLinear(real.result, op.result_scale, op.result_zero_point))


def _has_one_scale(tensor: Value, scale: Value) -> bool:
    """Whether a tensor of 8-bit integers has one constant scale."""
    is_known = isinstance(scale, Constant) and scale.type.dtype is DType.F32 and is_single(scale.type.shape)
    return is_known and tensor.type.dtype in QUANTIZED


def _weights(weight: Value, scale: Value, zero: Value | None, axis: int) -> DequantizeLinear | None:
    """A constant dequantised, with one scale or one per entry of the axis, where integer kernels take it."""
    found = DequantizeLinear(weight, scale, zero, axis=axis)
    if weights_of(found.result, axis) is not None:
        return found
    found.drop_operands()
    return None


def _product(left: Value, right: Value, rw: Rewriter) -> Constant:
    """The scale of a sum: one, or one per filter."""
    assert isinstance(left, Constant)
    assert isinstance(right, Constant)
    scale = left.array.reshape(()) * right.array.reshape(-1)
    return rw.constant(scale.astype(np.float32) if scale.size > 1 else scale.reshape(()), name="scale")
