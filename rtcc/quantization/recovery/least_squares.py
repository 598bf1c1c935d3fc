"""Rounding by least squares: weights are rounded so that a layer's results move least, not its weights.

With x the layer's inputs in the float model, q those in the quantised one, both less their means (the
bias takes those): first the weights that make q·w nearest to x·W,

    w = W + (Σ q'q + λ)⁻¹ · Σ q'(x - q) · W

then these are rounded one summand after the other, each error made up for by the summands that are left:
E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, GPTQ: accurate post-training quantization for generative
pre-trained transformers (ICLR 2023), after the optimal brain surgeon (B. Hassibi, D. Stork, 1993).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rtcc.ir.ops.nn import Conv, Gemm, MatMul
from rtcc.linear.layers import Layer
from rtcc.linear.matrices import as_matrices, as_weight
from rtcc.linear.moments import Moments
from rtcc.quantization.scheme import integer_range
from rtcc.quantization.weights import QuantizedWeight, spread

Array = NDArray[Any]

LARGEST_SUM = 2304
"""Summands of a result up to which a layer is rounded so: the matrix of their products is held in memory."""

FEW = 1.0
"""How much more λ is for few rows, which say little of many summands."""


def can_round(layer: Layer) -> bool:
    """Whether a layer's weight is a matrix per group, of not too many summands."""
    match layer.op:
        case Conv():
            return bool(np.prod(layer.weight.type.sizes[1:]) <= LARGEST_SUM)
        case Gemm():
            return layer.weight.type.sizes[layer.sum_axis] <= LARGEST_SUM
        case MatMul():
            return layer.weight.type.rank == 2 and layer.weight.type.sizes[0] <= LARGEST_SUM
        case _:
            return False


def nearest_results(layer: Layer, moments: Moments) -> Array:
    """The float weight with which quantised inputs give most nearly what exact ones gave."""
    weight = as_matrices(layer, layer.weight.array.astype(np.float64))
    squares, products = moments.matrices(FEW)
    return as_weight(layer, weight + np.linalg.solve(squares, products @ weight))


def rounded(layer: Layer, weight: Array, moments: Moments, found: QuantizedWeight) -> QuantizedWeight:
    """A weight rounded in the steps that `found` has, errors made up for by the summands that are left."""
    wide = spread(found.parameters, weight.shape, found.axis, found.block)
    shape = weight.shape
    steps, zeros = (
        as_matrices(layer, np.broadcast_to(each, shape).astype(np.float64))
        for each in (wide.scale, wide.zero_point)
    )
    left = as_matrices(layer, weight.astype(np.float64)).copy()
    squares, _ = moments.matrices(FEW)
    order = np.argsort(-squares.diagonal(axis1=1, axis2=2), axis=1, kind="stable")
    integers = np.empty_like(left)
    for group in range(len(left)):
        picked = order[group]
        upper = _upper_factor(squares[group][picked][:, picked])
        integers[group, picked] = _round_in_turn(
            left[group, picked], steps[group, picked], zeros[group, picked], upper,
            integer_range(found.parameters.dtype),
        )  # fmt: skip
    data = as_weight(layer, integers).astype(found.data.dtype)
    return QuantizedWeight(np.ascontiguousarray(data), found.parameters, found.axis, found.block)


def _upper_factor(squares: Array) -> Array:
    """U with U'U the inverse of a symmetric positive matrix."""
    inverse = cast("Array", np.linalg.inv(squares))
    return cast("Array", np.linalg.cholesky((inverse + inverse.T) / 2)).T


def _round_in_turn(left: Array, steps: Array, zeros: Array, factor: Array, limits: tuple[int, int]) -> Array:
    """Integers of weights [summand, output]; factor: upper Cholesky factor of the inverse of q'q."""
    integers = np.empty_like(left)
    for row in range(len(left)):
        integers[row] = np.clip(np.rint(left[row] / steps[row]) + zeros[row], *limits)
        error = (left[row] - (integers[row] - zeros[row]) * steps[row]) / factor[row, row]
        left[row + 1 :] -= factor[row, row + 1 :, None] * error
    return integers
