"""Operators that only move elements: which may be followed, and how each is written for what is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, Op, Value
from rtcc.ir.ops import fused, indexing, movement, shapes
from rtcc.ir.ops.axes import normal_axis

if TYPE_CHECKING:
    from rtcc.pruning.shrink import Shrunk

Operands = list["Value | None"]
Rewrite = Callable[["Shrunk", Any, Operands, dict[str, Any]], None]
"""Changes the operands and attributes of an operator of which positions went."""


def moves_alone(op: Op) -> bool:
    """Whether it moves elements to places that constants and attributes say, and can be written again."""
    others = [v for i, v in enumerate(op.operands) if v is not None and not op.is_moved_operand(i)]
    return MOVED.get(type(op)) is not None and all(isinstance(value, Constant) for value in others)


def positions_taken(op: movement.Slice, axis: int) -> NDArray[np.int64]:
    """Which positions of an axis a slice with constant bounds takes."""
    sizes = op.data.type.sizes
    shape = [1] * len(sizes)
    shape[axis] = sizes[axis]
    index = np.broadcast_to(np.arange(sizes[axis]).reshape(shape), sizes)
    others = [value.array if isinstance(value, Constant) else None for value in op.operands[1:]]
    found = np.asarray(op.evaluate(index, *others))
    return np.moveaxis(found, axis, 0).reshape(found.shape[axis], -1)[:, 0]


def _as_it_is(s: Shrunk, op: Op, operands: Operands, changes: dict[str, Any]) -> None:
    """Neither sizes nor positions are written in it."""


def _shape(s: Shrunk, op: Op, operands: Operands, changes: dict[str, Any]) -> None:
    """The shape of the result is written there."""
    operands[1] = s.constant(op, s.sizes(op.result))


def _squeeze(s: Shrunk, op: shapes.Squeeze, operands: Operands, changes: dict[str, Any]) -> None:
    """Axes of one position that had more stay."""
    if op.axes is None:
        operands[1:] = [s.constant(op, [k for k, size in enumerate(op.data.type.sizes) if size == 1])]


def _split(s: Shrunk, op: movement.Split, operands: Operands, changes: dict[str, Any]) -> None:
    axis = normal_axis(op, op.axis, op.data.type.rank)
    operands[1:] = [s.constant(op, [s.sizes(result)[axis] for result in op.results])]
    changes["num_outputs"] = None


def _slice(s: Shrunk, op: movement.Slice, operands: Operands, changes: dict[str, Any]) -> None:
    """Bounds count what is left of an axis."""
    bounds: list[tuple[int, int, int, int]] = []
    for axis, (size, kept) in enumerate(zip(op.data.type.sizes, s.kept(op.data), strict=True)):
        taken = positions_taken(op, axis)
        if len(taken) == size and taken[0] == 0:
            continue
        places = (np.cumsum(kept) - 1)[taken[kept[taken]]]
        step = int(places[1] - places[0]) if len(places) > 1 else 1
        start, end = int(places[0]), int(places[-1]) + (1 if step > 0 else -1)
        bounds.append((start, end if end >= 0 else -int(kept.sum()) - 1, axis, step))
    if bounds:
        operands[1:] = [s.constant(op, column) for column in zip(*bounds, strict=True)]


def _gather(s: Shrunk, op: indexing.Gather, operands: Operands, changes: dict[str, Any]) -> None:
    """Indices count what is left of the axis; those of positions that went are not among them."""
    axis = normal_axis(op, op.axis, op.data.type.rank)
    kept = s.kept(op.data)[axis]
    if kept.all() or not isinstance(op.indices, Constant):
        return
    indices = op.indices.array % len(kept)
    for k, mask in enumerate(s.kept(op.result)[axis : axis + indices.ndim]):
        indices = np.compress(mask, indices, k)
    operands[1] = s.constant(op, (np.cumsum(kept) - 1)[indices])


MOVED: dict[type[Op], Rewrite | None] = {
    fused.ConvertLayout: _as_it_is,
    movement.Concat: _as_it_is,
    movement.DepthToSpace: _as_it_is,
    movement.ReverseSequence: None,
    movement.Slice: _slice,
    movement.SpaceToDepth: _as_it_is,
    movement.Split: _split,
    movement.Tile: _as_it_is,
    movement.Transpose: _as_it_is,
    indexing.Gather: _gather,
    indexing.GatherElements: None,
    indexing.GatherND: None,
    shapes.Expand: _shape,
    shapes.Flatten: _as_it_is,
    shapes.Reshape: _shape,
    shapes.Squeeze: _squeeze,
    shapes.Unsqueeze: _as_it_is,
}
"""How each is written again. None: all that it reads stays, as its lengths or indices count what would go."""
