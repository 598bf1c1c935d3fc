"""Constant weights as integers, with a scale per tensor, per channel or per block."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import DType
from rtcc.quantization.scheme import Form, Parameters, normalized_parameters, parameters

Array = NDArray[Any]


@dataclass(frozen=True)
class QuantizedWeight:
    """Integers of a weight's shape, and their parameters as DequantizeLinear takes them.

    axis: of the channels or blocks, None for one scale. block: elements along it per scale, 0 for channels.
    """

    data: Array
    parameters: Parameters
    axis: int | None
    block: int = 0

    @property
    def restored(self) -> Array:
        """The float32 weight that the integers stand for."""
        return spread(self.parameters, self.data.shape, self.axis, self.block).restored(self.data)


def spread(chosen: Parameters, shape: tuple[int, ...], axis: int | None, block: int) -> Parameters:
    """Parameters per channel or block made broadcastable to a weight."""

    def one(array: Array) -> Array:
        if axis is None:
            return array
        if block:
            return np.repeat(array, block, axis=axis)[tuple(map(slice, shape))]
        return array.reshape([-1 if each == axis else 1 for each in range(len(shape))])

    return Parameters(one(chosen.scale), one(chosen.zero_point), chosen.dtype)


def quantize_weight(
    weight: Array, dtype: DType, form: Form, axis: int | None, floor: Array | None = None
) -> QuantizedWeight:
    """A weight with a scale per entry of an axis, or one; floor: scales are at least that.

    A channel of zeros takes the largest scale of the others: any keeps it, and the bias, whose scale follows
    from it, stays fine enough.
    """
    weight = weight.astype(np.float64)
    others = None if axis is None else tuple(a for a in range(weight.ndim) if a != axis)
    low, high = weight.min(axis=others, initial=0.0), weight.max(axis=others, initial=0.0)
    if form is Form.NORMALIZED:
        chosen = normalized_parameters(weight.mean(axis=others), weight.std(axis=others))
    else:
        chosen = parameters(low, high, dtype, form)
        if floor is not None:
            wider = np.maximum(floor / chosen.scale.astype(np.float64), 1.0)
            chosen = parameters(low * wider, high * wider, dtype, form)
            # Ranges that hardly are numbers have no scale to widen by.
            chosen = replace(chosen, scale=np.asarray(np.maximum(chosen.scale, floor), np.float32))
        chosen = _without_empty(chosen, (low == 0) & (high == 0), floor)
    return QuantizedWeight(spread(chosen, weight.shape, axis, 0).quantized(weight), chosen, axis)


def _without_empty(chosen: Parameters, empty: Array, floor: Array | None) -> Parameters:
    """The parameters, channels of zeros given the scale of the others or the least that they may have."""
    if not empty.any():
        return chosen
    usual = np.float32(1.0) if empty.all() else chosen.scale[~empty].max()
    scale = np.where(empty, usual if floor is None else np.maximum(usual, floor), chosen.scale)
    return Parameters(np.asarray(scale, np.float32), chosen.zero_point, chosen.dtype)


def quantize_blocks(weight: Array, dtype: DType, form: Form, axis: int, block: int) -> QuantizedWeight:
    """A weight with a scale for each block of elements along an axis; the last block may be shorter."""
    weight = weight.astype(np.float64)
    size = weight.shape[axis]
    blocks = -(-size // block)
    padding = [(0, blocks * block - size if a == axis else 0) for a in range(weight.ndim)]
    cut_shape = (*weight.shape[:axis], blocks, block, *weight.shape[axis + 1 :])
    cut = np.pad(weight, padding).reshape(cut_shape)
    chosen = parameters(cut.min(axis=axis + 1), cut.max(axis=axis + 1), dtype, form)
    integers = spread(chosen, weight.shape, axis, block).quantized(weight)
    return QuantizedWeight(integers, chosen, axis, block)


def signal_to_noise(signal: float, noise: float) -> float:
    """Decibels of a signal's power over that of the error; infinite where there is none, -inf if it is."""
    if noise == 0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 and np.isfinite(noise) else float("-inf")
