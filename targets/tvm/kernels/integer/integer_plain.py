# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution of a plain u8 picture of few channels by s8 weights in i32: four taps of a row at a time.

Weights are [K/(nt·b)][C][R][S/4][nt·b][4], zero-padded: a lane of an accumulator is a filter, its four
bytes are neighbouring taps, and the pixels under them are one 32-bit number of the picture as it lies.
Channels in blocks would be padded to a whole block instead.

    for (n, band of rows):                                # shared out among tasks
        scratch = the band's rows of the picture, zeros around them
        for kb, y in band, x by tile:
            for s4, c, r:  acc[m, j] += scratch[c, y·sh + r·dh, (x + m)·sw + s4] · weights[kb, c, r, s4, j]
            output[n, kb·nt + j, y, x + m] = epilogue(acc[m, j])
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import FunctionBuilder, Index, bounded, splat, vector
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue
from rtcc.targets.tvm.kernels.integer.integer_dot import broadcast_group, dot
from rtcc.targets.tvm.kernels.integer.integer_tiles import (
    COPIED,
    GROUP,
    band_shape,
    integer_plain_illegal,
    quads_of,
)
from rtcc.targets.tvm.kernels.output_row import OutputRow
from rtcc.targets.tvm.kernels.panel import pieces
from rtcc.targets.tvm.kernels.tiling import Tiling


def make(
    problem: ConvProblem, epilogue: Epilogue | None, tile: Tile, output: str, features: Collection[str],
    data: str = "uint8",
) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output, scratch).

    output, data: element types.
    """
    reason = integer_plain_illegal(problem)
    assert reason is None, reason
    return _IntegerPlain(problem, tile, frozenset(features), data).build(epilogue, output)


@dataclass(frozen=True)
class _IntegerPlain:
    problem: ConvProblem
    tile: Tile
    features: frozenset[str]
    data: str

    def build(self, epilogue: Epilogue | None, dtype: str) -> tirx.PrimFunc:
        problem, tile, tiling = self.problem, self.tile, Tiling(self.problem.output, self.tile.blocks)
        kernel = FunctionBuilder()
        shape = (problem.batch, problem.channels, problem.height, problem.width)
        data = kernel.buffer("input", shape, self.data)
        taps = (problem.channels, problem.kernel[0], quads_of(problem))
        columns = tile.blocks * problem.lanes * GROUP
        weights = kernel.buffer("weights", (tiling.groups, *taps, columns), "int8")
        finish = BoundEpilogue(kernel, epilogue)
        output = kernel.buffer("output", tiling.form.shape, dtype)
        scratch = kernel.buffer("scratch", band_shape(problem, tile), self.data)
        bands = -(-problem.output_height // tile.rows)
        with kernel.tasks("step", problem.batch * bands) as step:
            top = kernel.bind("top", tirx.truncmod(step, bands) * tile.rows)
            n = kernel.bind("n", tirx.truncdiv(step, bands))
            self._copy(kernel, data, scratch, n, top)
            with (
                kernel.serial("kb", tiling.groups) as kb,
                kernel.serial("row", bounded(tile.rows, problem.output_height, top)) as number,
            ):
                row = OutputRow(kernel, tiling, output, finish, n, kb, kernel.bind("y", top + number))
                row.zero_halo()
                row.tiles(tile.pixels, lambda x, pixels: self._tile(row, scratch, weights, number, x, pixels))
        return kernel.finish()

    def _copy(
        self, kernel: FunctionBuilder, data: tirx.Buffer, scratch: tirx.Buffer, n: Index, top: Index
    ) -> None:
        """The rows that a band reads, with zeros in place of what lies outside the picture."""
        problem = self.problem
        channels, rows, width = band_shape(problem, self.tile)
        first = kernel.bind("first", top * problem.strides[0] - problem.pads[0])
        with kernel.serial("c", channels) as c, kernel.serial("i", rows) as i:
            for start in range(0, width, COPIED):
                kernel.store(scratch, [c, i, vector(start, COPIED)], splat(0, COPIED, self.data))
            y = kernel.bind("y", first + i)
            with kernel.when(tirx.all(tirx.GE(y, 0), tirx.LT(y, problem.height))):
                for start, length in pieces(problem.width, COPIED):
                    value = data[n, c, y, vector(start, length)]
                    kernel.store(scratch, [c, i, vector(problem.pads[1] + start, length)], value)

    def _tile(
        self,
        row: OutputRow,
        scratch: tirx.Buffer,
        weights: tirx.Buffer,
        number: Index,
        x: Index,
        pixels: int,
    ) -> None:
        """A tile of the band's row of that number.

        Fours of taps are the outer loop: side by side, LLVM would keep the pixels that they share in
        registers, which the accumulators need.
        """
        kernel, problem, lanes = row.kernel, self.problem, self.problem.lanes
        acc = row.accumulators(pixels, 0, "int32")
        with (
            kernel.serial("q", quads_of(problem)) as q,
            kernel.serial("c", problem.channels) as c,
            kernel.serial("r", problem.kernel[0]) as r,
            kernel.unrolled("m", pixels) as m,
        ):
            y = number * problem.strides[0] + r * problem.dilations[0]
            first = (x + m) * problem.strides[1] + q * GROUP
            value = broadcast_group(scratch[c, y, vector(first, GROUP)], lanes)
            with kernel.unrolled("j", acc.blocks) as j:
                place = acc.place(m, j)
                weight = weights[row.kb, c, r, q, vector(j * (lanes * GROUP), lanes * GROUP)]
                kernel.store(acc.buffer, [place], dot(acc.buffer[place], value, weight, self.features))
        row.store(acc, x)
