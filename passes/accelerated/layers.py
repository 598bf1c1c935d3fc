"""Convolutions and products with constant weights as `accelerator.conv`, or as the sums that scale gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from rtcc.ir import Op, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.accelerator import AcceleratorConv, AcceleratorConvSum, sums_fit
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.shapes import Flatten, Reshape
from rtcc.passes.accelerated.operands import Wanted, image_obstacle, s8_data
from rtcc.passes.integer.values import Array, QuantizedTensor, Weights, constant_numbers, read_weights
from rtcc.pipeline import Rewriter
from rtcc.target import Illegal

Linear = nn.Conv | nn.MatMul | nn.Gemm
"""Layers that add up products with constant weights."""

BIAS_BITS = 30
"""A bias in units of the sum has no more, besides its sign."""


@dataclass(frozen=True)
class Terms:
    """What a layer adds up.

    data: an image. weights: s8 [M, C/group, kernel…]. bias: i64[M], in units of the sum, the data's zero
    point in it. scale: f64[M], of that unit. rows: whether the result has rows and is no image.
    """

    data: QuantizedTensor
    source: Weights
    weights: Array
    bias: Array
    scale: Array
    geometry: Mapping[str, Any]
    rows: bool = False

    def requantised(self, op: Op, want: Wanted, rw: Rewriter) -> Op:
        """What gives the layer's result quantised."""
        factor = np.asarray(self.scale / np.float64(want.to.scale), np.float32)
        found = AcceleratorConv(
            *self._operands(rw), rw.constant(factor, name=f"{self.source.name(rw)}.factor"),
            location=op.location, fill=self.data.zero, **want.attributes, **self.geometry,
        )  # fmt: skip
        return self._shaped(found, op, rw)

    def summed(self, op: Op, rw: Rewriter) -> Op:
        """What gives the layer's sums, in units of its scale."""
        found = AcceleratorConvSum(
            *self._operands(rw), location=op.location, fill=self.data.zero, **self.geometry
        )
        return self._shaped(found, op, rw)

    @property
    def unit(self) -> Array:
        """The scale, shaped to broadcast along the channels of the result; one number as a scalar."""
        if (self.scale == self.scale[0]).all():
            return self.scale[0]
        return self.scale if self.rows else self.scale.reshape(-1, 1, 1)

    def _operands(self, rw: Rewriter) -> tuple[Value, Value, Value]:
        is_own = np.array_equal(self.weights, self.source.array)
        weight = self.source.constant(rw, None if is_own else self.weights)
        bias = rw.constant(self.bias.astype(np.int32), name=f"{self.source.name(rw)}.bias")
        return self.data.value, weight, bias

    def _shaped(self, found: Op, op: Op, rw: Rewriter) -> Op:
        if not self.rows:
            return found
        if op.type.rank == 2:
            return Flatten(found.result, location=found.location)
        shape = rw.constant(np.array(op.type.sizes, np.int64), name="shape")
        return Reshape(found.result, shape, location=found.location)


def terms_of(op: Linear, rw: Rewriter, bias: Value | None = None) -> Terms | Illegal:
    """What a convolution or product adds up, or why the accelerator does not; bias: of a product's own."""
    return _of_convolution(op, rw) if isinstance(op, nn.Conv) else _of_product(op, bias, rw)


def biased_product(op: Add) -> tuple[nn.MatMul, Value] | None:
    """The product and the bias that an addition adds to it: a constant for each column."""
    for value, bias in ((op.left, op.right), (op.right, op.left)):
        product = value.producer
        if isinstance(product, nn.MatMul) and value.has_one_use and op.type == value.type:
            return None if constant_numbers(bias) is None else (product, bias)
    return None


def _of_convolution(op: nn.Conv, rw: Rewriter) -> Terms | Illegal:
    """conv(dequantize(x), dequantize(#w), #b)"""
    data, weights = s8_data(op.data), read_weights(op.weight, 0)
    if isinstance(data, Illegal):
        return data
    if isinstance(weights, Illegal):
        return weights
    if obstacle := image_obstacle(data.value):
        return Illegal(obstacle)
    window = op.window(op.data.type.shape[2:], op.weight.type.shape)
    geometry = {"pads": window.pads, "strides": window.strides, "dilations": window.dilations,
                "kernel_shape": window.kernel, "group": op.group}  # fmt: skip
    return _terms(data, weights, weights.array, op.bias, geometry)


def _of_product(op: nn.MatMul | nn.Gemm, bias: Value | None, rw: Rewriter) -> Terms | Illegal:
    """gemm(dequantize(x), dequantize(#w), #b)

    Rows of K are images of one pixel, or where they are flattened images, those: the kernel is as large as
    one of them.
    """
    transposed = isinstance(op, nn.Gemm) and bool(op.transB)
    data, weights = s8_data(op.left), read_weights(op.right, 0 if transposed else 1)
    if isinstance(data, Illegal):
        return data
    if isinstance(weights, Illegal):
        return weights
    if isinstance(op, nn.Gemm) and (op.transA or op.alpha != 1 or op.beta != 1):
        return Illegal("its data are transposed, or alpha or beta is not 1")
    if weights.array.ndim != 2 or not op.type.is_static:
        return Illegal("its weights are no matrix, or its sizes are not known when compiling")
    source, shape = _images_of(data.value, prod(op.left.type.sizes[:-1]), rw)
    matrix = weights.array if transposed else weights.array.T
    image = QuantizedTensor(source, data.scale, data.zero)
    bias = op.addend if isinstance(op, nn.Gemm) else bias
    geometry = {"kernel_shape": shape[1:]}
    return _terms(image, weights, matrix.reshape(-1, *shape), bias, geometry, rows=True)


def _terms(
    data: QuantizedTensor, weights: Weights, array: Array, bias: Value | None, geometry: Mapping[str, Any],
    *, rows: bool = False,
) -> Terms | Illegal:  # fmt: skip
    """array: the weights as [M, C/group, kernel…]; bias: one number for each filter, or one for all."""
    scale = np.broadcast_to((data.scale * weights.scale).astype(np.float64), len(array))
    numbers = np.zeros(1) if bias is None else constant_numbers(bias)
    if numbers is None or numbers.size not in (1, len(array)) or numbers.shape[-1:] != (numbers.size,):
        return Illegal("its bias is no constant of one number for each filter")
    array, scale = _coarser(array, scale, numbers.reshape(-1))
    units = np.rint(numbers.reshape(-1) / scale).astype(np.int64)
    offset = units - data.zero * array.reshape(len(array), -1).sum(1, dtype=np.int64)
    if not sums_fit(array, offset):
        return Illegal("some data take its sums out of i32")
    return Terms(data, weights, array, offset, scale, geometry, rows)


def _coarser(array: Array, scale: Array, bias: Array) -> tuple[Array, Array]:
    """Filters so small next to their biases that these leave i32, in units that are powers of two larger.

    The bias is then 2²⁹ units or more, the largest sum of weights 2²⁴: what their rounding moves is nothing.
    """
    least = np.maximum(np.abs(np.broadcast_to(bias, len(array))), np.finfo(np.float64).tiny) / scale
    bits = np.maximum(np.ceil(np.log2(least)) - BIAS_BITS, 0)
    spread = (2.0**bits).reshape(-1, *(1,) * (array.ndim - 1))
    return np.rint(array / spread).astype(np.int8), scale * 2.0**bits


def _images_of(value: Value, rows: int, rw: Rewriter) -> tuple[Value, tuple[int, ...]]:
    """Rows as images, and the shape [C, H, W] of each: those that were flattened, or of one pixel."""
    op = value.producer
    while op is not None and op.reshapes:
        (source, *_) = op.present_operands
        if source.type.rank == 4 and source.type.sizes[0] == rows:
            return source, source.type.sizes[1:]
        op = source.producer
    shape = (rows, value.type.sizes[-1], 1, 1)
    return Reshape(value, rw.constant(np.array(shape, np.int64), name="shape")).result, shape[1:]
