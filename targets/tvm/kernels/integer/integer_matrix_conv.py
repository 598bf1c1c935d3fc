# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Direct convolution of bytes in channel blocks of four, two pixels by two filters at a time: I8MM.

As `integer_conv`, but by steps of eight channels, which are two blocks: neighbouring pixels of both, taken in
turns, are the rows of an instruction's matrix (`integer_matrix`). Weights: [K/(nt·4)][C/8][R][S][nt·4][8].
The zeros of the border are read, since a pair may have one pixel inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, Index, vector
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Epilogue
from rtcc.targets.tvm.kernels.integer.integer_matrix import PairSums, column_pairs, in_turns
from rtcc.targets.tvm.kernels.integer.integer_tiles import (
    MATRIX_DEPTH,
    MATRIX_LANES,
    matrix_conv_illegal,
)
from rtcc.targets.tvm.kernels.output_row import Band, OutputRow, banded
from rtcc.targets.tvm.kernels.tiling import Tiling
from rtcc.targets.tvm.kernels.window_taps import tap_bounds

AHEAD_BYTES = 4096
"""How far ahead weights are asked for at least, as in `integer_conv`."""


def make(
    problem: ConvProblem, epilogue: Epilogue | None, tile: Tile, output: str, data: str = "uint8"
) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output); output, data: element types."""
    reason = matrix_conv_illegal(problem)
    assert reason is None, reason
    return _MatrixConv(problem, tile, data).build(epilogue, output)


@dataclass(frozen=True)
class _MatrixConv:
    problem: ConvProblem
    tile: Tile
    data: str

    @property
    def steps(self) -> int:
        """Eights of input channels that each output sums over."""
        return self.problem.channels // self.problem.groups // MATRIX_DEPTH

    def build(self, epilogue: Epilogue | None, dtype: str) -> tirx.PrimFunc:
        problem, tile = self.problem, self.tile
        tiling = Tiling(problem.output, tile.blocks, tile.joined)
        data = BufferSpec("input", problem.input.joined(tile.joined).shape, self.data)
        columns = tile.blocks * MATRIX_LANES * MATRIX_DEPTH
        shape = (tiling.groups, self.steps, *problem.kernel, columns)
        operands = [data, BufferSpec("weights", shape, "int8")]
        return banded(tiling, tile.rows, operands, epilogue, self._band, dtype)

    def _band(self, band: Band, data: tirx.Buffer, weights: tirx.Buffer) -> None:
        first = 1 if self.problem.window(0).before else 0  # row 0 leaves taps out: weights would come in gaps
        with band.each_row(first=first) as row:
            row.tiles(self.tile.pixels, lambda x, pixels: self._tile(row, data, weights, x, pixels))

    def _tile(self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer, x: Index, pixels: int) -> None:
        kernel, (down, across) = row.kernel, self.problem.windows
        sums = PairSums.cleared(kernel, pixels, self.tile.blocks)
        columns = self.tile.blocks * MATRIX_LANES * MATRIX_DEPTH
        ahead = -(-AHEAD_BYTES // (columns * prod(self.problem.kernel)))
        first, end = tap_bounds(down, row.y)
        first = kernel.bind("first", first)
        with (
            kernel.serial("q", self.steps) as q,
            kernel.serial("r", end - first, first) as r,
            kernel.serial("s", across.taps) as s,
        ):
            top, left = self.problem.input_halo[:2]
            block = row.first_input_block(self.problem) + q * 2
            place = (row.n, block, down.coordinate(row.y, r) + top, across.coordinate(x, s) + left)
            pairs = self._pairs(data, place, pixels)
            for column, span in column_pairs(self.tile.blocks):
                weight = weights[row.kb, q, r, s, span]
                for pair, value in enumerate(pairs):
                    sums.add(kernel, pair, column, value, weight)
            kernel.prefetch(weights, [row.kb, q + ahead, r, s], columns)
        row.store(sums.in_order(kernel), x)

    def _pairs(
        self, data: tirx.Buffer, place: tuple[Index, Index, Index, Index], pixels: int
    ) -> list[Expr]:
        """Eight channels of each pair of pixels, of so many from a place: image, block, row, column."""
        n, block, y, x = place
        found: list[Expr] = []
        while len(found) * 2 < pixels:
            done = len(found) * 2
            count = next(each for each in (4, 2, 1) if each <= pixels - done)
            span = vector(0, count * MATRIX_LANES)
            found += in_turns(*(data[n, block + half, y, x + done, span] for half in range(2)))
        return found
