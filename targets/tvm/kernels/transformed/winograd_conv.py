# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Winograd's convolution over blocked activations: transform, products, transform back, all in scratch.

`rtcc.ir.ops.winograd` has the mathematics. Layouts: activations as in `blocked`; transformed weights
[M/(nt·b)][rows][columns][C][nt·b]. Tiles of outputs are numbered through the
batch, row by row, and done by blocks whose transformed inputs and products stay in the second cache:

    for block of tiles, split of the output channels:            # shared out among tasks
        V[p, cb, t] = (Bᵀ d B)[p]                                # all points p of each tile and input block
        for group of output channels:
            for p, t by register tile:
                M[t, j, p] = Σ_c V[p, t, c] · weights[group, p, c, j]    # in parts (`summation`)
            for t, j:
                output[tile t] = epilogue(Aᵀ M[t, j] A)

A tile whose inputs lie outside the image and its halo is first copied to the stack, zeros around it, so that
the input may have any halo or none. Results do not depend on how tiles are blocked or tasks divided.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, bounded, share, splat, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at, zero_halo_of_row, zero_padding
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.output_row import Accumulators
from rtcc.targets.tvm.kernels.transformed.constant_matrix import multiplied
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import (
    WinogradProblem,
    WinogradTile,
    channel_groups,
    input_floats,
    scratch_bytes,
    winograd_illegal,
)
from rtcc.targets.tvm.summation import TRANSFORMED_CHANNELS

AHEAD_FLOATS = 2048
"""How far ahead weights are asked for. They come from the third cache or from memory, in one long stream that
a core does not run ahead of by itself: measured 1.1 to 2.4 times as fast where the caches were cold."""


def make(problem: WinogradProblem, epilogue: Epilogue | None, tile: WinogradTile) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output, scratch)."""
    reason = winograd_illegal(problem.conv, problem.outputs)
    assert reason is None, reason
    return _WinogradConv(problem, tile, FunctionBuilder()).build(epilogue)


@dataclass(frozen=True)
class _WinogradConv:
    """The kernel's outer loops."""

    problem: WinogradProblem
    tile: WinogradTile
    kernel: FunctionBuilder

    def build(self, epilogue: Epilogue | None) -> tirx.PrimFunc:
        problem, tile, kernel, conv = self.problem, self.tile, self.kernel, self.problem.conv
        groups = channel_groups(problem, tile)
        data = kernel.buffer("input", conv.input.shape)
        shape = (groups, problem.products, conv.channels, tile.blocks * conv.lanes)
        weights = kernel.buffer("weights", shape)
        finish = BoundEpilogue(kernel, epilogue)
        output = kernel.buffer("output", conv.output.shape)
        scratch = kernel.buffer("scratch", (scratch_bytes(problem, tile) // 4,))
        steps = -(-problem.tiles // tile.block) * tile.splits
        begin = kernel.bind("begin", share(steps, kernel.task, kernel.task_count)[0])
        with kernel.tasks("step", steps) as step:
            split = kernel.bind("split", tirx.truncmod(step, tile.splits))
            first = kernel.bind("first", tirx.truncdiv(step, tile.splits) * tile.block)
            count = kernel.bind("count", bounded(tile.block, problem.tiles, first))
            block = _Block(problem, tile, kernel, scratch, first, count)
            is_new = tirx.Or(tirx.EQ(split, 0), tirx.EQ(step, begin))
            with kernel.when(is_new if tile.splits > 1 else None):
                _InputTransform(block, data).emit()
            low, high = share(groups, split, tirx.IntImm("int32", tile.splits))
            with kernel.serial("group", high - low, kernel.bind("low", low)) as group:
                _Products(block, weights).emit(group)
                _OutputTransform(block, output, finish).emit(group)
        return kernel.finish()


@dataclass(frozen=True)
class _Block:
    """A block of tiles: `count` of them from number `first`, and where their scratch lies."""

    problem: WinogradProblem
    tile: WinogradTile
    kernel: FunctionBuilder
    scratch: tirx.Buffer
    first: Index
    count: Index

    @property
    def lanes(self) -> int:
        """Channels of a block, and floats of a vector."""
        return self.problem.conv.lanes

    def transformed(self, point: Index, block: Index, tile: Index) -> Index:
        """Where in the scratch one point of a tile's transformed channel block begins."""
        return point * input_floats(self.problem, self.tile) + (block * self.tile.block + tile) * self.lanes

    def product(self, tile: Index, j: Index, point: Index) -> Index:
        """Where the products of one point begin, of the group's channel block j."""
        base = self.problem.products * input_floats(self.problem, self.tile)
        return base + ((tile * self.tile.blocks + j) * self.problem.products + point) * self.lanes

    def place(self, t: Index) -> tuple[Index, Index, Index]:
        """Image, top row and left column in the output of the block's tile t."""
        kernel, (rows, columns) = self.kernel, self.problem.grid
        number = kernel.bind("number", self.first + t)
        n = kernel.bind("n", tirx.truncdiv(number, rows * columns))
        inside = kernel.bind("inside", tirx.truncmod(number, rows * columns))
        y = kernel.bind("y", tirx.truncdiv(inside, columns) * self.problem.outputs[0])
        x = kernel.bind("x", tirx.truncmod(inside, columns) * self.problem.outputs[1])
        return n, y, x


@dataclass(frozen=True)
class _InputTransform:
    """V = Bᵀ d B for every tile of a block and every block of channels."""

    block: _Block
    data: tirx.Buffer

    def emit(self) -> None:
        block, kernel = self.block, self.block.kernel
        with kernel.serial("t", block.count) as t:
            n, y, x = block.place(t)
            conv = block.problem.conv
            top = kernel.bind("top", y - conv.pads[0])
            left = kernel.bind("left", x - conv.pads[1])
            inside = self._inside(top, left)
            inside = None if inside is None else kernel.bind("within", inside)
            with kernel.serial("cb", conv.input.blocks) as cb:
                with kernel.when(inside):
                    self._tile(t, cb, lambda i, j: self._loaded(n, cb, top + i, left + j))
                if inside is not None:
                    with kernel.when(tirx.Not(inside)):
                        patch = self._patch(n, cb, top, left)
                        columns = block.problem.points[1]
                        self._tile(
                            t, cb, lambda i, j: patch[vector((i * columns + j) * block.lanes, block.lanes)]
                        )

    def _inside(self, top: Index, left: Index) -> Expr | None:
        """Whether a tile's inputs lie within the image and its halo; None where all tiles' do."""
        problem, conv = self.block.problem, self.block.problem.conv
        conditions, extents = [], (conv.height, conv.width)
        for axis, start in ((0, top), (1, left)):
            extent, before, after = extents[axis], conv.input_halo[axis], conv.input_halo[axis + 2]
            last = (problem.grid[axis] - 1) * problem.outputs[axis] - conv.pads[axis]
            if conv.pads[axis] > before:
                conditions.append(tirx.GE(start, -before))
            if last + problem.points[axis] > extent + after:
                conditions.append(tirx.LE(start, extent + after - problem.points[axis]))
        if not conditions:
            return None
        return conditions[0] if len(conditions) == 1 else tirx.all(*conditions)

    def _loaded(self, n: Index, cb: Index, row: Index, column: Index) -> Expr:
        return self.data[tuple(block_at(self.block.problem.conv.input, n, cb, row, column))]

    def _patch(self, n: Index, cb: Index, top: Index, left: Index) -> tirx.Buffer:
        """The tile's inputs on the stack, zeros outside the image."""
        kernel, lanes, conv = self.block.kernel, self.block.lanes, self.block.problem.conv
        rows, columns = self.block.problem.points
        patch = kernel.local("patch", (rows * columns * lanes,))
        with kernel.serial("i", rows * columns) as i:
            kernel.store(patch, [vector(i * lanes, lanes)], splat(0.0, lanes))
        first_row, row_end = _overlap(kernel, top, rows, conv.height)
        first_column, column_end = _overlap(kernel, left, columns, conv.width)
        with (
            kernel.serial("i", row_end - first_row, first_row) as i,
            kernel.serial("j", column_end - first_column, first_column) as j,
        ):
            place = [vector((i * columns + j) * lanes, lanes)]
            kernel.store(patch, place, self._loaded(n, cb, top + i, left + j))
        return patch

    def _tile(self, t: Index, cb: Index, load) -> None:
        """Transform one tile along its height, then its width, and store every point."""
        block, kernel, lanes = self.block, self.block.kernel, self.block.lanes
        down, across = block.problem.transforms
        rows, columns = block.problem.points
        half = kernel.local("half", (rows * columns * lanes,))
        with kernel.unrolled("j", columns) as j:
            for i, value in enumerate(multiplied(kernel, down.input, [load(i, j) for i in range(rows)])):
                kernel.store(half, [vector((j * rows + i) * lanes, lanes)], value)
        with kernel.unrolled("i", rows) as i:
            values = [half[vector((j * rows + i) * lanes, lanes)] for j in range(columns)]
            for j, value in enumerate(multiplied(kernel, across.input, values)):
                place = block.transformed(i * columns + j, cb, t)
                kernel.store(block.scratch, [vector(place, lanes)], value)


def _overlap(kernel: FunctionBuilder, start: Index, count: int, extent: int) -> tuple[Index, Index]:
    """First and end of the elements start, start + 1… (`count` of them) that are within 0 and extent."""
    zero = tirx.IntImm("int32", 0)
    first = kernel.bind("low", tirx.Max(zero, -start))
    end = kernel.bind("high", tirx.Max(first, tirx.Min(tirx.IntImm("int32", count), extent - start)))
    return first, end


@dataclass(frozen=True)
class _Products:
    """M[t, j, p] = Σ_c V[p, t, c] · weights[group, p, c, j] for a group of output channels."""

    block: _Block
    weights: tirx.Buffer

    def emit(self, group: Index) -> None:
        block, kernel, tile = self.block, self.block.kernel, self.block.tile
        register_tiles = tirx.truncdiv(block.count + (tile.tiles - 1), tile.tiles)
        with (
            kernel.serial("p", block.problem.products) as point,
            kernel.serial("tt", register_tiles) as register_tile,
        ):
            first = kernel.bind("t", register_tile * tile.tiles)
            acc = self._sums(point, group, first)
            with kernel.unrolled("m", acc.pixels) as m, kernel.unrolled("j", acc.blocks) as j:
                place = vector(block.product(first + m, j, point), block.lanes)
                kernel.store(block.scratch, [place], acc.buffer[acc.place(m, j)])

    def _sums(self, point: Index, group: Index, first: Index) -> Accumulators:
        """The products of a register tile, summed over the channels; many channels in parts."""
        conv = self.block.problem.conv
        part = TRANSFORMED_CHANNELS // conv.lanes
        if conv.input.blocks <= part:
            return self._part(point, group, first, 0, conv.input.blocks)
        kernel, sums = self.block.kernel, self._zeros("sums")
        with kernel.serial("part", -(-conv.input.blocks // part)) as number:
            begin = kernel.bind("begin", number * part)
            products = self._part(point, group, first, begin, bounded(part, conv.input.blocks, begin))
            with kernel.unrolled("m", sums.pixels) as m, kernel.unrolled("j", sums.blocks) as j:
                sums.add(kernel, m, j, products.buffer[products.place(m, j)])
        return sums

    def _part(self, point: Index, group: Index, first: Index, begin: Index, count: Index) -> Accumulators:
        """The products of a register tile, summed over `count` channel blocks from `begin`."""
        block, kernel, lanes, conv = self.block, self.block.kernel, self.block.lanes, self.block.problem.conv
        acc = self._zeros("acc")
        with (
            kernel.serial("cb", count, begin) as cb,
            kernel.serial("c", bounded(lanes, conv.channels, cb * lanes)) as c,
        ):
            channel = kernel.bind("channel", cb * lanes + c)
            columns = acc.blocks * lanes
            kernel.prefetch(self.weights, [group, point, channel + AHEAD_FLOATS // columns], columns)
            with kernel.unrolled("m", acc.pixels) as m, kernel.unrolled("j", acc.blocks) as j:
                value = splat(block.scratch[block.transformed(point, cb, first + m) + c], lanes)
                weight = self.weights[group, point, channel, vector(j * lanes, lanes)]
                acc.add(kernel, m, j, value * weight)
        return acc

    def _zeros(self, name: str) -> Accumulators:
        """The accumulators of a register tile."""
        kernel, tile, lanes = self.block.kernel, self.block.tile, self.block.lanes
        count = tile.tiles * tile.blocks
        buffer = kernel.local(name, (count * lanes,))
        with kernel.unrolled("i", count) as i:
            kernel.store(buffer, [vector(i * lanes, lanes)], splat(0.0, lanes))
        return Accumulators(buffer, tile.tiles, tile.blocks, lanes)


@dataclass(frozen=True)
class _OutputTransform:
    """output = epilogue(Aᵀ M A) for every tile of a block and a group of output channels."""

    block: _Block
    output: tirx.Buffer
    finish: BoundEpilogue

    def emit(self, group: Index) -> None:
        block, kernel, tile = self.block, self.block.kernel, self.block.tile
        blocks = block.problem.conv.output.blocks
        with kernel.serial("t", block.count) as t:
            n, y, x = block.place(t)
            with kernel.serial("j", tile.blocks) as j:
                channels = kernel.bind("channels", group * tile.blocks + j)
                with kernel.when(tirx.LT(channels, blocks) if blocks % tile.blocks else None):
                    self._store(n, channels, y, x, self._tile(t, j))

    def _tile(self, t: Index, j: Index) -> tirx.Buffer:
        """One tile's outputs [rows][columns] of one channel block, on the stack."""
        block, kernel, lanes = self.block, self.block.kernel, self.block.lanes
        down, across = block.problem.transforms
        (rows, columns), (height, width) = block.problem.points, block.problem.outputs
        half = kernel.local("half", (height * columns * lanes,))
        with kernel.unrolled("q", columns) as q:
            places = [block.product(t, j, p * columns + q) for p in range(rows)]
            values = [block.scratch[vector(place, lanes)] for place in places]
            for i, value in enumerate(multiplied(kernel, down.output, values)):
                kernel.store(half, [vector((q * height + i) * lanes, lanes)], value)
        outputs = kernel.local("outputs", (height * width * lanes,))
        with kernel.unrolled("i", height) as i:
            values = [half[vector((q * height + i) * lanes, lanes)] for q in range(columns)]
            for q, value in enumerate(multiplied(kernel, across.output, values)):
                kernel.store(outputs, [vector((i * width + q) * lanes, lanes)], value)
        return outputs

    def _store(self, n: Index, channels: Index, y: Index, x: Index, outputs: tirx.Buffer) -> None:
        """Finish and store what of a tile lies in the image, and the halo of its rows."""
        block, kernel, lanes = self.block, self.block.kernel, self.block.lanes
        (height, width), out = block.problem.outputs, block.problem.conv.output
        rows, columns = bounded(height, out.height, y), bounded(width, out.width, x)
        with kernel.serial("i", rows) as i:
            with kernel.serial("q", columns) as q:
                at = Position((n, channels * lanes, y + i, x + q), 1, lanes)
                value = self.finish(outputs[vector((i * width + q) * lanes, lanes)], at)
                value = zero_padding(out, channels, value)
                kernel.store(self.output, block_at(out, n, channels, y + i, x + q), value)
            if any(out.halo):
                with kernel.when(tirx.EQ(x, 0)):
                    zero_halo_of_row(kernel, self.output, out, n, channels, y + i)
