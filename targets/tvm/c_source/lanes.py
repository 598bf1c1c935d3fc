# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportOperatorIssue=false
"""Statements over vectors as loops over their lanes.

    partial[ramp(0, 1, 8)] = partial[ramp(0, 1, 8)] + partial[ramp(8, 1, 8)]
    →  for lane in range(8): partial[lane] = partial[lane] + partial[8 + lane]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import tvm
from tvm import tirx

Expr: TypeAlias = Any
Refused: TypeAlias = Callable[[str], Exception]

_BINARY = (
    tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Min, tirx.Max,
    tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or,
)  # fmt: skip


def is_vector(store: tirx.BufferStore) -> bool:
    """Whether a store is of more than one element."""
    return tvm.DataType(str(store.value.ty.dtype)).lanes != 1


def lane_by_lane(store: tirx.BufferStore, refused: Refused) -> tirx.Stmt:
    """The loop of stores of one lane each, where no lane reads what another has written."""
    lanes = tvm.DataType(str(store.value.ty.dtype)).lanes
    lane = tirx.Var("lane", "int32")
    scalar = _Lane(lane, refused)
    *outer, last = store.indices
    if not isinstance(last, tirx.Ramp):
        raise refused("a store of a vector to one place")
    _require_apart(store, last, lanes, refused)
    place = [*map(scalar.visit, outer), scalar.visit(last)]
    one = tirx.BufferStore(store.buffer, scalar.visit(store.value), place)
    return tirx.For(lane, tirx.IntImm("int32", 0), tirx.IntImm("int32", lanes), tirx.ForKind.SERIAL, one)


def _require_apart(store: tirx.BufferStore, place: tirx.Ramp, lanes: int, refused: Refused) -> None:
    """Refuse where a lane may read another lane's new value: loads are at the place itself, or off it."""
    for load in _loads(store.value):
        if not load.source.same_as(store.buffer):
            continue
        index = load.indices[-1]
        bases = [index.base, place.base] if isinstance(index, tirx.Ramp) else []
        if len(load.indices) != 1 or not all(isinstance(base, tirx.IntImm) for base in bases) or not bases:
            raise refused("a vector that is computed from the place where it is stored")
        distance = abs(int(bases[0]) - int(bases[1]))
        if 0 < distance < lanes:
            raise refused("a vector that is computed from one which it overlaps")


def _loads(node: Expr) -> list[Expr]:
    match node:
        case tvm.ir.TensorLoad():
            return [node]
        case tirx.Let():
            return [*_loads(node.value), *_loads(node.body)]
        case tirx.Select():
            return [*_loads(node.condition), *_loads(node.true_value), *_loads(node.false_value)]
        case tirx.Cast() | tirx.Broadcast():
            return _loads(node.value)
        case tirx.Not():
            return _loads(node.a)
        case tvm.ir.Call():
            return [load for argument in node.args for load in _loads(argument)]
    return [*_loads(node.a), *_loads(node.b)] if isinstance(node, _BINARY) else []


class _Lane:
    """One lane of vector expressions."""

    def __init__(self, lane: tirx.Var, refused: Refused) -> None:
        self.lane = lane
        self.refused = refused
        self._bound: list[tuple[Expr, Expr]] = []

    def visit(self, node: Expr) -> Expr:
        """The lane's part; a scalar is its own."""
        if isinstance(node, tirx.Var):
            return next((new for old, new in self._bound if old.same_as(node)), node)
        if tvm.DataType(str(node.ty.dtype)).lanes == 1:
            return node
        match node:
            case tirx.Ramp():
                return node.base + self.lane * node.stride
            case tirx.Broadcast():
                return node.value
            case tvm.ir.TensorLoad():
                return node.source[tuple(self.visit(index) for index in node.indices)]
            case tirx.Cast():
                return tirx.Cast(_scalar(node), self.visit(node.value))
            case tirx.Select():
                parts = (node.condition, node.true_value, node.false_value)
                return tirx.Select(*(self.visit(part) for part in parts))
            case tirx.Not():
                return tirx.Not(self.visit(node.a))
            case tirx.Let():
                value = self.visit(node.value)
                variable = tirx.Var(node.var.name, str(value.ty.dtype))
                self._bound.append((node.var, variable))
                return tirx.Let(variable, value, self.visit(node.body))
            case tvm.ir.Call() if getattr(node.op, "name", "") in ("tirx.isnan", "tirx.reinterpret"):
                return self._call(node)
        if isinstance(node, _BINARY):
            return type(node)(self.visit(node.a), self.visit(node.b))
        name = getattr(getattr(node, "op", None), "name", type(node).__name__)
        raise self.refused(f"a vector made by {name}")

    def _call(self, node: tvm.ir.Call) -> Expr:
        argument = self.visit(node.args[0])
        if node.op.name == "tirx.isnan":
            return tirx.isnan(argument)
        return tirx.reinterpret(_scalar(node), argument)


def _scalar(node: Expr) -> str:
    return str(tvm.DataType(str(node.ty.dtype))).split("x")[0]
