"""How a matrix product is cut up among blocks and threads, and what that takes; needs no TVM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem

QUAD = 4
"""Floats of 16 bytes, the widest load."""

SHARED_BYTES = 48 << 10
"""Static shared memory of a block, on every architecture."""

PADDING = 4
"""Floats behind a row of the left matrix in shared memory, so that rows fall on different banks."""

MOST_SUMS = 64
"""Sums of a thread; more, with two operands' fragments and addresses, leave no room for a second block."""

LARGEST_PLACE = 65535
"""Blocks on the grid's second and third axes."""


@dataclass(frozen=True)
class GemmTile:
    """A block computes rows x columns results, `depth` terms at a time; a thread a part of them.

    stages: slabs of the operands in shared memory, one being multiplied and the others being copied. slices:
    groups of threads that divide the terms of each slab, where there are too few results for all threads.
    parts: blocks that divide all terms of a result, where there are too few results for all multiprocessors.
    """

    rows: int
    columns: int
    depth: int = 16
    thread_rows: int = 8
    thread_columns: int = 8
    stages: int = 2
    slices: int = 1
    parts: int = 1

    @property
    def across(self) -> int:
        """Threads along the columns."""
        return self.columns // self.thread_columns

    @property
    def slice_threads(self) -> int:
        """Threads that have all results of a block among them."""
        return self.rows // self.thread_rows * self.across

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.slices * self.slice_threads

    @property
    def slice_depth(self) -> int:
        """Terms of a slab that a slice multiplies."""
        return self.depth // self.slices

    def steps(self, depth: int) -> int:
        """Slabs that a block multiplies, of sums of so many terms."""
        return steps_of_part(depth, self.depth, self.parts)

    def shared_bytes(self, *, left_in_rows: bool) -> int:
        """Of all stages; left_in_rows: whether terms of a row of the left matrix lie side by side."""
        left = self.rows * (self.depth + PADDING) if left_in_rows else self.rows * self.depth
        return 4 * self.stages * (left + self.columns * self.depth)


def steps_of_part(depth: int, step: int, parts: int) -> int:
    """Steps of so many terms in each of some parts of a sum; the last part may have fewer terms."""
    steps = -(-depth // step)
    return -(-steps // parts)


def parts_illegal(depth: int, step: int, parts: int) -> str | None:
    """Why blocks cannot divide the terms of a sum so, or None."""
    steps = -(-depth // step)
    if parts >= 1 and steps_of_part(depth, step, parts) * (parts - 1) < steps:
        return None
    return f"{steps} steps are no {parts} parts"


PARTS = (1, 2, 3, 4, 6, 8, 12, 16)
"""What is weighed of blocks that divide the terms of a result, where without there are few blocks."""

TILES = (
    GemmTile(128, 128),
    GemmTile(128, 64, stages=3),
    GemmTile(64, 128, stages=3),
    GemmTile(64, 64, stages=3),
    GemmTile(64, 32, thread_columns=4, stages=3),
    GemmTile(32, 64, thread_rows=4, stages=3),
    GemmTile(32, 64, 32, thread_rows=4, stages=3, slices=2),
    GemmTile(32, 32, 32, 4, 4, 4, slices=4),
    GemmTile(32, 32, 64, 4, 4, 2, slices=4),
    GemmTile(16, 64, 64, 4, 4, 2, slices=4),
    GemmTile(16, 32, 64, 4, 4, 3, slices=8),
)
"""What is weighed, each by every one of `PARTS`."""


def tile_illegal(tile: GemmTile, *, left_in_rows: bool) -> str | None:
    """Why no product can be cut into such tiles, or None."""
    parts = (
        (tile.rows, tile.thread_rows), (tile.columns, tile.thread_columns), (tile.thread_rows, QUAD),
        (tile.thread_columns, QUAD), (tile.depth, QUAD * tile.slices),
    )  # fmt: skip
    for whole, part in parts:
        if part < 1 or whole < 1 or whole % part:
            return f"{whole} are no whole groups of {part}"
    if tile.threads % 32 or tile.threads > 1024:
        return f"a block has {tile.threads} threads, expected whole warps and at most 1024"
    if tile.thread_rows * tile.thread_columns > MOST_SUMS:
        return f"a thread has {tile.thread_rows * tile.thread_columns} sums, expected at most {MOST_SUMS}"
    if tile.stages < 2:
        return "one slab is multiplied while others are copied: there are at least 2 stages"
    if tile.slices > 1 and tile.slices * tile.rows > tile.stages * tile.depth:
        return f"sums of {tile.slices} slices do not fit into the slabs"
    found = tile.shared_bytes(left_in_rows=left_in_rows)
    return f"slabs take {found} bytes, a block has {SHARED_BYTES}" if found > SHARED_BYTES else None


@dataclass(frozen=True)
class GemmShape:
    """[batch][rows, depth] x [depth, columns], and what cost knows of it."""

    rows: int
    columns: int
    depth: int
    batch: int = 1

    @property
    def pitch(self) -> int:
        """Numbers of a row of partial sums: whole groups of four."""
        return -(-self.columns // QUAD) * QUAD

    def scratch_bytes(self, parts: int) -> int:
        """Of the partial sums, where blocks divide the terms."""
        return 4 * parts * self.batch * self.rows * self.pitch if parts > 1 else 0

    def blocks(self, tile: GemmTile) -> tuple[int, int, int]:
        """The grid: along the columns, along the rows, along parts and batch."""
        return -(-self.columns // tile.columns), -(-self.rows // tile.rows), self.batch * tile.parts

    def illegal(self, tile: GemmTile) -> str | None:
        """Why a grid cannot have so many blocks, or sums so many parts, or None."""
        found = max(self.blocks(tile)[1:])
        if found > LARGEST_PLACE:
            return f"{found} blocks on an axis of the grid, at most {LARGEST_PLACE}"
        return parts_illegal(self.depth, tile.depth, tile.parts)


def product_shape(problem: MatmulProblem) -> GemmShape:
    """A matrix product."""
    return GemmShape(problem.rows, problem.columns, problem.depth, problem.batch)


def conv_shape(problem: Im2colProblem) -> GemmShape:
    """A convolution as a product: filters times pixels, for each image and group."""
    pixels = prod(problem.output)
    return GemmShape(problem.group_filters, pixels, problem.depth, problem.batch * problem.groups)


def group_illegal(problem: Im2colProblem, tile: GemmTile) -> str | None:
    """Why filters of a group cannot be packed in blocks of a tile's rows, or None."""
    if problem.groups == 1 or problem.group_filters % tile.rows == 0:
        return None
    return f"a group has {problem.group_filters} filters, expected a multiple of {tile.rows}"


@dataclass(frozen=True)
class Multiprocessors:
    """What tiles depend on: how many there are, multiply-adds that one starts in a cycle, its registers.

    launch: cycles of one more launch behind another. near, far: bytes of the second cache, and of memory,
    that all of them read or write in a cycle. cache: bytes of tensors that stay in that cache.
    """

    count: int
    lanes: int = 128
    registers: int = 65536
    launch: float = 3000.0
    near: float = 3000.0
    far: float = 1000.0
    cache: int = 16 << 20

    def parts(self, blocks: int) -> tuple[int, ...]:
        """What is weighed where so many blocks have all terms: one, where multiprocessors have two each."""
        return PARTS if blocks < 2 * self.count else (1,)

    def summing(self, shape: GemmShape, parts: int) -> float:
        """Cycles of writing partial sums, and of the launch that adds them up."""
        if parts == 1:
            return 0.0
        return self.launch + BLOCK_CYCLES + 2 * self.moving(shape.scratch_bytes(parts))

    def moving(self, size: int) -> float:
        """Cycles of writing, or reading, so many bytes."""
        return size / (self.near if size <= self.cache else self.far)


STEP_CYCLES = 120.0
"""Of a step, besides its arithmetic: the barrier, addresses, the first loads from shared memory."""

COPY_CYCLES = 700.0
"""From asking for a slab in global memory to its arrival."""

BLOCK_CYCLES = 2500.0
"""Of a block, besides its steps: the first slabs, results on their way out."""

CHAIN_CYCLES = 8.0
"""Of one term at least: its operands come from shared memory, and each sum waits for its last product."""

MOST_BLOCKS = 16
"""Of one multiprocessor at a time."""


def cycles(shape: GemmShape, tile: GemmTile, gpu: Multiprocessors) -> float:
    """Predicted cycles of a product, sums of parts added up."""
    return block_cycles(shape, tile, gpu) + gpu.summing(shape, tile.parts)


def block_cycles(shape: GemmShape, tile: GemmTile, gpu: Multiprocessors) -> float:
    """Predicted cycles of all blocks: as many rounds as it takes for them, the last perhaps not full.

    A step of a block takes what its arithmetic takes beside that of the blocks which share the
    multiprocessor, or what it takes to bring a slab where that is longer.
    """
    registers = tile.threads * (tile.thread_rows * tile.thread_columns + 64)
    shared = tile.shared_bytes(left_in_rows=True)
    beside = max(1, min(gpu.registers // registers, 2 * SHARED_BYTES // shared, MOST_BLOCKS))
    blocks = prod(shape.blocks(tile))
    together = min(beside, -(-blocks // gpu.count))
    rounds = -(-blocks // (gpu.count * together))
    loads = 1 + 4 * (1 / tile.thread_rows + 1 / tile.thread_columns) / 4
    arithmetic = together * tile.rows * tile.columns * tile.depth / gpu.lanes * loads
    chain = tile.slice_depth * max(CHAIN_CYCLES, tile.thread_rows * tile.thread_columns)
    step = max(arithmetic, chain, COPY_CYCLES / (tile.stages - 1)) + STEP_CYCLES
    return rounds * (tile.steps(shape.depth) * step + BLOCK_CYCLES)


def best_tiles(
    shape: GemmShape, gpu: Multiprocessors, *, left_in_rows: bool, illegal: Callable[[GemmTile], str | None]
) -> list[GemmTile]:
    """The legal tiles, the fastest first; `illegal` has reasons of the operator's own."""
    legal = [
        tile
        for each in TILES
        for parts in gpu.parts(prod(shape.blocks(each)))
        for tile in [replace(each, parts=parts)]
        if not (tile_illegal(tile, left_in_rows=left_in_rows) or shape.illegal(tile) or illegal(tile))
    ]
    return sorted(legal, key=lambda tile: cycles(shape, tile, gpu))
