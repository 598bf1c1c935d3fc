# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution by Fourier transforms over blocked activations: transform, products, transform back.

`rtcc.ir.ops.fft_conv` has the mathematics. Layouts: activations as in `blocked`; transformed weights
[M/(nt·b)][pairs][C][2][nt·b], of a depthwise convolution [C/b][pairs][2][b]. Tiles of outputs are
numbered through the batch, row by row. A depthwise convolution multiplies a row of the spectrum as soon as it
is there and transforms it back:

    for image, block of channels, tile:                      # shared out among tasks
        H = columns of the tile transformed
        for row u of frequencies:  H[u] = F⁻¹(F(H[u]) ⊙ weights[u])
        output[tile] = epilogue(columns of H transformed back)

A dense one sums products over the channels, one matrix product of complex numbers for each pair, by blocks of
tiles whose spectra stay in the second cache:

    for block of tiles, split of the output channels:        # shared out among tasks
        V[p, cb, t] = spectrum of input block cb of tile t
        for group of output channels:
            for p, t by register tile:
                M[t, j, p] = Σ_c V[p, t, c] · weights[group, p, c, j]
            for t, j:
                output[tile t] = epilogue(M[t, j] transformed back)

Results do not depend on how tiles are blocked or tasks divided.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, bounded, share, splat, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at, zero_halo_of_row, zero_padding
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.transformed.fft_tiles import (
    FftProblem,
    FftScratch,
    FftTile,
    blocks_of_tiles,
    channel_groups,
    fft_illegal,
)
from rtcc.targets.tvm.kernels.transformed.tile_fft import TileTransform
from rtcc.targets.tvm.kernels.transformed.unrolled_fft import Complex

AHEAD_FLOATS = 2048
"""How far ahead weights are asked for: one long stream that a core does not run ahead of by itself."""


def make(problem: FftProblem, epilogue: Epilogue | None, tile: FftTile) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output, scratch)."""
    reason = fft_illegal(problem.conv)
    assert reason is None, reason
    kernel, conv, sizes = FunctionBuilder(), problem.conv, FftScratch(problem, tile)
    data = kernel.buffer("input", conv.input.shape)
    shape: tuple[int, ...] = (conv.input.blocks, problem.pairs, 2, conv.lanes)
    if not problem.is_depthwise:
        columns = tile.blocks * conv.lanes
        shape = (channel_groups(problem, tile), problem.pairs, conv.channels, 2, columns)
    weights = kernel.buffer("weights", shape)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", conv.output.shape)
    scratch = kernel.buffer("scratch", (sizes.floats,))
    transform = TileTransform(kernel, problem, sizes, scratch)
    body = _FftConv(problem, tile, kernel, transform, data, weights, finish, output, scratch)
    body.depthwise() if problem.is_depthwise else body.dense()
    return kernel.finish()


@dataclass(frozen=True)
class _FftConv:
    """The kernel under construction."""

    problem: FftProblem
    tile: FftTile
    kernel: FunctionBuilder
    transform: TileTransform
    data: tirx.Buffer
    weights: tirx.Buffer
    finish: BoundEpilogue
    output: tirx.Buffer
    scratch: tirx.Buffer

    @property
    def lanes(self) -> int:
        """Channels of a block, and floats of a vector."""
        return self.problem.conv.lanes

    def depthwise(self) -> None:
        """Tile by tile, one block of channels after the other."""
        problem, kernel = self.problem, self.kernel
        blocks, tiles = problem.conv.input.blocks, problem.grid[0] * problem.grid[1]
        with kernel.tasks("step", problem.conv.batch * blocks * tiles) as step:
            outer = kernel.bind("outer", tirx.truncdiv(step, tiles))
            cb = kernel.bind("cb", tirx.truncmod(outer, blocks))
            image = tirx.truncdiv(outer, blocks) * tiles
            n, y, x = self._place(kernel.bind("number", image + tirx.truncmod(step, tiles)))
            self._columns(n, cb, y, x)

            def weight(pair: Index) -> Complex:
                a, b = (self.weights[cb, pair, part, vector(0, self.lanes)] for part in (0, 1))
                return a, b

            self.transform.filtered_rows(weight)
            self._store(n, cb, y, x)

    def dense(self) -> None:
        """Block by block of tiles."""
        problem, tile, kernel = self.problem, self.tile, self.kernel
        groups = channel_groups(problem, tile)
        steps = blocks_of_tiles(problem, tile) * tile.splits
        begin = kernel.bind("begin", share(steps, kernel.task, kernel.task_count)[0])
        with kernel.tasks("step", steps) as step:
            split = kernel.bind("split", tirx.truncmod(step, tile.splits))
            first = kernel.bind("first", tirx.truncdiv(step, tile.splits) * tile.block)
            count = kernel.bind("count", bounded(tile.block, problem.tiles, first))
            is_new = tirx.Or(tirx.EQ(split, 0), tirx.EQ(step, begin))
            with kernel.when(is_new if tile.splits > 1 else None):
                self._forward(first, count)
            low, high = share(groups, split, tirx.IntImm("int32", tile.splits))
            with kernel.serial("group", high - low, kernel.bind("low", low)) as group:
                self._products(group, count)
                self._backward(group, first, count)

    # ---- transforms

    def _place(self, number: Index) -> tuple[Index, Index, Index]:
        """Image, top row and left column in the output of a tile."""
        kernel, (rows, columns), outputs = self.kernel, self.problem.grid, self.problem.outputs
        n = kernel.bind("n", tirx.truncdiv(number, rows * columns))
        inside = kernel.bind("place", tirx.truncmod(number, rows * columns))
        y = kernel.bind("y", tirx.truncdiv(inside, columns) * outputs[0])
        return n, y, kernel.bind("x", tirx.truncmod(inside, columns) * outputs[1])

    def _columns(self, n: Index, cb: Index, y: Index, x: Index) -> None:
        conv = self.problem.conv
        top, left = self.kernel.bind("top", y - conv.pads[0]), self.kernel.bind("left", x - conv.pads[1])
        self.transform.columns(self.data, n, cb, top, left)

    def _forward(self, first: Index, count: Index) -> None:
        """V of a block of tiles."""
        kernel = self.kernel
        with kernel.serial("t", count) as t:
            n, y, x = self._place(kernel.bind("number", first + t))
            with kernel.serial("cb", self.problem.conv.input.blocks) as cb:
                self._columns(n, cb, y, x)

                def store(pair: Index, values, t: Index = t, cb: Index = cb) -> None:
                    for q, value in enumerate(values):
                        for part in (0, 1):
                            place = vector(self._input(pair + q, cb, t, part), self.lanes)
                            kernel.store(self.scratch, [place], value[part])

                self.transform.rows(store)

    def _backward(self, group: Index, first: Index, count: Index) -> None:
        """Outputs of a group of channels of a block of tiles."""
        kernel, tile, blocks = self.kernel, self.tile, self.problem.conv.output.blocks
        with kernel.serial("t", count) as t:
            n, y, x = self._place(kernel.bind("number", first + t))
            with kernel.serial("j", tile.blocks) as j:
                channels = kernel.bind("channels", group * tile.blocks + j)
                with kernel.when(tirx.LT(channels, blocks) if blocks % tile.blocks else None):

                    def load(pair: Index, t: Index = t, j: Index = j) -> Complex:
                        a, b = (
                            self.scratch[vector(self._product(t, j, pair, part), self.lanes)]
                            for part in (0, 1)
                        )
                        return a, b

                    self.transform.rows_back(load)
                    self._store(n, channels, y, x)

    def _store(self, n: Index, channels: Index, y: Index, x: Index) -> None:
        """Transform back, finish and store what of a tile lies in the image, and the halo of its rows."""
        kernel, lanes, out = self.kernel, self.lanes, self.problem.conv.output
        (height, width) = self.problem.outputs
        rows = kernel.bind("rows", bounded(height, out.height, y))

        def column(j: Index, values: tirx.Buffer) -> None:
            with kernel.serial("i", rows) as i:
                at = Position((n, channels * lanes, y + i, x + j), 1, lanes)
                value = zero_padding(out, channels, self.finish(values[vector(i * lanes, lanes)], at))
                kernel.store(self.output, block_at(out, n, channels, y + i, x + j), value)

        self.transform.outputs(bounded(width, out.width, x), column)
        if any(out.halo):
            with kernel.when(tirx.EQ(x, 0)), kernel.serial("i", rows) as i:
                zero_halo_of_row(kernel, self.output, out, n, channels, y + i)

    # ---- products

    def _input(self, pair: Index, cb: Index, t: Index, part: int) -> Index:
        """Where in the scratch one number of a tile's transformed channel block begins."""
        sizes = self.transform.sizes
        return sizes.half + pair * sizes.pair + ((cb * self.tile.block + t) * 2 + part) * self.lanes

    def _product(self, t: Index, j: Index, pair: Index, part: int) -> Index:
        """Where the products of one pair begin, of the group's channel block j."""
        place = ((t * self.tile.blocks + j) * self.problem.pairs + pair) * 2 + part
        return self.transform.sizes.products + place * self.lanes

    def _products(self, group: Index, count: Index) -> None:
        """M[t, j, p] = Σ_c V[p, t, c] · weights[group, p, c, j]; the first pairs are two real numbers."""
        kernel, tile, real = self.kernel, self.tile, self.problem.spectrum.real_rows
        register_tiles = kernel.bind("register_tiles", tirx.truncdiv(count + (tile.tiles - 1), tile.tiles))
        for begin, end, is_real in ((0, real, True), (real, self.problem.pairs, False)):
            with (
                kernel.serial("p", end - begin, begin) as pair,
                kernel.serial("tt", register_tiles) as register_tile,
            ):
                first = kernel.bind("t", register_tile * tile.tiles)
                sums = self._sums(pair, group, first, is_real)
                for m, j, part in self._numbers():
                    place = vector(self._product(first + m, j, pair, part), self.lanes)
                    kernel.store(self.scratch, [place], sums[self._register(m, j, part)])

    def _numbers(self) -> list[tuple[int, int, int]]:
        """Tile, block and part of every accumulator."""
        return [
            (m, j, part) for m in range(self.tile.tiles) for j in range(self.tile.blocks) for part in (0, 1)
        ]

    def _register(self, m: int, j: int, part: int) -> Expr:
        return vector(((m * self.tile.blocks + j) * 2 + part) * self.lanes, self.lanes)

    def _sums(self, pair: Index, group: Index, first: Index, is_real: bool) -> tirx.Buffer:
        """The products of a register tile, summed over the channels."""
        kernel, tile, lanes, conv = self.kernel, self.tile, self.lanes, self.problem.conv
        sums = kernel.local("sums", (tile.tiles * tile.blocks * 2 * lanes,))
        for number in self._numbers():
            kernel.store(sums, [self._register(*number)], splat(0.0, lanes))
        with (
            kernel.serial("cb", conv.input.blocks) as cb,
            kernel.serial("c", bounded(lanes, conv.channels, cb * lanes)) as c,
        ):
            channel = kernel.bind("channel", cb * lanes + c)
            columns = 2 * tile.blocks * lanes
            kernel.prefetch(self.weights, [group, pair, channel + AHEAD_FLOATS // columns, 0], columns)

            def add(m: int, j: int, part: int, left: Expr, other: int, *, subtract: bool = False) -> None:
                place = self._register(m, j, part)
                product = left * self.weights[group, pair, channel, other, vector(j * lanes, lanes)]
                kernel.store(sums, [place], sums[place] - product if subtract else sums[place] + product)

            for m in range(tile.tiles):
                a, b = (
                    splat(self.scratch[self._input(pair, cb, first + m, part) + c], lanes) for part in (0, 1)
                )
                for j in range(tile.blocks):
                    add(m, j, 0, a, 0)
                    add(m, j, 1, b if is_real else a, 1)
                    if not is_real:
                        add(m, j, 0, b, 1, subtract=True)
                        add(m, j, 1, b, 0)
        return sums
