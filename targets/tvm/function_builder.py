# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Writing a kernel's TIR statement by statement.

    kernel = FunctionBuilder()
    x = kernel.buffer("x", (rows, 64))
    y = kernel.buffer("y", (rows, 64))
    with kernel.tasks("row", rows) as row:                 # this task's share of the rows
        with kernel.unrolled("c", 4) as c:
            kernel.store(y, [row, vector(c * 16, 16)], x[row, vector(c * 16, 16)])
    func = kernel.finish()

Parameters appear in the order of the `buffer` calls, after `task` and `tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeAlias

import tvm
from tvm import tirx

from rtcc.targets.tvm.let_floating import float_lets

Expr: TypeAlias = Any
"""A `tvm.ir.Expr`; TVM is untyped, its operators unknown to a type checker."""

Index: TypeAlias = Any
"""An `Expr` of type int32, or an int."""

READ, DATA = 0, 1
"""Arguments of LLVM's prefetch instruction."""

FIRST_CACHE, SECOND_CACHE = 3, 2
"""Its localities: which cache lines are fetched to."""

LINE_FLOATS = 16
"""Floats of a cache line."""

LINE_BYTES = 64


def vector(start: Index, lanes: int) -> Expr:
    """The index of `lanes` consecutive elements from `start` (`start` itself for one lane)."""
    if lanes == 1:
        return start if isinstance(start, tvm.ir.Expr) else tirx.IntImm("int32", start)
    return tirx.Ramp(start, tirx.IntImm("int32", 1), lanes)


def splat(value: Expr | float, lanes: int, dtype: str = "float32") -> Expr:
    """A vector whose lanes all hold `value` (the scalar itself for one lane)."""
    if not isinstance(value, tvm.ir.Expr):
        value = tirx.const(value, dtype)
    return value if lanes == 1 else tirx.Broadcast(value, lanes)


def bounded(step: int, extent: int, start: Index) -> Index:
    """How many of `step` iterations from `start` lie below `extent`; a constant where all always do."""
    return step if extent % step == 0 else tirx.Min(tirx.IntImm("int32", step), extent - start)


def share(extent: int, task: Expr, tasks: Expr) -> tuple[Expr, Expr]:
    """First iteration and one past the last of a task's share of `extent` iterations.

    ⌊task · extent / tasks⌋, without the product: that may exceed 31 bits.
    """
    whole = tirx.truncdiv(tirx.IntImm("int32", extent), tasks)
    rest = tirx.truncmod(tirx.IntImm("int32", extent), tasks)
    bounds = [count * whole + tirx.truncdiv(count * rest, tasks) for count in (task, task + 1)]
    return bounds[0], bounds[1]


def sequence(statements: list[tirx.Stmt]) -> tirx.Stmt:
    """Statements one after the other; none do nothing."""
    if not statements:
        return tirx.Evaluate(tirx.IntImm("int32", 0))
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)


class FunctionBuilder:
    """Collects one kernel's parameters and statements; `finish` gives what `build.build_object` takes.

    is_per_element: whether tasks are so many that each had best be one element or row, as on a GPU. On CPUs
    tasks are few, and loops inside them run over neighbours, which share a vector register.
    """

    is_per_element: ClassVar[bool] = False

    width: int = 1
    """Threads that do a task together, and meet where they combine what each has found."""

    lane: Index = 0
    """Which of them this one is."""

    def __init__(self) -> None:
        self.task = tirx.Var("task", "int32")
        self.task_count = tirx.Var("tasks", "int32")
        self.code = tirx.decl_buffer((1,), "int32", "code", data_alignment=4)
        self._params: list[tirx.Var] = [self.task, self.task_count]
        self._blocks: list[list[tirx.Stmt]] = [[]]

    def buffer(self, name: str, shape: Sequence[int], dtype: str = "float32") -> tirx.Buffer:
        """A parameter: an array in C order, aligned to its elements."""
        size = max(1, tvm.DataType(dtype).bits // 8)
        buffer = tirx.decl_buffer(tuple(shape), dtype, name, data_alignment=size)
        self._params.append(buffer)
        return buffer

    def local(self, name: str, shape: Sequence[int], dtype: str = "float32") -> tirx.Buffer:
        """Registers or stack, to the end of the enclosing block; at most `build.STACK_BYTES`."""
        buffer = tirx.decl_buffer(tuple(shape), dtype, name, scope="local", data_alignment=64)
        self.append(tirx.AllocBuffer(buffer))
        return buffer

    def append(self, stmt: tirx.Stmt) -> None:
        """Add any statement at the current place."""
        self._blocks[-1].append(stmt)

    def store(self, buffer: tirx.Buffer, index: Sequence[Index], value: Expr) -> None:
        """buffer[index] = value; a vector value needs a vector last index."""
        self.append(tirx.BufferStore(buffer, self._floated(value), list(index)))

    def prefetch(
        self, buffer: tirx.Buffer, index: Sequence[Index], count: int, cache: int = FIRST_CACHE
    ) -> None:
        """Ask for the cache lines of so many elements of a row from its beginning; they need not exist."""
        self.prefetch_from(buffer, (*index, 0), count, cache)

    def prefetch_from(self, buffer: tirx.Buffer, index: Sequence[Index], count: int, cache: int) -> None:
        """Ask for the cache lines of so many elements in storage order from one of them."""
        numbers = [tirx.IntImm("int32", number) for number in (READ, cache, DATA)]
        for start in range(0, count, LINE_BYTES * 8 // tvm.DataType(str(buffer.ty.dtype)).bits):
            place = tirx.address_of(buffer[(*index[:-1], index[-1] + start)])
            self.append(tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", place, *numbers)))

    def bind(self, name: str, value: Expr | int) -> Expr:
        """A name for a value from here to the end of the enclosing block; constants stay constants."""
        if isinstance(value, int | tirx.IntImm):
            return value if isinstance(value, tirx.IntImm) else tirx.IntImm("int32", value)
        var = tirx.Var(name, str(value.ty.dtype))
        self.append(tirx.Bind(var, self._floated(value)))
        return var

    def give_up(self, code: Index) -> None:
        """Leave the kernel, reporting a negative error code."""
        self.store(self.code, [0], code if isinstance(code, tvm.ir.Expr) else tirx.IntImm("int32", code))
        self.append(tirx.Return(tirx.IntImm("int32", 0)))

    @contextmanager
    def serial(self, name: str, extent: Index, start: Index = 0) -> Iterator[Index]:
        """A loop over start, start + 1, …, start + extent - 1."""
        yield from self._loop(name, start, extent, tirx.ForKind.SERIAL)

    @contextmanager
    def serial_by(self, name: str, extent: Index, start: Index, together: int) -> Iterator[Index]:
        """As `serial`, so many iterations of `together` that divide it written out in each round."""
        if together == 1:
            with self.serial(name, extent, start) as number:
                yield number
            return
        with self.serial(name, extent // together) as turn, self.unrolled("k", together) as k:
            yield start + turn * together + k

    @contextmanager
    def unrolled(self, name: str, extent: int, start: int = 0) -> Iterator[Index]:
        """A loop from start, written out in full, so that indices into locals become constants."""
        yield from self._loop(name, start, extent, tirx.ForKind.UNROLLED)

    @contextmanager
    def tasks(self, name: str, extent: int) -> Iterator[Index]:
        """The outermost loop: this task's share of `extent` iterations."""
        low, high = share(extent, self.task, self.task_count)
        low = self.bind(name + "_begin", low)
        with self.serial(name + "_step", high - low) as step:
            yield self.bind(name, low + step)

    def work_together(self, terms: int, dtype: str) -> None:
        """Told before `tasks` how many terms of which type each of them combines.

        Where threads are many, several may do each task together from then on.
        """

    @contextmanager
    def by_one(self) -> Iterator[None]:
        """Statements that one of the threads does which do a task together."""
        yield

    def combined(self, value: Expr, join: Callable[[Expr, Expr], Expr]) -> Expr:
        """What the threads of a task have found, joined: the same for all of them."""
        return value

    @contextmanager
    def repeated(self, condition: Expr) -> Iterator[None]:
        """Statements done as long as the condition holds, which reads what they store."""
        self._blocks.append([])
        yield
        self.append(tirx.While(condition, sequence(self._blocks.pop())))

    @contextmanager
    def when(self, condition: Expr | None) -> Iterator[None]:
        """Statements done only where the condition holds; None is no condition."""
        if condition is None:
            yield
            return
        self._blocks.append([])
        yield
        body = self._blocks.pop()
        if body:
            self.append(tirx.IfThenElse(condition, sequence(body), None))

    def finish(self, attrs: dict[str, object] | None = None) -> tirx.PrimFunc:
        """The function; `attrs` as `build.build_object` documents them."""
        assert len(self._blocks) == 1, "a loop or condition is still open"
        func: Any = tirx.PrimFunc([*self._params, self.code], sequence(self._blocks[0]))
        for key, value in (attrs or {}).items():
            func = func.with_attr(key, value)
        return func.with_attr("s_tir", True)

    def _floated(self, value: Expr) -> Expr:
        return float_lets(value, self.kept)

    def kept(self, value: Expr) -> Expr:
        """A value computed once, held in a local buffer that LLVM turns into a register.

        For floats and truth values that are used more than once: TVM visits what a `bind` stands for at
        each use, so that chains of those cost 2^length. Indices are better bound: a buffer hides their range.
        """
        kind = tvm.DataType(str(value.ty.dtype))
        scalar = str(kind).split("x")[0]
        place = self.local("v", (kind.lanes,), scalar)
        index = vector(0, kind.lanes)
        self.append(tirx.BufferStore(place, self._floated(value), [index]))
        return place[index]

    def _loop(self, name: str, start: Index, extent: Index, kind: int) -> Iterator[Index]:
        var = tirx.Var(name, "int32")
        self._blocks.append([])
        yield var
        body = self._blocks.pop()
        if body:
            self.append(tirx.For(var, start, extent, kind, sequence(body)))
