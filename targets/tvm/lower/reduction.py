# pyright: basic
"""Anchors that sum: reductions over axes, and the general (unblocked) convolutions, products and pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from tvm import tirx

from rtcc.ir import DType, Graph, Op, TensorType, Value
from rtcc.ir.dtype import Kind
from rtcc.ir.ops import nn, quant, reduce
from rtcc.ir.ops.integer import ConvSum, MatMulSum, Places
from rtcc.target import Target
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.accumulate import (
    MAXIMUM,
    MINIMUM,
    PRODUCT,
    SUM,
    Combine,
    accumulate,
    accumulate_columns,
)
from rtcc.targets.tvm.lower.conversion import convert
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
from rtcc.targets.tvm.lower.loops import for_each_element
from rtcc.targets.tvm.lower.rules import kernel_rule

Finish = Callable[[Expr], Expr]


def same(value: Expr) -> Expr:
    """Leave an accumulated value as it is."""
    return value


def store_result(lowering: Lowering, op: Op, index: Index, value: Expr) -> None:
    """Store what the ops after the anchor make of its result at an index."""
    named = lowering.builder.bind("total", narrowed(value, op.type))
    with lowering.bound(op.results[0], lambda _: named):
        lowering.store(lowering.root, index, lowering.element(lowering.root, index))


# ------------------------------------------------------------------------------------- reductions over axes


@kernel_rule(
    reduce.ReduceSum, reduce.ReduceMean, reduce.ReduceMax, reduce.ReduceMin, reduce.ReduceProd,
    reduce.ReduceL1, reduce.ReduceL2, reduce.ReduceLogSum, reduce.ReduceLogSumExp, reduce.ReduceSumSquare,
)  # fmt: skip
def _reduce(graph: Graph, op: reduce.Reduction, target: Target) -> tirx.PrimFunc:
    lowering = Lowering(graph)
    sizes = op.data.type.sizes
    axes = op.reduced_axes()
    kept = [axis for axis in range(len(sizes)) if axis not in axes]
    extents = [sizes[axis] for axis in axes]
    combine, before, finish = _recipe(op, extents)

    def source(outer: Index, inner: Index) -> Expr:
        index = dict(zip(kept, outer, strict=True)) | dict(zip(axes, inner[: len(axes)], strict=True))
        return before(widened(lowering.element(op.data, [index[axis] for axis in range(len(sizes))])))

    def kept_index(index: Index) -> Index:
        return tuple(index[axis] for axis in kept) if op.keepdims else index

    columns = bool(kept) and kept[-1] == len(sizes) - 1 and sizes[-1] > 1 and bool(axes)
    if columns and lowering.root.type.layout is None:
        accumulate_columns(
            lowering, op.type, lowering.root.type.sizes, extents,
            lambda inner, place: source(kept_index(place), inner), combine,
            lambda place, value: store_result(lowering, op, place, finish(value)),
        )  # fmt: skip
    else:
        lowering.builder.work_together(prod(extents), storage_type(computing_type(op.type)))

        def body(index: Index) -> None:
            outer = kept_index(index)
            value = accumulate(lowering, op.type, extents, lambda inner: source(outer, inner), combine)
            with lowering.builder.by_one():
                store_result(lowering, op, index, finish(value))

        for_each_element(lowering, lowering.root, body)
    return lowering.builder.finish()


def _recipe(op: Op, extents: Sequence[int]) -> tuple[Combine, Finish, Finish]:
    """How to combine, what to do to each element before, and to the total after."""
    type, count = op.type, 1
    for extent in extents:
        count *= extent
    match op:
        case reduce.ReduceMean():
            return SUM, same, lambda v: _divided(type, v, count)
        case reduce.ReduceMax():
            return MAXIMUM, same, same
        case reduce.ReduceMin():
            return MINIMUM, same, same
        case reduce.ReduceProd():
            return PRODUCT, same, same
        case reduce.ReduceL1():
            return SUM, _magnitude_of(type), same
        case reduce.ReduceL2():
            return SUM, squared, vm.sqrt
        case reduce.ReduceLogSum():
            return SUM, same, vm.log
        case reduce.ReduceSumSquare():
            return SUM, squared, same
        case _:
            return SUM, same, same


def squared(value: Expr) -> Expr:
    """The square, of a value evaluated once."""
    return vm.named(value, lambda v: v * v)


def _magnitude_of(type: TensorType) -> Finish:
    if type.dtype.is_float:
        return vm.absolute
    if type.dtype.kind is Kind.UNSIGNED:
        return same
    return lambda v: tirx.Select(tirx.LT(v, vm.constant(0, v)), vm.constant(0, v) - v, v)


def _divided(type: TensorType, total: Expr, count: int) -> Expr:
    if type.dtype.is_float:
        return tirx.div(total, vm.constant(count, total))
    return tirx.truncdiv(total, vm.constant(max(count, 1), total))


# ------------------------------------------------------------------------------------------------- products


def matrix_index(type: TensorType, batch: Index, row: Expr, column: Expr) -> Index:
    """The index into a (stack of) matrices whose leading axes broadcast against `batch`."""
    lead = type.rank - 2
    sizes = type.sizes
    kept = list(batch)[len(batch) - lead :] if lead else []
    return (*(integer(0) if sizes[a] == 1 else i for a, i in enumerate(kept)), row, column)


def general_matmul(graph: Graph, op: nn.MatMul | MatMulSum, target: Target) -> tirx.PrimFunc:
    """A matrix product of any ranks and element type, result columns accumulated side by side."""
    lowering = Lowering(graph)
    left, right = op.operands[0], op.operands[1]
    assert left is not None
    assert right is not None
    left_vector, right_vector = left.type.rank == 1, right.type.rank == 1
    inner = left.type.sizes[-1]

    def term(index: Index, k: Expr) -> Expr:
        kept = list(index)
        column = integer(0) if right_vector else kept.pop()
        row = integer(0) if left_vector else kept.pop()
        a = (k,) if left_vector else matrix_index(left.type, tuple(kept), row, k)
        b = (k,) if right_vector else matrix_index(right.type, tuple(kept), k, column)
        return element(lowering.element(left, a)) * element(lowering.element(right, b))

    def element(value: Expr) -> Expr:
        return value.astype("int32") if isinstance(op, MatMulSum) else widened(value)

    _columns(lowering, op, inner, term)
    return lowering.builder.finish()


def general_gemm(graph: Graph, op: nn.Gemm, target: Target) -> tirx.PrimFunc:
    """alpha·A·B + beta·C of any element type."""
    lowering = Lowering(graph)
    a, b = op.operands[0], op.operands[1]
    assert a is not None
    assert b is not None
    inner = a.type.sizes[0 if op.transA else 1]

    def term(index: Index, k: Expr) -> Expr:
        row, column = index
        left = widened(lowering.element(a, (k, row) if op.transA else (row, k)))
        return left * widened(lowering.element(b, (column, k) if op.transB else (k, column)))

    def finish(index: Index, value: Expr) -> Expr:
        scaled = _scaled_by(op.alpha, value, op.type)
        c = lowering.operand(op, 2, index)
        return scaled if c is None else scaled + _scaled_by(op.beta, widened(c), op.type)

    _columns(lowering, op, inner, term, finish)
    return lowering.builder.finish()


def _scaled_by(factor: float, value: Expr, type: TensorType) -> Expr:
    """factor · value; of integers in float64, truncated."""
    if factor == 1:
        return value
    if type.dtype.is_float:
        return value * vm.constant(factor, value)
    wide = value.astype("float64") * tirx.const(factor, "float64")
    return convert(wide, DType.F64, type.dtype)


def _columns(
    lowering: Lowering,
    op: Op,
    inner: int,
    term: Callable[[Index, Expr], Expr],
    finish: Callable[[Index, Expr], Expr] = lambda index, value: value,
) -> None:
    """Every row of the result, its columns accumulated over `inner` terms."""
    sizes = op.type.sizes
    if not sizes:
        with lowering.builder.tasks("once", 1):
            value = accumulate(lowering, op.type, (inner,), lambda k: term((), k[0]), SUM)
            store_result(lowering, op, (), finish((), value))
        return

    accumulate_columns(
        lowering, op.type, sizes, (inner,), lambda k, place: term(place, k[0]), SUM,
        lambda place, value: store_result(lowering, op, place, finish(place, value)),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- convolution


def general_conv(graph: Graph, op: nn.Conv, target: Target) -> tirx.PrimFunc:
    """A convolution of any rank, group count and dilation over plain tensors."""
    lowering = Lowering(graph)

    def product(source: Index, filter_: Index) -> Expr:
        return widened(lowering.element(op.data, source)) * widened(lowering.element(op.weight, filter_))

    def finish(index: Index, value: Expr) -> Expr:
        return value if op.bias is None else value + widened(lowering.element(op.bias, (index[1],)))

    _convolve(lowering, op, op.weight.type.sizes, product, finish)
    return lowering.builder.finish()


def general_conv_sum(
    graph: Graph, op: ConvSum, target: Target, place_of: Callable[[Places, Expr], Expr]
) -> tirx.PrimFunc:
    """A convolution of bytes summed in int32, plus the offset of a result's filter and place."""
    lowering = Lowering(graph)

    def product(source: Index, filter_: Index) -> Expr:
        data, weight = lowering.element(op.data, source), lowering.element(op.weight, filter_)
        return data.astype("int32") * weight.astype("int32")

    def finish(index: Index, value: Expr) -> Expr:
        at = [index[1]]
        for axis, places in enumerate(op.places()[: op.offset.type.rank - 1]):
            is_one = op.offset.type.sizes[1 + axis] == 1
            at.append(integer(0) if is_one else place_of(places, index[2 + axis]))
        return value + lowering.element(op.offset, at)

    _convolve(lowering, op, op.weight.type.sizes, product, finish)
    return lowering.builder.finish()


@kernel_rule(quant.ConvInteger)
def _conv_integer(graph: Graph, op: quant.ConvInteger, target: Target) -> tirx.PrimFunc:
    """A convolution of integers less their zero points, summed in int32; the padding is the zero point."""
    lowering = Lowering(graph)

    def centred(value: Value, zero: Value | None, index: Index, channel: Expr) -> Expr:
        wide = lowering.element(value, index).astype("int32")
        if zero is None:
            return wide
        at = [integer(0) if size == 1 else channel for size in zero.type.sizes]
        return wide - lowering.element(zero, at).astype("int32")

    def product(source: Index, filter_: Index) -> Expr:
        data = centred(op.data, op.data_zero_point, source, integer(0))
        return data * centred(op.weight, op.weight_zero_point, filter_, filter_[0])

    _convolve(lowering, op, op.weight.type.sizes, product, lambda index, value: value)
    return lowering.builder.finish()


def _convolve(
    lowering: Lowering,
    op: nn.Conv | quant.ConvInteger | ConvSum,
    weight: Sequence[int],
    product: Callable[[Index, Index], Expr],
    finish: Callable[[Index, Expr], Expr],
) -> None:
    """Every result row, its columns accumulated side by side over channels and taps.

    product(data index, weight index) is one term; finish(result index, sum) the result.
    """
    assert op.operands[0] is not None
    data, sizes = op.operands[0].type.sizes, op.type.sizes
    spatial = len(data) - 2
    window = op.window(data[2:], tuple(weight))
    channels, kernel, per_group = weight[1], weight[2:], max(1, sizes[1] // op.group)
    zero = literal(0, computing_type(op.type))

    def term(index: Index, inner: Index) -> Expr:
        n, k, *place = index
        c, *tap = inner
        source, inside = [], []
        for axis in range(spatial):
            step, reach = integer(window.strides[axis]), integer(window.dilations[axis])
            at = place[axis] * step + tap[axis] * reach - integer(window.pads[axis])
            if window.pads[axis] or window.pads[spatial + axis]:
                inside += [at >= integer(0), at < integer(data[2 + axis])]
            source.append(at)
        channel = tirx.floordiv(k, integer(per_group)) * integer(channels) + c

        def inner_product() -> Expr:
            return product((n, channel, *source), (k, c, *tap))

        return lowering.guarded(tirx.all(*inside), inner_product, lambda: zero) if inside else inner_product()

    accumulate_columns(
        lowering, op.type, sizes, (channels, *kernel), lambda inner, place: term(place, inner), SUM,
        lambda place, value: store_result(lowering, op, place, finish(place, value)),
    )  # fmt: skip
