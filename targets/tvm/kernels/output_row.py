# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""One row of a convolution's output, written tile by tile: what all convolution kernels have in common.

A tile holds pixels by blocks accumulators of one vector each. A kernel gives the function that adds up the
products; this module zeroes the accumulators, finishes and stores them, and writes the halo and the padding
lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, bounded, splat, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at, zero_halo_of_row, zero_padding
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, BufferSpec, Epilogue, Position
from rtcc.targets.tvm.kernels.tiling import Tiling
from rtcc.targets.tvm.kernels.window import Window


@dataclass(frozen=True)
class Accumulators:
    """A tile's registers: vector (m, j) is pixel m of block j.

    started: whether they began with what the epilogue adds first.
    """

    buffer: tirx.Buffer
    pixels: int
    blocks: int
    lanes: int
    started: bool = False

    def place(self, m: Index, j: Index) -> Expr:
        """The index of one vector."""
        return vector((m * self.blocks + j) * self.lanes, self.lanes)

    def add(self, kernel: FunctionBuilder, m: Index, j: Index, value: Expr) -> None:
        """acc[m, j] += value."""
        place = self.place(m, j)
        kernel.store(self.buffer, [place], self.buffer[place] + value)

    def add_by_lane(
        self,
        kernel: FunctionBuilder,
        pixels: range,
        data: Callable[[Index], Expr],
        weight: Callable[[int, Index], Expr],
        *,
        clears: bool = False,
    ) -> None:
        """acc[m, j] += data(m)[c] · weight(c, j) for some pixels, all channels c of a block, and all j.

        clears: whatever the accumulators held is forgotten.
        """
        for c in range(self.lanes):
            with kernel.unrolled("m", len(pixels), pixels.start) as m, kernel.unrolled("j", self.blocks) as j:
                product = tirx.Shuffle([data(m)], [c] * self.lanes) * weight(c, j)
                if clears and c == 0:
                    kernel.store(self.buffer, [self.place(m, j)], product)
                else:
                    self.add(kernel, m, j, product)

    def add_all(self, kernel: FunctionBuilder, other: Accumulators) -> None:
        """Add as many sums to these, vector by vector, in this one's element type."""
        dtype = f"{self.buffer.ty.dtype}x{self.lanes}"
        with kernel.unrolled("m", self.pixels) as m, kernel.unrolled("j", self.blocks) as j:
            self.add(kernel, m, j, other.buffer[other.place(m, j)].astype(dtype))

    @staticmethod
    def cleared(
        kernel: FunctionBuilder,
        name: str,
        pixels: int,
        blocks: int,
        lanes: int,
        start: float = 0.0,
        dtype: str = "float32",
    ) -> Accumulators:
        """New accumulators, each lane set to `start`."""
        acc = Accumulators.undefined(kernel, name, pixels, blocks, lanes, dtype)
        with kernel.unrolled("i", pixels * blocks) as i:
            kernel.store(acc.buffer, [vector(i * lanes, lanes)], splat(start, lanes, dtype))
        return acc

    @staticmethod
    def undefined(
        kernel: FunctionBuilder, name: str, pixels: int, blocks: int, lanes: int, dtype: str = "float32"
    ) -> Accumulators:
        """New accumulators that hold anything."""
        buffer = kernel.local(name, (pixels * blocks * lanes,), dtype)
        return Accumulators(buffer, pixels, blocks, lanes)


Reduce = Callable[[Accumulators, Index], None]
"""Adds a tile's products to its accumulators, which begin at the given column."""


@dataclass(frozen=True)
class OutputRow:
    """Row `y` of group `kb` of channel blocks of image `n`, under construction."""

    kernel: FunctionBuilder
    tiling: Tiling
    buffer: tirx.Buffer
    finish: BoundEpilogue
    n: Index
    kb: Index
    y: Index

    def zero_halo(self) -> None:
        """The halo beside this row, and above or below where it is the first or last."""
        for j in range(self.tiling.blocks):
            with self.if_block_exists(j):
                zero_halo_of_row(self.kernel, self.buffer, self.tiling.form, self.n, self._block(j), self.y)

    def first_input_block(self, problem: ConvProblem) -> Index:
        """Where in the input of a convolution the channels begin that this row's filters sum, in blocks."""
        if problem.groups == 1:
            return 0
        filters = problem.filters // problem.groups
        return (
            tirx.truncdiv(self.kb, filters // (problem.lanes * self.tiling.blocks)) * problem.reduction_blocks
        )

    def tiles(self, pixels: int, emit: Callable[[Index, int], None]) -> None:
        """emit(column, pixels) for every whole tile, in a loop, and for what remains."""
        self.tiles_of(self.tiling.form.width, pixels, emit)

    def tiles_of(self, width: int, pixels: int, emit: Callable[[Index, int], None]) -> None:
        """As `tiles`, over any width."""
        whole, rest = divmod(width, pixels)
        if whole:
            with self.kernel.serial("xt", whole) as xt:
                emit(xt * pixels, pixels)
        if rest:
            emit(whole * pixels, rest)

    def edge_tiles(self, pixels: int, window: Window, emit: Callable[[Index, int], None]) -> None:
        """As `tiles`, but a tile whose window leaves the data is outside the loop: its x is a number."""
        width = self.tiling.form.width
        whole = range(width // pixels)
        inside = [i for i in whole if window.inside(i * pixels, pixels) is None]
        for i in whole:
            if i not in inside:
                emit(i * pixels, pixels)
            elif i == inside[0]:
                with self.kernel.serial("xt", len(inside)) as xt:
                    emit((xt + i) * pixels, pixels)
        if width % pixels:
            emit(len(whole) * pixels, width % pixels)

    def accumulators(self, pixels: int, start: float = 0.0, dtype: str = "float32") -> Accumulators:
        """Accumulators for a tile, each lane set to `start`."""
        blocks, lanes = self.tiling.blocks, self.tiling.out.lanes
        return Accumulators.cleared(self.kernel, "acc", pixels, blocks, lanes, start, dtype)

    def started(self, pixels: int, *, by_lane: bool, dtype: str = "float32") -> Accumulators:
        """As `accumulators`; by_lane: whether they begin with what is added per channel, where that is.

        It takes an addition less; a broadcast operand of a product, as x86 has it, is no cheaper for it.
        """
        kernel, out = self.kernel, self.tiling.out
        block = [tirx.Min(self._block(j), out.blocks - 1) for j in range(self.tiling.blocks)]
        starts = [
            self.finish.start(Position((self.n, each * out.lanes, self.y, 0), 1, out.lanes)) for each in block
        ]
        if not by_lane or dtype != "float32" or any(each is None for each in starts):
            return self.accumulators(pixels, dtype=dtype)
        buffer = Accumulators.undefined(kernel, "acc", pixels, self.tiling.blocks, out.lanes).buffer
        acc = Accumulators(buffer, pixels, self.tiling.blocks, out.lanes, started=True)
        for j, start in enumerate(starts):
            with kernel.unrolled("m", pixels) as m:
                kernel.store(buffer, [acc.place(m, j)], start)
        return acc

    def store(self, acc: Accumulators, x: Index) -> None:
        """Finish a tile that begins at column x and store it."""
        with self._each(acc) as (m, j):
            value = self._finished(acc.buffer[acc.place(m, j)], j, x + m, started=acc.started)
            self.kernel.store(self.buffer, self._at(j, x + m), value)

    def suspend(self, acc: Accumulators, x: Index) -> None:
        """Leave unfinished sums in the output."""
        with self._each(acc) as (m, j):
            self.kernel.store(self.buffer, self._at(j, x + m), acc.buffer[acc.place(m, j)])

    def resume(self, acc: Accumulators, x: Index) -> None:
        """Fetch what `suspend` left."""
        with self._each(acc) as (m, j):
            self.kernel.store(acc.buffer, [acc.place(m, j)], self.buffer[tuple(self._at(j, x + m))])

    def if_block_exists(self, j: Index) -> AbstractContextManager[None]:
        """A condition on block j of the group, where the last group may have fewer than the others."""
        blocks = self.tiling.out.blocks
        return self.kernel.when(tirx.LT(self._block(j), blocks) if blocks % self.tiling.blocks else None)

    @contextmanager
    def _each(self, acc: Accumulators) -> Iterator[tuple[Index, Index]]:
        kernel = self.kernel
        with (
            kernel.unrolled("j", acc.blocks) as j,
            self.if_block_exists(j),
            kernel.unrolled("m", acc.pixels) as m,
        ):
            yield m, j

    def _finished(self, value: Expr, j: Index, x: Index, *, started: bool) -> Expr:
        out, y = self.tiling.out, self.y
        if self.tiling.joined > 1:
            y = self.y * self.tiling.joined + tirx.truncdiv(x, out.width)
            x = tirx.truncmod(x, out.width)
        block = self._block(j)
        at = Position((self.n, block * out.lanes, y, x), 1, out.lanes)
        return zero_padding(out, block, self.finish(value, at, started=started))

    def _at(self, j: Index, x: Index) -> list[Index]:
        return block_at(self.tiling.form, self.n, self._block(j), self.y, x)

    def _block(self, j: Index) -> Index:
        return self.kb * self.tiling.blocks + j


@dataclass(frozen=True)
class Band:
    """`rows` rows from `top` on of group `kb` of channel blocks of image `n`, under construction."""

    kernel: FunctionBuilder
    tiling: Tiling
    buffer: tirx.Buffer
    finish: BoundEpilogue
    n: Index
    kb: Index
    top: Index
    rows: Index

    @contextmanager
    def each_row(self, *, first: int = 0) -> Iterator[OutputRow]:
        """The loop over the band's rows, the halo of each already zeroed; it begins with row `first`."""
        kernel = self.kernel
        with kernel.serial("row", self.rows) as step_row:
            step = tirx.truncmod(step_row + first, self.rows) if first else step_row
            y = kernel.bind("y", self.top + step)
            row = OutputRow(kernel, self.tiling, self.buffer, self.finish, self.n, self.kb, y)
            row.zero_halo()
            yield row


def banded(
    tiling: Tiling,
    rows: int,
    operands: Sequence[BufferSpec],
    epilogue: Epilogue | None,
    emit: Callable[..., None],
    dtype: str = "float32",
) -> tirx.PrimFunc:
    """The kernel (task, tasks, *operands, *epilogue parameters, output) that computes band by band of rows.

    Tasks share images, bands of `rows` rows and groups of channel blocks. emit(band, *operands) computes a
    band; dtype: the output's element type.
    """
    kernel, form = FunctionBuilder(), tiling.form
    buffers = [kernel.buffer(each.name, each.shape, each.dtype) for each in operands]
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", form.shape, dtype)
    bands = -(-form.height // rows)
    with kernel.tasks("step", form.batch * bands * tiling.groups) as step:
        kb = kernel.bind("kb", tirx.truncmod(step, tiling.groups))
        outer = kernel.bind("outer", tirx.truncdiv(step, tiling.groups))
        top = kernel.bind("top", tirx.truncmod(outer, bands) * rows)
        n = kernel.bind("n", tirx.truncdiv(outer, bands))
        count = bounded(rows, form.height, top)
        emit(Band(kernel, tiling, output, finish, n, kb, top, count), *buffers)
    return kernel.finish()
