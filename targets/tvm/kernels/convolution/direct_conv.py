# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Direct convolution over blocked activations: any kernel size, stride and dilation, groups of whole blocks.

Layouts: activations as in `blocked`, weights [K/(nt·b)][C/b][R][S][b][nt·b], zero-padded to
whole blocks. One pass of the inner loops keeps a tile of pixels by nt·b output channels in registers over the
whole reduction: for every input channel and tap, nt weight vectors are loaded and each of the tile's pixels
is broadcast and multiplied into nt accumulators.

    for (n, kb, y):  for x by tile:                       # shared out among tasks
        for cb, r, s, c:                                  # reduction, of taps inside the data
            acc[m, j] += input[n, cb, y·sh + r·dh, (x + m)·sw + s·dw, c] · weights[kb, cb, r, s, c, j]
        output[n, kb·nt + j, y, x + m] = epilogue(acc[m, j])

What remains of a row is a second, narrower tile. A 1x1 convolution of stride 1 without halos may have several
rows joined into one, so that tiles run across row ends. `Tile` says how the loops are blocked for the caches;
where that takes several passes over the input channels, the output must not share memory with an epilogue's
parameter. Long sums are cut into parts of whole input blocks (`summation`).
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import LINE_FLOATS, SECOND_CACHE, Index, bounded, splat, vector
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import direct_illegal, direct_tile
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Epilogue
from rtcc.targets.tvm.kernels.numbers import TOTAL
from rtcc.targets.tvm.kernels.output_row import Accumulators, Band, OutputRow, banded
from rtcc.targets.tvm.kernels.tiling import Tiling, even_part, together
from rtcc.targets.tvm.kernels.window_taps import each_tap
from rtcc.targets.tvm.summation import block_length

AHEAD_ELEMENTS = 1024
"""How far ahead weights are asked for: they lie one after the other as the loops go. Where they come from
memory, as in a network larger than the caches, layers measured 1.0 to 1.25 times as fast. Inputs, asked for a
tile ahead, that lie past the second cache: 1.0 to 1.13 times."""


def make(problem: ConvProblem, epilogue: Epilogue | None = None, tile: Tile | None = None) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output); `tile` as for the weights."""
    reason = direct_illegal(problem)
    assert reason is None, reason
    tile = tile or direct_tile(problem, 32 if problem.lanes == 16 else 16)
    return _DirectConv(problem, tile).build(epilogue)


@dataclass(frozen=True)
class _DirectConv:
    """The kernel's loops and everything that follows from the problem and its tile."""

    problem: ConvProblem
    tile: Tile

    def build(self, epilogue: Epilogue | None) -> tirx.PrimFunc:
        problem, tile = self.problem, self.tile
        numbers = problem.numbers.name
        data = BufferSpec("input", problem.input.joined(tile.joined).shape, numbers)
        taps = (self.problem.reduction_blocks, *problem.kernel, problem.lanes)
        weights = BufferSpec("weights", (self.tiling.groups, *taps, tile.blocks * problem.lanes), numbers)
        return banded(self.tiling, tile.rows, [data, weights], epilogue, self._band, numbers)

    def _band(self, band: Band, data: tirx.Buffer, weights: tirx.Buffer) -> None:
        first = 1 if self.problem.window(0).before else 0  # row 0 leaves taps out: weights would come in gaps
        with band.kernel.serial("sweep", self.passes) as sweep, band.each_row(first=first) as row:
            row.edge_tiles(
                self.tile.pixels, self.problem.window(1),
                lambda x, pixels: self._tile(row, data, weights, sweep, x, pixels),
            )  # fmt: skip

    @property
    def tiling(self) -> Tiling:
        """The output as the tiles cut it."""
        return Tiling(self.problem.output, self.tile.blocks, self.tile.joined)

    @property
    def depth(self) -> int:
        """Input blocks summed in one pass."""
        return self.tile.depth or self.problem.reduction_blocks

    @property
    def passes(self) -> int:
        """Passes over the input blocks; between two of them the sums rest in the output."""
        return -(-self.problem.reduction_blocks // self.depth)

    @property
    def part(self) -> int:
        """Input blocks whose products are added up before their sum goes to a total."""
        taps = self.problem.kernel[0] * self.problem.kernel[1] * self.problem.lanes
        longest = max(1, block_length(self.depth * taps, self.problem.numbers) // taps)
        return even_part(self.depth, longest) if self._is_short and longest < self.depth else longest

    @property
    def _is_short(self) -> bool:
        """Whether a block of channels has so few products that the innermost loop takes several at once."""
        return self.problem.reads_lanes and self.problem.kernel == (1, 1)

    def _tile(
        self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer, sweep: Index, x: Index, pixels: int
    ) -> None:
        kernel, last = row.kernel, self.passes - 1
        numbers = self.problem.numbers.name if self.part >= self.depth else TOTAL
        acc = row.started(pixels, by_lane=self.problem.by_lane, dtype=numbers)
        if last:
            with kernel.when(tirx.GT(sweep, 0)):
                row.resume(acc, x)
        self._reduce(row, data, weights, sweep, acc, x)
        if last:
            with kernel.when(tirx.LT(sweep, last)):
                row.suspend(acc, x)
        with kernel.when(tirx.EQ(sweep, last) if last else None):
            row.store(acc, x)

    def _reduce(
        self,
        row: OutputRow,
        data: tirx.Buffer,
        weights: tirx.Buffer,
        sweep: Index,
        acc: Accumulators,
        x: Index,
    ) -> None:
        """Add the products of this pass's input blocks to the accumulators; long sums in parts."""
        problem, kernel = self.problem, row.kernel
        first = sweep * self.depth
        count = bounded(self.depth, problem.reduction_blocks, first)
        room = self.part
        if room >= self.depth:
            self._products(row, data, weights, acc, x, first, count)
            return
        with kernel.serial("part", tirx.truncdiv(count + (room - 1), room)) as part:
            partial = row.accumulators(acc.pixels, dtype=problem.numbers.name)
            begin = first + part * room
            is_even = self._is_short and self.passes == 1 and self.depth % room == 0
            taken = room if is_even else tirx.Min(room, first + count - begin)
            self._products(row, data, weights, partial, x, begin, taken)
            acc.add_all(kernel, partial)

    def _products(
        self,
        row: OutputRow,
        data: tirx.Buffer,
        weights: tirx.Buffer,
        acc: Accumulators,
        x: Index,
        first: Index,
        count: Index,
    ) -> None:
        """Add the products of `count` input blocks from `first`."""
        problem, kernel, lanes = self.problem, row.kernel, self.problem.lanes
        (down, across), columns = problem.windows, acc.blocks * lanes

        def place(m: Index) -> Index:
            return across.coordinate(x + m, s) + problem.input_halo[1]

        turns = together(count) if self._is_short else 1
        with (
            kernel.serial_by("cb", count, first, turns) as cb,
            each_tap(kernel, problem.windows, (row.y, x), acc.pixels) as (r, s, parts),
        ):
            self._ask_for_inputs(row, data, x + acc.pixels, acc.pixels, (cb, r, s))
            y = down.coordinate(row.y, r) + problem.input_halo[0]
            block = row.first_input_block(problem) + cb
            if problem.reads_lanes:
                kernel.prefetch(weights, [row.kb, cb, r, s, AHEAD_ELEMENTS // columns], columns * lanes)
                for inside, condition in parts:
                    with kernel.when(condition):
                        acc.add_by_lane(
                            kernel, inside,
                            lambda m: data[row.n, block, y, place(m), vector(0, lanes)],
                            lambda c, j: weights[row.kb, cb, r, s, c, vector(j * lanes, lanes)],
                        )  # fmt: skip
                return
            with kernel.serial("c", bounded(lanes, problem.channels // problem.groups, cb * lanes)) as c:
                kernel.prefetch(weights, [row.kb, cb, r, s, c + AHEAD_ELEMENTS // columns], columns)
                for inside, condition in parts:
                    with (
                        kernel.when(condition),
                        kernel.unrolled("m", len(inside), inside.start) as m,
                        kernel.unrolled("j", acc.blocks) as j,
                    ):
                        value = splat(data[row.n, block, y, place(m), c], lanes)
                        weight = weights[row.kb, cb, r, s, c, vector(j * lanes, lanes)]
                        acc.add(kernel, m, j, value * weight)

    def _ask_for_inputs(
        self, row: OutputRow, data: tirx.Buffer, x: Index, pixels: int, tap: tuple[Index, Index, Index]
    ) -> None:
        """Ask for what so many pixels of the row from x on read at a tap (cb, r, s), each input once.

        Not in a first layer, whose few channels take less time than asking.
        """
        problem, kernel, (cb, r, s) = self.problem, row.kernel, tap
        if problem.channels < problem.lanes:
            return
        (down, across), halo = problem.windows, problem.input_halo
        is_new = tirx.LT(s, across.stride) if across.taps > across.stride else None
        block, y = row.first_input_block(problem) + cb, down.coordinate(row.y, r) + halo[0]
        step = max(1, LINE_FLOATS // (problem.lanes * across.stride)) if problem.by_lane else 1
        with kernel.when(is_new), kernel.unrolled("m", -(-pixels // step)) as m:
            column = across.coordinate(x + m * step, s) + halo[1]
            kernel.prefetch(data, [row.n, block, y, column], problem.lanes, SECOND_CACHE)
