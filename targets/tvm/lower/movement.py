# pyright: basic
"""Data-movement operators as index arithmetic: which operand element a result element is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from rtcc.artifact.codes import INDEX_OUT_OF_RANGE
from rtcc.ir import Op, Value
from rtcc.ir.ops import fused, indexing, movement, shapes
from rtcc.ir.ops.axes import normal_axes, normal_axis
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.kernel import (
    Index,
    Lowering,
    broadcast_index,
    computing_type,
    integer,
    literal,
    narrowed,
    scalar_type,
    widened,
)
from rtcc.targets.tvm.lower.rules import element_rule


def static_integers(op: Op, value: Value | None, what: str) -> list[int]:
    """The numbers of a constant operand that decides an index mapping."""
    assert value is not None
    return [int(n) for n in op.static_array(value, what).reshape(-1)]


def checked_index(lowering: Lowering, op: Op, raw: Expr, size: int) -> Expr:
    """An index from the data as int32 in [0, size): negatives count from the end.

    The kernel returns INDEX_OUT_OF_RANGE for any other.
    """
    wide = raw.astype("int64")
    extent = tirx.const(size, "int64")
    zero = tirx.const(0, "int64")
    if lowering.is_guarded:
        raise lowering.unsupported(
            op, "an index from the data cannot stand under a condition of the same kernel"
        )
    wide = lowering.builder.bind("i", wide)
    wrapped = lowering.builder.bind("j", tirx.Select(wide < zero, wide + extent, wide))
    with lowering.builder.when(tirx.any(wrapped < zero, wrapped >= extent)):
        lowering.builder.give_up(INDEX_OUT_OF_RANGE)
    return wrapped.astype("int32")


def flat_index(index: Sequence[Expr], sizes: Sequence[int]) -> Expr:
    """Row-major position of an index."""
    position: Expr = integer(0)
    for i, size in zip(index, sizes, strict=True):
        position = position * integer(size) + i
    return position


def split_index(position: Expr, sizes: Sequence[int]) -> Index:
    """The index at a row-major position."""
    index: list[Expr] = []
    for size in reversed(sizes):
        index.append(tirx.floormod(position, integer(size)) if size != 1 else integer(0))
        position = tirx.floordiv(position, integer(size))
    return tuple(reversed(index))


@element_rule(fused.ConvertLayout)
def _convert_layout(lowering: Lowering, op: fused.ConvertLayout, index: Index) -> Expr:
    return lowering.element(op.data, index)


@element_rule(fused.Resample)
def _resample(lowering: Lowering, op: fused.Resample, index: Index) -> Expr:
    axis, place = op.axis, index[op.axis]
    total: Expr | None = None
    for tap in range(op.indices.type.sizes[1]):
        at = (place, integer(tap))
        found = lowering.element(
            op.data, (*index[:axis], lowering.element(op.indices, at), *index[axis + 1 :])
        )
        if op.weights is None:
            return found
        product = widened(found) * widened(lowering.element(op.weights, at))
        total = product if total is None else total + product
    assert total is not None
    return narrowed(total, op.type)


@element_rule(movement.Transpose)
def _transpose(lowering: Lowering, op: movement.Transpose, index: Index) -> Expr:
    source: list[Any] = [None] * len(index)
    for i, axis in zip(index, op.permutation(len(index)), strict=True):
        source[axis] = i
    return lowering.element(op.data, source)


@element_rule(shapes.Reshape, shapes.Flatten, shapes.Squeeze, shapes.Unsqueeze)
def _reshape(lowering: Lowering, op: Op, index: Index) -> Expr:
    source = op.operands[0]
    assert source is not None
    return lowering.element(source, split_index(flat_index(index, op.type.sizes), source.type.sizes))


@element_rule(shapes.Expand)
def _expand(lowering: Lowering, op: shapes.Expand, index: Index) -> Expr:
    return lowering.element(op.data, broadcast_index(op.data.type, index))


@element_rule(movement.Tile)
def _tile(lowering: Lowering, op: movement.Tile, index: Index) -> Expr:
    sizes = op.data.type.sizes
    return lowering.element(
        op.data, [tirx.floormod(i, integer(n)) for i, n in zip(index, sizes, strict=True)]
    )


@element_rule(movement.Concat)
def _concat(lowering: Lowering, op: movement.Concat, index: Index) -> Expr:
    axis = normal_axis(op, op.axis, len(index))
    inputs = [value for value in op.inputs if value.type.sizes[axis]]
    starts = [sum(v.type.sizes[axis] for v in inputs[:n]) for n in range(len(inputs))]

    def part(number: int) -> Expr:
        moved = list(index)
        moved[axis] = index[axis] - integer(starts[number])
        return lowering.element(inputs[number], moved)

    def chosen(number: int) -> Expr:
        if number == len(inputs) - 1:
            return part(number)
        inside = index[axis] < integer(starts[number + 1])
        return lowering.guarded(inside, lambda: part(number), lambda: chosen(number + 1))

    return chosen(0)


@element_rule(movement.Slice)
def _slice(lowering: Lowering, op: movement.Slice, index: Index) -> Expr:
    rank, sizes = len(index), op.data.type.sizes
    starts = static_integers(op, op.starts, "starts")
    ends = static_integers(op, op.ends, "ends")
    axes = range(len(starts)) if op.axes is None else static_integers(op, op.axes, "axes")
    steps = [1] * len(starts) if op.steps is None else static_integers(op, op.steps, "steps")
    source = list(index)
    for axis, start, end, step in zip(normal_axes(op, axes, rank), starts, ends, steps, strict=True):
        first = movement.clamped_slice(start, end, step, sizes[axis]).start
        source[axis] = index[axis] * integer(step) + integer(first)
    return lowering.element(op.data, source)


@element_rule(movement.Pad)
def _pad(lowering: Lowering, op: movement.Pad, index: Index) -> Expr:
    rank, sizes = len(index), op.data.type.sizes
    pads = static_integers(op, op.pads, "pads")
    axes = normal_axes(op, range(rank) if op.axes is None else static_integers(op, op.axes, "axes"), rank)
    source, inside = list(index), []
    for position, axis in enumerate(axes):
        before, after = pads[position], pads[position + len(axes)]
        moved = index[axis] - integer(before)
        if op.mode == "constant":
            inside += [moved >= integer(0)] if before > 0 else []
            inside += [moved < integer(sizes[axis])] if after > 0 else []
            source[axis] = moved
        else:
            source[axis] = _reflected(op.mode, moved, sizes[axis])
    if not inside:
        return lowering.element(op.data, source)
    fill = literal(0, op.type)
    if op.constant_value is not None:
        fill = lowering.element(op.constant_value, [integer(0)] * op.constant_value.type.rank)
    return lowering.guarded(tirx.all(*inside), lambda: lowering.element(op.data, source), lambda: fill)


def _reflected(mode: str, position: Expr, size: int) -> Expr:
    """The source of a position outside [0, size) under edge, wrap or reflect padding."""
    match mode:
        case "edge":
            return tirx.max(integer(0), tirx.min(position, integer(size - 1)))
        case "wrap":
            return tirx.floormod(position, integer(size))
        case _:
            period = integer(max(1, 2 * (size - 1)))
            folded = tirx.floormod(position, period)
            return tirx.min(folded, period - folded) if size > 1 else integer(0)


@element_rule(indexing.Gather)
def _gather(lowering: Lowering, op: indexing.Gather, index: Index) -> Expr:
    axis = normal_axis(op, op.axis, op.data.type.rank)
    rank = op.indices.type.rank
    raw = lowering.element(op.indices, index[axis : axis + rank])
    picked = checked_index(lowering, op, raw, op.data.type.sizes[axis])
    return lowering.element(op.data, (*index[:axis], picked, *index[axis + rank :]))


@element_rule(indexing.GatherElements)
def _gather_elements(lowering: Lowering, op: indexing.GatherElements, index: Index) -> Expr:
    axis = normal_axis(op, op.axis, op.data.type.rank)
    picked = checked_index(lowering, op, lowering.element(op.indices, index), op.data.type.sizes[axis])
    return lowering.element(op.data, (*index[:axis], picked, *index[axis + 1 :]))


@element_rule(indexing.GatherND)
def _gather_nd(lowering: Lowering, op: indexing.GatherND, index: Index) -> Expr:
    sizes, batch = op.data.type.sizes, op.batch_dims
    lead = op.indices.type.rank - 1
    depth = op.indices.type.sizes[-1]
    picked = [
        checked_index(
            lowering, op, lowering.element(op.indices, (*index[:lead], integer(d))), sizes[batch + d]
        )
        for d in range(depth)
    ]
    return lowering.element(op.data, (*index[:batch], *picked, *index[lead:]))


@element_rule(indexing.OneHot)
def _one_hot(lowering: Lowering, op: indexing.OneHot, index: Index) -> Expr:
    axis = normal_axis(op, op.axis, len(index))
    size = op.type.sizes[axis]
    raw = lowering.element(op.indices, (*index[:axis], *index[axis + 1 :])).astype("int64")
    wrapped = tirx.Select(raw < tirx.const(0, "int64"), raw + tirx.const(size, "int64"), raw)
    on, off = (lowering.element(op.values, (integer(n),)) for n in (1, 0))
    return tirx.Select(tirx.EQ(wrapped, index[axis].astype("int64")), on, off)


@element_rule(movement.DepthToSpace)
def _depth_to_space(lowering: Lowering, op: movement.DepthToSpace, index: Index) -> Expr:
    n, c, y, x = index
    b, depth = integer(op.blocksize), integer(op.type.sizes[1])
    dy, dx = tirx.floormod(y, b), tirx.floormod(x, b)
    channel = (dy * b + dx) * depth + c if op.mode == "DCR" else (c * b + dy) * b + dx
    return lowering.element(op.data, (n, channel, tirx.floordiv(y, b), tirx.floordiv(x, b)))


@element_rule(movement.SpaceToDepth)
def _space_to_depth(lowering: Lowering, op: movement.SpaceToDepth, index: Index) -> Expr:
    n, channel, y, x = index
    b, depth = integer(op.blocksize), integer(op.data.type.sizes[1])
    if op.mode == "DCR":
        c, offset = tirx.floormod(channel, depth), tirx.floordiv(channel, depth)
    else:
        c, offset = tirx.floordiv(channel, b * b), tirx.floormod(channel, b * b)
    dy, dx = tirx.floordiv(offset, b), tirx.floormod(offset, b)
    return lowering.element(op.data, (n, c, y * b + dy, x * b + dx))


@element_rule(movement.Trilu)
def _trilu(lowering: Lowering, op: movement.Trilu, index: Index) -> Expr:
    k = static_integers(op, op.k, "k")[0] if op.k is not None else 0
    row, column = index[-2], index[-1]
    k = max(-(2**30), min(k, 2**30))
    keep = column - row >= integer(k) if op.upper else column - row <= integer(k)
    return tirx.Select(keep, lowering.element(op.data, index), literal(0, op.type))


@element_rule(movement.ReverseSequence)
def _reverse_sequence(lowering: Lowering, op: movement.ReverseSequence, index: Index) -> Expr:
    batch, time = op.batch_axis, op.time_axis
    length = lowering.element(op.sequence_lens, (index[batch],)).astype("int32")
    size = integer(op.type.sizes[time])
    length = lowering.builder.bind("length", tirx.max(integer(0), tirx.min(length, size)))
    moved = list(index)
    moved[time] = tirx.Select(index[time] < length, length - integer(1) - index[time], index[time])
    return lowering.element(op.data, moved)


@element_rule(shapes.Range)
def _range(lowering: Lowering, op: shapes.Range, index: Index) -> Expr:
    start = lowering.element(op.start, [integer(0)] * op.start.type.rank)
    delta = lowering.element(op.delta, [integer(0)] * op.delta.type.rank)
    steps = index[0].astype(scalar_type(computing_type(op.type)))
    return narrowed(widened(start) + steps * widened(delta), op.type)


@element_rule(shapes.EyeLike)
def _eye_like(lowering: Lowering, op: shapes.EyeLike, index: Index) -> Expr:
    on_diagonal = tirx.EQ(index[1] - index[0], integer(op.k))
    return tirx.Select(on_diagonal, literal(1, op.type), literal(0, op.type))


@element_rule(shapes.ConstantOfShape)
def _constant_of_shape(lowering: Lowering, op: shapes.ConstantOfShape, index: Index) -> Expr:
    return literal(0, op.type) if op.value is None else lowering.element(op.value, (integer(0),))
