"""What reads a tensor of a true size reads the whole buffer instead, and its result is truncated.

    op(truncate(x, n))  →  truncate(op(x), n)

where elements behind the true size come to lie behind the true size again, and change no other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce as reduce_by
from math import prod

import numpy as np

from rtcc.errors import RtccError
from rtcc.ir import DType, Expression, Op, RegionOp, Return, TensorType, Value
from rtcc.ir.dimension import FloorDiv, Symbol, upper_bound
from rtcc.ir.dtype import Kind
from rtcc.ir.ops import indexing, math, movement, nn, reduce, shapes, softmax
from rtcc.ir.ops.axes import normal_axes, normal_axis
from rtcc.ir.ops.bounded import Truncate
from rtcc.ir.ops.computed import integer_limits
from rtcc.ir.roles import Role
from rtcc.ir.shape_value import known_integers
from rtcc.passes.legalization.selection import truncated
from rtcc.passes.legalization.writer import Writer
from rtcc.pipeline.rewriter import Rewriter, rewrite


def open_axes(type: TensorType) -> set[int]:
    """The axes whose size the data decide."""
    return {axis for axis, size in enumerate(type.shape) if isinstance(size, Expression)}


@rewrite(Op)
def sink_truncation(op: Op, rw: Rewriter) -> None:
    """op(truncate(x))  →  truncate(op(x)), where what lies behind the true size stays there"""
    if isinstance(op, Truncate | Return) or len(_counts(op)) != 1:
        return
    found = _whole(op, Writer(rw, "bounded"))
    if found is None:
        return
    (count,) = _counts(op)
    pairs = zip(found.results, op.results, strict=True)
    rw.replace(op, *(truncated(new, old.type, count) for new, old in pairs))


def _whole(op: Op, write: Writer) -> Op | None:
    """The op on whole buffers; None where the elements behind the true size would matter."""
    if op.role is Role.ELEMENTWISE:
        return _again(op) if _keeps_axes(op) else None
    if op.reshapes:
        return _reshaped(op, write)
    rule = next((rule for kind, rule in _RULES.items() if isinstance(op, kind)), None)
    return None if rule is None else rule(op, write)


def _counts(op: Op) -> set[Value]:
    """What counts the sizes of truncated operands."""
    return {cut.count for value in op.present_operands if (cut := _cut(value)) is not None}


def _cut(value: Value | None) -> Truncate | None:
    """The op by which a value is the true part of a larger buffer."""
    if value is None or value.type.is_static or not isinstance(value.producer, Truncate):
        return None
    return value.producer


def _data(value: Value | None) -> Value | None:
    """The whole buffer where a value is part of one."""
    cut = _cut(value)
    return value if cut is None else cut.data


def _again(op: Op, *operands: Value | None) -> Op | None:
    """The op on whole buffers (or on the operands given), if its results are as large as they may be."""
    given = operands or tuple(map(_data, op.operands))
    try:
        new = type(op)(*given, like=op, results=len(op.results))
    except RtccError:
        return None
    return new if [r.type for r in new.results] == [r.type.largest for r in op.results] else None


def _keeps_axes(op: Op) -> bool:
    """Whether each open axis of an operand is one of the result of the same size."""
    shape = op.type.shape
    return all(
        shape[axis - value.type.rank] == value.type.shape[axis]
        for value in op.present_operands
        for axis in open_axes(value.type)
    )


def _reshaped(op: Op, write: Writer) -> Op | None:
    """One open axis, with as many elements behind it before and after."""
    before, after = op.operands[0], op.type
    assert before is not None
    ends = [_behind_open_axis(type) for type in (before.type, after)]
    if ends[0] is None or ends[0] != ends[1]:
        return None
    data = _data(before)
    assert data is not None
    return write.reshape(data, *after.largest.sizes).producer


def _behind_open_axis(type: TensorType) -> tuple[object, int] | None:
    """The size of the one open axis, and the elements behind each of its places."""
    axes = open_axes(type)
    if len(axes) != 1:
        return None
    (axis,) = axes
    return type.shape[axis], prod(upper_bound(size) for size in type.shape[axis + 1 :])


def _transposed(op: Op, write: Writer) -> Op | None:
    return _again(op)


def _along(op: Op, write: Writer) -> Op | None:
    """Operators that treat every row along `axis` alone: where the axis is open, its rest must not count."""
    data = op.operands[0]
    assert data is not None
    axis = normal_axis(op, op.attributes.get("axis", op.attribute_slots["axis"].default), data.type.rank)
    if axis not in open_axes(data.type):
        return _again(op)
    last = _LAST.get(type(op))
    if last is None or op.attributes.get("select_last_index", 0) or data.type.dtype is DType.BOOL:
        return None
    return _again(op, _masked(data, write, last(data.type.dtype)))


def _concatenated(op: movement.Concat, write: Writer) -> Op | None:
    axis = normal_axis(op, op.axis, op.type.rank)
    kept = open_axes(op.type)
    is_alike = all(open_axes(value.type) == kept for value in op.inputs)
    return _again(op) if is_alike and axis not in kept else None


def _sliced(op: movement.Slice, write: Writer) -> Op | None:
    rank = op.data.type.rank
    starts = known_integers(op.starts) or ()
    given = tuple(range(len(starts))) if op.axes is None else known_integers(op.axes)
    if given is None or open_axes(op.data.type) & set(normal_axes(op, given, rank)):
        return None
    return _again(op)


def _gathered(op: indexing.Gather, write: Writer) -> Op | None:
    """Indices behind the true size become 0, which is one everywhere."""
    axis = normal_axis(op, op.axis, op.data.type.rank)
    if axis in open_axes(op.data.type) or op.data.type.shape[axis] == 0:
        return None
    return _again(op, _data(op.data), _masked(op.indices, write, 0))


def _gathered_by_vectors(op: indexing.GatherND, write: Writer) -> Op | None:
    if op.batch_dims or not op.data.type.is_static or 0 in op.data.type.sizes:
        return None
    return _again(op, op.data, _masked(op.indices, write, 0))


def _reduced(op: reduce.Reduction, write: Writer) -> Op | None:
    """What lies behind the true size becomes what changes no total, where it is reduced."""
    if not open_axes(op.data.type) & set(op.reduced_axes()):
        return _again(op)
    if isinstance(op, reduce.ReduceMean):
        return _averaged(op, write)
    neutral = _NEUTRAL.get(type(op))
    if neutral is None or op.data.type.dtype is DType.BOOL:
        return None
    return _again(op, _masked(op.data, write, neutral(op.data.type.dtype)), op.axes)


def _averaged(op: reduce.ReduceMean, write: Writer) -> Op | None:
    """The sum over the number of elements; narrower types would round or wrap both."""
    cut, type = _cut(op.data), op.data.type
    if cut is None or type.dtype not in (DType.F32, DType.F64):
        return None
    total = reduce.ReduceSum(_masked(op.data, write, 0), op.axes, keepdims=op.keepdims)
    sizes = [type.shape[axis] for axis in op.reduced_axes()]
    known = write.number(prod(size for size in sizes if isinstance(size, int)), DType.I64)
    counts = [_size(size, cut.count, write) for size in sizes if isinstance(size, Expression)]
    return math.Div(total.result, write.cast(reduce_by(write.mul, [known, *counts]), type.dtype))


def _multiplied(op: nn.MatMul, write: Writer) -> Op | None:
    """Rows of a product need one row of its left operand each."""
    left, right = op.left.type, op.right.type
    is_plain = right.is_static and right.rank == 2 and left.rank >= 2
    return _again(op) if is_plain and left.rank - 1 not in open_axes(left) else None


def _multiplied_and_added(op: nn.Gemm, write: Writer) -> Op | None:
    others = [value for value in op.operands[1:] if value is not None]
    is_plain = not op.transA and all(value.type.is_static for value in others)
    return _again(op) if is_plain and 1 not in open_axes(op.left.type) else None


def _measured(op: shapes.Shape, write: Writer) -> Op | None:
    """The sizes as numbers that the count decides, where they decide no other shapes."""
    cut = _cut(op.data)
    if cut is None or _decides_shapes(op.result):
        return None
    sizes = op.data.type.shape[op.start : op.end]
    numbers = [
        write.integers(size) if isinstance(size, int) else write.reshape(_size(size, cut.count, write), 1)
        for size in sizes
    ]
    return movement.Concat(*numbers, axis=0) if numbers else None


def _decides_shapes(value: Value) -> bool:
    """Whether an operator needs to know the value, or what follows from it, when it is compiled."""
    pending, seen = [value], {value}
    while pending:
        for use in pending.pop().uses:
            if use.op.is_static_operand(use.slot) or isinstance(use.op, RegionOp):
                return True
            new = [result for result in use.op.results if result not in seen]
            pending += new
            seen.update(new)
    return False


def _masked(value: Value, write: Writer, fill: float | int) -> Value:
    """The whole buffer with a number behind the true size; the value itself where it is whole."""
    cut, type = _cut(value), value.type
    if cut is None:
        return value
    inside: Value | None = None
    for axis in sorted(open_axes(type)):
        size = type.shape[axis]
        assert isinstance(size, Expression)
        numbers = np.arange(upper_bound(size)).reshape([-1 if a == axis else 1 for a in range(type.rank)])
        holds = math.Less(write.array(numbers, DType.I64), _size(size, cut.count, write)).result
        inside = holds if inside is None else math.And(inside, holds).result
    assert inside is not None
    return write.where(inside, cut.data, write.number(fill, type.dtype))


def _size(size: Expression, count: Value, write: Writer) -> Value:
    """A size over the one symbol that `count` counts, as i64[]."""
    terms = [write.number(size.constant, DType.I64)] if size.constant else []
    for monomial, factor in size.terms:
        factors = [write.number(factor, DType.I64)] if factor != 1 else []
        terms.append(reduce_by(write.mul, [*factors, *(_atom(atom, count, write) for atom in monomial)]))
    return reduce_by(write.add, terms)


def _atom(atom: Symbol | FloorDiv, count: Value, write: Writer) -> Value:
    if isinstance(atom, Symbol):
        bounds = (write.number(bound, DType.I64) for bound in (atom.lower, atom.upper))
        return math.Clip(count, *bounds).result
    return write.div(_size(atom.numerator, count, write), write.number(atom.divisor, DType.I64))


def _extreme(end: int) -> Callable[[DType], float | int]:
    """The largest (end 1) or smallest (0) number of a type."""

    def of(dtype: DType) -> float | int:
        if dtype.kind is Kind.FLOAT:
            return (-np.inf, np.inf)[end]
        return int(integer_limits(dtype.numpy)[end])

    return of


_NEUTRAL: dict[type[Op], Callable[[DType], float | int]] = {
    reduce.ReduceSum: lambda dtype: 0,
    reduce.ReduceSumSquare: lambda dtype: 0,
    reduce.ReduceL1: lambda dtype: 0,
    reduce.ReduceProd: lambda dtype: 1,
    reduce.ReduceMax: _extreme(0),
    reduce.ReduceMin: _extreme(1),
}
"""What may be added to the elements of a reduction and changes nothing."""

_LAST: dict[type[Op], Callable[[DType], float | int]] = {
    softmax.Softmax: _extreme(0),
    softmax.LogSoftmax: _extreme(0),
    reduce.ArgMax: _extreme(0),
    reduce.ArgMin: _extreme(1),
}
"""What counts for nothing, or comes after all others, along the axis of an operator."""

_RULES: dict[type[Op], Callable[..., Op | None]] = {
    movement.Transpose: _transposed,
    movement.Concat: _concatenated,
    movement.Slice: _sliced,
    indexing.Gather: _gathered,
    indexing.GatherND: _gathered_by_vectors,
    softmax.Softmax: _along,
    softmax.LogSoftmax: _along,
    reduce.ArgMax: _along,
    reduce.ArgMin: _along,
    reduce.Reduction: _reduced,
    nn.MatMul: _multiplied,
    nn.Gemm: _multiplied_and_added,
    shapes.Shape: _measured,
}
"""Operators that are not elementwise, and how each reads whole buffers."""

RULES = (sink_truncation,)
