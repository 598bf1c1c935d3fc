# pyright: basic
"""Pools and transposed convolutions over plain tensors of any rank."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod

from tvm import tirx

from rtcc.ir import Graph, Op
from rtcc.ir.ops import nn, pooling
from rtcc.ir.ops.integer import GlobalSum, WindowSum
from rtcc.target import Target
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm import vector_power
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.accumulate import MAXIMUM, SUM, Combine, accumulate
from rtcc.targets.tvm.lower.kernel import (
    Index,
    Lowering,
    computing_type,
    integer,
    literal,
    narrowed,
    storage_type,
    widened,
)
from rtcc.targets.tvm.lower.loops import for_each_element, task_loops
from rtcc.targets.tvm.lower.movement import flat_index, static_integers
from rtcc.targets.tvm.lower.reduction import same, squared, store_result
from rtcc.targets.tvm.lower.rows import beats
from rtcc.targets.tvm.lower.rules import kernel_rule

Recipe = Callable[[Expr], Expr]


def power_norm(p: int) -> tuple[Recipe, Recipe]:
    """What the p-norm does to each term, and to their sum."""
    match p:
        case 1:
            return vm.absolute, same
        case 2:
            return squared, vm.sqrt
        case _:
            return (
                lambda v: vector_power.power(vm.absolute(v), vm.constant(p, v)),
                lambda v: vector_power.power(v, vm.constant(1 / p, v)),
            )


class WindowWalk:
    """The part of a result's window that lies inside the data: first place and count along each axis."""

    def __init__(self, lowering: Lowering, op: pooling.Pool, index: Index) -> None:
        builder, sizes = lowering.builder, op.data.type.sizes
        pads, strides, dilations = op.geometry()
        self.index, self.dilations = index, dilations
        self.starts: list[Expr] = []
        self.counts: list[Expr] = []
        for axis, extent in enumerate(op.kernel_shape):
            first = index[2 + axis] * integer(strides[axis]) - integer(pads[axis])
            step = integer(dilations[axis])
            low = tirx.max(integer(0), tirx.floordiv(step - integer(1) - first, step))
            reach = tirx.floordiv(integer(sizes[2 + axis]) - first + step - integer(1), step)
            low = builder.bind("low", low)
            count = tirx.max(tirx.min(integer(extent), reach) - low, integer(0))
            self.counts.append(builder.bind("count", count))
            self.starts.append(builder.bind("at", first + low * step))

    def place(self, tap: Index) -> Index:
        """The full index of a tap, counted from the first one inside."""
        spatial = [s + t * integer(d) for s, t, d in zip(self.starts, tap, self.dilations, strict=True)]
        return (*self.index[:2], *spatial)


def general_pool(graph: Graph, op: pooling.Pool, target: Target) -> tirx.PrimFunc:
    """A max, average or p-norm pool: each result walks the part of its window that lies inside the data."""
    if isinstance(op, pooling.MaxPool) and len(op.results) > 1:
        return _max_pool_with_indices(graph, op)
    lowering = Lowering(graph)
    combine, before, finish = _pool_recipe(op)

    def body(index: Index) -> None:
        window = WindowWalk(lowering, op, index)

        def term(tap: Index) -> Expr:
            return before(widened(lowering.element(op.data, window.place(tap))))

        value = accumulate(lowering, op.type, window.counts, term, combine)
        store_result(lowering, op, index, finish(value, _divisor(op, index, window.counts)))

    for_each_element(lowering, lowering.root, body)
    return lowering.builder.finish()


def _max_pool_with_indices(graph: Graph, op: pooling.MaxPool) -> tirx.PrimFunc:
    """Two results: the largest element, and where it stands (the first of equals, NaN above all)."""
    lowering = Lowering(graph)
    builder, sizes, type = lowering.builder, op.data.type.sizes, computing_type(op.data.type)
    order = list(range(2, len(sizes)))
    order = order[::-1] if op.storage_order else order

    def body(index: Index) -> None:
        window = WindowWalk(lowering, op, index)
        best = builder.local("best", (1,), storage_type(type))
        place = builder.local("place", (1,), "int64")
        builder.store(best, [integer(0)], MAXIMUM.start(type))
        builder.store(place, [integer(0)], tirx.const(-1, "int64"))
        with ExitStack() as stack:
            taps = tuple(stack.enter_context(builder.serial(f"t{n}", c)) for n, c in enumerate(window.counts))
            stack.enter_context(lowering.scope())
            at = window.place(taps)
            candidate = builder.bind("candidate", widened(lowering.element(op.data, at)))
            first = tirx.LT(place[0], tirx.const(0, "int64"))
            better = beats(type, candidate, best[0], larger=True, or_equal=False)
            with builder.when(tirx.any(first, better)):
                builder.store(best, [integer(0)], candidate)
                counted = [0, 1, *order]
                flat = flat_index([at[a] for a in counted], [sizes[a] for a in counted])
                builder.store(place, [integer(0)], flat.astype("int64"))
        lowering.store(graph.returned[0], index, narrowed(best[0], op.type))
        lowering.store(graph.returned[1], index, place[0])

    for_each_element(lowering, lowering.root, body)
    return builder.finish()


def _pool_recipe(op: Op) -> tuple[Combine, Recipe, Callable[[Expr, Expr], Expr]]:
    match op:
        case pooling.MaxPool():
            return MAXIMUM, same, lambda total, count: total
        case pooling.AveragePool():
            return SUM, same, tirx.div
        case _:
            assert isinstance(op, pooling.LpPool)
            before, after = power_norm(op.p)
            return SUM, before, lambda total, count: after(total)


def _divisor(op: pooling.Pool, index: Index, counts: Sequence[Expr]) -> Expr:
    """Elements that an average is over, as the type it is computed in."""
    name = storage_type(computing_type(op.type))
    if not isinstance(op, pooling.AveragePool):
        return literal(1, computing_type(op.type))
    if not op.count_include_pad:
        return functools.reduce(lambda a, b: a * b, counts).astype(name)
    pads, strides, dilations = op.geometry()
    total: Expr = integer(1)
    for axis, extent in enumerate(op.kernel_shape):
        first = index[2 + axis] * integer(strides[axis])
        limit = op.data.type.sizes[2 + axis] + pads[axis] + pads[len(strides) + axis]
        step = integer(dilations[axis])
        inside = tirx.floordiv(integer(limit) - first + step - integer(1), step)
        total = total * tirx.min(integer(extent), inside)
    return total.astype(name)


def general_global_pool(graph: Graph, op: pooling.GlobalPool, target: Target) -> tirx.PrimFunc:
    """A pool over whole channels, in any layout."""
    lowering = Lowering(graph)
    extents = op.data.type.sizes[2:]
    combine, before, finish = SUM, same, same
    match op:
        case pooling.GlobalMaxPool():
            combine = MAXIMUM
        case pooling.GlobalLpPool():
            before, finish = power_norm(op.p)
        case _:
            finish = _mean_of(prod(extents))
    lowering.builder.work_together(prod(extents), storage_type(computing_type(op.type)))

    def body(index: Index) -> None:
        def term(place: Index) -> Expr:
            place = place[: len(extents)]
            return before(widened(lowering.element(op.data, (*index[:2], *place))))

        value = accumulate(lowering, op.type, extents, term, combine)
        with lowering.builder.by_one():
            store_result(lowering, op, index, finish(value))

    for_each_element(lowering, lowering.root, body)
    return lowering.builder.finish()


def general_global_sum(graph: Graph, op: GlobalSum, target: Target) -> tirx.PrimFunc:
    """The sum of whole channels of bytes, in any layout."""
    lowering = Lowering(graph)
    extents = op.data.type.sizes[2:]
    lowering.builder.work_together(prod(extents), storage_type(computing_type(op.type)))

    def body(index: Index) -> None:
        def term(place: Index) -> Expr:
            return lowering.element(op.data, (*index[:2], *place[: len(extents)])).astype("int32")

        value = accumulate(lowering, op.type, extents, term, SUM)
        with lowering.builder.by_one():
            store_result(lowering, op, index, value)

    for_each_element(lowering, lowering.root, body)
    return lowering.builder.finish()


def general_window_sum(graph: Graph, op: WindowSum, target: Target) -> tirx.PrimFunc:
    """The sums of windows of bytes, in any layout."""
    lowering = Lowering(graph)

    def body(index: Index) -> None:
        window = WindowWalk(lowering, op, index)

        def term(tap: Index) -> Expr:
            return lowering.element(op.data, window.place(tap)).astype("int32")

        store_result(lowering, op, index, accumulate(lowering, op.type, window.counts, term, SUM))

    for_each_element(lowering, lowering.root, body)
    return lowering.builder.finish()


def _mean_of(count: int) -> Recipe:
    return lambda total: tirx.div(total, vm.constant(count, total))


class Reach:
    """Which inputs reach a result of a transposed convolution by a tap: i·stride + tap·dilation - pad = o."""

    def __init__(
        self, spatial: Sequence[int], pads: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
    ) -> None:
        """spatial: the inputs' sizes."""
        self.spatial, self.pads, self.strides, self.dilations = spatial, pads, strides, dilations

    def source(self, place: Index, tap: Index) -> tuple[Index, Expr]:
        """The input's place for a result's place and a tap, and whether there is one."""
        at, inside = [], []
        for axis, size in enumerate(self.spatial):
            step = integer(self.strides[axis])
            reach = place[axis] + integer(self.pads[axis]) - tap[axis] * integer(self.dilations[axis])
            i = tirx.floordiv(reach, step)
            inside += [tirx.EQ(tirx.floormod(reach, step), integer(0)), i >= integer(0), i < integer(size)]
            at.append(i)
        return tuple(at), tirx.all(*inside)


@kernel_rule(nn.ConvTranspose)
def _conv_transpose(graph: Graph, op: nn.ConvTranspose, target: Target) -> tirx.PrimFunc:
    """Each result gathers the inputs that reach it, times their weights."""
    lowering = Lowering(graph)
    data, weight = op.data.type.sizes, op.weight.type.sizes
    reach = Reach(data[2:], *op.geometry())
    per_group, channels = weight[1], data[1] // op.group
    zero = literal(0, computing_type(op.type))

    def body(index: Index) -> None:
        n, k, *place = index
        group = lowering.builder.bind("group", tirx.floordiv(k, integer(per_group)))

        def term(inner: Index) -> Expr:
            *tap, c = inner
            source, inside = reach.source(tuple(place), tuple(tap))
            channel = group * integer(channels) + c
            filter_ = k - group * integer(per_group)

            def product() -> Expr:
                x = widened(lowering.element(op.data, (n, channel, *source)))
                return x * widened(lowering.element(op.weight, (channel, filter_, *tap)))

            return lowering.guarded(inside, product, lambda: zero)

        # taps outermost: their bounds are tested once, not per channel
        value = accumulate(lowering, op.type, (*weight[2:], channels), term, SUM)
        if op.bias is not None:
            value = value + widened(lowering.element(op.bias, (k,)))
        store_result(lowering, op, index, value)

    task_loops(lowering, op.type.sizes, body)
    return lowering.builder.finish()


@kernel_rule(pooling.Col2Im)
def _col2im(graph: Graph, op: pooling.Col2Im, target: Target) -> tirx.PrimFunc:
    """Each element of the image gathers the columns that hold it."""
    lowering = Lowering(graph)
    image = static_integers(op, op.image_shape, "the image shape")
    block = static_integers(op, op.block_shape, "the block shape")
    ones = (1,) * len(image)
    strides, dilations = op.strides or ones, op.dilations or ones
    pads = op.pads or (0,) * (2 * len(image))
    positions = [
        (size + pads[a] + pads[len(image) + a] - (block[a] - 1) * dilations[a] - 1) // strides[a] + 1
        for a, size in enumerate(image)
    ]
    reach = Reach(positions, pads, strides, dilations)
    zero = literal(0, computing_type(op.type))

    def body(index: Index) -> None:
        n, c, *place = index

        def term(tap: Index) -> Expr:
            source, inside = reach.source(tuple(place), tap)
            row = flat_index((c, *tap), (1, *block))
            column = flat_index(source, positions)
            return lowering.guarded(
                inside, lambda: widened(lowering.element(op.data, (n, row, column))), lambda: zero
            )

        store_result(lowering, op, index, accumulate(lowering, op.type, block, term, SUM))

    task_loops(lowering, op.type.sizes, body)
    return lowering.builder.finish()
