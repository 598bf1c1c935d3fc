# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
"""TIR expressions as C: each construct that C has, in C's own words; all others are refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import tvm
from tvm import tirx

from rtcc.errors import Unsupported
from rtcc.targets.tvm.c_source import arithmetic as c
from rtcc.targets.tvm.c_source import c_functions
from rtcc.targets.tvm.c_source.code import (
    ATOM,
    SHORT,
    TYPES,
    Code,
    floating,
    integer,
    limits,
    unknown,
)
from rtcc.targets.tvm.c_source.lines import Lines
from rtcc.targets.tvm.outlined import Outlined

Expr: TypeAlias = Any

_ARITHMETIC = {tirx.Add: "+", tirx.Sub: "-", tirx.Mul: "*"}
_RELATIONS = {
    tirx.EQ: "==", tirx.NE: "!=", tirx.LT: "<", tirx.LE: "<=", tirx.GT: ">", tirx.GE: ">=",
}  # fmt: skip
_BITWISE = {tirx.BitwiseAnd: "&", tirx.BitwiseOr: "|", tirx.BitwiseXor: "^"}
_LIBRARY = {
    "tirx.floor": "floor", "prim.ceil": "ceil", "tirx.sqrt": "sqrt", "tirx.fabs": "fabs",
    "tirx.nearbyint": "nearbyint",
}  # fmt: skip
"""TIR's own operators that are functions of `math.h`."""

FENCE = "llvm.arithmetic.fence"


class Expressions:
    """Prints expressions within one function; what has no place in a C expression goes in lines before it.

    functions: those of rtcc's own that may be called.
    """

    def __init__(self, lines: Lines, functions: Mapping[str, Outlined]) -> None:
        self.lines = lines
        self.functions = functions
        self.helpers: dict[str, str] = {}
        self.headers: set[str] = set()
        self.scalars: dict[int, str] = {}
        """Buffers of one element that are variables, by identity."""
        self._variables: dict[int, Code] = {}
        self._kept: list[Expr] = []

    def declare(self, var: tirx.Var, code: Code) -> None:
        """What a variable of the TIR stands for from here on."""
        self._kept.append(var)  # its address is its name here, so it must not be given to another
        self._variables[hash(var)] = code

    def c_type(self, dtype: str) -> str:
        """C's name of an element type."""
        if dtype not in TYPES:
            hint = "convert the model to float32 or an integer type"
            raise Unsupported("unsupported-in-c", f"C99 has no type for {dtype}", hint=hint)
        if dtype == "bool":
            self.headers.add("stdbool.h")
        return TYPES[dtype]

    def place(self, buffer: Expr, indices: list[Expr]) -> str:
        """The element of a buffer, to read or to write."""
        name = self.lines.names_of.get(hash(buffer))
        assert name is not None, f"buffer {buffer.name} is not declared"
        if hash(buffer) in self.scalars:
            return name
        return name + "".join(f"[{self.visit(index).text}]" for index in indices)

    def visit(self, node: Expr) -> Code:
        """The expression in C."""
        dtype = str(node.ty.dtype) if not isinstance(node, tvm.ir.StringImm) else ""
        if tvm.DataType(dtype or "int32").lanes != 1:
            raise self.refused(f"a vector of {dtype}")
        self.c_type(dtype)
        kind = type(node)
        if kind in _ARITHMETIC:
            return c.arithmetic(_ARITHMETIC[kind], self.visit(node.a), self.visit(node.b))
        if kind in _RELATIONS:
            return self._relation(_RELATIONS[kind], self.visit(node.a), self.visit(node.b))
        if kind in _BITWISE:
            return c.bitwise(_BITWISE[kind], self.visit(node.a), self.visit(node.b))
        match node:
            case tirx.Var():
                return self._variable(node)
            case tirx.IntImm():
                return integer(int(node.value), dtype)
            case tirx.FloatImm():
                return self._floating(float(node.value), dtype)
            case tvm.ir.TensorLoad():
                return unknown(self.place(node.source, list(node.indices)), dtype)
            case tirx.Cast():
                return c.converted(self.visit(node.value), dtype)
            case tirx.Let():
                return self._let(node)
            case tirx.Select():
                return self._choice(node.condition, node.true_value, node.false_value, dtype)
            case tvm.ir.Call():
                return self._call(node, dtype)
        return self._operator(node)

    def refused(self, what: str) -> Unsupported:
        """The error for a construct that has no C here."""
        return Unsupported("unsupported-in-c", f"this kernel cannot be written in C99: {what}",
                           hint="compile a library instead: leave --emit c out")  # fmt: skip

    def _operator(self, node: Expr) -> Code:
        match node:
            case tirx.Div():
                return c.quotient(self.visit(node.a), self.visit(node.b))
            case tirx.Mod():
                return c.remainder(self.visit(node.a), self.visit(node.b))
            case tirx.FloorDiv() | tirx.FloorMod():
                return self._floored(node)
            case tirx.Min() | tirx.Max():
                return self._extremum("max" if isinstance(node, tirx.Max) else "min", node)
            case tirx.And():
                return c.both(self.visit(node.a), self.visit(node.b))
            case tirx.Or():
                return c.either(self.visit(node.a), self.visit(node.b))
            case tirx.Not():
                return c.negation(self.visit(node.a))
            case tirx.BitwiseNot():
                return c.complement(self.visit(node.a))
            case tirx.LShift():
                return c.shifted_left(self.visit(node.a), self.visit(node.b))
            case tirx.RShift():
                return self._shifted_right(self.visit(node.a), self.visit(node.b))
        raise self.refused(f"TIR's {type(node).__name__}")

    def _variable(self, node: tirx.Var) -> Code:
        found = self._variables.get(hash(node))
        assert found is not None, f"variable {node.name} is not declared"
        return found

    def _floating(self, value: float, dtype: str) -> Code:
        if not math.isfinite(value):
            self.headers.add("math.h")
        return floating(value, dtype)

    def _relation(self, operator: str, a: Code, b: Code) -> Code:
        if operator != "!=" or a.is_integer:
            return c.relation(operator, a, b)
        return unknown(f"{self._helper(f'differs_{SHORT[a.type]}', c_functions.differs_function(a.type))}"
                       f"({a.text}, {b.text})", "bool")  # fmt: skip

    def _floored(self, node: Expr) -> Code:
        a, b = self.visit(node.a), self.visit(node.b)
        is_quotient = isinstance(node, tirx.FloorDiv)
        if a.low >= 0 and b.low > 0:
            return c.quotient(a, b) if is_quotient else c.remainder(a, b)
        if b.low <= 0:
            raise self.refused("a floored division by what may not be positive")
        name = f"floor_{'div' if is_quotient else 'mod'}_{SHORT[a.type]}"
        make = c_functions.floor_division_function if is_quotient else c_functions.floor_remainder_function
        text = f"{self._helper(name, make(a.type))}({a.text}, {b.text})"
        low, high = (a.low // b.low, max(0, a.high // b.low)) if is_quotient else (0, b.high - 1)
        return Code(text, a.type, ATOM, low, high)

    def _extremum(self, name: str, node: Expr) -> Code:
        a, b = self.visit(node.a), self.visit(node.b)
        found = c.extremum(name, a, b)
        if found.text.startswith(f"{name}_"):
            self._helper(f"{name}_{SHORT[a.type]}", c_functions.extremum_function(name, a.type))
        return found

    def _shifted_right(self, a: Code, by: Code) -> Code:
        found = c.shifted_right(a, by)
        if found is not None:
            return found
        name = self._helper(f"shift_right_{SHORT[a.type]}", c_functions.shift_function(a.type))
        low, high = a.low >> max(0, by.low), max(a.high, 0) >> max(0, by.low)
        return Code(f"{name}({a.text}, {by.text})", a.type, ATOM, low, high)

    def _let(self, node: tirx.Let) -> Code:
        self.bind(node.var, self.visit(node.value))
        return self.visit(node.body)

    def bind(self, var: tirx.Var, value: Code) -> None:
        """A variable of the TIR becomes one of C's, unless its value is a number or a constant name."""
        is_name = value.text.isidentifier() and value.text not in self.scalars.values()
        if value.level == ATOM and (value.number is not None or is_name):
            self.declare(var, value)
            return
        name = self.lines.new_name(var.name)
        self.lines.define(name, f"const {self.c_type(value.type)} {name} = {value.text};")
        self.declare(var, Code(name, value.type, ATOM, value.low, value.high))

    def _choice(self, condition: Expr, yes: Expr, no: Expr, dtype: str) -> Code:
        """A condition's alternatives, of which C computes one; in lines where one of them needs some."""
        test = self.visit(condition)
        if test.number is not None:
            return self.visit(yes if test.number else no)
        with self.lines.captured() as yes_lines:
            a = self.visit(yes)
        with self.lines.captured() as no_lines:
            b = self.visit(no)
        if not yes_lines and not no_lines:
            return c.choice(test, a, b)
        name = self.lines.new_name("chosen")
        self.lines.define(name, f"{self.c_type(dtype)} {name};")
        self.lines.add(f"if ({test.text}) {{")
        for lines, code in ((yes_lines, a), (no_lines, b)):
            self.lines.extend(lines, indented=True)
            self.lines.define(name, f"{name} = {code.text};", deeper=1)
            self.lines.add("} else {" if lines is yes_lines else "}")
        return Code(name, dtype, ATOM, min(a.low, b.low), max(a.high, b.high))

    def _call(self, node: tvm.ir.Call, dtype: str) -> Code:
        name, arguments = getattr(node.op, "name", ""), list(node.args)
        if name in _LIBRARY:
            return self._library(_LIBRARY[name] + ("f" if dtype == "float32" else ""), arguments, dtype)
        match name:
            case "prim.if_then_else":
                return self._choice(arguments[0], arguments[1], arguments[2], dtype)
            case "tirx.reinterpret":
                return self._reinterpreted(arguments[0], dtype)
            case "tirx.isnan":
                self.headers.add("math.h")
                return unknown(f"isnan({self.visit(arguments[0]).text})", "bool")
            case "tirx.call_pure_extern" if (own := str(arguments[0].value)) in self.functions:
                texts = ", ".join(self.visit(each).text for each in arguments[1:])
                self._outlined(own)
                return unknown(f"{own}({texts})", dtype)
            case "tirx.call_pure_extern":
                return self._library(str(arguments[0].value), arguments[1:], dtype)
            case "tirx.call_llvm_pure_intrin":
                if int(arguments[0].value) == tvm.get_global_func("target.llvm_lookup_intrinsic_id")(FENCE):
                    return self.visit(arguments[1])  # C is told to join nothing (FP_CONTRACT)
        raise self.refused(f"a call of {name}")

    def _outlined(self, name: str) -> None:
        """Print a function of rtcc's own, and before it what it calls."""
        if name in self.helpers:
            return
        function = self.functions[name]
        inner = Expressions(Lines(), self.functions)
        parameters: list[str] = []
        for var in function.parameters:
            type, own = str(var.ty.dtype), inner.lines.new_name(var.name)
            parameters.append(f"{inner.c_type(type)} {own}")
            inner.declare(var, unknown(own, type))
        result = inner.visit(function.body)
        inner.lines.add(f"return {result.text};")
        for each, text in inner.helpers.items():
            self.helpers.setdefault(each, text)
        self.headers |= inner.headers
        head = f"static {inner.c_type(result.type)} {name}({', '.join(parameters)})"
        self.helpers[name] = f"{head}\n{{\n{inner.lines.text()}\n}}\n"

    def _library(self, name: str, arguments: list[Expr], dtype: str) -> Code:
        self.headers.add("math.h")
        texts = ", ".join(self.visit(each).text for each in arguments)
        return Code(f"{name}({texts})", dtype, ATOM, *limits(dtype))

    def _reinterpreted(self, node: Expr, dtype: str) -> Code:
        """The same bits as another type; there and back again is nothing."""
        if getattr(getattr(node, "op", None), "name", "") == "tirx.reinterpret":
            (inner,) = node.args
            if str(inner.ty.dtype) == dtype:
                return self.visit(inner)
        value = self.visit(node)
        if value.type == dtype:
            return value
        if value.is_integer and not dtype.startswith("float"):
            return c.converted(value, dtype)
        name = c_functions.bits_name(dtype, value.type)
        self.headers.add("string.h")
        self._helper(name, c_functions.bits_function(dtype, value.type))
        return unknown(f"{name}({value.text})", dtype)

    def _helper(self, name: str, text: str) -> str:
        self.helpers[name] = text
        return name
