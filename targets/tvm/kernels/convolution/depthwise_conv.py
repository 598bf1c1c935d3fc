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

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Index, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import depthwise_illegal, depthwise_tile
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Epilogue
from rtcc.targets.tvm.kernels.output_row import Accumulators, Band, OutputRow, banded
from rtcc.targets.tvm.kernels.tiling import Tiling

UNROLLED_TAPS = 25
"""Filters of more taps loop over their rows."""


def make(problem: ConvProblem, epilogue: Epilogue | None = None, tile: Tile | None = None) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output)."""
    reason = depthwise_illegal(problem)
    assert reason is None, reason
    return _DepthwiseConv(problem, tile or depthwise_tile(problem, 32 if problem.lanes == 16 else 16)).build(
        epilogue
    )


@dataclass(frozen=True)
class _DepthwiseConv:
    problem: ConvProblem
    tile: Tile

    def build(self, epilogue: Epilogue | None) -> tirx.PrimFunc:
        problem, tiling = self.problem, Tiling(self.problem.output, 1)
        numbers = problem.numbers.name
        weights = BufferSpec("weights", (tiling.groups, *problem.kernel, problem.lanes), numbers)
        operands = [BufferSpec("input", problem.input.shape, numbers), weights]
        return banded(tiling, self.tile.rows, operands, epilogue, self._band, numbers)

    def _band(self, band: Band, data: tirx.Buffer, weights: tirx.Buffer) -> None:
        with band.each_row() as row:
            row.tiles(self.tile.pixels, lambda x, pixels: self._tile(row, data, weights, x, pixels))

    def _tile(self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer, x: Index, pixels: int) -> None:
        acc = row.accumulators(pixels, dtype=self.problem.numbers.name)
        rows, taps = self.problem.kernel
        loop = row.kernel.unrolled if rows * taps <= UNROLLED_TAPS else row.kernel.serial
        with loop("r", rows) as r, row.kernel.unrolled("s", taps) as s:
            self._tap(row, data, weights, acc, x, r, s)
        row.store(acc, x)

    def _tap(
        self,
        row: OutputRow,
        data: tirx.Buffer,
        weights: tirx.Buffer,
        acc: Accumulators,
        x: Index,
        r: Index,
        s: Index,
    ) -> None:
        problem, form = self.problem, self.problem.input
        with row.kernel.unrolled("m", acc.pixels) as m:
            y, column = problem.window(0).coordinate(row.y, r), problem.window(1).coordinate(x + m, s)
            value = data[tuple(block_at(form, row.n, row.kb, y, column))]
            acc.add(row.kernel, m, 0, value * weights[row.kb, r, s, vector(0, form.lanes)])
