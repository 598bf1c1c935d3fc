# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Direct convolution of u8 channel blocks by s8 weights in i32: `direct_conv`, four channels at a time.

Activations as in `blocked`, one byte a lane; weights [K/(nt·b)][C/4][R][S][nt·b][4]. A lane of an accumulator
is a filter: four neighbouring channels of a pixel are one 32-bit number, which is broadcast and multiplied
by four weights of every filter (`integer_dot`).

    for (n, rows, kb):  for y, x by tile:                 # shared out among tasks
        for c4, r, s:                                     # reduction, of taps inside the data
            acc[m, j] += input[n, c4, y·sh + r·dh, (x + m)·sw + s·dw] · weights[kb, c4, r, s, j]
        output[n, kb·nt + j, y, x + m] = epilogue(acc[m, j])

Sums stay in registers until they are finished: a quantised output has no room for them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

from tvm import tirx

from rtcc.targets.tvm.function_builder import Index, vector
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import direct_illegal
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Epilogue
from rtcc.targets.tvm.kernels.integer.integer_dot import broadcast_group, dot
from rtcc.targets.tvm.kernels.integer.integer_tiles import GROUP
from rtcc.targets.tvm.kernels.output_row import Accumulators, Band, OutputRow, banded
from rtcc.targets.tvm.kernels.tiling import Tiling
from rtcc.targets.tvm.kernels.window_taps import each_tap

AHEAD_BYTES = 4096
"""How far ahead weights are asked for at least, as in `direct_conv`: by whole channels, since a row at the
edge of the picture leaves taps out, and what it asks for must be what it comes to."""


def make(
    problem: ConvProblem, epilogue: Epilogue | None, tile: Tile, output: str, features: Collection[str],
    data: str = "uint8",
) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output); output, data: element types."""
    reason = direct_illegal(problem)
    assert reason is None, reason
    return _IntegerConv(problem, tile, frozenset(features), data).build(epilogue, output)


@dataclass(frozen=True)
class _IntegerConv:
    problem: ConvProblem
    tile: Tile
    features: frozenset[str]
    data: str

    @property
    def groups_of_channels(self) -> int:
        """Fours of input channels that each output sums over, the last possibly partial."""
        return -(-self.problem.channels // self.problem.groups // GROUP)

    def build(self, epilogue: Epilogue | None, dtype: str) -> tirx.PrimFunc:
        problem, tile = self.problem, self.tile
        tiling = Tiling(problem.output, tile.blocks, tile.joined)
        data = BufferSpec("input", problem.input.joined(tile.joined).shape, self.data)
        columns = tile.blocks * problem.lanes
        shape = (tiling.groups, self.groups_of_channels, *problem.kernel, columns * GROUP)
        operands = [data, BufferSpec("weights", shape, "int8")]
        return banded(tiling, tile.rows, operands, epilogue, self._band, dtype)

    def _band(self, band: Band, data: tirx.Buffer, weights: tirx.Buffer) -> None:
        first = 1 if self.problem.window(0).before else 0  # row 0 leaves taps out: weights would come in gaps
        with band.each_row(first=first) as row:
            row.edge_tiles(
                self.tile.pixels, self.problem.window(1),
                lambda x, pixels: self._tile(row, data, weights, x, pixels),
            )  # fmt: skip

    def _tile(self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer, x: Index, pixels: int) -> None:
        acc = row.accumulators(pixels, 0, "int32")
        kernel, per_block = row.kernel, self.problem.lanes // GROUP
        whole, rest = divmod(self.groups_of_channels, per_block)
        with kernel.serial("cb", whole) as cb, kernel.serial("q", per_block) as q:
            self._four_channels(row, data, weights, acc, x, (cb, q))
        with kernel.serial("q", rest) as q:
            if rest:
                self._four_channels(row, data, weights, acc, x, (whole, q))
        row.store(acc, x)

    def _four_channels(
        self,
        row: OutputRow,
        data: tirx.Buffer,
        weights: tirx.Buffer,
        acc: Accumulators,
        x: Index,
        channels: tuple[Index, Index],
    ) -> None:
        """Add the products of four channels: which block, and which four of it."""
        kernel, problem, lanes = row.kernel, self.problem, self.problem.lanes
        (cb, q), (down, across) = channels, problem.windows
        columns, quad = acc.blocks * lanes * GROUP, cb * (lanes // GROUP) + q
        block = row.first_input_block(problem) + cb
        ahead = -(-AHEAD_BYTES // (columns * prod(problem.kernel)))

        with each_tap(kernel, (down, across), (row.y, x), acc.pixels) as (r, s, parts):
            y = down.coordinate(row.y, r) + problem.input_halo[0]
            for inside, condition in parts:
                with kernel.when(condition), kernel.unrolled("m", len(inside), inside.start) as m:
                    column = across.coordinate(x + m, s) + problem.input_halo[1]
                    value = broadcast_group(data[row.n, block, y, column, vector(q * GROUP, GROUP)], lanes)
                    with kernel.unrolled("j", acc.blocks) as j:
                        place, span = acc.place(m, j), vector(j * (lanes * GROUP), lanes * GROUP)
                        weight = weights[row.kb, quad, r, s, span]
                        total = dot(acc.buffer[place], value, weight, self.features)
                        kernel.store(acc.buffer, [place], total)
            kernel.prefetch(weights, [row.kb, quad + ahead, r, s], columns // GROUP)
