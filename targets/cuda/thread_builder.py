# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
"""Plain loops for a GPU: what is a task on a CPU is a thread.

    kernel = ThreadBuilder()
    x, y = kernel.buffer("x", (n,)), kernel.buffer("y", (n,))
    with kernel.tasks("i", n) as i:                        # thread i of as many blocks as that takes
        kernel.store(y, [i], x[i])
    func = kernel.finish()

Where a task combines many terms, the threads of a warp do it together: told by `work_together` before
`tasks`, each takes every 32nd term, and `combined` joins what they have found.

Parameters appear in the order of the `buffer` calls, `code` behind them where the kernel can give up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import tvm
from tvm import tirx

from rtcc.targets.cuda.instructions import SHUFFLE_XOR
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index

WARP = 32
"""Threads that go in step."""

MOST_THREADS = 256
"""Of a block: as many as leave a thread registers enough."""

SPREAD = 128
"""Blocks that there should be before they get larger than a warp: about one for each multiprocessor."""


class ThreadBuilder(FunctionBuilder):
    """Collects one kernel's parameters and statements; `finish` gives what `build_device_code` takes."""

    is_per_element: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._params: list[Any] = []
        self._block, self._thread = (tirx.Var(name, "int32") for name in ("block", "thread"))
        self._threads = tirx.Var("threads", "int32")
        self._extents: list[int] = []
        self._gives_up = False

    def work_together(self, terms: int, dtype: str) -> None:
        if terms >= WARP and dtype in ("float32", "int32"):
            self.width = WARP

    @contextmanager
    def tasks(self, name: str, extent: int) -> Iterator[Index]:
        """What the thread, or the threads, of each of `extent` iterations do; others do nothing."""
        self._extents.append(extent * self.width)
        position: Expr = self._block * self._threads + self._thread
        if self.width > 1:
            width = tirx.IntImm("int32", self.width)
            self.lane = self.bind("lane", tirx.truncmod(self._thread, width))
            position = tirx.truncdiv(position, width)
        with self.when(position < tirx.IntImm("int32", extent)):
            yield self.bind(name, position)

    @contextmanager
    def by_one(self) -> Iterator[None]:
        with self.when(tirx.EQ(self.lane, tirx.IntImm("int32", 0)) if self.width > 1 else None):
            yield

    def combined(self, value: Expr, join: Callable[[Expr, Expr], Expr]) -> Expr:
        kind = vm.scalar_type(value)
        distance = self.width // 2
        while distance:
            moved = vm.bits(SHUFFLE_XOR(vm.bits(value, "float32"), distance), kind)
            value = self.kept(join(value, self.kept(moved)))
            distance //= 2
        return value

    def give_up(self, code: Index) -> None:
        """End the thread, reporting a negative error code; others go on."""
        self._gives_up = True
        self.store(self.code, [0], code if isinstance(code, tvm.ir.Expr) else tirx.IntImm("int32", code))
        self.append(tirx.Evaluate(tirx.call_intrin("void", "tirx.thread_return")))

    def prefetch_from(self, *_: object) -> None:
        """Nothing: other threads run while one waits for memory."""

    def finish(self, attrs: dict[str, object] | None = None) -> tirx.PrimFunc:
        """The function, within the extents of blocks and threads."""
        extent = max(self._extents, default=1)
        threads = threads_of(extent)
        func = super().finish(attrs)
        body = tirx.SeqStmt([tirx.Bind(self._threads, tirx.IntImm("int32", threads)), func.body])
        blocks = max(1, -(-extent // threads))
        axes = ((self._thread, "threadIdx.x", threads), (self._block, "blockIdx.x", blocks))
        for var, tag, count in axes:
            axis = tirx.IterVar(tvm.ir.Range(0, count), var, tirx.IterVar.ThreadIndex, tag)
            body = tirx.AttrStmt(axis, "thread_extent", tirx.IntImm("int32", count), body)
        params = [*self._params, *([self.code] if self._gives_up else [])]
        return tirx.PrimFunc(params, body, func.ret_type, func.attrs)


def threads_of(extent: int) -> int:
    """Threads of a block, of a kernel of so many: few while that makes more multiprocessors busy."""
    threads = WARP
    while threads < MOST_THREADS and extent >= 2 * threads * SPREAD:
        threads *= 2
    return threads
