"""What is known about the values of small tensors before anything runs: shape arithmetic in the graph.

Exporters compute shapes inside the graph (Shape → Gather → Mul → Concat → Reshape). `known_value`
follows such chains back to constants and to the dimensions of types, symbolic ones included, so that
Reshape, Expand, Slice… can infer their results before, and without, constant folding.

An element of a known value is a Python number, an `Expression` over dimensions, or None (unknown).
"""

from __future__ import annotations

import numpy as np

from rtcc.errors import RtccError
from rtcc.ir.dimension import Expression
from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, Op, RegionOp
from rtcc.ir.value import Constant, Value

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
    read = [None if op.is_type_only_operand(index) else v for index, v in enumerate(op.operands)]
    known = [None if v is None else _known(v, memo) for v in read]
    if any(k is None and v is not None for k, v in zip(known, read, strict=True)):
        return None
    numbers = [_as_numbers(k, v) for k, v in zip(known, op.operands, strict=True)]
    if all(n is not None or v is None for n, v in zip(numbers, op.operands, strict=True)):
        return _evaluated(op, value, numbers)
    found = op.known_result(*known)
    return _moved(op, value, known, numbers) if found is None else found


def _as_numbers(known: Array | None, value: Value | None) -> Array | None:
    """The array itself when every element is a plain number that the value's dtype can hold."""
    if known is None or value is None or any(e is None or isinstance(e, Expression) for e in known.flat):
        return None
    try:
        return np.array(known.tolist(), value.type.dtype.numpy).reshape(known.shape)
    except OverflowError:
        return None


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
    is_moved = [op.is_moved_operand(index) for index in range(len(known))]
    arrays = [k if moved else n for k, n, moved in zip(known, numbers, is_moved, strict=True)]
    is_missing = (a is None and v is not None for a, v in zip(arrays, op.operands, strict=True))
    if not any(is_moved) or any(is_missing):
        return None
    try:
        results = op.evaluate(*arrays)
    except RtccError:
        return None
    return np.asarray(results[value.index] if isinstance(results, tuple) else results, object)
