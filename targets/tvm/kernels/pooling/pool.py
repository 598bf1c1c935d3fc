# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Max and average pooling over blocked activations, and both over the whole image.

Padding is left out by bounds, not read: a maximum must not see the halo's zeros. Rows outside the image
shorten the loop over the window's rows; tiles at the left and right edge are written out with only the taps
that fall inside. A maximum is NaN where any element of its window is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

from rtcc.targets.tvm import vector_math
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, splat
from rtcc.targets.tvm.kernels.blocked import NO_HALO
from rtcc.targets.tvm.kernels.blocked_access import block_at
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, BufferSpec, Epilogue
from rtcc.targets.tvm.kernels.numbers import TOTAL
from rtcc.targets.tvm.kernels.output_row import Accumulators, Band, OutputRow, banded
from rtcc.targets.tvm.kernels.pooling.pool_problem import PoolProblem, Reduction
from rtcc.targets.tvm.kernels.tiling import Tiling, split_evenly
from rtcc.targets.tvm.kernels.window_taps import padded_taps, tap_bounds

BANDS = 8
"""Into how many bands of rows the output is divided, each for all channels: tasks share bands, as those of
the convolutions around do, so that most of what a task reads it has written itself."""


def make(problem: PoolProblem, epilogue: Epilogue | None = None, output: str = "float32") -> tirx.PrimFunc:
    """The kernel (task, tasks, input, *epilogue parameters, output); output: its element type."""
    if problem.kernel == (problem.height, problem.width) and problem.pads == NO_HALO:
        return _Global(problem).build(epilogue, output)
    return _Pool(problem).build(epilogue, output)


def _joined(reduction: Reduction, a: Expr, b: Expr) -> Expr:
    if reduction is not Reduction.MAXIMUM:
        return a + b
    return vector_math.maximum(a, b) if "float" in vector_math.scalar_type(a) else tirx.Max(a, b)


def _neutral(problem: PoolProblem) -> float:
    if problem.reduction is not Reduction.MAXIMUM:
        return 0.0
    return float("-inf") if "float" in problem.dtype else int(np.iinfo(problem.dtype).min)


def _accumulated(problem: PoolProblem) -> str:
    """The element type of sums and maxima."""
    if problem.reduction is Reduction.MAXIMUM:
        return problem.dtype
    return "int32" if problem.reduction is Reduction.SUM else TOTAL


@dataclass(frozen=True)
class _Pool:
    problem: PoolProblem

    def build(self, epilogue: Epilogue | None, dtype: str) -> tirx.PrimFunc:
        problem, tiling = self.problem, Tiling(self.problem.output, 1)
        rows, data = -(-tiling.form.height // BANDS), BufferSpec("input", problem.input.shape, problem.dtype)
        return banded(tiling, rows, [data], epilogue, self._band, dtype)

    def _band(self, band: Band, data: tirx.Buffer) -> None:
        problem = self.problem
        pixels = split_evenly(band.tiling.form.width, 8 if problem.lanes == 16 else 4)[0]
        with band.each_row() as row:
            row.edge_tiles(pixels, problem.window(1), lambda x, count: self._tile(row, data, x, count))

    def _tile(self, row: OutputRow, data: tirx.Buffer, x: Index, pixels: int) -> None:
        kernel, problem, across = row.kernel, self.problem, self.problem.window(1)
        acc = row.accumulators(pixels, _neutral(problem), _accumulated(problem))
        first, end = tap_bounds(problem.window(0), row.y)
        first = kernel.bind("first", first)
        rows = kernel.bind("rows", end - first)
        taps = across.inside(x, pixels) or [range(pixels)] * across.taps
        with kernel.serial("r", rows, first) as r:
            for s, inside in enumerate(taps):
                self._tap(row, data, acc, x, r, s, inside)
        if problem.reduction in (Reduction.AVERAGE, Reduction.PADDED_AVERAGE):
            self._divide(row, acc, x, rows, taps)
        row.store(acc, x)

    def _tap(
        self, row: OutputRow, data: tirx.Buffer, acc: Accumulators, x: Index, r: Index, s: int, inside: range
    ) -> None:
        problem = self.problem
        if not inside:
            return
        with row.kernel.unrolled("m", len(inside)) as step:
            m = step + inside.start
            y, column = problem.window(0).coordinate(row.y, r), problem.window(1).coordinate(x + m, s)
            place = acc.place(m, 0)
            value = data[tuple(block_at(problem.input, row.n, row.kb, y, column))]
            value = value.astype(vector_math.typed(value, _accumulated(problem)))
            row.kernel.store(acc.buffer, [place], _joined(problem.reduction, acc.buffer[place], value))

    def _divide(self, row: OutputRow, acc: Accumulators, x: Index, rows: Index, taps: list[range]) -> None:
        """Sums to averages; the count of a window's taps is a product of rows and columns."""
        problem, kernel = self.problem, row.kernel
        padded = problem.reduction is Reduction.PADDED_AVERAGE
        if padded:
            rows = padded_taps(problem.window(0), row.y)
        for m in range(acc.pixels):
            columns: Index = sum(m in inside for inside in taps)
            if padded:
                columns = padded_taps(problem.window(1), x + m)
            count = kernel.bind("count", rows * columns)
            place = acc.place(m, 0)
            kernel.store(
                acc.buffer, [place], acc.buffer[place] / splat(tirx.Cast("float32", count), acc.lanes)
            )


@dataclass(frozen=True)
class _Global:
    """Pooling of the whole image to one pixel."""

    problem: PoolProblem

    def build(self, epilogue: Epilogue | None, dtype: str) -> tirx.PrimFunc:
        problem, tiling = self.problem, Tiling(self.problem.output, 1)
        kernel = FunctionBuilder()
        data = kernel.buffer("input", problem.input.shape, problem.dtype)
        finish = BoundEpilogue(kernel, epilogue)
        output = kernel.buffer("output", tiling.form.shape, dtype)
        with kernel.tasks("step", problem.batch * tiling.groups) as step:
            block = kernel.bind("block", tirx.truncmod(step, tiling.groups))
            n = kernel.bind("n", tirx.truncdiv(step, tiling.groups))
            row = OutputRow(kernel, tiling, output, finish, n, block, tirx.IntImm("int32", 0))
            row.zero_halo()
            acc = row.accumulators(1, _neutral(problem), _accumulated(problem))
            self._reduce(row, data, acc)
            row.store(acc, 0)
        return kernel.finish()

    def _reduce(self, row: OutputRow, data: tirx.Buffer, acc: Accumulators) -> None:
        """Partial results of neighbouring columns hide the latency; then they are joined."""
        problem, kernel, reduction = self.problem, row.kernel, self.problem.reduction
        partial = row.accumulators(min(8, problem.width), _neutral(problem), _accumulated(problem))

        def take(y: Index, x: Index, count: int) -> None:
            with kernel.unrolled("m", count) as m:
                value = data[tuple(block_at(problem.input, row.n, row.kb, y, x + m))]
                value = value.astype(vector_math.typed(value, _accumulated(problem)))
                place = partial.place(m, 0)
                kernel.store(partial.buffer, [place], _joined(reduction, partial.buffer[place], value))

        with kernel.serial("y", problem.height) as y:
            row.tiles_of(problem.width, partial.pixels, lambda x, count: take(y, x, count))
        place = acc.place(0, 0)
        with kernel.unrolled("m", partial.pixels) as m:
            joined = _joined(reduction, acc.buffer[place], partial.buffer[partial.place(m, 0)])
            kernel.store(acc.buffer, [place], joined)
        if reduction in (Reduction.AVERAGE, Reduction.PADDED_AVERAGE):
            count = splat(float(problem.height * problem.width), acc.lanes)
            kernel.store(acc.buffer, [place], acc.buffer[place] / count)
