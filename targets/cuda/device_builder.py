# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Writing a GPU kernel's TIR statement by statement: what one thread of a block does.

    kernel = DeviceBuilder(grid=(rows, 1, 1), block=(256, 1, 1))
    x = kernel.buffer("x", (rows, 1024))
    y = kernel.buffer("y", (rows, 1024))
    (row, _, _), (thread, _, _) = kernel.block_index, kernel.thread_index
    held = kernel.shared("held", (1024,))
    kernel.copy_async(held, [thread * 4], x, [row, thread * 4], 4)
    kernel.commit()
    kernel.wait(0)                  # this thread's own copies have arrived
    kernel.barrier()                # so have those of all others
    kernel.store(y, [row, vector(thread * 4, 4)], held[vector(1020 - thread * 4, 4)])
    func = kernel.finish()

Parameters appear in the order of the `buffer` calls. Buffers are aligned to 16 bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import tirx

from rtcc.targets.cuda import instructions
from rtcc.targets.cuda.instructions import Instruction
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, sequence

Triple = tuple[int, int, int]

ALIGNMENT = 16
"""Of every buffer, in bytes: the widest load and the widest copy."""

WARP = 32
"""Threads that go in step."""

_AXES = "xyz"


class DeviceBuilder(FunctionBuilder):
    """Collects one kernel's parameters and statements; `finish` gives what `build_device_code` takes.

    block_index, thread_index: this thread's place on three axes; 0 where an axis has one place.
    """

    def __init__(self, grid: Triple, block: Triple) -> None:
        super().__init__()
        self._params = []
        self.grid, self.block = grid, block
        self.block_index, self.thread_index = _places("block", grid), _places("thread", block)

    def buffer(self, name: str, shape: Sequence[int], dtype: str = "float32") -> tirx.Buffer:
        """A parameter: an array in C order in global memory."""
        buffer = tirx.decl_buffer(tuple(shape), dtype, name, data_alignment=ALIGNMENT)
        self._params.append(buffer)
        return buffer

    def local(self, name: str, shape: Sequence[int], dtype: str = "float32") -> tirx.Buffer:
        """A thread's own registers, where all indices are constants once loops are unrolled."""
        return self._held(name, shape, dtype, "local")

    def shared(self, name: str, shape: Sequence[int], dtype: str = "float32") -> tirx.Buffer:
        """Memory that the threads of a block share; together at most 48 KiB."""
        return self._held(name, shape, dtype, "shared")

    def vectors(self, buffer: tirx.Buffer, lanes: int) -> tirx.Buffer:
        """The same memory as so many vectors one after the other: a load of one is one instruction."""
        return self._viewed(buffer, lanes, f"by_{lanes}")

    def flat(self, buffer: tirx.Buffer) -> tirx.Buffer:
        """The same memory as one axis."""
        return self._viewed(buffer, 1, "flat")

    def run(self, call: Expr) -> None:
        """An instruction without a result."""
        self.append(tirx.Evaluate(call))

    def barrier(self) -> None:
        """Wait for all threads of the block, which see then what each has written to shared memory."""
        self.run(instructions.barrier())

    def copy_async(
        self,
        shared: tirx.Buffer,
        place: Sequence[Index],
        source: tirx.Buffer,
        index: Sequence[Index],
        elements: int,
        condition: Expr | None = None,
    ) -> None:
        """Begin to copy neighbouring elements of global memory to shared memory; 4, 8 or 16 bytes.

        They are there after `commit`, `wait` and `barrier`. Where the condition does not hold they are zeros,
        and the source need not exist.
        """
        size = elements * tvm.DataType(str(source.ty.dtype)).bits // 8
        there = tirx.IntImm("int32", size)
        if condition is not None:
            there = tirx.Select(condition, there, tirx.IntImm("int32", 0))
        copy: Instruction = instructions.COPIES[size]
        self.run(copy(tirx.address_of(shared[tuple(place)]), tirx.address_of(source[tuple(index)]), there))

    def commit(self) -> None:
        """Make a group of this thread's copies since the last one."""
        self.run(instructions.COMMIT())

    def wait(self, groups: int) -> None:
        """Wait until at most so many of this thread's groups of copies have not arrived."""
        self.run(instructions.wait(groups)())

    def finish(self, attrs: dict[str, object] | None = None) -> tirx.PrimFunc:
        """The function, launched as grid and block say; `attrs` as `device_code` documents them."""
        assert len(self._blocks) == 1, "a loop or condition is still open"
        body: tirx.Stmt = sequence(self._blocks[0])
        for space, places, extents in (
            ("thread", self.thread_index, self.block),
            ("block", self.block_index, self.grid),
        ):
            for axis, place, extent in zip(_AXES, places, extents, strict=True):
                if isinstance(place, tirx.Var):
                    index = tirx.IterVar(tvm.ir.Range(0, extent), place, 1, f"{space}Idx.{axis}")
                    body = tirx.AttrStmt(index, "thread_extent", tirx.IntImm("int32", extent), body)
        func: Any = tirx.PrimFunc(self._params, body)
        for key, value in (attrs or {}).items():
            func = func.with_attr(key, value)
        return func.with_attr("s_tir", True)

    def _viewed(self, buffer: tirx.Buffer, lanes: int, suffix: str) -> tirx.Buffer:
        kind = buffer.ty
        count = math.prod(int(extent) for extent in kind.shape)
        assert count % lanes == 0, f"{count} elements are no vectors of {lanes}"
        dtype = f"{kind.dtype}x{lanes}" if lanes > 1 else str(kind.dtype)
        view = tirx.decl_buffer(
            (count // lanes,), dtype, f"{buffer.name}_{suffix}", data=buffer.data, scope=kind.storage_scope,
            data_alignment=ALIGNMENT,
        )  # fmt: skip
        self.append(tirx.DeclBuffer(view, data=buffer.data))
        return view

    def _held(self, name: str, shape: Sequence[int], dtype: str, scope: str) -> tirx.Buffer:
        buffer = tirx.decl_buffer(tuple(shape), dtype, name, scope=scope, data_alignment=ALIGNMENT)
        self.append(tirx.AllocBuffer(buffer))
        return buffer


def _places(space: str, extents: Triple) -> tuple[Expr, ...]:
    return tuple(
        tirx.Var(f"{space}_{axis}", "int32") if extent > 1 else tirx.IntImm("int32", 0)
        for axis, extent in zip(_AXES, extents, strict=True)
    )
