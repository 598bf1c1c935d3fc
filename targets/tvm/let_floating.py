# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Takes `Let` out of an expression and has each bound value computed in front of it.

    y[i] = (let v = exp(x) in v + v) · 2   →   v[0] = exp(x);  y[i] = (v[0] + v[0]) · 2

TVM's analyser visits the value of every scalar binding again for each use, so nested ones cost 2^depth (four
tanh in a row: five seconds). It does not look through a local buffer, and LLVM turns that into a register.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import tvm
from tvm import tirx

Expr: TypeAlias = Any

_BINARY = (
    tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max,
    tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.And, tirx.Or,
    tirx.LShift, tirx.RShift, tirx.BitwiseAnd, tirx.BitwiseOr, tirx.BitwiseXor,
)  # fmt: skip
_LEAVES = (tirx.Var, tirx.IntImm, tirx.FloatImm, tvm.ir.TensorLoad, tirx.Ramp, tvm.ir.StringImm)
_LAZY = "prim.if_then_else"


def float_lets(value: Expr, keep: Callable[[Expr], Expr]) -> Expr:
    """The expression without its Lets; `keep` stores a bound value and gives the expression that reads it.

    Lets stay inside the branches of `if_then_else`, which must not be evaluated ahead of their condition, and
    inside indices.
    """
    return _Floating(keep).visit(value)


class _Floating:
    def __init__(self, keep: Callable[[Expr], Expr]) -> None:
        self._keep = keep
        # By address, since == builds an expression. The node is kept beside what it became: a node that only
        # lives while a parent is looked at would leave its address to another one.
        self._done: dict[int, list[tuple[Expr, Expr]]] = {}
        self._conditional = 0

    def visit(self, node: Expr) -> Expr:
        known = self._known(node)
        return self._remember(node, self._rebuilt(node)) if known is None else known

    def _known(self, node: Expr) -> Expr | None:
        return next((new for old, new in self._done.get(hash(node), ()) if old.same_as(node)), None)

    def _remember(self, node: Expr, new: Expr) -> Expr:
        self._done.setdefault(hash(node), []).append((node, new))
        return new

    def _rebuilt(self, node: Expr) -> Expr:
        match node:
            case tirx.Let() if self._conditional:
                return tirx.Let(node.var, self.visit(node.value), self.visit(node.body))
            case tirx.Let():
                if self._known(node.var) is None:
                    self._remember(node.var, self._keep(self.visit(node.value)))
                return self.visit(node.body)
            case tirx.Select():
                parts = [node.condition, node.true_value, node.false_value]
                return self._with(node, parts, lambda new: tirx.Select(*new))
            case tirx.Cast():
                return self._with(node, [node.value], lambda new: tirx.Cast(str(node.ty.dtype), *new))
            case tirx.Not() | tirx.BitwiseNot():
                return self._with(node, [node.a], lambda new: type(node)(*new))
            case tirx.Broadcast():
                return self._with(node, [node.value], lambda new: tirx.Broadcast(new[0], node.lanes))
            case tirx.Shuffle():
                indices = list(node.indices)
                return self._with(node, list(node.vectors), lambda new: tirx.Shuffle(new, indices))
            case tvm.ir.Call():
                return self._call(node)
        if isinstance(node, _BINARY):
            return self._with(node, [node.a, node.b], lambda new: type(node)(*new))
        assert isinstance(node, _LEAVES), f"no rule for {type(node)}"
        return node

    def _call(self, node: Expr) -> Expr:
        arguments = list(node.args)
        if getattr(node.op, "name", "") == _LAZY:
            head = self.visit(arguments[0])
            self._conditional += 1
            branches = [self.visit(argument) for argument in arguments[1:]]
            self._conditional -= 1
            return self._copy(node, [head, *branches])
        return self._with(node, arguments, lambda new: self._copy(node, new))

    @staticmethod
    def _copy(node: Expr, arguments: list[Expr]) -> Expr:
        return tvm.ir.Call(node.op, arguments, node.attrs, list(node.ty_args), ret_ty=node.ty)

    def _with(self, node: Expr, parts: list[Expr], build: Callable[[list[Expr]], Expr]) -> Expr:
        new = [self.visit(part) for part in parts]
        return node if all(hash(a) == hash(b) for a, b in zip(parts, new, strict=True)) else build(new)
