"""ONNX's quantised operators as what they quantise, between dequantize_linear and quantize_linear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, DType, Value
from rtcc.ir.op import discarding_unplaced
from rtcc.ir.ops import nn
from rtcc.ir.ops.integer import QUANTIZED
from rtcc.ir.ops.quant import DequantizeLinear, QLinearConv, QLinearMatMul, QuantizeLinear, is_single
from rtcc.passes.integer.values import Array, Weights, constant_numbers, read_data, read_weights
from rtcc.passes.legalization.transposed import by_phases, has_phases, phase_weights
from rtcc.passes.legalization.writer import Writer
from rtcc.pipeline import Rewriter, rewrite
from rtcc.target import Illegal


def why_not(op: QLinearConv | QLinearMatMul | nn.ConvTranspose) -> str:
    """Why an op cannot become a convolution or product of dequantised tensors; "" where it can."""
    with discarding_unplaced():
        match op:
            case QLinearConv():
                found = _obstacle_of_scales((op.data, op.data_scale), (op.result, op.result_scale))
                found = found or _weights(op.weight, op.weight_scale, op.weight_zero_point, 0)
            case QLinearMatMul():
                found = _obstacle_of_scales((op.left, op.left_scale), (op.result, op.result_scale))
                if op.right.type.rank != 2:
                    found = Illegal("its weights are no matrix")
                found = found or _weights(op.right, op.right_scale, op.right_zero_point, 1)
            case nn.ConvTranspose():
                found = _phases_of(op)
    return found.reason if isinstance(found, Illegal) else ""


@rewrite(QLinearConv)
def quantized_convolution_by_scales(op: QLinearConv, rw: Rewriter) -> None:
    """qlinear_conv(x, #w, #b)  →  quantize_linear(conv(dequantize_linear(x), dequantize_linear(#w), …))"""
    if why_not(op):
        return
    weight = _weights(op.weight, op.weight_scale, op.weight_zero_point, 0)
    assert isinstance(weight, DequantizeLinear)
    data = DequantizeLinear(op.data, op.data_scale, op.data_zero_point)
    bias = None
    if op.bias is not None:
        bias = DequantizeLinear(op.bias, _product(op.data_scale, op.weight_scale, rw), axis=0).result
    real = nn.Conv(data.result, weight.result, bias, **op.attributes)
    rw.replace(op, QuantizeLinear(real.result, op.result_scale, op.result_zero_point))


@dataclass(frozen=True)
class _Phases:
    """What a transposed convolution by phases is made of."""

    weights: Weights
    bias: Array | None


def _phases_of(op: nn.ConvTranspose) -> _Phases | Illegal:
    """The weights and the bias of a transposed convolution of quantised data, or why it has no phases."""
    data, weights = read_data(op.data), read_weights(op.weight, 1)
    if isinstance(data, Illegal):
        return data
    if isinstance(weights, Illegal):
        return weights
    if op.group != 1 or not has_phases(op):
        return Illegal("its phases are no convolution: groups, dilation, or strides that differ")
    bias = None if op.bias is None else constant_numbers(op.bias)
    if op.bias is not None and bias is None:
        return Illegal("its bias is not constant")
    return _Phases(weights, bias)


@rewrite(nn.ConvTranspose)
def transposed_convolution_by_scales(op: nn.ConvTranspose, rw: Rewriter) -> None:
    """conv_transpose(dequantize_linear(x), dequantize_linear(#w))  →  depth_to_space(conv(…)) of phases"""
    found = _phases_of(op)
    if isinstance(found, Illegal):
        return
    weights = found.weights
    write, phases = Writer(rw, f"{weights.name(rw)}.phases"), op.geometry()[1][0] ** 2
    scale = np.repeat(weights.scale, phases if weights.scale.size > 1 else 1)
    integers = phase_weights(weights.array, 1, op.geometry()[1][0])
    known = DequantizeLinear(
        rw.constant(integers, name=write.name),
        rw.constant(scale if scale.size > 1 else scale.reshape(()), name="scale"), axis=0,
    )  # fmt: skip
    bias = None
    if found.bias is not None:
        bias = rw.constant(np.repeat(found.bias.astype(np.float32), phases), name="bias")
    rw.replace(op, by_phases(op, known.result, bias, write))


@rewrite(QLinearMatMul)
def quantized_product_by_scales(op: QLinearMatMul, rw: Rewriter) -> None:
    """qlinear_mat_mul(x, #w)  →  quantize_linear(mat_mul(dequantize_linear(x), dequantize_linear(#w)))"""
    if why_not(op):
        return
    right = _weights(op.right, op.right_scale, op.right_zero_point, 1)
    assert isinstance(right, DequantizeLinear)
    left = DequantizeLinear(op.left, op.left_scale, op.left_zero_point)
    real = nn.MatMul(left.result, right.result)
    rw.replace(op, QuantizeLinear(real.result, op.result_scale, op.result_zero_point))


def _obstacle_of_scales(*tensors: tuple[Value, Value]) -> Illegal | None:
    """Why data or result, each with its scale, are no 8-bit integers of one constant scale."""
    for tensor, scale in tensors:
        if tensor.type.dtype not in QUANTIZED:
            return Illegal(f"{tensor.type.dtype.value}, and integer sums take 8 bits")
        if not isinstance(scale, Constant) or scale.type.dtype is not DType.F32:
            return Illegal("the scale of its data or result is no float32 constant")
        if not is_single(scale.type.shape):
            return Illegal("its data or result have several scales")
    return None


def _weights(
    weight: Value, scale: Value, zero: Value | None, axis: int
) -> DequantizeLinear | Illegal:
    """A constant dequantised, with one scale or one per entry of the axis, where integer kernels take it."""
    found = DequantizeLinear(weight, scale, zero, axis=axis)
    read = read_weights(found.result, axis)
    return read if isinstance(read, Illegal) else found


def _product(left: Value, right: Value, rw: Rewriter) -> Constant:
    """The scale of a sum: one, or one per filter."""
    assert isinstance(left, Constant)
    assert isinstance(right, Constant)
    scale = left.array.reshape(()) * right.array.reshape(-1)
    return rw.constant(scale.astype(np.float32) if scale.size > 1 else scale.reshape(()), name="scale")


RULES = (quantized_convolution_by_scales, quantized_product_by_scales, transposed_convolution_by_scales)
