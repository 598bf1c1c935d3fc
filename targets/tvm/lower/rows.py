# pyright: basic
"""Anchors that need several passes over each row: softmax, normalisations, arg-reductions, running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from tvm import tirx

from rtcc.ir import DType, Graph, Op, TensorType
from rtcc.ir.ops import normalization, reduce, softmax
from rtcc.ir.ops.axes import normal_axis
from rtcc.target import Target
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.accumulate import (
    LANES,
    MAXIMUM,
    MINIMUM,
    PRODUCT,
    SUM,
    Combine,
    accumulate,
    column_blocks,
)
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
from rtcc.targets.tvm.lower.loops import row_loops, task_loops
from rtcc.targets.tvm.lower.reduction import squared, store_result
from rtcc.targets.tvm.lower.rules import kernel_rule


class Row:
    """One row of an operand: the elements along some axes at a fixed place on the others."""

    def __init__(self, lowering: Lowering, op: Op, axes: Sequence[int], outer: Index) -> None:
        self.lowering, self.op, self.axes, self.outer = lowering, op, list(axes), outer
        value = op.operands[0]
        assert value is not None
        self.value = value
        self.sizes = value.type.sizes
        self.extents = [self.sizes[axis] for axis in axes]

    @property
    def count(self) -> int:
        """Elements in the row."""
        total = 1
        for extent in self.extents:
            total *= extent
        return total

    def index(self, inner: Index) -> Index:
        """The full index of a place in the row."""
        kept = [axis for axis in range(len(self.sizes)) if axis not in self.axes]
        full = dict(zip(kept, self.outer, strict=True)) | dict(zip(self.axes, inner, strict=True))
        return tuple(full[axis] for axis in range(len(self.sizes)))

    def element(self, inner: Index) -> Expr:
        """The operand's element at a place in the row, narrow floats as float32."""
        return widened(self.lowering.element(self.value, self.index(inner)))

    def total(self, term: Callable[[Index], Expr], combine: Combine = SUM) -> Expr:
        """One value combined over the row, named."""
        found = accumulate(self.lowering, self.op.type, self.extents, term, combine)
        return self.lowering.builder.bind("row_total", found)

    def store(self, result: Callable[[Index], Expr]) -> None:
        """Store result(place) for every place, through the ops after the anchor."""

        def body(inner: Index) -> None:
            with self.lowering.scope():
                store_result(self.lowering, self.op, self.index(inner), result(inner))

        row_loops(self.lowering, self.extents, body)


def rows_kernel(graph: Graph, op: Op, axes: Sequence[int], body: Callable[[Row], None]) -> tirx.PrimFunc:
    """A kernel that does `body` for every row along `axes` of the anchor's first operand."""
    lowering = Lowering(graph)
    data = op.operands[0]
    assert data is not None
    sizes = data.type.sizes
    outer = [size for axis, size in enumerate(sizes) if axis not in axes]
    lowering.builder.work_together(prod(sizes[axis] for axis in axes), storage_type(computing_type(op.type)))
    if 0 not in sizes:
        task_loops(lowering, outer or (1,), lambda index: body(Row(lowering, op, axes, index[: len(outer)])))
    return lowering.builder.finish()


@kernel_rule(softmax.LogSoftmax)
def general_softmax(graph: Graph, op: softmax.Softmax | softmax.LogSoftmax, target: Target) -> tirx.PrimFunc:
    """Softmax or its logarithm along any axis, of any float type, with anything before and after."""
    axis = normal_axis(op, op.axis, op.type.rank)
    columns = axis < op.type.rank - 1 and op.type.sizes[-1] >= LANES
    if columns and not _is_narrow(op) and graph.returned[0].type.layout is None:
        return _softmax_columns(graph, op, axis)
    return rows_kernel(graph, op, [axis], lambda row: _softmax_row(row, op))


def _softmax_row(row: Row, op: softmax.Softmax | softmax.LogSoftmax) -> None:
    """One row in three passes; narrow floats are rounded after each step, as the operator says."""

    def stepwise(value: Expr) -> Expr:
        return widened(narrowed(value, op.type))

    most = row.total(row.element, MAXIMUM)

    def shifted(i: Index) -> Expr:
        return stepwise(row.element(i) - most)

    total = stepwise(row.total(lambda i: stepwise(vm.exp(shifted(i)))))
    if isinstance(op, softmax.LogSoftmax):
        log_total = row.lowering.builder.bind("log_total", stepwise(vm.log(total)))
        row.store(lambda i: shifted(i) - log_total)
    elif _is_narrow(op):
        row.store(lambda i: tirx.div(stepwise(vm.exp(shifted(i))), total))
    else:
        scale = row.lowering.builder.bind("scale", tirx.div(vm.constant(1, total), total))
        row.store(lambda i: vm.exp(shifted(i)) * scale)


def _is_narrow(op: Op) -> bool:
    return op.type.dtype in (DType.F16, DType.BF16)


def _softmax_columns(graph: Graph, op: softmax.Softmax | softmax.LogSoftmax, axis: int) -> tirx.PrimFunc:
    """Softmax along an axis that is not the last: neighbouring vectors side by side in registers."""
    lowering = Lowering(graph)
    builder, sizes, type = lowering.builder, op.type.sizes, computing_type(op.type)
    outer_sizes = [size for a, size in enumerate(sizes[:-1]) if a != axis]

    def block(outer: Index, start: Expr, width: int) -> None:
        most, total = (builder.local(name, (width,), storage_type(type)) for name in ("most", "total"))

        def index(k: Expr, lane: Expr) -> Index:
            return (*outer[:axis], k, *outer[axis:], start + lane)

        def power(k: Expr, lane: Expr) -> Expr:
            return vm.exp(widened(lowering.element(op.data, index(k, lane))) - most[lane])

        with builder.serial("lane", width) as lane:
            builder.store(most, [lane], MAXIMUM.start(type))
            builder.store(total, [lane], SUM.start(type))
        with builder.serial("k", sizes[axis]) as k, builder.serial("lane", width) as lane, lowering.scope():
            element = widened(lowering.element(op.data, index(k, lane)))
            builder.store(most, [lane], MAXIMUM.join(type, most[lane], element))
        with builder.serial("k", sizes[axis]) as k, builder.serial("lane", width) as lane, lowering.scope():
            builder.store(total, [lane], total[lane] + power(k, lane))
        is_log = isinstance(op, softmax.LogSoftmax)
        with builder.serial("lane", width) as lane:
            final = vm.log(total[lane]) if is_log else tirx.div(vm.constant(1, total[lane]), total[lane])
            builder.store(total, [lane], final)
        with builder.serial("k", sizes[axis]) as k, builder.serial("lane", width) as lane, lowering.scope():
            at = index(k, lane)
            if is_log:
                value = widened(lowering.element(op.data, at)) - most[lane] - total[lane]
            else:
                value = power(k, lane) * total[lane]
            store_result(lowering, op, at, value)

    if 0 not in sizes:
        column_blocks(lowering, (*outer_sizes, sizes[-1]), block)
    return builder.finish()


def _mean(row: Row) -> Expr:
    total = row.total(row.element)
    return row.lowering.builder.bind("mean", tirx.div(total, vm.constant(row.count, total)))


def _inverse_deviation(row: Row, mean: Expr, epsilon: float) -> Expr:
    squares = row.total(lambda i: squared(row.element(i) - mean))
    variance = tirx.div(squares, vm.constant(row.count, squares))
    return row.lowering.builder.bind("inverse", _inverse_root(variance + vm.constant(epsilon, squares)))


def _inverse_root(x: Expr) -> Expr:
    return tirx.div(vm.constant(1, x), vm.sqrt(x))


@kernel_rule(normalization.LayerNormalization, normalization.RMSNormalization)
def _layer_normalization(graph: Graph, op: normalization.LayerNormalization, target: Target) -> tirx.PrimFunc:
    rank = op.data.type.rank
    axes = range(normal_axis(op, op.axis, rank), rank)
    centred = isinstance(op, normalization.LayerNormalization)

    def body(row: Row) -> None:
        mean = _mean(row) if centred else literal(0, computing_type(op.type))
        inverse = _inverse_deviation(row, mean, op.epsilon)

        def result(inner: Index) -> Expr:
            index = row.index(inner)
            scale, shift = (row.lowering.operand(op, slot, index) for slot in (1, 2))
            assert scale is not None
            value = (row.element(inner) - mean) * inverse * widened(scale)
            return value if shift is None else value + widened(shift)

        row.store(result)

    return rows_kernel(graph, op, axes, body)


@kernel_rule(normalization.InstanceNormalization)
def _instance_normalization(
    graph: Graph, op: normalization.InstanceNormalization, target: Target
) -> tirx.PrimFunc:
    def body(row: Row) -> None:
        mean = _mean(row)
        inverse = _inverse_deviation(row, mean, op.epsilon)
        channel = row.outer[1]
        scale = row.lowering.builder.bind(
            "scale", inverse * widened(row.lowering.element(op.scale, (channel,)))
        )
        shift = widened(row.lowering.element(op.bias, (channel,)))
        row.store(lambda i: (row.element(i) - mean) * scale + shift)

    return rows_kernel(graph, op, range(2, op.data.type.rank), body)


@kernel_rule(reduce.ArgMax, reduce.ArgMin)
def _arg_extremum(graph: Graph, op: reduce.ArgMax, target: Target) -> tirx.PrimFunc:
    """The first (or last) index of the extreme element; NaN counts as most extreme, as in NumPy."""
    lowering = Lowering(graph)
    builder = lowering.builder
    sizes = op.data.type.sizes
    axis = normal_axis(op, op.axis, len(sizes))
    outer_sizes = [size for a, size in enumerate(sizes) if a != axis]
    dtype = computing_type(op.data.type)
    larger = isinstance(op, reduce.ArgMax)

    def together(outer: Index) -> None:
        outer = outer[: len(outer_sizes)]

        def element(index: Index) -> Expr:
            return widened(lowering.element(op.data, (*outer[:axis], index[0], *outer[axis:])))

        found = accumulate(lowering, dtype, [sizes[axis]], element, MAXIMUM if larger else MINIMUM)
        best = builder.bind("best", found)
        none = integer(-1 if op.select_last_index else sizes[axis])

        def place(index: Index) -> Expr:
            value = element(index)
            is_best = tirx.EQ(value, best)
            if dtype.dtype.is_float:
                is_best = tirx.any(is_best, tirx.all(vm.is_nan(value), vm.is_nan(best)))
            return tirx.Select(is_best, index[0], none)

        last = MAXIMUM if op.select_last_index else MINIMUM
        at = accumulate(lowering, dtype.with_dtype(DType.I32), [sizes[axis]], place, last)
        index = (*outer[:axis], integer(0), *outer[axis:]) if op.keepdims else outer
        with builder.by_one():
            store_result(lowering, op, index, at.astype("int64"))

    def body(outer: Index) -> None:
        outer = outer[: len(outer_sizes)]
        best = builder.local("best", (1,), storage_type(dtype))
        place = builder.local("place", (1,), "int64")

        def element(k: Expr) -> Expr:
            return widened(lowering.element(op.data, (*outer[:axis], k, *outer[axis:])))

        with lowering.scope():
            builder.store(best, [integer(0)], element(integer(0)))
        builder.store(place, [integer(0)], tirx.const(0, "int64"))
        with builder.serial("k", sizes[axis] - 1, 1) as k, lowering.scope():
            candidate = builder.bind("candidate", element(k))
            better = beats(dtype, candidate, best[0], larger=larger, or_equal=bool(op.select_last_index))
            with builder.when(better):
                builder.store(best, [integer(0)], candidate)
                builder.store(place, [integer(0)], k.astype("int64"))
        index = (*outer[:axis], integer(0), *outer[axis:]) if op.keepdims else outer
        store_result(lowering, op, index, place[0])

    builder.work_together(sizes[axis], storage_type(dtype))
    task_loops(lowering, outer_sizes or (1,), together if builder.width > 1 else body)
    return builder.finish()


def beats(type: TensorType, candidate: Expr, best: Expr, *, larger: bool, or_equal: bool) -> Expr:
    """Whether a candidate is more extreme than the best so far; NaN is most extreme."""
    if or_equal:
        better = candidate >= best if larger else candidate <= best
    else:
        better = candidate > best if larger else candidate < best
    if not type.dtype.is_float:
        return better
    fresh_nan = (
        vm.is_nan(candidate) if or_equal else tirx.all(vm.is_nan(candidate), tirx.Not(vm.is_nan(best)))
    )
    return tirx.any(better, fresh_nan)


@kernel_rule(reduce.CumSum, reduce.CumProd)
def _cumulation(graph: Graph, op: reduce.Cumulation, target: Target) -> tirx.PrimFunc:
    axis = normal_axis(op, int(op.static_array(op.axis, "axis").reshape(-1)[0]), op.type.rank)
    lowering = Lowering(graph)
    builder = lowering.builder
    sizes, type = op.type.sizes, computing_type(op.type)
    outer_sizes = [size for a, size in enumerate(sizes) if a != axis]
    combine = SUM if isinstance(op, reduce.CumSum) else PRODUCT

    def body(outer: Index) -> None:
        outer = outer[: len(outer_sizes)]
        total = builder.local("total", (1,), storage_type(type))
        builder.store(total, [integer(0)], combine.start(type))
        with builder.serial("step", sizes[axis]) as step, lowering.scope():
            k = builder.bind("k", integer(sizes[axis] - 1) - step if op.reverse else step + integer(0))
            index = (*outer[:axis], k, *outer[axis:])
            element = builder.bind("element", widened(lowering.element(op.data, index)))
            before = builder.bind("before", total[0])
            after = builder.bind("after", combine.join(type, before, element))
            builder.store(total, [integer(0)], after)
            store_result(lowering, op, index, before if op.exclusive else after)

    if 0 not in sizes:
        task_loops(lowering, outer_sizes or (1,), body)
    return builder.finish()
