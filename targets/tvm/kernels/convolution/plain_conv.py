# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""First convolution: reads a plain [N][C][H][W] input of few channels, writes a blocked output.

No input padding is written anywhere: rows outside the image shorten the loop over the kernel's rows, and the
tiles at the left and right edge are written out separately with only the taps that fall inside. Weights are
[K/(nt·b)][C][R][S][nt·b]. Where there are few filters `narrow_conv` does the rows.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod

from tvm import tirx

from rtcc.targets.tvm.function_builder import (
    LINE_FLOATS,
    SECOND_CACHE,
    FunctionBuilder,
    Index,
    bounded,
    splat,
    vector,
)
from rtcc.targets.tvm.kernels.convolution import narrow_conv
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import (
    is_narrow,
    plain_illegal,
    plain_tile,
    reads_rows_by_lane,
)
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue
from rtcc.targets.tvm.kernels.numbers import TOTAL
from rtcc.targets.tvm.kernels.output_row import Accumulators, OutputRow
from rtcc.targets.tvm.kernels.tiling import Tiling, together
from rtcc.targets.tvm.kernels.window_taps import each_tap, tap_bounds
from rtcc.targets.tvm.summation import block_length


def make(problem: ConvProblem, epilogue: Epilogue | None = None, tile: Tile | None = None) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output)."""
    reason = plain_illegal(problem)
    assert reason is None, reason
    return _PlainConv(problem, tile or plain_tile(problem, 32 if problem.lanes == 16 else 16)).build(epilogue)


@dataclass(frozen=True)
class _PlainConv:
    problem: ConvProblem
    tile: Tile

    def build(self, epilogue: Epilogue | None) -> tirx.PrimFunc:
        problem, tiling = self.problem, Tiling(self.problem.output, self.tile.blocks)
        kernel = FunctionBuilder()
        numbers = problem.numbers.name
        picture = (problem.batch, problem.channels, problem.height, problem.width)
        data = kernel.buffer("input", picture, numbers)
        taps = (problem.channels, *problem.kernel)
        weights = kernel.buffer("weights", (tiling.groups, *taps, tiling.blocks * problem.lanes), numbers)
        finish = BoundEpilogue(kernel, epilogue)
        output = kernel.buffer("output", tiling.form.shape, numbers)
        with kernel.tasks("step", problem.batch * problem.output_height) as step:
            y = kernel.bind("y", tirx.truncmod(step, problem.output_height))
            n = kernel.bind("n", tirx.truncdiv(step, problem.output_height))
            with kernel.serial("kb", tiling.groups) as kb:
                row = OutputRow(kernel, tiling, output, finish, n, kb, y)
                row.zero_halo()
                if is_narrow(problem):
                    narrow_conv.emit_row(row, problem, data, weights)
                else:
                    self._tiles(row, data, weights)
        return kernel.finish()

    @property
    def _asks_for_inputs(self) -> bool:
        """Whether the next tile's pixels are asked for.

        Measured 1.04 to 1.1 times as fast where long rows lie past the second cache, 0.9 to 1 times in
        short rows and where the filter has more taps.
        """
        problem = self.problem
        return problem.kernel == problem.strides == (1, 1) and problem.width >= 2 * LINE_FLOATS

    @property
    def _part(self) -> int:
        """Channels whose products are added up before their sum goes to a total."""
        taps = prod(self.problem.kernel)
        return max(1, block_length(self.problem.channels * taps, self.problem.numbers) // taps)

    def _tiles(self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer) -> None:
        """The row's tiles: those wholly inside the image in a loop, the others one by one."""

        def emit(x: Index, pixels: int) -> None:
            numbers = self.problem.numbers.name if self._part >= self.problem.channels else TOTAL
            acc = row.started(pixels, by_lane=self.problem.by_lane, dtype=numbers)
            self._reduce(row, data, weights, acc, x)
            row.store(acc, x)

        row.edge_tiles(self.tile.pixels, self.problem.window(1), emit)

    def _reduce(
        self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer, acc: Accumulators, x: Index
    ) -> None:
        """Add all products to the accumulators; a long sum in parts of whole channels (`summation`)."""
        kernel, channels, part = row.kernel, self.problem.channels, self._part
        if part >= channels:
            with self._channels(kernel, channels, 0) as c:
                self._channel(row, data, weights, acc, x, c)
            return
        with kernel.serial("part", -(-channels // part)) as number:
            partial = row.accumulators(acc.pixels, dtype=self.problem.numbers.name)
            begin = kernel.bind("begin", number * part)
            with self._channels(kernel, bounded(part, channels, begin), begin) as c:
                self._channel(row, data, weights, partial, x, c)
            acc.add_all(kernel, partial)

    def _channels(
        self, kernel: FunctionBuilder, count: Index, begin: Index
    ) -> AbstractContextManager[Index]:
        """A loop over so many channels; several in a round where each has one row of products by lane."""
        is_short = self.problem.kernel == (1, 1) and reads_rows_by_lane(self.problem)
        return kernel.serial_by("c", count, begin, together(count) if is_short else 1)

    def _channel(
        self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer, acc: Accumulators, x: Index, c: Index
    ) -> None:
        """Add the products of one input channel."""
        kernel, (down, across) = row.kernel, self.problem.windows
        if reads_rows_by_lane(self.problem) and across.inside(x, acc.pixels) is None:
            first, end = tap_bounds(down, row.y)
            top = kernel.bind("top", down.coordinate(row.y, first))  # not negative, as addresses want it
            with kernel.serial("r", end - first) as r:
                self._taps_of_row(row, data, weights, acc, x, (c, first + r, top + r))
            return
        with each_tap(kernel, (down, across), (row.y, x), acc.pixels) as (r, s, parts):
            y = down.coordinate(row.y, r)
            if self._asks_for_inputs:
                kernel.prefetch_from(data, [row.n, c, y, x + acc.pixels], acc.pixels, SECOND_CACHE)
            for inside, condition in parts:
                with (
                    kernel.when(condition),
                    kernel.unrolled("m", len(inside), inside.start) as m,
                    kernel.unrolled("j", acc.blocks) as j,
                ):
                    value = splat(data[row.n, c, y, across.coordinate(x + m, s)], acc.lanes)
                    weight = weights[row.kb, c, r, s, vector(j * acc.lanes, acc.lanes)]
                    acc.add(kernel, m, j, value * weight)

    def _taps_of_row(
        self,
        row: OutputRow,
        data: tirx.Buffer,
        weights: tirx.Buffer,
        acc: Accumulators,
        x: Index,
        rows: tuple[Index, Index, Index],
    ) -> None:
        """Add the products of a row of the filter with pixels that are all inside the data.

        rows: the channel, the filter's row and the data's. Pixels are read by vectors, of which the last may
        overlap the one before.
        """
        kernel, lanes, across = row.kernel, acc.lanes, self.problem.window(1)
        (c, r, y), column = rows, across.coordinate(x, 0)
        count = (acc.pixels - 1) * across.stride + across.taps
        if self._asks_for_inputs:
            kernel.prefetch_from(data, [row.n, c, y, x + acc.pixels], acc.pixels, SECOND_CACHE)
        for s in range(across.taps):
            for m in range(acc.pixels):
                place = m * across.stride + s
                first = max(0, min(place - place % lanes, count - lanes))
                if count < lanes:
                    value = splat(data[row.n, c, y, column + place], lanes)
                else:
                    pixels = data[row.n, c, y, vector(column + first, lanes)]
                    value = tirx.Shuffle([pixels], [place - first] * lanes)
                with kernel.unrolled("j", acc.blocks) as j:
                    weight = weights[row.kb, c, r, s, vector(j * lanes, lanes)]
                    acc.add(kernel, m, j, value * weight)
