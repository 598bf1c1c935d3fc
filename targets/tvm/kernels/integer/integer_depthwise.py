# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Depthwise convolution of u8 channel blocks by s8 weights, in i32: four taps of a row at a time.

Weights are [C/b][1][R][S/4][b][4], zero-padded: a lane is a channel, its four bytes are neighbouring taps.
The pixels under them, four vectors of b channels, are transposed by one shuffle to four bytes per channel.

    for (n, band of rows, block):  for y in band:  for x by tile:   # shared out among tasks
        for r, s4:  acc[m] += transposed(input[n, block, y·sh + r·dh, (x + m)·sw + s·dw]) · weights[block, r]
        output[n, block, y, x + m] = epilogue(acc[m])

Cores without vectors (Cortex-M) have no use for the shuffle: each tap's bytes are multiplied by themselves.

Three taps without stride leave the fourth byte free: the same four pixels, under weights moved on by one tap,
are those of the next result, so that one shuffle serves two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, splat, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import depthwise_illegal, depthwise_rows_illegal
from rtcc.targets.tvm.kernels.convolution.copied_rows import BlockWeights, CopiedRows, by_copied_rows
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Epilogue
from rtcc.targets.tvm.kernels.integer.integer_dot import dot
from rtcc.targets.tvm.kernels.integer.integer_tiles import GROUP, quads_of, takes_pairs, without_vectors
from rtcc.targets.tvm.kernels.output_row import Accumulators, Band, OutputRow, banded
from rtcc.targets.tvm.kernels.tiling import Tiling

TAP_BITS = 8


def make(
    problem: ConvProblem, epilogue: Epilogue | None, tile: Tile, output: str, features: Collection[str],
    data: str = "uint8",
) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output); output, data: element types."""
    reason = depthwise_illegal(problem)
    assert reason is None, reason
    kernel = _IntegerDepthwise(problem, tile, frozenset(features), data)
    return banded(Tiling(problem.output, 1), tile.rows, kernel.operands, epilogue, kernel.band, output)


def make_of_rows(
    problem: ConvProblem, epilogue: Epilogue | None, tile: Tile, output: str, features: Collection[str],
    data: str = "uint8",
) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output, scratch), by `copied_rows`."""
    reason = depthwise_rows_illegal(problem)
    assert reason is None, reason
    kernel = _IntegerDepthwise(problem, tile, frozenset(features), data)
    return by_copied_rows(problem, kernel.operands, epilogue, kernel.copied_row, output)


@dataclass(frozen=True)
class _Pixels:
    """Where an output row's pixels are read: `at(x, r, tap)` is the index of all but the channels."""

    buffer: tirx.Buffer
    at: Callable[[Index, Index, int], Sequence[Index]]

    def vector(self, x: Index, r: Index, tap: int, size: int) -> Expr:
        """So many bytes from the channels of a pixel under a tap on."""
        return self.buffer[(*self.at(x, r, tap), vector(0, size))]


@dataclass(frozen=True)
class _IntegerDepthwise:
    problem: ConvProblem
    tile: Tile
    features: frozenset[str]
    data: str

    @property
    def operands(self) -> list[BufferSpec]:
        """Data and weights."""
        problem = self.problem
        shape = (problem.output.blocks, problem.kernel[0], quads_of(problem), problem.lanes * GROUP)
        return [BufferSpec("input", problem.input.shape, self.data), BufferSpec("weights", shape, "int8")]

    def band(self, band: Band, data: tirx.Buffer, weights: tirx.Buffer) -> None:
        """A band of rows from the data as they lie, border included."""
        form, (down, across) = self.problem.input, self.problem.windows
        with band.each_row() as row:

            def at(x: Index, r: Index, tap: int, row: OutputRow = row) -> Sequence[Index]:
                y, column = down.coordinate(row.y, r), across.coordinate(x, tap)
                return block_at(form, row.n, row.kb, y, column)[:-1]

            self._row(row, _Pixels(data, at), BlockWeights(weights, row.kb))

    def copied_row(self, row: OutputRow, copied: CopiedRows, weights: BlockWeights) -> None:
        """A row from the rows that are copied aside."""
        pixels = _Pixels(copied.ring, lambda x, r, tap: copied.at(row.y, x, r, tap)[:-1])
        self._row(row, pixels, weights)

    def _row(self, row: OutputRow, data: _Pixels, weights: BlockWeights) -> None:
        row.tiles(self.tile.pixels, lambda x, pixels: self._tile(row, data, weights, x, pixels))

    def _tile(self, row: OutputRow, data: _Pixels, weights: BlockWeights, x: Index, pixels: int) -> None:
        acc = row.accumulators(pixels, 0, "int32")
        emit = self._pairs if takes_pairs(self.problem) and self.problem.output_width > 1 else self._singles
        if without_vectors(self.features):
            emit = self._taps
        with row.kernel.unrolled("r", self.problem.kernel[0]) as r:
            emit(row, data, weights, acc, x, r)
        row.store(acc, x)

    def _pairs(
        self, row: OutputRow, data: _Pixels, weights: BlockWeights, acc: Accumulators, x: Index, r: Index
    ) -> None:
        """One row of three taps; the last of an odd number shares the pixels of the result before it."""
        kernel, size = row.kernel, self.problem.lanes * GROUP
        first = weights[r, 0, vector(0, size)]
        words = tirx.reinterpret(f"int32x{self.problem.lanes}", first)
        moved = words << splat(TAP_BITS, self.problem.lanes, "int32")
        second = kernel.kept(tirx.reinterpret(f"int8x{size}", moved))
        for m in range(0, acc.pixels - 1, 2):
            pixels = kernel.kept(self._four_pixels(data, x + m, r))
            self._add(kernel, acc, m, pixels, first)
            self._add(kernel, acc, m + 1, pixels, second)
        if acc.pixels % 2:
            last = acc.pixels - 1
            self._add(kernel, acc, last, self._four_pixels(data, x + last - 1, r), second)

    def _four_pixels(self, data: _Pixels, x: Index, r: Index) -> Expr:
        """The pixels under the taps of two results from x on, which lie one after the other."""
        lanes = self.problem.lanes
        order = [tap * lanes + lane for lane in range(lanes) for tap in range(GROUP)]
        return tirx.Shuffle([data.vector(x, r, 0, GROUP * lanes)], order)

    def _singles(
        self, row: OutputRow, data: _Pixels, weights: BlockWeights, acc: Accumulators, x: Index, r: Index
    ) -> None:
        """One row of taps of each result, four at a time."""
        lanes, taps = self.problem.lanes, self.problem.kernel[1]
        order = [tap * lanes + lane for lane in range(lanes) for tap in range(GROUP)]
        for m in range(acc.pixels):
            for quad in range(quads_of(self.problem)):
                read = [min(tap, taps - 1) for tap in range(quad * GROUP, (quad + 1) * GROUP)]
                parts = [data.vector(x + m, r, tap, lanes) for tap in read]
                weight = weights[r, quad, vector(0, lanes * GROUP)]
                self._add(row.kernel, acc, m, tirx.Shuffle(parts, order), weight)

    def _taps(
        self, row: OutputRow, data: _Pixels, weights: BlockWeights, acc: Accumulators, x: Index, r: Index
    ) -> None:
        """One row of taps, each of all results."""
        lanes = self.problem.lanes
        for tap in range(self.problem.kernel[1]):
            span = tirx.Ramp(tirx.IntImm("int32", tap % GROUP), tirx.IntImm("int32", GROUP), lanes)
            weight = row.kernel.kept(weights[r, tap // GROUP, span].astype(f"int32x{lanes}"))
            for m in range(acc.pixels):
                pixel = data.vector(x + m, r, tap, lanes).astype(f"int32x{lanes}")
                place = acc.place(m, 0)
                row.kernel.store(acc.buffer, [place], acc.buffer[place] + pixel * weight)

    def _add(self, kernel: FunctionBuilder, acc: Accumulators, m: int, pixels: Expr, weight: Expr) -> None:
        place = acc.place(m, 0)
        kernel.store(acc.buffer, [place], dot(acc.buffer[place], pixels, weight, self.features))
