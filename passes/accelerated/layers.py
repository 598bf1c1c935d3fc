"""Convolutions and products with constant weights as `accelerator.conv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rtcc.ir import Op, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.accelerator import AcceleratorConv, sums_fit
from rtcc.ir.ops.shapes import Flatten, Reshape
from rtcc.passes.accelerated.operands import Wanted, image_obstacle, s8_data
from rtcc.passes.integer.values import Array, QuantizedTensor, Weights, constant_numbers, read_weights
from rtcc.pipeline import Rewriter
from rtcc.target import Illegal

BIAS_BITS = 30
"""A bias in units of the sum has no more, besides its sign."""


def convolution(op: nn.Conv, want: Wanted, rw: Rewriter) -> Op | Illegal:
    """quantize(clamp(conv(dequantize(x), dequantize(#w), #b)))  →  accelerator.conv(x, #w, #bias, #factor)"""
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
    return _layer(op, (data, weights, weights.array, op.bias), want, geometry, rw)


def product(op: nn.MatMul | nn.Gemm, want: Wanted, rw: Rewriter) -> Op | Illegal:
    """quantize(clamp(gemm(dequantize(x), dequantize(#w), #b)))  →  flatten(accelerator.conv(image of x, …))

    One row [1, K] is an image of one pixel, or where it is a flattened image, that image: the kernel is as
    large as it is.
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
    if op.left.type.rank != 2 or op.left.type.sizes[0] != 1:
        return Illegal(f"its data are {op.left.type}, and the accelerator takes one row at a time")
    source, shape = _image_of(data.value, rw)
    matrix = weights.array if transposed else weights.array.T
    image = QuantizedTensor(source, data.scale, data.zero)
    bias = op.addend if isinstance(op, nn.Gemm) else None
    terms = (image, weights, matrix.reshape(-1, *shape), bias)
    found = _layer(op, terms, want, {"kernel_shape": shape[1:]}, rw)
    return found if isinstance(found, Illegal) else Flatten(found.result, location=op.location)


Terms = tuple[QuantizedTensor, Weights, Array, Value | None]
"""Data, weights, these as [M, C/group, kernel…], bias."""


def _layer(
    op: Op, terms: Terms, want: Wanted, geometry: Mapping[str, Any], rw: Rewriter
) -> AcceleratorConv | Illegal:
    """The convolution that computes a layer; the data's zero point goes into the bias."""
    data, weights, array, bias = terms
    scale = np.broadcast_to((data.scale * weights.scale).astype(np.float64), len(array))
    numbers = np.zeros(1) if bias is None else constant_numbers(bias)
    if numbers is None or numbers.size not in (1, len(array)) or numbers.shape[-1:] != (numbers.size,):
        return Illegal("its bias is no constant of one number for each filter")
    array, scale = _coarser(array, scale, numbers.reshape(-1))
    units = np.rint(numbers.reshape(-1) / scale).astype(np.int64)
    offset = units - data.zero * array.reshape(len(array), -1).sum(1, dtype=np.int64)
    if not sums_fit(array, offset):
        return Illegal("some data take its sums out of i32")
    name = weights.name(rw)
    factor = np.asarray(scale / np.float64(want.to.scale), np.float32)
    return AcceleratorConv(
        data.value,
        weights.constant(rw, array),
        rw.constant(offset.astype(np.int32), name=f"{name}.bias"),
        rw.constant(factor, name=f"{name}.factor"),
        location=op.location, fill=data.zero, **want.attributes, **geometry,
    )  # fmt: skip


def _coarser(array: Array, scale: Array, bias: Array) -> tuple[Array, Array]:
    """Filters so small next to their biases that these leave i32, in units that are powers of two larger.

    The bias is then 2²⁹ units or more, the largest sum of weights 2²⁴: what their rounding moves is nothing.
    """
    least = np.maximum(np.abs(np.broadcast_to(bias, len(array))), np.finfo(np.float64).tiny) / scale
    bits = np.maximum(np.ceil(np.log2(least)) - BIAS_BITS, 0)
    spread = (2.0**bits).reshape(-1, *(1,) * (array.ndim - 1))
    return np.rint(array / spread).astype(np.int8), scale * 2.0**bits


def _image_of(value: Value, rw: Rewriter) -> tuple[Value, tuple[int, ...]]:
    """A row as an image, and its shape [C, H, W]: the one that was flattened, or one pixel."""
    op = value.producer
    while op is not None and op.reshapes:
        (source, *_) = op.present_operands
        if source.type.rank == 4 and source.type.sizes[0] == 1:
            return source, source.type.sizes[1:]
        op = source.producer
    shape = (1, value.type.sizes[1], 1, 1)
    return Reshape(value, rw.constant(np.array(shape, np.int64), name="shape")).result, shape[1:]
