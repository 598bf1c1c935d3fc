"""Which tensors are bytes of others: reshapes, contiguous slices and parts, layouts that store alike."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from rtcc.ir.graph import Graph
from rtcc.ir.op import Op
from rtcc.ir.ops.axes import normal_axes, normal_axis
from rtcc.ir.ops.fused import ConvertLayout
from rtcc.ir.ops.math import Identity
from rtcc.ir.ops.movement import Concat, Slice, clamped_slice
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant


def is_view(op: Op) -> bool:
    """Whether the result is the first operand's bytes in the same order, all plain: no code need run."""
    if not op.reshapes:
        return False
    source = op.operands[0]
    assert source is not None
    return source.type.layout is None and op.type.layout is None


def updates_in_place(kernel: Graph) -> bool:
    """Whether a kernel writes part of its result alone: it must lie where the first operand does."""
    first = next(kernel.ops)
    return first.writes_in_place and first.next is kernel.terminator


def view_offset(op: Op) -> int | None:
    """Where in the first operand's bytes the result's lie, one after the other; None where they do not."""
    source = op.operands[0] if op.operands else None
    if source is None or len(op.results) != 1:
        return None
    match op:
        case Slice():
            return _slice_offset(op)
        case ConvertLayout() | Identity():
            return 0 if stores_alike(source.type, op.type) else None
        case _:
            return 0 if is_view(op) else None


def part_offsets(op: Concat) -> list[int] | None:
    """Where in the result's bytes those of each operand lie, in one piece; None where they do not."""
    axis = normal_axis(op, op.axis, op.type.rank)
    step = _bytes_per_step(op.type, axis)
    if step is None or any(value.type.layout != op.type.layout for value in op.inputs):
        return None
    block = op.type.layout.blocks[axis] if op.type.layout else 1
    offsets: list[int] = []
    start = 0
    for value in op.inputs:
        if start % block:
            return None
        offsets.append(start // block * step)
        start += value.type.sizes[axis]
    return offsets


def stores_alike(one: TensorType, other: TensorType) -> bool:
    """Whether two types of one logical tensor put every element at the same byte."""
    if one.dtype is not other.dtype or one.shape != other.shape:
        return False
    if one.layout == other.layout:
        return True
    orders = _storage_order(one), _storage_order(other)
    return orders[0] is not None and orders[0] == orders[1]


def _slice_offset(op: Slice) -> int | None:
    sizes = op.data.type.sizes
    given = [op.starts, op.ends, *(v for v in (op.axes, op.steps) if v is not None)]
    if op.data.type.layout != op.type.layout or not all(isinstance(v, Constant) for v in given):
        return None
    starts = op.static_array(op.starts, "starts").reshape(-1).tolist()
    ends = op.static_array(op.ends, "ends").reshape(-1).tolist()
    axes = range(len(starts)) if op.axes is None else op.static_array(op.axes, "axes").reshape(-1).tolist()
    steps = [1] * len(starts) if op.steps is None else op.static_array(op.steps, "steps").reshape(-1).tolist()
    offset, cut = 0, 0
    for axis, start, end, step in zip(normal_axes(op, axes, len(sizes)), starts, ends, steps, strict=True):
        if op.type.sizes[axis] == sizes[axis] and step > 0:
            continue
        bytes_per_step = _bytes_per_step(op.data.type, axis)
        first = clamped_slice(start, end, step, sizes[axis]).start
        block = op.type.layout.blocks[axis] if op.type.layout else 1
        if step != 1 or bytes_per_step is None or first % block:
            return None
        offset, cut = offset + first // block * bytes_per_step, cut + 1
    return offset if cut <= 1 else None


def _bytes_per_step(type: TensorType, axis: int) -> int | None:
    """Bytes from one index (or block) of an axis to the next, where all outside it is of extent 1."""
    if type.layout is None:
        outer, inner = type.sizes[:axis], type.sizes[axis + 1 :]
    else:
        if any(type.layout.halo_of(axis)):
            return None
        place = [a for a, _ in type.layout.outer].index(axis)
        outer, inner = type.physical_shape[:place], type.physical_shape[place + 1 :]
    return prod(inner) * type.dtype.bytes if prod(outer) == 1 else None


def _storage_order(type: TensorType) -> list[tuple[int, int, int]] | None:
    """Axis, step along it and extent of each dimension in memory; None where there is padding.

    Dimensions of extent 1 are left out, and neighbours on one axis joined.
    """
    layout = type.layout
    if layout is None:
        dimensions = [(axis, 1, extent) for axis, extent in enumerate(type.sizes)]
    else:
        padded = (size % block for size, block in zip(type.sizes, layout.blocks, strict=True))
        if any(layout.halo) or any(padded):
            return None
        dimensions = [(a, block, type.sizes[a] // block) for a, block in layout.outer]
        dimensions += [(a, 1, layout.blocks[a]) for a in layout.inner]
    return _joined([d for d in dimensions if d[2] != 1])


def _joined(dimensions: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    for axis, step, extent in dimensions:
        if found and found[-1][0] == axis and found[-1][1] == step * extent:
            found[-1] = (axis, step, found[-1][2] * extent)
        else:
            found.append((axis, step, extent))
    return found
