# pyright: basic
"""Kernels of their own: scatters, which write places that the data decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tvm import tirx

from rtcc.ir import DType, Graph, Op
from rtcc.ir.ops import indexing
from rtcc.ir.ops.axes import normal_axis
from rtcc.target import Target
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.kernel import Index, Lowering, integer, narrowed, widened
from rtcc.targets.tvm.lower.loops import inner_loops
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


def _copy(lowering: Lowering, op: Op) -> None:
    """The result starts as a copy of the first operand."""
    data = op.operands[0]
    assert data is not None
    sizes = op.type.sizes
    inner_loops(lowering, sizes, lambda index: lowering.store(op.result, index, lowering.load(data, index)))


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

    with one_task(lowering):
        _copy(lowering, op)
        inner_loops(lowering, op.indices.type.sizes, body)
    return lowering.builder.finish()


@kernel_rule(indexing.ScatterND)
def _scatter_nd(graph: Graph, op: indexing.ScatterND, target: Target) -> tirx.PrimFunc:
    lowering = Lowering(graph)
    sizes = op.type.sizes
    *lead, depth = op.indices.type.sizes

    def body(outer: Index) -> None:
        with lowering.scope():
            at = [
                checked_index(lowering, op, lowering.element(op.indices, (*outer, integer(d))), sizes[d])
                for d in range(depth)
            ]

            def slice_element(inner: Index) -> None:
                value = lowering.element(op.updates, (*outer, *inner))
                _update(lowering, op, op.reduction, (*at, *inner), value)

            inner_loops(lowering, sizes[depth:], slice_element)

    with one_task(lowering):
        _copy(lowering, op)
        inner_loops(lowering, lead, body)
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

    with one_task(lowering):
        inner_loops(lowering, op.update.type.sizes, body)
    return lowering.builder.finish({"tirx.noalias": False})
