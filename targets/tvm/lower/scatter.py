# pyright: basic
"""Kernels of their own: scatters, which write places that the data decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tvm import tirx

from rtcc.ir import DType, Graph, Op
from rtcc.ir.ops import indexing
from rtcc.ir.ops.axes import normal_axis
from rtcc.target import Target
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.kernel import Index, Lowering, integer, narrowed, widened
from rtcc.targets.tvm.lower.loops import inner_loops, task_loops
from rtcc.targets.tvm.lower.movement import checked_index
from rtcc.targets.tvm.lower.rules import kernel_rule
from rtcc.targets.tvm.lower.scalar import maximum, minimum

_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": maximum,
    "min": minimum,
}


@contextmanager
def one_task(lowering: Lowering) -> Iterator[None]:
    """Statements that only one task does: updates must not run in parallel, since they may meet."""
    with lowering.builder.tasks("once", 1), lowering.scope():
        yield


def _by_lines(
    lowering: Lowering, op: Op, axes: Sequence[int], do: Callable[[Mapping[int, Expr]], None]
) -> None:
    """do({axis: place}) for each line of the result, whose updates come one after the other.

    axes: those along which no update moves, so that lines meet nowhere. Each line is a task where tasks are
    many; else one does them all, and is told of no axis.
    """
    if not lowering.builder.is_per_element:
        with one_task(lowering):
            do({})
        return

    def line(index: Index) -> None:
        with lowering.scope():
            do(dict(zip(axes, index, strict=False)))

    task_loops(lowering, [op.type.sizes[axis] for axis in axes] or (1,), line)


def _free_loops(
    lowering: Lowering, sizes: Sequence[int], fixed: Mapping[int, Expr], body: Callable[[Index], None]
) -> None:
    """Loops over an index space but for the axes that are fixed; nothing where those are outside of it."""
    free = [axis for axis in range(len(sizes)) if axis not in fixed]
    inside = [fixed[axis] < integer(sizes[axis]) for axis in fixed]

    def whole(index: Index) -> None:
        places = {**fixed, **dict(zip(free, index, strict=True))}
        body(tuple(places[axis] for axis in range(len(sizes))))

    with lowering.builder.when(tirx.all(*inside) if inside else None):
        inner_loops(lowering, [sizes[axis] for axis in free], whole)


def _copy(lowering: Lowering, op: Op, fixed: Mapping[int, Expr]) -> None:
    """The result, or a line of it, starts as a copy of the first operand."""
    data = op.operands[0]
    assert data is not None
    _free_loops(lowering, op.type.sizes, fixed, lambda index: lowering.store(
        op.result, index, lowering.load(data, index)))  # fmt: skip


def _update(lowering: Lowering, op: Op, reduction: str, index: Sequence[Expr], value: Expr) -> None:
    """result[index] = old ∘ value."""
    if reduction == "none":
        lowering.store(op.result, index, value)
        return
    if op.type.dtype is DType.BOOL:
        raise lowering.unsupported(op, f"reduction {reduction} of booleans")
    old = widened(lowering.load(op.result, tuple(index)))
    lowering.store(op.result, index, narrowed(_COMBINE[reduction](old, widened(value)), op.type))


@kernel_rule(indexing.ScatterElements)
def _scatter_elements(graph: Graph, op: indexing.ScatterElements, target: Target) -> tirx.PrimFunc:
    lowering = Lowering(graph)
    axis = normal_axis(op, op.axis, op.type.rank)

    def body(index: Index) -> None:
        with lowering.scope():
            at = checked_index(lowering, op, lowering.element(op.indices, index), op.type.sizes[axis])
            place = (*index[:axis], at, *index[axis + 1 :])
            _update(lowering, op, op.reduction, place, lowering.element(op.updates, index))

    def line(fixed: Mapping[int, Expr]) -> None:
        _copy(lowering, op, fixed)
        _free_loops(lowering, op.indices.type.sizes, fixed, body)

    _by_lines(lowering, op, [each for each in range(op.type.rank) if each != axis], line)
    return lowering.builder.finish()


@kernel_rule(indexing.ScatterND)
def _scatter_nd(graph: Graph, op: indexing.ScatterND, target: Target) -> tirx.PrimFunc:
    lowering = Lowering(graph)
    sizes = op.type.sizes
    *lead, depth = op.indices.type.sizes

    def update(outer: Index, fixed: Mapping[int, Expr]) -> None:
        with lowering.scope():
            at = [
                checked_index(lowering, op, lowering.element(op.indices, (*outer, integer(d))), sizes[d])
                for d in range(depth)
            ]

            def slice_element(inner: Index) -> None:
                value = lowering.element(op.updates, (*outer, *inner))
                _update(lowering, op, op.reduction, (*at, *inner), value)

            own = {axis - depth: place for axis, place in fixed.items()}
            _free_loops(lowering, sizes[depth:], own, slice_element)

    def line(fixed: Mapping[int, Expr]) -> None:
        _copy(lowering, op, fixed)
        inner_loops(lowering, lead, lambda outer: update(outer, fixed))

    _by_lines(lowering, op, range(depth, op.type.rank), line)
    return lowering.builder.finish()


@kernel_rule(indexing.TensorScatter)
def _tensor_scatter(graph: Graph, op: indexing.TensorScatter, target: Target) -> tirx.PrimFunc:
    """Writes the new rows alone: result and cache are one buffer (`ir.views.updates_in_place`)."""
    lowering = Lowering(graph)
    axis = normal_axis(op, op.axis, op.type.rank)
    size = op.type.sizes[axis]

    def body(index: Index) -> None:
        with lowering.scope():
            start = tirx.const(0, "int64")
            if op.write_indices is not None:
                start = lowering.element(op.write_indices, (index[0],)).astype("int64")
            row = start + index[axis].astype("int64")
            if op.mode == "circular":
                row = tirx.floormod(row, tirx.const(size, "int64"))
            at = checked_index(lowering, op, row, size)
            place = (*index[:axis], at, *index[axis + 1 :])
            lowering.store(op.result, place, lowering.element(op.update, index))

    along = [each for each in range(op.type.rank) if each != axis]
    _by_lines(lowering, op, along, lambda fixed: _free_loops(lowering, op.update.type.sizes, fixed, body))
    return lowering.builder.finish({"tirx.noalias": False})
