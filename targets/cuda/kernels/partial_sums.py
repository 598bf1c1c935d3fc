# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Sums whose terms blocks divide among them: what each has found, in scratch, and a launch that adds it up.

    scratch[part][image][row][column]            columns padded to whole groups of four

A thread adds the parts of neighbouring results in their order, from the first on, and goes on as a block does
that has all terms. So results are the same from run to run, and those of bytes to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.gemm_tiles import GemmShape
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm.function_builder import Expr, Index, vector

Place = tuple[Index, Index, Index]
"""Image, row and column of a result; of several neighbours the first one's."""

Sums = Callable[[Index], Expr]
"""The sum of each of neighbouring results."""

Finish = Callable[[Place, Sums], None]
"""Stores what becomes of sums."""

THREADS = 64
"""Of a block that adds up: few, so that there are many blocks."""


@dataclass(frozen=True)
class PartialSums:
    """The sums of a product's parts in scratch; count: neighbours that are stored, and loaded, at once."""

    kernel: DeviceBuilder
    shape: GemmShape
    parts: int
    count: int
    buffer: tirx.Buffer

    @classmethod
    def declared(
        cls, kernel: DeviceBuilder, shape: GemmShape, parts: int, count: int, dtype: str
    ) -> PartialSums | None:
        """The kernel's last parameter, where there are several parts; dtype: TVM's name of the sums."""
        if parts == 1:
            return None
        lines = parts * shape.batch * shape.rows
        return cls(kernel, shape, parts, count, kernel.buffer("scratch", (lines, shape.pitch), dtype))

    def of_part(self, part: Index) -> Finish:
        """Stores the sums of a part, as far as there are such results."""
        return lambda at, sums: self._store(part, at, sums)

    def _store(self, part: Index, at: Place, sums: Sums) -> None:
        _, row, column = at
        exists = row < self.shape.rows
        store_neighbours(self.kernel, self.buffer, [self._line(part, at)], column, self.count, sums, exists)

    def add_up(self, finish: Finish) -> None:
        """All parts' sums of this thread's results, finished."""
        kernel, kind = self.kernel, str(self.buffer.ty.dtype)
        with self._results() as at:
            total, found = (kernel.local(name, (self.count,), kind) for name in ("total", "found"))
            place, every = vector(at[2], self.count), vector(0, self.count)
            kernel.store(total, [every], self.buffer[self._line(0, at), place])
            with kernel.unrolled("part", self.parts - 1, 1) as part:
                kernel.store(found, [every], self.buffer[self._line(part, at), place])
                with kernel.unrolled("lane", self.count) as lane:
                    kernel.store(total, [lane], total[lane] + found[lane])
            finish(at, lambda lane: total[lane])

    def _line(self, part: Index, at: Place) -> Index:
        image, row, _ = at
        return (part * self.shape.batch + image) * self.shape.rows + row

    @contextmanager
    def _results(self) -> Iterator[Place]:
        """The place of this thread's results, where it has some."""
        kernel, shape = self.kernel, self.shape
        groups = -(-shape.columns // self.count)
        number = kernel.bind("result", kernel.block_index[0] * THREADS + kernel.thread_index[0])
        with kernel.when(number < groups * shape.rows * shape.batch):
            line = tirx.truncdiv(number, groups)
            image, row = tirx.truncdiv(line, shape.rows), tirx.truncmod(line, shape.rows)
            column = tirx.truncmod(number, groups) * self.count
            yield kernel.bind("image", image), kernel.bind("row", row), kernel.bind("column", column)


Declare = Callable[[DeviceBuilder], tuple[Finish, PartialSums | None]]
"""Declares a product's parameters in a kernel: how results are stored, and the scratch of several parts."""


def adding_kernel(shape: GemmShape, count: int, declare: Declare) -> tirx.PrimFunc:
    """The kernel that adds up what a product left in scratch, a thread for so many neighbouring results."""
    threads = shape.batch * shape.rows * -(-shape.columns // count)
    kernel = DeviceBuilder((-(-threads // THREADS), 1, 1), (THREADS, 1, 1))
    finish, partial = declare(kernel)
    assert partial is not None, "blocks divide the terms"
    partial.add_up(finish)
    return kernel.finish()


def part_and_image(outer: Index, batch: int, parts: int) -> tuple[Index, Index]:
    """Which part of which image's product a block computes, by its place on the grid's third axis."""
    if parts == 1:
        return 0, outer
    return tirx.truncdiv(outer, batch), tirx.truncmod(outer, batch)
