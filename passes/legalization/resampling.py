"""Resizing and grids: tables computed at compile time, and products with them."""

from __future__ import annotations

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir import Constant, DType, Value
from rtcc.ir.ops import pooling, resize, sampling
from rtcc.ir.ops.axes import normal_axes
from rtcc.ir.ops.fused import Resample
from rtcc.ir.ops.indexing import ScatterElements
from rtcc.ir.ops.movement import CenterCropPad
from rtcc.passes.legalization.writer import Writer, is_static
from rtcc.pipeline.rewriter import Rewriter, rewrite


def _constant_array(value: Value | None) -> np.ndarray | None:
    return value.array if isinstance(value, Constant) else None


@rewrite(resize.Resize)
def resize_by_axes(op: resize.Resize, rw: Rewriter) -> None:
    """resize(x)  →  resample along each axis that changes, by tables of taps"""
    operands = (op.roi, op.scales, op.sizes)
    if not is_static(op) or not all(v is None or isinstance(v, Constant) for v in operands):
        return
    write, dtype = Writer(rw, "resize"), op.data.type.dtype
    places = op.geometry(op.data.type.sizes, *map(_constant_array, operands))
    x = op.data
    if op.mode != "nearest":
        x = write.widened(x) if dtype.is_float else write.cast(x, DType.F64)
    outside = np.zeros((1,) * op.type.rank, bool)
    for place in places:
        taps = op.taps(place)
        lined_up = [-1 if axis == place.axis else 1 for axis in range(op.type.rank)]
        if taps.outside.any():
            outside = outside | taps.outside.reshape(lined_up)
        weights = None if op.mode == "nearest" else write.array(taps.weights, x.type.dtype)
        x = Resample(x, write.array(taps.indices, DType.I32), weights, axis=place.axis).result
    if outside.any():
        value = write.number(op.extrapolation_value, x.type.dtype)
        x = write.where(write.array(outside, DType.BOOL), value, x)
    rw.replace(op, write.cast(x, dtype))


@rewrite(sampling.AffineGrid)
def affine_grid(op: sampling.AffineGrid, rw: Rewriter) -> None:
    """affine_grid(theta)  →  mat_mul(points, thetaᵀ)"""
    if not is_static(op) or not isinstance(op.size, Constant):
        return
    write = Writer(rw, "affine_grid")
    theta = write.widened(op.theta)
    dtype, spatial = theta.type.dtype, op.type.sizes[1:-1]
    lines = [_line(n, bool(op.align_corners)) for n in spatial]
    mesh = np.meshgrid(*lines, indexing="ij")
    points = np.stack([*reversed(mesh), np.ones(spatial)], axis=-1).reshape(-1, len(spatial) + 1)
    flat = write.matmul(write.array(points, dtype), write.transpose(theta, 0, 2, 1))
    rw.replace(op, write.cast(write.reshape(flat, *op.type.sizes), op.type.dtype))


def _line(size: int, align_corners: bool) -> np.ndarray:
    steps = np.arange(size, dtype=np.float64)
    return steps * (2 / max(size - 1, 1)) - 1 if align_corners else (2 * steps + 1) / size - 1


@rewrite(CenterCropPad)
def center_crop_pad(op: CenterCropPad, rw: Rewriter) -> None:
    """center_crop_pad(x)  →  pad(slice(x))"""
    if not is_static(op):
        return
    write, rank, x = Writer(rw, "center_crop_pad"), op.type.rank, op.data
    before, after = [0] * rank, [0] * rank
    for axis in normal_axes(op, op.axes or range(rank), rank):
        size, wanted = op.data.type.sizes[axis], op.type.sizes[axis]
        if size >= wanted:
            start = (size - wanted) // 2
            x = write.part(x, axis, start, start + wanted)
        else:
            before[axis] = (wanted - size) // 2
            after[axis] = wanted - size - before[axis]
    rw.replace(op, write.pad(x, [*before, *after]))


@rewrite(pooling.MaxUnpool)
def max_unpool(op: pooling.MaxUnpool, rw: Rewriter) -> None:
    """max_unpool(x, indices)  →  scatter_elements into zeros, padded to the output shape"""
    if not is_static(op):
        return
    write, rank = Writer(rw, "max_unpool"), op.type.rank
    count = rank - 2
    pads, strides = op.pads or (0,) * (2 * count), op.strides or (1,) * count
    sizes = [*op.data.type.sizes[:2]]
    for a in range(count):
        rest = op.kernel_shape[a] - pads[a] - pads[count + a]
        sizes.append((op.data.type.sizes[2 + a] - 1) * strides[a] + rest)
    zeros = write.filled(0, op.type.dtype, int(np.prod(sizes)))
    flat = [write.reshape(v, op.data.type.elements) for v in (op.indices, op.data)]
    placed = write.reshape(ScatterElements(zeros, *flat, axis=0).result, *sizes)
    extra = [wanted - size for wanted, size in zip(op.type.sizes, sizes, strict=True)]
    if min(extra) < 0:
        message = f"nn.max_unpool: the output shape {op.type.sizes} cuts {sizes}"
        raise Unsupported("unsupported-operator", message, where=str(op.location) or None)
    rw.replace(op, write.pad(placed, [*(0 for _ in extra), *extra]))


RULES = (resize_by_axes, affine_grid, center_crop_pad, max_unpool)
