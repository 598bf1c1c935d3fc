"""The rounding errors that a graph's results may have: every op's by its rule, in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.interpreter import interpret_graph
from rtcc.ir import Constant, Graph, Return, TensorType, Value
from rtcc.ir.op import Array
from rtcc.rounding.bounded import Bounded, stored, unit_of
from rtcc.rounding.rules import errors_of, is_exact


def analysed(graph: Graph, feeds: Sequence[Array]) -> list[Bounded]:
    """Each result of a graph without regions, in float64, with how far from it compiled code may be.

    feeds: one array per parameter, as for `interpret_graph`; they are exact. Raises Unsupported
    `no-error-bound` for an operator that has no rule.
    """
    wide: dict[Value, Array] = {}
    interpret_graph(graph, feeds, precision="f64", observe=wide.__setitem__)
    known: dict[Value, Bounded] = {}
    for parameter, feed in zip(graph.parameters, feeds, strict=True):
        known[parameter] = Bounded.exact(_widened(parameter.type, feed), unit_of(parameter.type.dtype))
    for op in graph.ops:
        if isinstance(op, Return):
            break
        operands = [None if v is None else _operand(v, known) for v in op.operands]
        errors = errors_of(op, operands, [wide[result] for result in op.results])
        for result, error in zip(op.results, errors, strict=True):
            bounded = Bounded(wide[result], error, unit_of(result.type.dtype))
            known[result] = bounded if is_exact(op) else stored(bounded, result.type.dtype)
    return [_operand(value, known) for value in graph.returned]


def _operand(value: Value, known: dict[Value, Bounded]) -> Bounded:
    if isinstance(value, Constant) and value not in known:
        known[value] = Bounded.exact(_widened(value.type, value.array), unit_of(value.type.dtype))
    return known[value]


def _widened(type: TensorType, array: Array) -> Array:
    return np.asarray(array, np.float64) if type.dtype.is_float else np.asarray(array)
