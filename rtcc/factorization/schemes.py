"""Into which two layers a layer can be taken apart, and by which matrix's singular values.

    channel    the layer with r outputs, then 1x1        matrix: summands by outputs
               (X. Zhang et al., TPAMI 2016)
    input      1x1 to r channels, then the layer         matrix: channels by taps and outputs
               (E. Denton et al., NIPS 2014)
    spatial    kx1 to r channels, then 1xk               matrix: channels and rows by columns and outputs
               (M. Jaderberg et al., BMVC 2014)
    separable  depthwise, r filters a channel, then 1x1  matrices, one a channel: taps by outputs
               (F. Chollet, CVPR 2017)

Products have `channel` alone. The best matrices of a rank are the first singular vectors (C. Eckart,
G. Young, 1936).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Module, Value
from rtcc.ir.ops.nn import Conv, Gemm, MatMul
from rtcc.linear.layers import Layer, Linear
from rtcc.linear.matrices import NOT_FINITE, as_matrices, is_finite

Array = NDArray[Any]


class Scheme(StrEnum):
    """How a layer is taken apart."""

    AUTO = "auto"
    """Whichever is predicted to be fastest of those that keep as much."""
    CHANNEL = "channel"
    INPUT = "input"
    SPATIAL = "spatial"
    SEPARABLE = "separable"


@dataclass(frozen=True)
class Shape:
    """One of the two layers: a weight's shape, and for convolutions their attributes."""

    weight: tuple[int, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Rules:
    """What a scheme makes of a layer.

    refusal: why it cannot be used, "" where it can. matrices: [one or more, rows, columns] whose singular
    vectors it takes, of a weight. shapes: of both layers for a rank. weights: both, of the left and right
    factors [one or more, rows, r] and [one or more, r, columns].
    """

    refusal: Callable[[Layer], str]
    matrices: Callable[[Layer, Array], Array]
    shapes: Callable[[Layer, int], tuple[Shape, Shape]]
    weights: Callable[[Layer, Array, Array], tuple[Array, Array]]


def apart(layer: Layer, rank: int, scheme: Scheme) -> tuple[Shape, Shape]:
    """The shapes of both layers."""
    return RULES[scheme].shapes(layer, rank)


def full_rank(layer: Layer, scheme: Scheme) -> int:
    """The rank with which a layer stays as it is."""
    matrices = RULES[scheme].matrices(layer, layer.weight.array)
    return min(matrices.shape[1:])


def make(op: Linear, data: Value, weight: Value, bias: Value | None, shape: Shape) -> Linear:
    """One of the layers, as an op that stands nowhere yet."""
    if isinstance(op, Conv):
        return Conv(data, weight, bias, location=op.location, **shape.attributes)
    if bias is not None:
        return Gemm(data, weight, bias, location=op.location)
    return MatMul(data, weight, location=op.location)


def sketch(layer: Layer, rank: int, scheme: Scheme) -> tuple[Linear, Linear]:
    """Both layers with weights of zeros, for what they take; to be made in `discarding_unplaced`."""
    module = Module()
    first, second = apart(layer, rank, scheme)
    data, bias = layer.data, layer.bias
    dtype = layer.weight.type.dtype.numpy
    weights = [
        module.add_constant(name, np.zeros((), dtype), layer.weight.type.with_shape(shape.weight))
        for name, shape in (("first", first), ("second", second))
    ]
    one = make(layer.op, data, weights[0], None, first)
    other = make(layer.op, one.result, weights[1], bias, second)
    return one, other


# ---- a layer of r outputs, then one position at a time


def _no_channel(layer: Layer) -> str:
    return ""


def _summands(layer: Layer, weight: Array) -> Array:
    return as_matrices(layer, weight)


def _channel_shapes(layer: Layer, rank: int) -> tuple[Shape, Shape]:
    sizes = layer.weight.type.sizes
    if not isinstance(layer.op, Conv):
        return Shape((sizes[layer.sum_axis], rank), {}), Shape((rank, sizes[1 - layer.sum_axis]), {})
    ones = (1,) * (len(sizes) - 2)
    return (
        Shape((rank, *sizes[1:]), _attributes(layer.op, sizes[2:])),
        Shape((sizes[0], rank, *ones), {"kernel_shape": ones}),
    )


def _channel_weights(layer: Layer, left: Array, right: Array) -> tuple[Array, Array]:
    if not isinstance(layer.op, Conv):
        return left[0], right[0]
    first, second = _channel_shapes(layer, left.shape[2])
    return left[0].T.reshape(first.weight), right[0].T.reshape(second.weight)


# ---- fewer channels first


def _no_input(layer: Layer) -> str:
    return _wide(layer)


def _by_channel(layer: Layer, weight: Array) -> Array:
    return np.moveaxis(weight, 1, 0).reshape(1, weight.shape[1], -1)


def _input_shapes(layer: Layer, rank: int) -> tuple[Shape, Shape]:
    sizes = layer.weight.type.sizes
    assert isinstance(layer.op, Conv)
    ones = (1,) * (len(sizes) - 2)
    return (
        Shape((rank, sizes[1], *ones), {"kernel_shape": ones}),
        Shape((sizes[0], rank, *sizes[2:]), _attributes(layer.op, sizes[2:])),
    )


def _input_weights(layer: Layer, left: Array, right: Array) -> tuple[Array, Array]:
    first, _ = _input_shapes(layer, left.shape[2])
    sizes = layer.weight.type.sizes
    second = right[0].reshape(-1, sizes[0], *sizes[2:])
    return left[0].T.reshape(first.weight), np.moveaxis(second, 0, 1)


# ---- rows, then columns


def _no_spatial(layer: Layer) -> str:
    if reason := _wide(layer):
        return reason
    sizes = layer.weight.type.sizes
    return "" if len(sizes) == 4 and min(sizes[2:]) > 1 else "its kernel is no rectangle of several rows"


def _rows_by_columns(layer: Layer, weight: Array) -> Array:
    outputs, channels, rows, columns = weight.shape
    return weight.transpose(1, 2, 3, 0).reshape(1, channels * rows, columns * outputs)


def _spatial_shapes(layer: Layer, rank: int) -> tuple[Shape, Shape]:
    outputs, channels, *kernel = layer.weight.type.sizes
    assert isinstance(layer.op, Conv)
    pads, strides, dilations = layer.op.geometry()
    halves: list[dict[str, Any]] = []
    for axis in range(2):
        only = [axis == each for each in range(2)]
        halves.append({
            "kernel_shape": tuple(k if on else 1 for k, on in zip(kernel, only, strict=True)),
            "strides": tuple(s if on else 1 for s, on in zip(strides, only, strict=True)),
            "dilations": tuple(d if on else 1 for d, on in zip(dilations, only, strict=True)),
            "pads": tuple(p if on else 0 for p, on in zip(pads, only * 2, strict=True)),
        })  # fmt: skip
    return Shape((rank, channels, kernel[0], 1), halves[0]), Shape((outputs, rank, 1, kernel[1]), halves[1])


def _spatial_weights(layer: Layer, left: Array, right: Array) -> tuple[Array, Array]:
    first, second = _spatial_shapes(layer, left.shape[2])
    outputs, rank, _, columns = second.weight
    return left[0].T.reshape(first.weight), right[0].reshape(rank, 1, columns, outputs).transpose(3, 0, 1, 2)


# ---- depthwise, then one position at a time


def _no_separable(layer: Layer) -> str:
    return _wide(layer)


def _taps_by_outputs(layer: Layer, weight: Array) -> Array:
    outputs, channels = weight.shape[:2]
    return weight.reshape(outputs, channels, -1).transpose(1, 2, 0)


def _separable_shapes(layer: Layer, rank: int) -> tuple[Shape, Shape]:
    outputs, channels, *kernel = layer.weight.type.sizes
    assert isinstance(layer.op, Conv)
    ones = (1,) * len(kernel)
    return (
        Shape((channels * rank, 1, *kernel), {**_attributes(layer.op, tuple(kernel)), "group": channels}),
        Shape((outputs, channels * rank, *ones), {"kernel_shape": ones}),
    )


def _separable_weights(layer: Layer, left: Array, right: Array) -> tuple[Array, Array]:
    channels, _, rank = left.shape
    first, second = _separable_shapes(layer, rank)
    merged = right.reshape(channels * rank, -1).T
    return left.transpose(0, 2, 1).reshape(first.weight), merged.reshape(second.weight)


def _wide(layer: Layer) -> str:
    """Why a layer has no taps to take apart."""
    if not isinstance(layer.op, Conv):
        return "it is a product"
    return "" if prod(layer.weight.type.sizes[2:]) > 1 else "its kernel has one tap"


def _attributes(op: Conv, kernel: tuple[int, ...]) -> dict[str, Any]:
    pads, strides, dilations = op.geometry()
    return {"kernel_shape": kernel, "pads": pads, "strides": strides, "dilations": dilations}


RULES = {
    Scheme.CHANNEL: Rules(_no_channel, _summands, _channel_shapes, _channel_weights),
    Scheme.INPUT: Rules(_no_input, _by_channel, _input_shapes, _input_weights),
    Scheme.SPATIAL: Rules(_no_spatial, _rows_by_columns, _spatial_shapes, _spatial_weights),
    Scheme.SEPARABLE: Rules(_no_separable, _taps_by_outputs, _separable_shapes, _separable_weights),
}


def refusal(layer: Layer) -> str:
    """Why a layer cannot be taken apart at all, "" where it can."""
    op, sizes = layer.op, layer.weight.type.sizes
    if not isinstance(op, Conv | Gemm | MatMul):
        return "it is a transposed convolution"
    if isinstance(op, Conv) and op.group > 1:
        return "its channels are in groups"
    if isinstance(op, Gemm | MatMul) and (len(sizes) != 2 or op.left.type.rank < 2):
        return "its weight is no matrix"
    adds_more = isinstance(op, Gemm) and op.addend is not None and layer.bias is None
    if isinstance(op, Gemm) and (op.transA or op.alpha != 1 or adds_more):
        return "it scales or adds more than a bias"
    if not is_finite(layer):
        return NOT_FINITE
    if layer.weight.use_count > 1:
        return "others read its weight"
    return ""
