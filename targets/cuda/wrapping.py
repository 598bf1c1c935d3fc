# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
"""Integer arithmetic as TIR means it, in what the code generator prints as it stands: it wraps.

In C++, which CUDA C is, integers of 8 and 16 bits become `int` before anything is computed, so what leaves
their range reaches whoever reads the result in the same expression; and a signed overflow means nothing, so
nvcc takes x + 1 > x for true.

    u8: a + b         →  u8(u32(a) + u32(b))
    i32: x[i] + y[i]  →  i32(u32(x[i]) + u32(y[i]))

Indices stay as they are: no sum of what loops and threads count leaves int32 (`require_short_indices`), and
nvcc makes better addresses of signed numbers. What is read from memory is data, an index among it too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr

NARROW = {"int8": "uint32", "uint8": "uint32", "int16": "uint32", "uint16": "uint32"}
SIGNED = {"int32": "uint32", "int64": "uint64"}
"""Types whose results need care, and the type without overflow in which they are computed."""

ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul)
DIVISIONS = (tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod)
"""Their results leave a narrow type once: the least number by -1."""

SHIFTED_LEFT, COMPLEMENT = "tirx.shift_left", "tirx.bitwise_not"


def wrapping(body: tirx.Stmt) -> tirx.Stmt:
    """The same statements, whose integers wrap however C++ computes them."""
    return _Wrapping(body).result()


class _Wrapping:
    """The variables that stand for data, of the statements that are rewritten."""

    def __init__(self, body: tirx.Stmt) -> None:
        self.body = body
        self.data: set[Any] = set()
        tvm_ffi.structural_walk(body, [(tirx.Bind, self._note)], order="pre")

    def result(self) -> tirx.Stmt:
        callbacks: list[tuple[type, Callable[[Any], Any]]] = [
            *((kind, self._arithmetic) for kind in ARITHMETIC),
            *((kind, self._division) for kind in DIVISIONS),
            (ir.Call, self._call),
        ]
        return tvm_ffi.structural_map(self.body, callbacks, order="post")

    def _note(self, bind: tirx.Bind) -> None:
        if self._is_data(bind.value):
            self.data.add(bind.var)

    def _is_data(self, expr: Expr) -> bool:
        """Whether memory decides a value."""
        found: list[Any] = []
        callbacks = [
            (ir.TensorLoad, found.append),
            (tirx.Var, lambda var: found.append(var) if var in self.data else None),
        ]
        tvm_ffi.structural_walk(expr, callbacks, order="pre")
        return bool(found)

    def _wide(self, expr: Expr) -> str | None:
        """The type in which a result is computed, of those that need care."""
        kind = vm.scalar_type(expr)
        wide = NARROW.get(kind) or (SIGNED.get(kind) if self._is_data(expr) else None)
        return wide and vm.typed(expr, wide)

    def _arithmetic(self, expr: Expr) -> Expr:
        wide = self._wide(expr)
        if wide is None:
            return expr
        return tirx.Cast(str(expr.ty.dtype), type(expr)(_unsigned(expr.a, wide), _unsigned(expr.b, wide)))

    def _division(self, expr: Expr) -> Expr:
        if vm.scalar_type(expr) not in NARROW:
            return expr
        whole = vm.typed(expr, "int32")
        return tirx.Cast(str(expr.ty.dtype), type(expr)(expr.a.astype(whole), expr.b.astype(whole)))

    def _call(self, call: ir.Call) -> Expr:
        name = getattr(call.op, "name", "")
        wide = self._wide(call) if name in (SHIFTED_LEFT, COMPLEMENT) else None
        if wide is None:
            return call
        arguments = [_unsigned(each, wide) for each in call.args]
        return tirx.Cast(str(call.ty.dtype), tirx.call_intrin(wide, name, *arguments))


def _unsigned(expr: Expr, wide: str) -> Expr:
    """A number of as many bits or fewer in an unsigned type: the same modulo 2 to the power of its bits."""
    match expr:
        case tirx.IntImm():
            return tirx.const(int(expr.value) % (1 << tvm_ffi.dtype(wide).bits), wide)
        case tirx.Broadcast():
            return tirx.Broadcast(_unsigned(expr.value, wide.split("x")[0]), expr.lanes)
        case _:
            return tirx.Cast(wide, expr)
