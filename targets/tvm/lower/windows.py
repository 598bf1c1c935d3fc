# pyright: basic
"""Pools and transposed convolutions over plain tensors of any rank."""

from __future__ import annotations

from math import prod

from tvm import tirx

from rtcc.ir import Graph, Op
from rtcc.ir.ops import nn, pooling
from rtcc.target import Target
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.accumulate import MAXIMUM, SUM, Combine, accumulate
from rtcc.targets.tvm.lower.kernel import Index, Lowering, integer, literal, template
from rtcc.targets.tvm.lower.loops import for_each_element, task_loops
from rtcc.targets.tvm.lower.reduction import same, store_result


def power_norm(p: int) -> tuple[object, object]:
    """What the p-norm does to each term, and to their sum."""
    match p:
        case 1:
            return vm.absolute, same
        case 2:
            return (lambda v: v * v), vm.sqrt
        case _:
            return (
                lambda v: vm.power(vm.absolute(v), vm.constant(p, v)),
                lambda v: vm.power(v, vm.constant(1 / p, v)),
            )


def general_pool(graph: Graph, op: pooling.Pool, target: Target) -> tirx.PrimFunc:
    """A max, average or p-norm pool: each result walks the part of its window that lies inside the data."""
    lowering = Lowering(graph)
    sizes = op.data.type.sizes
    spatial = len(sizes) - 2
    pads, strides, dilations = op.geometry()
    kernel = tuple(op.kernel_shape)
    combine, before, finish = _pool_recipe(op)

    def body(index: Index) -> None:
        starts, counts = [], []
        for axis in range(spatial):
            first = index[2 + axis] * integer(strides[axis]) - integer(pads[axis])
            step = integer(dilations[axis])
            low = tirx.max(integer(0), tirx.floordiv(step - integer(1) - first, step))
            high = tirx.min(integer(kernel[axis]), tirx.floordiv(integer(sizes[2 + axis]) - first + step - integer(1), step))
            low = lowering.builder.bind("low", low)
            counts.append(lowering.builder.bind("count", tirx.max(high - low, integer(0))))
            starts.append(lowering.builder.bind("at", first + low * step))

        def term(tap: Index) -> Expr:
            place = [s + t * integer(d) for s, t, d in zip(starts, tap, dilations, strict=True)]
            return before(lowering.element(op.data, (*index[:2], *place)))

        value = accumulate(lowering, op.type, counts, term, combine)
        store_result(lowering, op, index, finish(value, _divisor(op, index, counts)))

    for_each_element(lowering, lowering.root, body)
    return lowering.builder.finish()


def _pool_recipe(op: Op) -> tuple[Combine, object, object]:
    match op:
        case pooling.MaxPool():
            return MAXIMUM, same, lambda total, count: total
        case pooling.AveragePool():
            return SUM, same, tirx.div
        case _:
            assert isinstance(op, pooling.LpPool)
            before, after = power_norm(op.p)
            return SUM, before, lambda total, count: after(total)


def _divisor(op: pooling.Pool, index: Index, counts: list[Expr]) -> Expr:
    """Elements that an average is over, as the result's type."""
    if not isinstance(op, pooling.AveragePool):
        return literal(1, op.type)
    if not op.count_include_pad:
        return prod(counts[1:], start=counts[0]).astype(_name(op))
    pads, strides, dilations = op.geometry()
    total: Expr = integer(1)
    for axis, extent in enumerate(op.kernel_shape):
        first = index[2 + axis] * integer(strides[axis])
        limit = op.data.type.sizes[2 + axis] + pads[axis] + pads[len(strides) + axis]
        step = integer(dilations[axis])
        inside = tirx.floordiv(integer(limit) - first + step - integer(1), step)
        total = total * tirx.min(integer(extent), inside)
    return total.astype(_name(op))


def _name(op: Op) -> str:
    return str(op.type.dtype.numpy)


@template(pooling.GlobalAveragePool, pooling.GlobalMaxPool, pooling.GlobalLpPool)
def _global_pool(graph: Graph, op: pooling.GlobalPool, target: Target) -> tirx.PrimFunc:
    lowering = Lowering(graph)
    extents = op.data.type.sizes[2:]
    combine, before, finish = SUM, same, same
    match op:
        case pooling.GlobalMaxPool():
            combine = MAXIMUM
        case pooling.GlobalLpPool():
            before, finish = power_norm(op.p)
        case _:
            finish = _mean_of(prod(extents), op)

    def body(index: Index) -> None:
        value = accumulate(
            lowering, op.type, extents, lambda place: before(lowering.element(op.data, (*index[:2], *place))), combine
        )
        store_result(lowering, op, index, finish(value))

    for_each_element(lowering, lowering.root, body)
    return lowering.builder.finish()


def _mean_of(count: int, op: Op) -> object:
    return lambda total: tirx.div(total, literal(count, op.type))


@template(nn.ConvTranspose)
def _conv_transpose(graph: Graph, op: nn.ConvTranspose, target: Target) -> tirx.PrimFunc:
    """Each result gathers the inputs that reach it: y[o] = Σ x[i]·w[o + pad - i·stride over dilation]."""
    lowering = Lowering(graph)
    data, weight = op.data.type.sizes, op.weight.type.sizes
    spatial = len(data) - 2
    pads, strides, dilations = op.geometry()
    per_group, channels = weight[1], data[1] // op.group

    def body(index: Index) -> None:
        n, k, *place = index
        group = lowering.builder.bind("group", tirx.floordiv(k, integer(per_group)))

        def term(inner: Index) -> Expr:
            c, *tap = inner
            source, inside = [], []
            for axis in range(spatial):
                reach = place[axis] + integer(pads[axis]) - tap[axis] * integer(dilations[axis])
                at = tirx.floordiv(reach, integer(strides[axis]))
                inside += [tirx.floormod(reach, integer(strides[axis])) == integer(0), at >= integer(0),
                           at < integer(data[2 + axis])]  # fmt: skip
                source.append(at)
            channel = group * integer(channels) + c
            filter_ = k - group * integer(per_group)

            def product() -> Expr:
                x = lowering.element(op.data, (n, channel, *source))
                return x * lowering.element(op.weight, (channel, filter_, *tap))

            return lowering.guarded(tirx.all(*inside), product, lambda: literal(0, op.type))

        # taps outermost: their bounds are tested once, not per channel
        value = accumulate(
            lowering, op.type, (*weight[2:], channels), lambda inner: term((inner[-1], *inner[:-1])), SUM
        )
        if op.bias is not None:
            value = value + lowering.element(op.bias, (k,))
        store_result(lowering, op, index, value)

    task_loops(lowering, op.type.sizes, body)
    return lowering.builder.finish()


