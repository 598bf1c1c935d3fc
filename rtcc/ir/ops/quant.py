"""Quantisation as ONNX defines it: q = saturate(round(x / scale) + zero point) (family `quant`)."""

from __future__ import annotations

import numpy as np

from rtcc.ir.dimension import Expression
from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, attribute, operand, optional_operand
from rtcc.ir.ops.axes import at, normal_axis
from rtcc.ir.ops.computed import FLOATS, INTEGERS, ComputedOp, widened
from rtcc.ir.ops.nn import Convolution, product_operations, product_shape, sum_operations
from rtcc.ir.ops.requantization import quantized, requantized
from rtcc.ir.ops.window import convolve, per_channel
from rtcc.ir.roles import Role
from rtcc.ir.types import Shape, TensorType


class Scaled(ComputedOp):
    """What QuantizeLinear and DequantizeLinear share: one scale per tensor, per axis entry or per block."""

    data = operand()
    scale = operand()
    zero_point = optional_operand()
    axis = attribute(1)
    block_size = attribute(0)
    output_dtype = attribute("")

    def check_scale(self) -> None:
        """Raise InvalidModel when the scale's shape fits neither the tensor, the axis nor the blocks."""
        data, scale = self.data.type, self.scale.type
        zero = scale if self.zero_point is None else self.zero_point.type
        if zero.shape != scale.shape and not (is_single(zero.shape) and is_single(scale.shape)):
            raise self.fail(f"zero point {zero} and scale {scale} must have one shape")
        if is_single(scale.shape):
            return
        axis = normal_axis(self, self.axis, data.rank)
        if self.block_size:
            expected = list(data.shape)
            expected[axis] = -(-expected[axis] // self.block_size)
        else:
            expected = [data.shape[axis]]
        known = len(expected) == scale.rank and all(map(_may_equal, expected, scale.shape))
        if not known:
            raise self.fail(
                f"the scale of {data} along axis {axis} must have shape {expected}, found {scale}"
            )

    def spread(self, parameter: Array, shape: tuple[int, ...]) -> Array:
        """A scale or zero point made broadcastable to data of this shape."""
        if is_single(parameter.shape):
            return parameter.reshape(())
        axis = normal_axis(self, self.axis, len(shape))
        if self.block_size:
            return np.repeat(parameter, self.block_size, axis=axis)[tuple(map(slice, shape))]
        return parameter.reshape([-1 if a == axis else 1 for a in range(len(shape))])


class QuantizeLinear(Scaled):
    """Real numbers as integers or 8-bit floats of a scale (ONNX QuantizeLinear).

    The result has the zero point's type, else `output_dtype`, else u8. Integers are rounded half to even
    and saturate, NaN becomes the zero point; 8-bit floats follow Cast's `saturate`.
    """

    name = "quant.quantize_linear"
    role = Role.COMPOSITE
    saturate = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        self.check_scale()
        dtype = self.element_type(self.output_dtype or "u8")
        if self.zero_point is not None:
            dtype = self.zero_point.type.dtype
        return (TensorType(dtype, self.data.type.shape),)

    def compute(self, data: Array, scale: Array, zero_point: Array | None = None) -> Array:
        scale = self.spread(scale, data.shape)
        zero = 0 if zero_point is None else self.spread(zero_point, data.shape)
        return quantized(data / scale, zero, self.results[0].type.dtype, saturate=bool(self.saturate))


class DequantizeLinear(Scaled):
    """(data - zero point) · scale, in the scale's type or `output_dtype` (ONNX DequantizeLinear)."""

    name = "quant.dequantize_linear"
    role = Role.COMPOSITE

    def infer(self) -> tuple[TensorType, ...]:
        self.check_scale()
        if self.zero_point is not None and self.zero_point.type.dtype is not self.data.type.dtype:
            raise self.fail(
                f"zero point {self.zero_point.type} and data {self.data.type} must have one dtype"
            )
        dtype = self.element_type(self.output_dtype) if self.output_dtype else self.scale.type.dtype
        return (TensorType(dtype, self.data.type.shape),)

    def compute(self, data: Array, scale: Array, zero_point: Array | None = None) -> Array:
        scale = self.spread(scale, data.shape)
        zero = None if zero_point is None else self.spread(zero_point, data.shape)
        return centred(data, zero).astype(scale.dtype) * scale


class DynamicQuantizeLinear(ComputedOp):
    """u8 quantisation by the data's own range, zero included: also gives scale and zero point.

    The scale is (max - min) / 255, and 1 where all data are zero (ONNX DynamicQuantizeLinear).
    """

    name = "quant.dynamic_quantize_linear"
    role = Role.COMPOSITE
    results_required = 3
    data = operand()

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, FLOATS, "the data")
        quantized_type = TensorType(DType.U8, self.data.type.shape)
        return quantized_type, TensorType(DType.F32, ()), TensorType(DType.U8, ())

    def compute(self, data: Array) -> tuple[Array, Array, Array]:
        highest = np.maximum(np.max(data, initial=0), 0)
        lowest = np.minimum(np.min(data, initial=0), 0)
        span = np.asarray(highest - lowest) / 255
        scale: Array = np.where(span == 0, np.ones_like(span), span)
        zero = quantized(-lowest / scale, 0, DType.U8)
        return quantized(data / scale, zero, DType.U8), scale, zero


class ConvInteger(Convolution):
    """Convolution of integers less their zero points, summed in i32 (ONNX ConvInteger)."""

    name = "quant.conv_integer"
    role = Role.OPAQUE
    data = operand()
    weight = operand()
    data_zero_point = optional_operand()
    weight_zero_point = optional_operand()

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, INTEGERS, "the data")
        return (TensorType(DType.I32, self.convolved(self.data.type.shape, self.weight.type.shape)),)

    def operations(self) -> int:
        return sum_operations(self.type, self.weight.type)

    def compute(
        self, data: Array, weight: Array, data_zero: Array | None = None, weight_zero: Array | None = None
    ) -> Array:
        window = self.window(data.shape[2:], weight.shape)
        total = convolve(
            centred(data, data_zero),
            centred(weight, per_output(weight_zero, weight.ndim)),
            window,
            self.group,
        )
        return total.astype(np.int64).astype(np.int32)


class QLinearConv(Convolution):
    """Convolution of quantised tensors, summed and biased exactly, requantised once (ONNX QLinearConv).

    The factor data_scale · weight_scale / result_scale is a float32; weight parameters may be per output
    channel; the i32 bias has the scale of the sum.
    """

    name = "quant.qlinear_conv"
    role = Role.COMPOSITE
    data, data_scale, data_zero_point = operand(), operand(), operand()
    weight, weight_scale, weight_zero_point = operand(), operand(), operand()
    result_scale, result_zero_point = operand(), operand()
    bias = optional_operand()

    def infer(self) -> tuple[TensorType, ...]:
        shape = self.convolved(self.data.type.shape, self.weight.type.shape)
        if self.bias is not None and self.bias.type.is_static and self.bias.type.shape != (shape[1],):
            raise self.fail(f"the bias needs one element for each of {shape[1]} outputs: {self.bias.type}")
        return (TensorType(self.result_zero_point.type.dtype, shape),)

    def operations(self) -> int:
        return sum_operations(self.type, self.weight.type)

    def compute(self, *arrays: Array) -> Array:
        data, data_scale, data_zero, weight, weight_scale, weight_zero, scale, zero = arrays[:8]
        rank = data.ndim
        window = self.window(data.shape[2:], weight.shape)
        kernels = centred(weight, per_output(weight_zero, rank))
        total = convolve(centred(data, data_zero.reshape(())), kernels, window, self.group).astype(np.int64)
        bias = at(arrays, 8)
        total = total if bias is None else total + per_channel(bias, rank)
        factor = data_scale * weight_scale / scale
        factor = per_channel(factor, rank) if factor.size > 1 else factor.reshape(())
        return requantized(total, factor, zero.reshape(()), self.results[0].type.dtype)


class MatMulInteger(ComputedOp):
    """Matrix product of integers less their zero points, summed in i32 (ONNX MatMulInteger)."""

    name = "quant.mat_mul_integer"
    role = Role.COMPOSITE
    left = operand()
    right = operand()
    left_zero_point = optional_operand()
    right_zero_point = optional_operand()

    def infer(self) -> tuple[TensorType, ...]:
        for value, what in ((self.left, "left"), (self.right, "right")):
            if value.type.dtype not in (DType.I8, DType.U8):
                found = value.type.dtype.value
                raise self.fail(f"the {what} operand must be i8 or u8, found {found}")
        return (TensorType(DType.I32, product_shape(self, self.left.type.shape, self.right.type.shape)),)

    def operations(self) -> int:
        return product_operations(self.type, self.left.type)

    def compute(
        self, left: Array, right: Array, left_zero: Array | None = None, right_zero: Array | None = None
    ) -> Array:
        return _exact_product(centred(left, per_row(left_zero)), centred(right, right_zero)).astype(np.int32)


class QLinearMatMul(ComputedOp):
    """Matrix product of quantised tensors, requantised once (ONNX QLinearMatMul).

    Parameters of the left operand may be per row, those of the right per column, or batched likewise.
    """

    name = "quant.qlinear_mat_mul"
    role = Role.COMPOSITE
    left, left_scale, left_zero_point = operand(), operand(), operand()
    right, right_scale, right_zero_point = operand(), operand(), operand()
    result_scale, result_zero_point = operand(), operand()

    def infer(self) -> tuple[TensorType, ...]:
        shape = product_shape(self, self.left.type.shape, self.right.type.shape)
        return (TensorType(self.result_zero_point.type.dtype, shape),)

    def operations(self) -> int:
        return product_operations(self.type, self.left.type)

    def compute(self, *arrays: Array) -> Array:
        left, left_scale, left_zero, right, right_scale, right_zero, scale, zero = arrays
        a, b = centred(left, per_row(left_zero)), centred(right, right_zero)
        total = np.matmul(a, b) if a.dtype.kind == "f" else _exact_product(a, b)
        row_scale = per_row(left_scale)
        assert row_scale is not None
        factor = row_scale * right_scale / per_row(scale)
        return requantized(total, np.asarray(factor), per_row(zero), self.results[0].type.dtype)


def centred(data: Array, zero: Array | None) -> Array:
    """Quantised elements less their zero point: i32 for integers, float32 for 8-bit floats."""
    wide = widened(data)
    if wide.dtype.kind != "f":
        wide = wide.astype(np.int32)
    return wide if zero is None else wide - widened(zero).astype(wide.dtype)


def per_row(parameter: Array | None) -> Array | None:
    """A vector of row parameters as a column; others as they are (one element: a scalar)."""
    if parameter is None or parameter.size == 1:
        return None if parameter is None else parameter.reshape(())
    return parameter[:, None] if parameter.ndim == 1 else parameter


def per_output(parameter: Array | None, rank: int) -> Array | None:
    """A parameter per output channel, shaped for a weight [M, C, kernel…] of that rank."""
    return None if parameter is None else parameter.reshape(-1, *(1,) * (rank - 1))


def is_single(shape: Shape) -> bool:
    """Whether a parameter of this shape is one number for the whole tensor."""
    return shape in ((), (1,))


def _exact_product(left: Array, right: Array) -> Array:
    """An integer matrix product by way of float64, exact below 2⁵³."""
    return np.matmul(left.astype(np.float64), right.astype(np.float64)).astype(np.int64)


def _may_equal(left: int | Expression, right: int | Expression) -> bool:
    return left == right or not (isinstance(left, int) and isinstance(right, int))
