# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""The outer loops of convolutions by transformed tiles, and where a block of tiles lies in scratch.

Tiles of outputs are numbered through the batch, row by row, kind by kind (`TileKind`), and done by blocks
whose transformed inputs and products stay in the second cache:

    for block of tiles, split of the output channels:            # shared out among tasks
        V[p, cb, t] = transform of input block cb of tile t, for every product p
        for group of output channels:
            for p, t by register tile:                           # those tiles that have product p
                M[t, j, p] = Σ_c V[p, t, c] · weights[group, p, c, j]
            for t, j:
                output[tile t] = epilogue(M[t, j] transformed back)          # pooled, where there is a pool

Results do not depend on how tiles are blocked or tasks divided.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, bounded, share, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at, zero_halo_of_row, zero_padding
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Position
from rtcc.targets.tvm.kernels.output_row import Accumulators
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import (
    Blocking,
    Scratch,
    TileKind,
    TransformedProblem,
    blocks_of_tiles,
    channel_groups,
)

AHEAD_FLOATS = 2048
"""How far ahead weights are asked for. They come from the third cache or from memory, in one long stream that
a core does not run ahead of by itself: measured 1.1 to 2.4 times as fast where the caches were cold."""


@dataclass(frozen=True)
class Corner:
    """Image, and top row and left column in the output, of a tile."""

    n: Index
    y: Index
    x: Index


def corner_of(
    kernel: FunctionBuilder, problem: TransformedProblem, kind: TileKind, number: Index
) -> Corner:
    """Where a tile of a kind lies, by its number in the batch."""
    rows, columns, (height, width) = len(kind.rows), len(kind.columns), problem.outputs
    number = kernel.bind("number", number - kind.first)
    n = kernel.bind("n", tirx.truncdiv(number, rows * columns))
    inside = kernel.bind("inside", tirx.truncmod(number, rows * columns))
    y = kernel.bind("y", (kind.rows.start + tirx.truncdiv(inside, columns)) * height)
    return Corner(n, y, kernel.bind("x", (kind.columns.start + tirx.truncmod(inside, columns)) * width))


@dataclass(frozen=True)
class TileBlock:
    """A block of tiles: `count` of them from number `first`, and where their scratch lies."""

    problem: TransformedProblem
    by: Blocking
    kernel: FunctionBuilder
    scratch: tirx.Buffer
    first: Index
    count: Index

    @property
    def lanes(self) -> int:
        """Channels of a block, and floats of a vector."""
        return self.problem.conv.lanes

    def transformed(self, product: Index, block: Index, tile: Index, part: int = 0) -> Index:
        """Where in the scratch one number of a tile's transformed channel block begins."""
        scratch = Scratch(self.problem, self.by)
        place = (block * self.by.block + tile) * self.problem.parts + part
        return scratch.transformed + product * scratch.inputs + place * self.lanes

    def product(self, tile: Index, j: Index, product: Index, part: int = 0) -> Index:
        """Where one number of a tile's products begins, of the group's channel block j."""
        place = (tile * self.by.blocks + j) * self.problem.products + product
        return Scratch(self.problem, self.by).products + (place * self.problem.parts + part) * self.lanes

    def part(self, low: Index, high: Index) -> tuple[Index, Index]:
        """The block's part of the tiles from number `low` to `high`: its first tile, and how many.

        Both are kept: TVM would look for the ranges of what depends on them.
        """
        kernel, zero = self.kernel, tirx.IntImm("int32", 0)
        begin = kernel.kept(tirx.Max(zero, low - self.first))
        end = tirx.Min(zero + self.count, high - self.first)
        return begin, kernel.kept(tirx.Max(zero, end - begin))

    def tiles_of(self, kind: TileKind) -> tuple[Index, Index]:
        """The block's tiles of a kind: the first, and how many."""
        if len(self.problem.kinds) == 1:
            return 0, self.count
        return self.part(kind.numbers.start, kind.numbers.stop)

    def register_tiles(
        self, tiles: tuple[Index, Index], emit: Callable[[Index, int], None], *, shifted: bool = False
    ) -> None:
        """emit(first tile, width) for the register tiles of some of the block's tiles: the first, how many.

        What they compute beside these tiles is not looked at; shifted: they may begin earlier, so that all of
        it lies in the block.
        """
        kernel, width, narrower = self.kernel, self.by.tiles, self.problem.narrower(self.by)
        begin, count = tiles
        whole = kernel.bind("whole", tirx.truncdiv(count + (width - 1 - narrower), width))
        has_rest = tirx.LT(whole * width, count)
        if shifted:
            held = whole * width + (tirx.Select(has_rest, narrower, 0) if narrower else 0)
            begin = kernel.kept(tirx.Min(begin, self.by.block - held))
        with kernel.serial("tt", whole) as register_tile:
            emit(kernel.bind("t", begin + register_tile * width), width)
        if narrower:
            with kernel.when(has_rest):
                emit(kernel.bind("t", begin + whole * width), narrower)

    def store_products(self, sums: Accumulators, first: Index, product: Index) -> None:
        """Keep the products of a register tile, its parts side by side, for transforming them back."""
        parts, kernel = self.problem.parts, self.kernel
        with kernel.unrolled("m", sums.pixels) as m, kernel.unrolled("j", self.by.blocks) as j:
            for part in range(parts):
                place = vector(self.product(first + m, j, product, part), self.lanes)
                kernel.store(self.scratch, [place], sums.buffer[sums.place(m, parts * j + part)])


@dataclass(frozen=True)
class TransformedConv(ABC):
    """A kernel under construction; what the transforms differ in is abstract."""

    kernel: FunctionBuilder
    data: tirx.Buffer
    weights: tirx.Buffer
    finish: BoundEpilogue
    output: tirx.Buffer
    scratch: tirx.Buffer

    @abstractmethod
    def transform_input(self, block: TileBlock, t: Index, at: Corner, kind: TileKind) -> None:
        """V of tile t of a block, all its channels."""

    @abstractmethod
    def multiply(self, block: TileBlock, group: Index) -> None:
        """M of a block and a group of output channels."""

    @abstractmethod
    def transform_output(
        self, block: TileBlock, t: Index, j: Index, channels: Index, at: Corner, kind: TileKind
    ) -> None:
        """The outputs of tile t and the group's channel block j, which is `channels` of the output."""

    def emit(self, problem: TransformedProblem, by: Blocking) -> None:
        """The whole convolution, block by block of tiles."""
        kernel, groups, splits = self.kernel, channel_groups(problem, by), by.splits
        steps = blocks_of_tiles(problem, by) * splits
        begin = kernel.bind("begin", share(steps, kernel.task, kernel.task_count)[0])
        with kernel.tasks("step", steps) as step:
            split = kernel.bind("split", tirx.truncmod(step, splits))
            first = kernel.bind("first", tirx.truncdiv(step, splits) * by.block)
            count = kernel.bind("count", bounded(by.block, problem.tiles, first))
            block = TileBlock(problem, by, kernel, self.scratch, first, count)
            is_new = tirx.Or(tirx.EQ(split, 0), tirx.EQ(step, begin))
            with kernel.when(is_new if splits > 1 else None):
                for kind in problem.kinds:
                    start, many = block.tiles_of(kind)
                    with kernel.serial("t", many, start) as t:
                        self.transform_input(block, t, corner_of(kernel, problem, kind, first + t), kind)
            low, high = share(groups, split, tirx.IntImm("int32", splits))
            with kernel.serial("group", high - low, kernel.bind("low", low)) as group:
                self.multiply(block, group)
                self._transform_outputs(block, group)

    def _transform_outputs(self, block: TileBlock, group: Index) -> None:
        kernel, in_group, blocks = self.kernel, block.by.blocks, block.problem.conv.output.blocks
        for kind in block.problem.kinds:
            start, many = block.tiles_of(kind)
            with kernel.serial("t", many, start) as t:
                at = corner_of(kernel, block.problem, kind, block.first + t)
                with kernel.serial("j", in_group) as j:
                    channels = kernel.bind("channels", group * in_group + j)
                    with kernel.when(tirx.LT(channels, blocks) if blocks % in_group else None):
                        self.transform_output(block, t, j, channels, at, kind)

    def store(
        self, problem: TransformedProblem, channels: Index, at: Corner, i: Index, j: Index, value: Expr
    ) -> None:
        """Finish and store row i and column j of a tile that is not pooled."""
        value = self.finished(problem, channels, at, i, j, value)
        self.store_finished(problem, channels, at, i, j, value)

    def finished(
        self, problem: TransformedProblem, channels: Index, at: Corner, i: Index, j: Index, value: Expr
    ) -> Expr:
        """What the epilogue makes of row i and column j of a tile of the convolution's results."""
        lanes = problem.conv.lanes
        return self.finish(value, Position((at.n, channels * lanes, at.y + i, at.x + j), 1, lanes))

    def store_finished(
        self, problem: TransformedProblem, channels: Index, at: Corner, i: Index, j: Index, value: Expr
    ) -> None:
        """Store row i and column j of a tile of results; at: where it begins among them."""
        out = problem.stored
        place = block_at(out, at.n, channels, at.y + i, at.x + j)
        self.kernel.store(self.output, place, zero_padding(out, channels, value))

    def zero_halo(self, problem: TransformedProblem, channels: Index, at: Corner, i: Index) -> None:
        """Write the halo of row i of a tile of results, where the tile is the first of its row."""
        out = problem.stored
        if any(out.halo):
            with self.kernel.when(tirx.EQ(at.x, 0)):
                zero_halo_of_row(self.kernel, self.output, out, at.n, channels, at.y + i)


def overlap(kernel: FunctionBuilder, start: Index, count: int, extent: int) -> tuple[Index, Index]:
    """First and end of the elements start, start + 1… (`count` of them) that are within 0 and extent."""
    zero, most = tirx.IntImm("int32", 0), tirx.IntImm("int32", count)
    first = kernel.bind("low", tirx.Min(most, tirx.Max(zero, -start)))
    return first, kernel.bind("high", tirx.Max(first, tirx.Min(most, extent - start)))
