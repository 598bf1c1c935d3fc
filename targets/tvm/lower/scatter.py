# pyright: basic
"""Kernels of their own: scatters and top-k, which write places that the data decide."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tvm import tirx

from rtcc.ir import DType, Graph, Op, TensorType
from rtcc.ir.dtype import Kind
from rtcc.ir.ops import element_selection, indexing
from rtcc.ir.ops.axes import normal_axis
from rtcc.target import Target
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.kernel import Index, Lowering, integer, narrowed, storage_type, widened
from rtcc.targets.tvm.lower.loops import inner_loops, task_loops
from rtcc.targets.tvm.lower.movement import checked_index
from rtcc.targets.tvm.lower.rules import kernel_rule
from rtcc.targets.tvm.lower.scalar import less, maximum, minimum

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


@kernel_rule(element_selection.TopK)
def _top_k(graph: Graph, op: element_selection.TopK, target: Target) -> tirx.PrimFunc:
    """Each place takes the best element after the one before it: no memory besides, k passes over the row."""
    lowering = Lowering(graph)
    builder, sizes = lowering.builder, op.data.type.sizes
    axis = normal_axis(op, op.axis, len(sizes))
    outer_sizes = [size for a, size in enumerate(sizes) if a != axis]
    k, key_type = op.results[0].type.sizes[axis], _key_type(op.data.type)
    values, places = graph.returned

    def body(outer: Index) -> None:
        outer = outer[: len(outer_sizes)]

        def at(i: Expr) -> Index:
            return (*outer[:axis], i, *outer[axis:])

        last, best = builder.local("last", (1,), key_type), builder.local("best", (1,), key_type)
        last_place = builder.local("last_place", (1,), "int32")
        place = builder.local("place", (1,), "int32")
        builder.store(last, [integer(0)], tirx.const(0, key_type))
        builder.store(last_place, [integer(0)], integer(-1))
        with builder.serial("rank", k) as rank:
            builder.store(place, [integer(0)], integer(-1))
            builder.store(best, [integer(0)], tirx.const(0, key_type))
            with builder.serial("i", sizes[axis]) as i, lowering.scope():
                key = builder.bind("key", _key(op.data.type, lowering.element(op.data, at(i))))
                after = _precedes(op, last[0], last_place[0], key, i)
                fresh = tirx.any(tirx.EQ(rank, integer(0)), after)
                better = tirx.any(place[0] < integer(0), _precedes(op, key, i, best[0], place[0]))
                with builder.when(tirx.all(fresh, better)):
                    builder.store(best, [integer(0)], key)
                    builder.store(place, [integer(0)], i)
            found = builder.bind("found", place[0])
            builder.store(last, [integer(0)], best[0])
            builder.store(last_place, [integer(0)], found)
            with lowering.scope():
                lowering.store(values, at(rank), lowering.element(op.data, at(found)))
                lowering.store(places, at(rank), found.astype("int64"))

    if 0 not in sizes and k:
        task_loops(lowering, outer_sizes or (1,), body)
    return builder.finish()


def _precedes(op: element_selection.TopK, key: Expr, i: Expr, other: Expr, j: Expr) -> Expr:
    """Whether element i comes before element j: the more extreme first, of equals the lower index."""
    ahead = less(other, key) if op.largest else less(key, other)
    return tirx.any(ahead, tirx.all(tirx.EQ(key, other), i < j))


def _key_type(type: TensorType) -> str:
    if type.dtype.is_float:
        return "int64" if type.dtype is DType.F64 else "int32"
    return "uint8" if type.dtype.kind is Kind.BOOL else storage_type(type)


def _key(type: TensorType, x: Expr) -> Expr:
    """An integer that sorts as the element does, NaN above every number."""
    if not type.dtype.is_float:
        return x.astype("uint8") if type.dtype.kind is Kind.BOOL else x
    x = widened(x)
    key_type = _key_type(type)
    most = 2 ** (int(key_type[3:]) - 1) - 1
    raw = vm.bits(x, key_type)
    zero = vm.constant(0, raw)
    # negative floats sort backwards as integers; both zeros are one
    folded = tirx.Select(raw < zero, tirx.bitwise_xor(raw, vm.constant(most, raw)), raw)
    number = tirx.Select(tirx.EQ(x, vm.constant(0, x)), zero, folded)
    return tirx.Select(vm.is_nan(x), vm.constant(most, raw), number)
