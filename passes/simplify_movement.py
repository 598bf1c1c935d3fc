"""simplify-movement: shorten chains of ops that only move elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, Module, Op, TensorType, Value
from rtcc.ir.ops.activation import PRelu
from rtcc.ir.ops.elementwise import Binary, Variadic
from rtcc.ir.ops.math import Where
from rtcc.ir.ops.movement import Concat, Pad, Slice, Split, Tile, Transpose
from rtcc.ir.ops.nn import Conv
from rtcc.ir.ops.shapes import Expand, Flatten, Reshape, Squeeze, Unsqueeze
from rtcc.ir.shape_value import known_integers
from rtcc.ir.types import broadcast_shapes
from rtcc.pipeline import Pass, Rewriter, apply, exact, rewrite
from rtcc.pipeline.constants import is_filled_with


@dataclass(frozen=True)
class SimplifyMovement(Pass):
    """Shorten chains of reshapes, transposes, slices, pads and concatenations.

    transpose(transpose(x))  →  transpose(x)    reshape(squeeze(x))  →  reshape(x)    conv(pad(x))  →  conv(x)
    """

    exactness = exact

    def run(self, module: Module) -> bool:
        return apply(module, RULES, self.name)


# ---- the same elements in the same order under another shape


@rewrite(Reshape, Flatten, Squeeze, Unsqueeze)
def drop_same_shape(op: Reshape | Flatten | Squeeze | Unsqueeze, rw: Rewriter) -> None:
    """reshape(x) to the shape of x  →  x"""
    if op.type == op.data.type:
        rw.replace(op, op.data)


@rewrite(Reshape, Flatten, Squeeze, Unsqueeze)
def join_reshapes(op: Reshape | Flatten | Squeeze | Unsqueeze, rw: Rewriter) -> None:
    """reshape(squeeze(x))  →  reshape(x)"""
    inner = op.data.producer
    if not isinstance(inner, Reshape | Flatten | Squeeze | Unsqueeze):
        return
    if op.type == inner.data.type:
        rw.replace(op, inner.data)
        return
    joined = _reshape(inner.data, op.type, rw, op)
    if joined is not None:
        rw.replace(op, joined)


@rewrite(Reshape)
def make_shape_constant(op: Reshape, rw: Rewriter) -> None:
    """reshape(x, computed) : f32[N,3]  →  reshape(x, #[-1,3]), where at most one size is symbolic"""
    if isinstance(op.shape, Constant):
        return
    joined = _reshape(op.data, op.type, rw, op)
    if joined is not None:
        rw.replace(op, joined)


@rewrite(Transpose)
def transpose_as_reshape(op: Transpose, rw: Rewriter) -> None:
    """transpose(x) that only moves axes of size 1  →  reshape(x)"""
    rank = op.data.type.rank
    moved = [axis for axis in op.permutation(rank) if op.data.type.shape[axis] != 1]
    if moved != sorted(moved):
        return
    if op.type == op.data.type:
        rw.replace(op, op.data)
        return
    reshape = _reshape(op.data, op.type, rw, op)
    if reshape is not None:
        rw.replace(op, reshape)


def _reshape(data: Value, type: TensorType, rw: Rewriter, op: Op) -> Reshape | None:
    """A reshape of `data` to `type`; None where more than one size is symbolic."""
    sizes = [size if isinstance(size, int) else -1 for size in type.shape]
    if sizes.count(-1) > 1 or (-1 in sizes and 0 in sizes):
        return None
    shape = rw.constant(np.array(sizes, np.int64), name=f"{op.result.name or 'reshape'}.shape")
    reshape = Reshape(data, shape, allowzero=int(0 in sizes), location=op.location)
    return reshape if reshape.type == type else None


# ---- transposes


@rewrite(Transpose)
def join_transposes(op: Transpose, rw: Rewriter) -> None:
    """transpose(transpose(x, p), q)  →  transpose(x, p∘q)"""
    inner = op.data.producer
    if not isinstance(inner, Transpose):
        return
    first, second = inner.permutation(op.type.rank), op.permutation(op.type.rank)
    perm = tuple(first[axis] for axis in second)
    if perm == tuple(range(len(perm))):
        rw.replace(op, inner.data)
    else:
        rw.replace(op, Transpose(inner.data, perm=perm, location=op.location))


# ---- slices, pads, tiles, expansions that do nothing


@rewrite(Slice)
def drop_whole_slice(op: Slice, rw: Rewriter) -> None:
    """slice(x) of everything, forwards  →  x"""
    steps = (1,) if op.steps is None else known_integers(op.steps)
    if op.type == op.data.type and steps is not None and min(steps, default=1) > 0:
        rw.replace(op, op.data)


@rewrite(Pad)
def drop_empty_pad(op: Pad, rw: Rewriter) -> None:
    """pad(x, zeros)  →  x"""
    pads = known_integers(op.pads)
    if pads is not None and not any(pads):
        rw.replace(op, op.data)


@rewrite(Conv)
def pad_by_conv(op: Conv, rw: Rewriter) -> None:
    """conv(pad(x, zeros around spatial axes))  →  conv(x) {pads}"""
    pad = op.data.producer
    if not isinstance(pad, Pad) or pad.mode != "constant" or op.auto_pad not in ("NOTSET", "VALID"):
        return
    if pad.constant_value is not None and not is_filled_with(pad.constant_value, 0.0):
        return
    pads, rank = known_integers(pad.pads), op.data.type.rank
    axes = tuple(range(rank)) if pad.axes is None else known_integers(pad.axes)
    if pads is None or axes is None or min(pads) < 0:
        return
    before, after = [0] * rank, [0] * rank
    for axis, first, last in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        before[axis], after[axis] = first, last
    if any(before[:2] + after[:2]):
        return
    old = op.geometry()[0]
    new = tuple(a + b for a, b in zip(old, before[2:] + after[2:], strict=True))
    rw.replace(op, Conv(pad.data, op.weight, op.bias, like=op, auto_pad="NOTSET", pads=new))


@rewrite(Expand)
def drop_same_expand(op: Expand, rw: Rewriter) -> None:
    """expand(x) to the shape of x  →  x"""
    if op.type == op.data.type:
        rw.replace(op, op.data)


@rewrite(Tile)
def drop_single_tile(op: Tile, rw: Rewriter) -> None:
    """tile(x, ones)  →  x"""
    repeats = known_integers(op.repeats)
    if repeats is not None and all(n == 1 for n in repeats):
        rw.replace(op, op.data)


@rewrite(Binary, Variadic, Where)
def broadcast_instead_of_expand(op: Binary | Variadic | Where, rw: Rewriter) -> None:
    """add(expand(x), y)  →  add(x, y), where broadcasting gives the same shape"""
    if isinstance(op, PRelu):
        return
    for index, value in enumerate(op.operands):
        expand = None if value is None else value.producer
        if not isinstance(expand, Expand):
            continue
        others = [v.type.shape for i, v in enumerate(op.operands) if v is not None and i != index]
        if broadcast_shapes(expand.data.type.shape, *others) == op.type.shape:
            rw.set_operand(op, index, expand.data)
            return


# ---- concatenations


@rewrite(Concat)
def drop_single_concat(op: Concat, rw: Rewriter) -> None:
    """concat(x)  →  x"""
    if len(op.inputs) == 1:
        rw.replace(op, op.inputs[0])


@rewrite(Concat)
def drop_empty_inputs(op: Concat, rw: Rewriter) -> None:
    """concat(x, empty, y)  →  concat(x, y)"""
    kept = [value for value in op.inputs if value.type.shape[op.axis] != 0]
    if kept and len(kept) < len(op.inputs):
        _replace_concat(op, kept, rw)


@rewrite(Concat)
def join_concats(op: Concat, rw: Rewriter) -> None:
    """concat(concat(x, y), z) along one axis  →  concat(x, y, z)"""
    inputs: list[Value] = []
    for value in op.inputs:
        inner = value.producer
        same_axis = isinstance(inner, Concat) and inner.axis % op.type.rank == op.axis % op.type.rank
        inputs += inner.inputs if isinstance(inner, Concat) and same_axis and value.has_one_use else [value]
    if len(inputs) > len(op.inputs):
        _replace_concat(op, inputs, rw)


@rewrite(Concat)
def concat_of_split(op: Concat, rw: Rewriter) -> None:
    """concat(split(x)) of all parts in order along one axis  →  x"""
    split = op.inputs[0].producer
    if not isinstance(split, Split) or op.inputs != split.results or op.type != split.data.type:
        return
    if split.axis % op.type.rank == op.axis % op.type.rank:
        rw.replace(op, split.data)


@rewrite(Split)
def drop_single_split(op: Split, rw: Rewriter) -> None:
    """split(x) into one  →  x"""
    if len(op.results) == 1 and op.type == op.data.type:
        rw.replace(op, op.data)


def _replace_concat(op: Concat, inputs: Sequence[Value], rw: Rewriter) -> None:
    new = Concat(*inputs, axis=op.axis, location=op.location)
    if new.type == op.type:
        rw.replace(op, new)


RULES = (
    drop_same_shape,
    join_reshapes,
    make_shape_constant,
    transpose_as_reshape,
    join_transposes,
    drop_whole_slice,
    drop_empty_pad,
    pad_by_conv,
    drop_same_expand,
    drop_single_tile,
    broadcast_instead_of_expand,
    drop_single_concat,
    drop_empty_inputs,
    join_concats,
    concat_of_split,
    drop_single_split,
)
