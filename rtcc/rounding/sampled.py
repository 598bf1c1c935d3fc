"""The rounding errors of operators that read at computed coordinates.

A coordinate is rounded to a float of its own size, which moves the sample along the slope there; what is
sampled is a weighted sum. Coordinates are moved one component at a time, since slopes may cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

import numpy as np

from rtcc.ir.op import Array
from rtcc.ir.ops.regions_of_interest import RoiAlign
from rtcc.ir.ops.sampling import DeformConv, GridSample
from rtcc.ir.ops.window import convolve, per_channel
from rtcc.rounding.bounded import Bounded, finite, known, movement, sum_error

COORDINATE = 8.0
"""Roundings of a coordinate between the operand and the place that is read."""

CUBIC_WEIGHTS = 1.375
"""The largest Σ|weights| of the four cubic taps along an axis, at their middle."""


def grid_sample(
    op: GridSample, operands: Sequence[Bounded | None], results: Sequence[Array]
) -> Sequence[Array]:
    """Samples at the places of a grid, whose last axis has one component per spatial axis."""
    data, grid = operands[:2]
    assert data is not None
    assert grid is not None
    moved = COORDINATE * grid.unit.roundoff * (1 + grid.magnitude)
    taps = {"nearest": 1, "linear": 2, "cubic": 4}[op.mode]
    axes = data.value.ndim - 2
    if op.mode == "cubic":
        magnitudes = CUBIC_WEIGHTS**axes * _largest_per_channel(data)
    else:
        magnitudes = np.asarray(op.compute(data.magnitude, grid.value))
    return [
        _of_coordinates(op, operands, 1, grid.looser(moved))
        + _of_data(op, operands)
        + sum_error(4 * taps**axes, data.unit) * magnitudes
        + data.unit.tiny
    ]


def roi_align(op: RoiAlign, operands: Sequence[Bounded | None], results: Sequence[Array]) -> Sequence[Array]:
    """Means of samples over each region; rois have four components."""
    data, rois = operands[:2]
    assert data is not None
    assert rois is not None
    reach = np.max(rois.magnitude, axis=1, keepdims=True, initial=0.0) + 1 / op.spatial_scale
    looser = rois.looser(COORDINATE * rois.unit.roundoff * np.broadcast_to(reach, rois.value.shape))
    samples = 4 * prod(data.value.shape[2:])
    magnitudes = np.abs(_evaluated(op, [data.magnitude, *_values(operands[1:])]))
    return [
        _of_coordinates(op, operands, 1, looser)
        + _of_data(op, operands)
        + sum_error(samples, data.unit) * magnitudes
        + data.unit.tiny
    ]


def deform_conv(
    op: DeformConv, operands: Sequence[Bounded | None], results: Sequence[Array]
) -> Sequence[Array]:
    """Every tap counts with the largest magnitude of its channel: slopes and samples are below twice that."""
    data, weight, offset, bias, mask = (*operands, *(None,) * (5 - len(operands)))
    assert data is not None
    assert weight is not None
    assert offset is not None
    unit, sizes = data.unit, data.value.shape
    window = op.window(sizes[2:], weight.value.shape)
    flat = np.broadcast_to(_largest_per_channel(data), sizes)
    factor = 1.0 if mask is None else float(np.max(mask.magnitude + mask.error, initial=0.0))
    terms = factor * convolve(flat, weight.magnitude + weight.error, window, op.group)
    at = max(sizes[2:]) + float(np.max(offset.magnitude, initial=0.0))
    part = sum_error(8 * prod(weight.value.shape[1:]), unit) + 4 * COORDINATE * unit.roundoff * at
    error: Array = part * terms + 4 * float(np.max(offset.error, initial=0.0)) * terms
    if bias is not None:
        error = error + per_channel(unit.roundoff * 4 * bias.magnitude + bias.error, 4)
    exact = all(each is None or each.is_exact for each in (data, weight, mask))
    return [error if exact else np.full(error.shape, np.inf)]


def _of_coordinates(
    op: GridSample | RoiAlign, operands: Sequence[Bounded | None], slot: int, coordinates: Bounded
) -> Array:
    """How far the result moves with each component (last axis) of the coordinates."""
    values = _values(operands)
    error: Array = np.zeros(())
    for component in range(coordinates.value.shape[-1]):
        only = np.zeros(coordinates.value.shape[-1])
        only[component] = 1.0
        part = Bounded(coordinates.value, coordinates.error * only, coordinates.unit)
        error = error + movement(partial(_with_operand, op, values, slot), [part])[0]
    return error


def _of_data(op: GridSample | RoiAlign, operands: Sequence[Bounded | None]) -> Array:
    """How far the result moves with the data that is sampled."""
    return movement(partial(_with_operand, op, _values(operands), 0), operands[:1])[0]


def _with_operand(
    op: GridSample | RoiAlign, values: Sequence[Array | None], slot: int, array: Array
) -> Sequence[Array]:
    """The result with one operand replaced."""
    return (_evaluated(op, [*values[:slot], array, *values[slot + 1 :]]),)


def _evaluated(op: GridSample | RoiAlign, arrays: Sequence[Array | None]) -> Array:
    with np.errstate(all="ignore"):
        return known(np.asarray(op.compute(*arrays)))  # pyright: ignore[reportArgumentType]


def _values(operands: Sequence[Bounded | None]) -> list[Array | None]:
    return [None if each is None else each.value for each in operands]


def _largest_per_channel(data: Bounded) -> Array:
    axes = tuple(range(2, data.value.ndim))
    return np.max(finite(data.magnitude + data.error), axis=axes, keepdims=True, initial=0.0)
