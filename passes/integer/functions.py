"""Elementwise functions of one tensor, from quantised numbers to quantised ones, as tables."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rtcc.ir import Constant, DType, Op, Value
from rtcc.ir.ops.elementwise import Elementwise
from rtcc.ir.ops.requantization import quantized
from rtcc.ir.ops.tables import BYTES, Curve, Lookup
from rtcc.passes.integer.curves import curve_of
from rtcc.passes.integer.values import Array, QuantizedTensor, TensorParameters, dequantized, unscaled
from rtcc.pipeline import Rewriter

MOST_OPS = 16
"""Of a function: more are no activation."""


def tabulated(value: Value, to: TensorParameters, rw: Rewriter) -> Value | None:
    """A function of quantised numbers, or of an integer sum, quantised; None where it is no such.

    Of quantised numbers the table has every result, as float32 arithmetic gives it. Of a sum it is a curve.
    """
    found = _source(value)
    if found is None:
        return None
    source, ops = found
    plain = dequantized(source)
    if plain is not None:
        return _looked_up(plain, lambda x: _evaluated(ops, source, value, x), to, rw)
    total = unscaled(source)
    if total is None or not value.has_one_use or not all(use.op in ops for use in source.uses):
        return None
    scale = total[1].array
    if not (scale > 0).all():
        return None
    curve = curve_of(lambda x: _evaluated(ops, source, value, x), float(scale.max()), to)
    if curve is None:
        return None
    factor = rw.constant((scale.astype(np.float64) / curve.step).astype(np.float32), name="factor")
    below = rw.constant(np.array(curve.below, np.uint8), name="below")
    table = rw.constant(curve.table, name="curve")
    return Curve(total[0], factor, below, table, to=to.dtype.value).result


def _source(value: Value) -> tuple[Value, list[Op]] | None:
    """The one value that an elementwise function reads beside constants, and its ops in order.

    Nothing else reads what it computes on the way.
    """
    ops: list[Op] = []
    reads: dict[Value, None] = {value: None}
    while len(ops) < MOST_OPS:
        if len(reads) == 1 and (dequantized(only := next(iter(reads))) or unscaled(only)):
            return (only, ops[::-1]) if ops else None
        inner = next((each for each in reads if _is_inner(each, value, ops)), None)
        if inner is None or inner.producer is None:
            return None
        ops.append(inner.producer)
        del reads[inner]
        reads |= {each: None for each in inner.producer.present_operands if not _is_number(each)}
    return None


def _is_inner(value: Value, last: Value, ops: list[Op]) -> bool:
    """Whether a value is computed elementwise in float32, for a function's ops alone."""
    op = value.producer
    if not isinstance(op, Elementwise) or value.type.dtype is not DType.F32:
        return False
    if dequantized(value) is not None or unscaled(value) is not None:
        return False
    shapes = {each.type.shape for each in op.present_operands if not _is_number(each)}
    is_alone = value is last or all(use.op in ops for use in value.uses)
    return is_alone and shapes == {value.type.shape} and op.deterministic


def _is_number(value: Value) -> bool:
    return isinstance(value, Constant) and value.data.size == 1


def _evaluated(ops: list[Op], source: Value, result: Value, x: Array) -> Array:
    """The function at a vector of numbers, in their precision."""
    known: dict[Value, Array] = {source: x}
    for op in ops:
        operands = (_operand(each, known) for each in op.operands)
        found = op.evaluate(*operands)
        known[op.result] = found[0] if isinstance(found, tuple) else found
    return known[result]


def _operand(value: Value | None, known: dict[Value, Array]) -> Array | None:
    if value is None or value in known:
        return None if value is None else known[value]
    assert isinstance(value, Constant)
    return value.array.reshape(())


def _looked_up(
    source: QuantizedTensor, function: Callable[[Array], Array], to: TensorParameters, rw: Rewriter
) -> Value:
    """The results for all bytes, in the order of their bits."""
    integers = np.arange(BYTES, dtype=np.uint8).view(source.value.type.dtype.numpy).astype(np.int32)
    numbers = (integers - source.zero).astype(np.float32) * source.scale
    results = quantized(function(numbers) / to.scale, np.array(to.zero), to.dtype)
    return Lookup(source.value, rw.constant(results, name="table")).result
