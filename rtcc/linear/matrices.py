"""Linear layers as products of matrices: rows of what is read, weights as summands by outputs, per group."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput
from rtcc.ir.ops.nn import Conv
from rtcc.linear.layers import Layer

Array = NDArray[Any]

ROWS = 256
"""How many positions of each sample are taken, at random: neighbours say much the same."""


def is_finite(layer: Layer) -> bool:
    """Whether all its weights are numbers."""
    return bool(np.isfinite(layer.weight.data).all())


NOT_FINITE = "its weight holds NaN or an infinity"
"""Why a layer stays as it is."""


def require_finite(layer: Layer, data: Array, sample: int) -> None:
    """InvalidInput `activation-not-finite` where what a layer reads of a sample is no number."""
    if not np.isfinite(data).all():
        message = f"of sample {sample}, the layer reads values that are infinite or NaN"
        hint = "leave the sample out, or mend what overflows before the layer; without data nothing is fitted"
        raise InvalidInput("activation-not-finite", message, where=layer.name, hint=hint)


def rows_of(layer: Layer, data: Array, sample: int) -> Array:
    """Some rows of summands of a layer's results, [group, row, summand] in the order of `as_matrices`.

    data: what it reads of a sample, whose number is the seed of the choice. Errors as `require_finite`.
    """
    require_finite(layer, data, sample)
    op = layer.op
    if not isinstance(op, Conv):
        rows = data.astype(np.float64).reshape(1, -1, data.shape[-1])
        return rows[:, _some(rows.shape[1], sample)]
    weight = layer.weight.type.sizes
    views = op.window(data.shape[2:], weight).views(data, 0)
    count = len(weight) - 2
    positions = views.shape[2 : 2 + count]
    picked = _some(len(data) * int(np.prod(positions)), sample)
    batch, *at = np.unravel_index(picked, (len(data), *positions))
    taken = views[(batch, slice(None), *at)]  # [row, channel, taps…]
    grouped = taken.astype(np.float64).reshape(len(picked), op.group, -1)
    return np.ascontiguousarray(grouped.transpose(1, 0, 2))


def _some(count: int, seed: int) -> Array:
    if count <= ROWS:
        return np.arange(count)
    return np.random.default_rng(seed).choice(count, ROWS, replace=False)


def as_matrices(layer: Layer, weight: Array) -> Array:
    """A weight as [group, summand, output]."""
    match layer.op:
        case Conv():
            grouped = weight.reshape(layer.op.group, -1, int(np.prod(weight.shape[1:])))
            return np.ascontiguousarray(grouped.transpose(0, 2, 1))
        case _:
            return (weight if layer.sum_axis == 0 else weight.T)[None]


def as_weight(layer: Layer, matrices: Array) -> Array:
    """The inverse of `as_matrices`."""
    shape = layer.weight.type.sizes
    if isinstance(layer.op, Conv):
        return matrices.transpose(0, 2, 1).reshape(shape)
    return matrices[0] if layer.sum_axis == 0 else matrices[0].T
