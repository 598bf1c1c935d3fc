"""eliminate-common: compute equal things once."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass
from typing import Any

from rtcc.ir import Constant, Graph, Module, Op, RegionOp, Return, Value
from rtcc.ir.ops.math import Add, And, Equal, Identity, Mul, Or, Xor
from rtcc.pipeline import Pass, Rewriter, exact

COMMUTATIVE = (Add, Mul, And, Or, Xor, Equal)
"""Operators whose two operands may be swapped without changing a bit."""

Key = tuple[Any, ...]
Known = ChainMap[Key, list[Op]]


@dataclass(frozen=True)
class EliminateCommon(Pass):
    """Replace an op by an earlier one with equal operands and attributes.

    add(exp(x), exp(x))  →  %e = exp(x); add(%e, %e)

    An op in a nested region may be replaced by one outside it, not the other way round. Constants count
    as equal when their bytes are; each keeps its symbol as long as an op reads it. Ops with effects,
    regions, or results that differ from run to run stay.
    """

    exactness = exact

    def run(self, module: Module) -> bool:
        rewriter = Rewriter(module, self.name)
        for graph in module.graphs.values():
            _merge_in(graph, ChainMap(), rewriter)
        rewriter.tidy_constants()
        return rewriter.changes > 0


def _merge_in(graph: Graph, known: Known, rewriter: Rewriter) -> None:
    """One sweep in program order; `known` holds ops that surely ran before."""
    for op in graph.ops:
        for region in op.regions:
            _merge_in(region, known.new_child(), rewriter)
        if _can_merge(op):
            _merge(op, known, rewriter)


def _can_merge(op: Op) -> bool:
    if isinstance(op, RegionOp | Return | Identity):
        return False
    return op.deterministic and not op.has_effects and bool(op.results)


def _merge(op: Op, known: Known, rewriter: Rewriter) -> None:
    key = _key(op)
    candidates = known.get(key, [])
    for earlier in candidates:
        if _same_constants(earlier, op):
            rewriter.replace(op, *earlier.results)
            earlier.location = earlier.location.merge(op.location).by(rewriter.pass_name)
            return
    known[key] = [*candidates, op]


def _key(op: Op) -> Key:
    """What equal ops share; constants count by type here and are compared by their bytes later."""
    operands = [_operand_key(value) for value in _ordered(op)]
    attributes = [repr(op.attributes.get(name, slot.default)) for name, slot in op.attribute_slots.items()]
    return (type(op), tuple(r.type for r in op.results), tuple(operands), tuple(attributes))


def _operand_key(value: Value | None) -> object:
    return value.type if isinstance(value, Constant) else value


def _ordered(op: Op) -> tuple[Value | None, ...]:
    """The operands, those of a commutative op in an order that does not depend on how they stand."""
    if not isinstance(op, COMMUTATIVE):
        return op.operands
    return tuple(sorted(op.operands, key=_rank))


def _rank(value: Value | None) -> tuple[str, int]:
    return (value.symbol, 0) if isinstance(value, Constant) else ("", id(value))


def _same_constants(left: Op, right: Op) -> bool:
    pairs = zip(_ordered(left), _ordered(right), strict=True)
    return all(
        a is b or (isinstance(a, Constant) and isinstance(b, Constant) and a.content == b.content)
        for a, b in pairs
    )
