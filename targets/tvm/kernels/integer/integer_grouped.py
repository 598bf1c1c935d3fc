# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution of u8 channel blocks by s8 weights in i32, in groups of channels that divide a block.

As many filters as channels in a group, so that a block of results comes of one block of data: a shuffle
gives each lane four channels of its own group. Weights are [K/b][G/4][R][S][b][4], zero-padded, for groups of
G channels.

    for (n, band of rows, block):  for y in band:  for x by tile:   # shared out among tasks
        for r, s, q:
            acc[m] += shuffled(input[n, block, y·sh + r·dh, (x + m)·sw + s·dw], q) · weights[block, q, r, s]
        output[n, block, y, x + m] = epilogue(acc[m])
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Index, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Epilogue
from rtcc.targets.tvm.kernels.integer.integer_dot import dot
from rtcc.targets.tvm.kernels.integer.integer_tiles import GROUP, integer_grouped_illegal
from rtcc.targets.tvm.kernels.output_row import Band, OutputRow, banded
from rtcc.targets.tvm.kernels.tiling import Tiling


def make(
    problem: ConvProblem, epilogue: Epilogue | None, tile: Tile, output: str, features: Collection[str],
    data: str = "uint8",
) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output); output, data: element types."""
    reason = integer_grouped_illegal(problem)
    assert reason is None, reason
    return _IntegerGrouped(problem, tile, frozenset(features), data).build(epilogue, output)


@dataclass(frozen=True)
class _IntegerGrouped:
    problem: ConvProblem
    tile: Tile
    features: frozenset[str]
    data: str

    @property
    def size(self) -> int:
        """Channels of a group."""
        return self.problem.channels // self.problem.groups

    def build(self, epilogue: Epilogue | None, dtype: str) -> tirx.PrimFunc:
        problem, tiling = self.problem, Tiling(self.problem.output, 1)
        shape = (tiling.groups, -(-self.size // GROUP), *problem.kernel, problem.lanes * GROUP)
        operands = [BufferSpec("input", problem.input.shape, self.data), BufferSpec("weights", shape, "int8")]
        return banded(tiling, self.tile.rows, operands, epilogue, self._band, dtype)

    def _band(self, band: Band, data: tirx.Buffer, weights: tirx.Buffer) -> None:
        with band.each_row() as row:
            row.tiles(self.tile.pixels, lambda x, pixels: self._tile(row, data, weights, x, pixels))

    def _tile(self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer, x: Index, pixels: int) -> None:
        kernel, problem = row.kernel, self.problem
        acc = row.accumulators(pixels, 0, "int32")
        with (
            kernel.serial("r", problem.kernel[0]) as r,
            kernel.serial("s", problem.kernel[1]) as s,
            kernel.unrolled("m", pixels) as m,
        ):
            y, column = problem.window(0).coordinate(row.y, r), problem.window(1).coordinate(x + m, s)
            found = data[tuple(block_at(problem.input, row.n, row.kb, y, column))]
            for q in range(-(-self.size // GROUP)):
                weight = weights[row.kb, q, r, s, vector(0, problem.lanes * GROUP)]
                place = acc.place(m, 0)
                spread = tirx.Shuffle([found] * GROUP, self._order(q))
                kernel.store(acc.buffer, [place], dot(acc.buffer[place], spread, weight, self.features))
        row.store(acc, x)

    def _order(self, q: int) -> list[int]:
        """For each lane four channels of its group; those past its end meet weights of zero."""
        last = self.problem.lanes - 1
        return [
            min(lane // self.size * self.size + q * GROUP + n, last)
            for lane in range(self.problem.lanes)
            for n in range(GROUP)
        ]
