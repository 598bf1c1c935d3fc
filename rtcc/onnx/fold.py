"""The value of a small tensor that constants and known shapes decide, while the graph is being read."""

from __future__ import annotations

import numpy as np

from rtcc.ir import Constant, Op, RegionOp, Value
from rtcc.ir.ops.shapes import Shape, Size
from rtcc.onnx.tensors import Array

LARGEST_FOLDED = 2**16
"""Elements of the largest intermediate value that is computed."""
LONGEST_CHAIN = 2000
"""Ops that one value may take."""


def evaluated(value: Value) -> Array | None:
    """The array, or None when data decides it, or it takes too much to compute.

    Follows producers back to constants and to Shape and Size of tensors of known shape.
    """
    known: dict[Value, Array | None] = {}
    pending = [value]
    while pending:
        current = pending[-1]
        if current in known:
            pending.pop()
            continue
        if len(known) > LONGEST_CHAIN:
            return None
        array = _leaf(current)
        producer = current.producer
        if array is not None or producer is None or not _computable(producer):
            known[current] = array
            continue
        missing = [v for v in producer.present_operands if v not in known]
        if missing and all(known.get(v, 0) is not None for v in producer.present_operands):
            pending.extend(missing)
            continue
        _run(producer, known)
    return known[value]


def _leaf(value: Value) -> Array | None:
    if isinstance(value, Constant):
        return value.array if value.type.elements <= LARGEST_FOLDED else None
    producer = value.producer
    if not isinstance(producer, Shape | Size):
        return None
    if not producer.data.type.is_static:
        return None
    stand_in = np.broadcast_to(np.zeros((), producer.data.type.dtype.numpy), producer.data.type.sizes)
    found = producer.evaluate(stand_in)
    return np.asarray(found[0] if isinstance(found, tuple) else found)


def _computable(op: Op) -> bool:
    return not isinstance(op, RegionOp) and op.deterministic and not op.has_effects


def _run(op: Op, known: dict[Value, Array | None]) -> None:
    """Evaluate one op whose operands are known; None for its results when one of them is not."""
    operands = [None if v is None else known[v] for v in op.operands if v is None or v in known]
    absent = any(v is not None and known.get(v) is None for v in op.operands)
    large = any(r.type.is_static and r.type.elements > LARGEST_FOLDED for r in op.results)
    if absent or large:
        known.update(dict.fromkeys(op.results))
        return
    found = op.evaluate(*operands)
    arrays = found if isinstance(found, tuple) else (found,)
    for result, array in zip(op.results, arrays, strict=False):
        known[result] = np.asarray(array)
