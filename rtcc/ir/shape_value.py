"""What is known about the values of small tensors before anything runs: shape arithmetic in the graph.

Exporters compute shapes inside the graph (Shape → Gather → Mul → Concat → Reshape). `known_value`
follows such chains back to constants and to the dimensions of types, symbolic ones included, so that
Reshape, Expand, Slice… can infer their results before, and without, constant folding.

An element of a known value is a Python number, an `Expression` over dimensions, or None (unknown).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from rtcc.errors import RtccError
from rtcc.ir.dimension import Expression
from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, Op, RegionOp
from rtcc.ir.value import Constant, Value

Number = int | float | Expression
Memo = dict[Value, Array | None]

LARGEST_VALUE = 1024
"""Values with more elements are not followed."""
DEEPEST_CHAIN = 200
"""Chains of more ops than this are not followed."""


def known_shape_value(value: Value) -> tuple[int | Expression, ...] | None:
    """All elements of an integer tensor in row-major order, or None unless every one is known."""
    known = known_value(value)
    if known is None or any(not isinstance(e, int | Expression) for e in known.flat):
        return None
    return tuple(known.flat)


def known_integers(value: Value) -> tuple[int, ...] | None:
    """All elements of an integer (or boolean) tensor as integers, or None unless every one is known."""
    known = known_shape_value(value)
    integers = tuple(e for e in known or () if isinstance(e, int))
    return integers if known is not None and len(integers) == len(known) else None


def known_value(value: Value) -> Array | None:
    """An object array of the value's shape: number, Expression or None for each element.

    None where the shape is symbolic, the value is too large to follow, or it is not numeric.
    """
    return _known(value, {})


def _known(value: Value, memo: Memo) -> Array | None:
    if value in memo:
        return memo[value]
    if not value.type.is_static or value.type.elements > LARGEST_VALUE or value.type.dtype is DType.STRING:
        return None
    memo[value] = _unknown(value)
    if isinstance(value, Constant):
        memo[value] = _objects(value.array)
        return memo[value]
    op = value.producer
    if op is not None and not isinstance(op, RegionOp) and len(memo) < DEEPEST_CHAIN:
        found = _result(op, value, memo)
        if found is not None and found.shape == value.type.shape:
            memo[value] = found
    return memo[value]


def _unknown(value: Value) -> Array:
    return np.full(value.type.sizes, None, object)


def _objects(array: Array) -> Array:
    """The elements as Python numbers."""
    return np.array(array.tolist(), object).reshape(array.shape)


def _result(op: Op, value: Value, memo: Memo) -> Array | None:
    if op.name in _FROM_TYPES:
        return _FROM_TYPES[op.name](op)
    known = [None if v is None else _known(v, memo) for v in op.operands]
    if any(k is None and v is not None for k, v in zip(known, op.operands, strict=True)):
        return None
    numbers = [_as_numbers(k, v) for k, v in zip(known, op.operands, strict=True)]
    if all(n is not None or v is None for n, v in zip(numbers, op.operands, strict=True)):
        return _evaluated(op, value, numbers)
    if op.name in _DATA_OPERANDS:
        return _moved(op, value, known, numbers)
    present = [k for k in known if k is not None]
    if op.name in _ELEMENTWISE and len(present) == len(known):
        return _combined(op, present)
    if op.name in _REDUCTIONS and known[0] is not None and known[0].ndim == 1 and value.type.elements == 1:
        total = _REDUCTIONS[op.name](known[0]) if None not in list(known[0]) else None
        return np.full(value.type.sizes, total, object)
    return None


def _as_numbers(known: Array | None, value: Value | None) -> Array | None:
    """The array itself when every element is a plain number."""
    if known is None or value is None or any(e is None or isinstance(e, Expression) for e in known.flat):
        return None
    return np.array(known.tolist(), value.type.dtype.numpy).reshape(known.shape)


def _evaluated(op: Op, value: Value, arrays: list[Array | None]) -> Array | None:
    if not op.deterministic or not op.operands:
        return None
    try:
        results = op.evaluate(*arrays)
    except RtccError:
        return None
    return _objects(np.asarray(results[value.index] if isinstance(results, tuple) else results))


def _moved(op: Op, value: Value, known: list[Array | None], numbers: list[Array | None]) -> Array | None:
    """Movement does not look at elements: NumPy moves numbers and expressions alike."""
    data = _DATA_OPERANDS[op.name] or len(known)
    arrays = [*known[:data], *numbers[data:]]
    if any(a is None and v is not None for a, v in zip(arrays, op.operands, strict=True)):
        return None
    try:
        results = op.evaluate(*arrays)
    except RtccError:
        return None
    return np.asarray(results[value.index] if isinstance(results, tuple) else results, object)


def _combined(op: Op, known: list[Array]) -> Array:
    function = _ELEMENTWISE[op.name]
    is_integer = op.type.dtype.is_integer

    def element(*operands: Number | None) -> Number | None:
        if any(o is None for o in operands) and function is not _choose:
            return None
        try:
            found = function(*operands)
        except RtccError:
            return None
        if function is _divide and not is_integer and (found is None or found * operands[1] != operands[0]):
            return None
        return int(found) if is_integer and isinstance(found, float) else found

    return np.asarray(np.frompyfunc(element, len(known), 1)(*known), object)


def _shape(op: Op) -> Array:
    data = op.operands[0]
    assert data is not None
    shape = data.type.shape[op.attributes.get("start", 0) : op.attributes.get("end")]
    return np.array([*shape, None], object)[:-1]


def _size(op: Op) -> Array:
    data = op.operands[0]
    assert data is not None
    return np.array(math.prod(data.type.shape), object)


def _integral(number: Number) -> int | Expression:
    """A float that is a whole number, as an integer; an error where arithmetic would not be exact."""
    if isinstance(number, float):
        if not number.is_integer():
            raise RtccError("inexact-shape", f"{number} is not a whole number")
        return int(number)
    return number


def _bounds(number: int | Expression) -> tuple[int, int]:
    return (number, number) if isinstance(number, int) else number.bounds


def _add(a: Number, b: Number) -> Number:
    return _integral(a) + _integral(b)


def _subtract(a: Number, b: Number) -> Number:
    return _integral(a) - _integral(b)


def _multiply(a: Number, b: Number) -> Number:
    return _integral(a) * _integral(b)


def _divide(a: Number, b: Number) -> Number | None:
    """Truncating division, where it is flooring: not of negative numbers."""
    a, b = _integral(a), _integral(b)
    if _bounds(a)[0] < 0 or _bounds(b)[0] < 0 or b == 0:
        return None
    return a // b if isinstance(a, Expression) else None


def _modulo(a: Number, b: Number) -> Number | None:
    quotient = _divide(a, b)
    return None if quotient is None else _subtract(a, _multiply(quotient, b))


def _minimum(first: Number, *others: Number) -> Number | None:
    """The least, where bounds decide which one that is."""
    least = first
    for other in others:
        below = _less(least, other)
        if below is None:
            return None
        least = least if below else other
    return least


def _maximum(first: Number, *others: Number) -> Number | None:
    """The largest, where bounds decide which one that is."""
    largest = first
    for other in others:
        below = _less(largest, other)
        if below is None:
            return None
        largest = other if below else largest
    return largest


def _less(a: Number, b: Number) -> bool | None:
    low, high = _bounds(_integral(a) - _integral(b))
    return True if high < 0 else False if low >= 0 else None


def _greater(a: Number, b: Number) -> bool | None:
    return _less(b, a)


def _less_or_equal(a: Number, b: Number) -> bool | None:
    above = _less(b, a)
    return None if above is None else not above


def _greater_or_equal(a: Number, b: Number) -> bool | None:
    below = _less(a, b)
    return None if below is None else not below


def _equal(a: Number, b: Number) -> bool | None:
    low, high = _bounds(_integral(a) - _integral(b))
    return True if low == high == 0 else False if low > 0 or high < 0 else None


def _negative(a: Number) -> Number:
    return -_integral(a)


def _absolute(a: Number) -> Number | None:
    return a if _bounds(_integral(a))[0] >= 0 else None


def _same(a: Number) -> Number:
    return a


def _whole(a: Number) -> Number:
    return _integral(a)


def _choose(condition: Number | None, chosen: Number | None, other: Number | None) -> Number | None:
    """Where, whose branches may be unknown if they are not taken."""
    if condition is None or isinstance(condition, Expression):
        return None
    return chosen if condition else other


_FROM_TYPES: dict[str, Callable[[Op], Array]] = {"tensor.shape": _shape, "tensor.size": _size}

_DATA_OPERANDS = {
    "tensor.gather": 1, "tensor.slice": 1, "tensor.concat": 0, "tensor.unsqueeze": 1, "tensor.squeeze": 1,
    "tensor.reshape": 1, "tensor.flatten": 1, "tensor.transpose": 1, "tensor.split": 1, "tensor.expand": 1,
    "tensor.tile": 1, "tensor.gather_elements": 1, "tensor.gather_nd": 1,
}  # fmt: skip
"""Ops that only move elements: how many leading operands hold them (0: all)."""

_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "math.add": _add, "math.sub": _subtract, "math.mul": _multiply, "math.div": _divide, "math.mod": _modulo,
    "math.min": _minimum, "math.max": _maximum, "math.less": _less, "math.equal": _equal,
    "math.greater": _greater, "math.less_or_equal": _less_or_equal,
    "math.greater_or_equal": _greater_or_equal,
    "math.neg": _negative, "math.abs": _absolute, "math.identity": _same, "math.cast": _same,
    "math.floor": _whole, "math.ceil": _whole, "math.round": _whole, "math.where": _choose,
}  # fmt: skip

_REDUCTIONS: dict[str, Callable[[Array], Any]] = {
    "reduce.reduce_prod": lambda elements: math.prod(elements),
    "reduce.reduce_sum": lambda elements: sum(elements),
}
