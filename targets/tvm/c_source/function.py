# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
"""A kernel's PrimFunc as one C99 function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import tvm
import tvm_ffi
from tvm import tirx

from rtcc.artifact.codes import BY_VALUE
from rtcc.emission.c_kernel import PLACEHOLDER, CKernel
from rtcc.targets.tvm.c_source.arithmetic import arithmetic
from rtcc.targets.tvm.c_source.code import SUM, Code, fits, limits
from rtcc.targets.tvm.c_source.expressions import Expressions
from rtcc.targets.tvm.c_source.lanes import is_vector, lane_by_lane
from rtcc.targets.tvm.c_source.lines import WIDTH, Lines
from rtcc.targets.tvm.outlined import Outlined

Stmt: TypeAlias = Any

NONE: Mapping[str, Outlined] = MappingProxyType({})

_COUNTERS = {"task_index": "i"}
"""What counters are called that say more to whoever divides loops among threads."""


def c_kernel(
    func: tirx.PrimFunc, functions: Mapping[str, Outlined] = NONE, *, sums_fit: bool = False
) -> CKernel:
    """The C of a PrimFunc as `build.build_object` takes it, as one task.

    functions: what it calls by name besides the C library's. sums_fit: what it accumulates in 32 bits stays
    there, as `verify` holds sums of bytes to. Raises Unsupported `unsupported-in-c`.
    """
    return _Function(func, functions, sums_fit=sums_fit).kernel()


class _Function:
    def __init__(self, func: tirx.PrimFunc, functions: Mapping[str, Outlined], *, sums_fit: bool) -> None:
        task, tasks, *self.buffers, self.code = func.params
        self.func = func
        self.lines = Lines()
        self.expressions = Expressions(self.lines, functions)
        self.sums_fit = sums_fit
        self.can_fail = False
        self.failure = "0"
        self.restrict = "" if func.attrs and "tirx.noalias" in func.attrs else "restrict "
        for var, value in ((task, 0), (tasks, 1)):
            self.expressions.declare(var, Code(str(value), "int32", 0, value, value))
        for buffer in self.buffers:
            self.lines.names_of[hash(buffer)] = self.lines.new_name(buffer.name)

    def kernel(self) -> CKernel:
        """The function and what it calls."""
        self.statement(self.func.body)
        body = self.lines.text()
        written = {hash(each) for each in self.written(self.func.body)}
        types = [self.pointer(each, hash(each) in written) for each in self.buffers]
        names = [self.lines.names_of[hash(each)] for each in self.buffers]
        declared = [type.replace("@", name) for type, name in zip(types, names, strict=True)]
        unused = [name for name in names if not _mentions(body, name)]
        lines = [f"    (void){name};" for name in unused] + ([body] if body else [])
        if self.can_fail:
            lines.append("    return RTCC_OK;")
        result = "int32_t" if self.can_fail else "void"
        head = _wrapped(f"static RTCC_APART {result} {PLACEHOLDER}(", declared)
        return CKernel(
            "\n".join([head, "{", *lines, "}", ""]),
            tuple(type.split("(*")[0].split("*")[0].strip() + " *" for type in types),
            self.can_fail, self.expressions.helpers,
            tuple(sorted(self.expressions.headers)),
        )  # fmt: skip

    def pointer(self, buffer: Any, is_written: bool) -> str:
        """A parameter's declaration, @ for its name: a pointer to elements, or to rows of them.

        What is read may lie in two parameters, so only what is written is `restrict`.
        """
        type = self.expressions.c_type(str(buffer.ty.dtype))
        const, restrict = ("", self.restrict) if is_written else ("const ", "")
        inner = "".join(f"[{int(extent)}]" for extent in buffer.ty.shape[1:])
        return f"{const}{type} (*{restrict}@){inner}" if inner else f"{const}{type} *{restrict}@"

    def written(self, stmt: Stmt) -> list[Any]:
        """The buffers that statements store to."""
        match stmt:
            case tirx.BufferStore():
                return [stmt.buffer]
            case tirx.SeqStmt():
                return [each for part in stmt.seq for each in self.written(part)]
            case tirx.IfThenElse():
                cases = [stmt.then_case, *([stmt.else_case] if stmt.else_case else [])]
                return [each for part in cases for each in self.written(part)]
            case tirx.For() | tirx.While() | tirx.AttrStmt():
                return self.written(stmt.body)
        return []

    def statement(self, stmt: Stmt) -> None:
        match stmt:
            case tirx.SeqStmt():
                for part in stmt.seq:
                    self.statement(part)
            case tirx.For():
                self.loop(stmt)
            case tirx.While():
                self.repeat(stmt)
            case tirx.IfThenElse():
                self.branch(stmt)
            case tirx.BufferStore():
                self.store(stmt)
            case tirx.Bind():
                self.expressions.bind(stmt.var, self.expressions.visit(stmt.value))
            case tirx.AllocBuffer():
                self.allocate(stmt.buffer)
            case tirx.Return():
                self.returned()
            case tirx.Evaluate():
                self.evaluate(stmt.value)
            case _:
                raise self.expressions.refused(f"TIR's statement {type(stmt).__name__}")

    def loop(self, stmt: tirx.For) -> None:
        low, count = (self.expressions.visit(each) for each in (stmt.min, stmt.extent))
        if stmt.thread_binding is not None or (stmt.step is not None and int(stmt.step) != 1):
            raise self.expressions.refused(f"a loop of kind {stmt.kind}")
        if count.number == 0:
            return
        if count.number == 1:
            self.expressions.bind(stmt.loop_var, low)
            self.statement(stmt.body)
            return
        wanted = stmt.loop_var.name.removesuffix("_step")
        name = self.lines.names.counter(_COUNTERS.get(wanted, wanted))
        end = count.text if low.number == 0 else _sum(low, count)
        last = max(low.high + count.high - 1, low.low)
        bounds = (low.low, last) if fits(low.low, last, "int32") else limits("int32")
        self.expressions.declare(stmt.loop_var, Code(name, "int32", 0, *bounds))
        with self.lines.block(f"for (int32_t {name} = {low.text}; {name} < {end}; {name}++)"):
            self.statement(stmt.body)
        self.lines.names.close(name)

    def repeat(self, stmt: tirx.While) -> None:
        with self.lines.captured() as before:
            test = self.expressions.visit(stmt.condition)
        with self.lines.block("for (;;)" if before else f"while ({test.text})", before):
            if before:
                self.lines.add(f"if (!({test.text}))")
                self.lines.add("    break;")
            self.statement(stmt.body)

    def branch(self, stmt: tirx.IfThenElse) -> None:
        test = self.expressions.visit(stmt.condition)
        if test.number is not None:
            chosen = stmt.then_case if test.number else stmt.else_case
            if chosen is not None:
                self.statement(chosen)
            return
        with self.lines.deeper() as then:
            self.statement(stmt.then_case)
        with self.lines.deeper() as otherwise:
            if stmt.else_case is not None:
                self.statement(stmt.else_case)
        self.lines.add(f"if ({test.text}) {{")
        self.lines.extend(then)
        if otherwise:
            self.lines.add("} else {")
            self.lines.extend(otherwise)
        self.lines.add("}")

    def store(self, stmt: tirx.BufferStore) -> None:
        if stmt.buffer.same_as(self.code):
            value = self.expressions.visit(stmt.value)
            known = value.number in BY_VALUE
            self.failure = f"RTCC_{BY_VALUE[value.low].name}" if known else value.text
            return
        if is_vector(stmt):
            self.statement(lane_by_lane(stmt, self.expressions.refused))
            return
        value = self.stored(stmt)
        place = self.expressions.place(stmt.buffer, list(stmt.indices))
        text = _assignment(place, value.text)
        if hash(stmt.buffer) in self.expressions.scalars:
            self.lines.define(place, text)
        else:
            self.lines.add(text)

    def stored(self, stmt: tirx.BufferStore) -> Code:
        """What is stored; a sum that goes on is known to stay in its type where `sums_fit`."""
        value = stmt.value
        if self.sums_fit and isinstance(value, tirx.Add) and isinstance(value.a, tvm.ir.TensorLoad):
            before = value.a
            goes_on = before.source.same_as(stmt.buffer) and stmt.buffer.ty.storage_scope == "local"
            if goes_on and all(map(tvm_ffi.structural_equal, before.indices, stmt.indices)):
                parts = self.expressions.visit(before), self.expressions.visit(value.b)
                return arithmetic("+", *parts, fits_by_contract=True)
        return self.expressions.visit(value)

    def allocate(self, buffer: Any) -> None:
        type = self.expressions.c_type(str(buffer.ty.dtype))
        name = self.lines.new_name(buffer.name)
        self.lines.names_of[hash(buffer)] = name
        self.expressions.declare(buffer, Code(name, "int32"))
        extents = [int(extent) for extent in buffer.ty.shape]
        if extents == [1]:
            self.expressions.scalars[hash(buffer)] = name
            self.lines.define(name, f"{type} {name};")
            return
        self.lines.define(name, f"{type} {name}{''.join(f'[{extent}]' for extent in extents)};")

    def returned(self) -> None:
        self.can_fail = True
        self.lines.add(f"return {self.failure};")

    def evaluate(self, value: Any) -> None:
        """Nothing but hints to a cache are evaluated for what they do."""
        name = getattr(getattr(value, "op", None), "name", "")
        if not isinstance(value, tirx.IntImm) and name != "tirx.call_llvm_intrin":
            raise self.expressions.refused(f"a call of {name}")


def _mentions(body: str, name: str) -> bool:
    return f"{name}[" in body


def _sum(low: Code, count: Code) -> str:
    if low.number is not None and count.number is not None:
        return str(low.number + count.number)
    return f"{low.within(SUM)} + {count.within(SUM - 1)}"


def _assignment(place: str, value: str) -> str:
    """`x += y;` for `x = x + y;`"""
    for operator in "+-*":
        head = f"{place} {operator} "
        if value.startswith(head) and _is_one_operand(value[len(head) :], operator):
            return f"{place} {operator}= {_unbracketed(value[len(head) :])};"
    return f"{place} = {value};"


def _is_one_operand(text: str, operator: str) -> bool:
    """Whether what follows an operator is its right operand: no operator as weak stands outside brackets."""
    weaker = "+-<>=?:&|^%/*" if operator == "*" else "+-<>=?:&|^"
    depth = 0
    for before, character in zip(" " + text, text, strict=False):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and before == " " and character in weaker:
            return False
    return True


def _unbracketed(text: str) -> str:
    """Without brackets around the whole."""
    if not text.startswith("("):
        return text
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0 and place < len(text) - 1:
            return text
    return text[1:-1]


def _wrapped(head: str, parameters: Sequence[str]) -> str:
    one = f"{head}{', '.join(parameters)})"
    if len(one) <= WIDTH:
        return one
    return head + "\n    " + ",\n    ".join(parameters) + ")"
