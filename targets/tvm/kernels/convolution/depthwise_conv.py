# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Depthwise convolution (one filter per channel) over blocked activations.

Weights are [C/b][R][S][b]: lane by lane the same operation, so nothing is broadcast. A tile
is some pixels of one row; the taps are written out, so that pixels which neighbouring taps share are loaded
once and small filters stay in registers for the whole row.

    for (n, band of rows, block):                         # shared out among tasks
        for y in band:  for x by tile:
            acc[m] = Σ_rs input[n, block, y·sh + r·dh, (x + m)·sw + s·dw] · weights[block, r, s]
            output[n, block, y, x + m] = epilogue(acc[m])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Index, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import (
    depthwise_illegal,
    depthwise_rows_illegal,
    depthwise_tile,
)
from rtcc.targets.tvm.kernels.convolution.copied_rows import BlockWeights, CopiedRows, by_copied_rows
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Epilogue
from rtcc.targets.tvm.kernels.output_row import Band, OutputRow, banded
from rtcc.targets.tvm.kernels.tiling import Tiling

UNROLLED_TAPS = 25
"""Filters of more taps loop over their rows."""


Place = Callable[[Index, Index, Index], Sequence[Index]]
"""Where the channels lie that a pixel of an output row reads: from its column, and a tap's row and column."""


def make(problem: ConvProblem, epilogue: Epilogue | None = None, tile: Tile | None = None) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output)."""
    reason = depthwise_illegal(problem)
    assert reason is None, reason
    kernel = _kernel(problem, tile)
    operands = kernel.operands
    return banded(kernel.tiling, kernel.tile.rows, operands, epilogue, kernel.band, problem.numbers.name)


def make_of_rows(
    problem: ConvProblem, epilogue: Epilogue | None = None, tile: Tile | None = None
) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output, scratch), by `copied_rows`."""
    reason = depthwise_rows_illegal(problem)
    assert reason is None, reason
    kernel = _kernel(problem, tile)
    return by_copied_rows(problem, kernel.operands, epilogue, kernel.copied_row, problem.numbers.name)


def _kernel(problem: ConvProblem, tile: Tile | None) -> _DepthwiseConv:
    return _DepthwiseConv(problem, tile or depthwise_tile(problem, 32 if problem.lanes == 16 else 16))


@dataclass(frozen=True)
class _DepthwiseConv:
    problem: ConvProblem
    tile: Tile

    @property
    def tiling(self) -> Tiling:
        """The output, block by block."""
        return Tiling(self.problem.output, 1)

    @property
    def operands(self) -> list[BufferSpec]:
        """Data and weights."""
        problem, numbers = self.problem, self.problem.numbers.name
        weights = BufferSpec("weights", (self.tiling.groups, *problem.kernel, problem.lanes), numbers)
        return [BufferSpec("input", problem.input.shape, numbers), weights]

    def band(self, band: Band, data: tirx.Buffer, weights: tirx.Buffer) -> None:
        """A band of rows from the data as they lie, border included."""
        down, across = self.problem.windows
        with band.each_row() as row:

            def place(x: Index, r: Index, s: Index, row: OutputRow = row) -> Sequence[Index]:
                y, column = down.coordinate(row.y, r), across.coordinate(x, s)
                return block_at(self.problem.input, row.n, row.kb, y, column)

            self._row(row, data, BlockWeights(weights, row.kb), place)

    def copied_row(self, row: OutputRow, copied: CopiedRows, weights: BlockWeights) -> None:
        """A row from the rows that are copied aside."""
        self._row(row, copied.ring, weights, lambda x, r, s: copied.at(row.y, x, r, s))

    def _row(self, row: OutputRow, data: tirx.Buffer, weights: BlockWeights, place: Place) -> None:
        row.tiles(self.tile.pixels, lambda x, pixels: self._tile(row, data, weights, x, pixels, place))

    def _tile(
        self, row: OutputRow, data: tirx.Buffer, weights: BlockWeights, x: Index, pixels: int, place: Place
    ) -> None:
        acc = row.started(pixels, by_lane=self.problem.by_lane, dtype=self.problem.numbers.name)
        rows, taps = self.problem.kernel
        loop = row.kernel.unrolled if rows * taps <= UNROLLED_TAPS else row.kernel.serial
        with loop("r", rows) as r, row.kernel.unrolled("s", taps) as s, row.kernel.unrolled("m", pixels) as m:
            weight = weights[r, s, vector(0, self.problem.lanes)]
            acc.add(row.kernel, m, 0, data[tuple(place(x + m, r, s))] * weight)
        row.store(acc, x)
