# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution by Fourier transforms over blocked activations: transform, products, transform back.

`rtcc.ir.ops.fft_conv` has the mathematics. Layouts: activations as in `blocked`; transformed weights
[M/(nt·b)][pairs][C][2][nt·b], of a depthwise convolution [C/b][pairs][2][b]. A depthwise convolution
multiplies a row of the spectrum as soon as it is there and transforms it back:

    for image, block of channels, tile:                      # shared out among tasks
        H = columns of the tile transformed
        for row u of frequencies:  H[u] = F⁻¹(F(H[u]) ⊙ weights[u])
        output[tile] = epilogue(columns of H transformed back)

A dense one sums products over the channels, one matrix product of complex numbers for each pair, by blocks of
tiles whose spectra stay in the second cache; `tile_blocks` has its loops.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, bounded, splat, vector
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue
from rtcc.targets.tvm.kernels.output_row import Accumulators
from rtcc.targets.tvm.kernels.transformed.fft_tiles import FftProblem, fft_illegal
from rtcc.targets.tvm.kernels.transformed.tile_blocks import (
    AHEAD_FLOATS,
    Corner,
    TileBlock,
    TransformedConv,
    corner_of,
)
from rtcc.targets.tvm.kernels.transformed.tile_fft import TileTransform
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import (
    Blocking,
    Scratch,
    TileKind,
    channel_groups,
)
from rtcc.targets.tvm.kernels.transformed.unrolled_fft import Complex


def make(problem: FftProblem, epilogue: Epilogue | None, by: Blocking) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output, scratch)."""
    reason = fft_illegal(problem.conv)
    assert reason is None, reason
    kernel, conv = FunctionBuilder(), problem.conv
    data = kernel.buffer("input", conv.input.shape)
    shape: tuple[int, ...] = (conv.input.blocks, problem.products, 2, conv.lanes)
    if not problem.is_depthwise:
        columns = by.blocks * conv.lanes
        shape = (channel_groups(problem, by), problem.products, conv.channels, 2, columns)
    weights = kernel.buffer("weights", shape)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", conv.output.shape)
    scratch = kernel.buffer("scratch", (Scratch(problem, by).floats,))
    transform = TileTransform(kernel, problem, scratch)
    body = _FftConv(kernel, data, weights, finish, output, scratch, problem, transform)
    body.depthwise() if problem.is_depthwise else body.emit(problem, by)
    return kernel.finish()


@dataclass(frozen=True)
class _FftConv(TransformedConv):
    """The kernel under construction."""

    problem: FftProblem
    transform: TileTransform

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
            at = corner_of(kernel, problem, problem.kinds[0], image + tirx.truncmod(step, tiles))
            self._columns(cb, at)

            def weight(pair: Index) -> Complex:
                a, b = (self.weights[cb, pair, part, vector(0, self.lanes)] for part in (0, 1))
                return a, b

            self.transform.filtered_rows(weight)
            self._store(cb, at)

    # ---- transforms

    def _columns(self, cb: Index, at: Corner) -> None:
        """The tile's columns transformed."""
        pads = self.problem.conv.pads
        top, left = self.kernel.bind("top", at.y - pads[0]), self.kernel.bind("left", at.x - pads[1])
        self.transform.columns(self.data, at.n, cb, top, left)

    def transform_input(self, block: TileBlock, t: Index, at: Corner, kind: TileKind) -> None:
        kernel = self.kernel
        with kernel.serial("cb", self.problem.conv.input.blocks) as cb:
            self._columns(cb, at)

            def store(pair: Index, values, t: Index = t, cb: Index = cb) -> None:
                for q, value in enumerate(values):
                    for part in (0, 1):
                        place = vector(block.transformed(pair + q, cb, t, part), self.lanes)
                        kernel.store(self.scratch, [place], value[part])

            self.transform.rows(store)

    def transform_output(
        self, block: TileBlock, t: Index, j: Index, channels: Index, at: Corner, kind: TileKind
    ) -> None:
        def load(pair: Index) -> Complex:
            a, b = (self.scratch[vector(block.product(t, j, pair, part), self.lanes)] for part in (0, 1))
            return a, b

        self.transform.rows_back(load)
        self._store(channels, at)

    def _store(self, channels: Index, at: Corner) -> None:
        """Transform back, finish and store what of a tile lies in the image, and the halo of its rows."""
        kernel, lanes, out = self.kernel, self.lanes, self.problem.conv.output
        height, width = self.problem.outputs
        rows = kernel.bind("rows", bounded(height, out.height, at.y))

        def column(j: Index, values: tirx.Buffer) -> None:
            with kernel.serial("i", rows) as i:
                self.store(self.problem, channels, at, i, j, values[vector(i * lanes, lanes)])

        self.transform.outputs(bounded(width, out.width, at.x), column)
        with kernel.serial("i", rows) as i:
            self.zero_halo(self.problem, channels, at, i)

    # ---- products

    def multiply(self, block: TileBlock, group: Index) -> None:
        """The first pairs of a spectrum are two real numbers, the others complex."""
        real = self.problem.spectrum.real_rows
        for begin, end, is_real in ((0, real, True), (real, self.problem.products, False)):
            with self.kernel.serial("p", end - begin, begin) as pair:

                def emit(first: Index, _: int, pair: Index = pair, is_real: bool = is_real) -> None:
                    block.store_products(self._sums(block, pair, group, first, is_real), first, pair)

                block.register_tiles((0, block.count), emit)

    def _sums(self, block: TileBlock, pair: Index, group: Index, first: Index, is_real: bool) -> Accumulators:
        """The products of a register tile, summed over the channels; accumulator 2·j + part of a tile."""
        kernel, by, lanes, conv = self.kernel, block.by, self.lanes, self.problem.conv
        sums = Accumulators.cleared(kernel, "sums", by.tiles, 2 * by.blocks, lanes)
        with (
            kernel.serial("cb", conv.input.blocks) as cb,
            kernel.serial("c", bounded(lanes, conv.channels, cb * lanes)) as c,
        ):
            channel = kernel.bind("channel", cb * lanes + c)
            columns = 2 * by.blocks * lanes
            kernel.prefetch(self.weights, [group, pair, channel + AHEAD_FLOATS // columns, 0], columns)

            def add(m: int, j: int, part: int, left: Expr, other: int, *, subtract: bool = False) -> None:
                place = sums.place(m, 2 * j + part)
                product = left * self.weights[group, pair, channel, other, vector(j * lanes, lanes)]
                total = sums.buffer[place]
                kernel.store(sums.buffer, [place], total - product if subtract else total + product)

            for m in range(by.tiles):
                a, b = (
                    splat(self.scratch[block.transformed(pair, cb, first + m, part) + c], lanes)
                    for part in (0, 1)
                )
                for j in range(by.blocks):
                    add(m, j, 0, a, 0)
                    add(m, j, 1, b if is_real else a, 1)
                    if not is_real:
                        add(m, j, 0, b, 1, subtract=True)
                        add(m, j, 1, b, 0)
        return sums
