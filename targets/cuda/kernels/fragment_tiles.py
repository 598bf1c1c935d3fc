"""How products on tensor cores are cut up, in chunks of 16 bytes along the sum; needs no TVM.

A chunk is 8 halves, 4 floats or 16 bytes of one row; two of them are the depth of an `mma`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import prod

from rtcc.targets.cuda.kernels.gemm_tiles import (
    BLOCK_CYCLES,
    COPY_CYCLES,
    LARGEST_PLACE,
    MOST_BLOCKS,
    SHARED_BYTES,
    STEP_CYCLES,
    GemmShape,
    Multiprocessors,
    parts_illegal,
    steps_of_part,
)
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, Right

CHUNK_BYTES = 16
"""What one asynchronous copy brings, and a row of a matrix that ldmatrix loads."""

ROWS, COLUMNS = 16, 8
"""Of the results of an `mma`."""

PAIR = 2
"""Neighbouring results of a thread."""


class Kind(Enum):
    """What is multiplied: the names of `instructions.MMA`."""

    F16 = "float16"
    BF16 = "bfloat16"
    TF32 = "tf32"
    S8 = "int8"
    U8 = "uint8"

    @property
    def bytes(self) -> int:
        """Of an element."""
        return {"float16": 2, "bfloat16": 2, "tf32": 4}.get(self.value, 1)

    @property
    def chunk(self) -> int:
        """Elements of a chunk."""
        return CHUNK_BYTES // self.bytes

    @property
    def left(self) -> str:
        """TVM's name of the left matrix's elements."""
        return "float32" if self is Kind.TF32 else "uint16" if self is Kind.BF16 else self.value

    @property
    def right(self) -> str:
        """TVM's name of the right matrix's elements."""
        return "int8" if self is Kind.U8 else self.left

    @property
    def total(self) -> str:
        """TVM's name of the sums."""
        return "int32" if self.bytes == 1 else "float32"


@dataclass(frozen=True)
class FragmentTile:
    """A block computes rows x columns results, a warp a part of them; `chunks` along the sum at a time.

    parts: blocks that divide the terms of a result, as in `GemmTile`.
    """

    rows: int
    columns: int
    warp_rows: int
    warp_columns: int
    chunks: int = 4
    stages: int = 3
    parts: int = 1

    def steps(self, chunks: int) -> int:
        """Slabs that a block multiplies, of sums of so many chunks."""
        return steps_of_part(chunks, self.chunks, self.parts)

    @property
    def warps(self) -> int:
        """Warps of a block."""
        return self.rows // self.warp_rows * (self.columns // self.warp_columns)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps

    @property
    def shared_bytes(self) -> int:
        """Of all stages."""
        return CHUNK_BYTES * self.stages * self.chunks * (self.rows + self.columns)

    @property
    def sums(self) -> int:
        """Of a thread."""
        return self.warp_rows * self.warp_columns // 32


TILES = (
    FragmentTile(128, 128, 64, 32, 4, 3),
    FragmentTile(128, 64, 32, 32, 4, 4),
    FragmentTile(64, 128, 32, 32, 4, 4),
    FragmentTile(64, 64, 32, 32, 4, 4),
    FragmentTile(64, 32, 32, 16, 8, 3),
    FragmentTile(32, 64, 16, 32, 8, 3),
    FragmentTile(32, 32, 16, 16, 8, 4),
    FragmentTile(16, 64, 16, 16, 8, 4),
)
"""What is weighed, each by every one of `PARTS`."""

MOST_SUMS = 64
"""Sums of a thread; fragments and addresses take about as many registers."""


def tile_illegal(tile: FragmentTile, *, by_terms: bool = False) -> str | None:
    """Why no product can be cut so, or None; by_terms: whether rows of the right-hand matrix are terms."""
    parts = (
        (tile.rows, tile.warp_rows), (tile.columns, tile.warp_columns), (tile.warp_rows, ROWS),
        (tile.warp_columns, 2 * COLUMNS), (tile.chunks, 2),
    )  # fmt: skip
    for whole, part in parts:
        if part < 1 or whole < 1 or whole % part:
            return f"{whole} are no whole groups of {part}"
    if tile.threads > 1024:
        return f"a block has {tile.threads} threads, expected at most 1024"
    if tile.sums > MOST_SUMS:
        return f"a thread has {tile.sums} sums, expected at most {MOST_SUMS}"
    if tile.stages < 2:
        return "one slab is multiplied while others are copied: there are at least 2 stages"
    # A chunk behind each term's row: of 16 bytes, 8 terms to a chunk.
    found = tile.shared_bytes + (8 * CHUNK_BYTES * tile.stages * tile.chunks if by_terms else 0)
    return f"slabs take {found} bytes, a block has {SHARED_BYTES}" if found > SHARED_BYTES else None


MMA_LANES = {1: 16.0, 2: 8.0, 4: 4.0}
"""By bytes of an element: multiply-adds on tensor cores for each one in float32, on sm_80."""


def cycles(shape: GemmShape, tile: FragmentTile, kind: Kind, gpu: Multiprocessors) -> float:
    """Predicted cycles of a product, as `gemm_tiles.cycles`; depth counts elements."""
    registers = tile.threads * (tile.sums + 64)
    beside = max(1, min(gpu.registers // registers, 2 * SHARED_BYTES // tile.shared_bytes, MOST_BLOCKS))
    blocks = _blocks(shape, tile)
    together = min(beside, -(-blocks // gpu.count))
    rounds = -(-blocks // (gpu.count * together))
    depth = tile.chunks * kind.chunk
    arithmetic = together * tile.rows * tile.columns * depth / (gpu.lanes * MMA_LANES[kind.bytes])
    step = max(arithmetic, STEP_CYCLES, COPY_CYCLES / (tile.stages - 1)) + STEP_CYCLES
    steps = tile.steps(-(-shape.depth // kind.chunk))
    return rounds * (steps * step + BLOCK_CYCLES) + gpu.summing(shape, tile.parts)


def _blocks(shape: GemmShape, tile: FragmentTile) -> int:
    return prod((-(-shape.columns // tile.columns), -(-shape.rows // tile.rows), shape.batch * tile.parts))


def best_tiles(
    shape: GemmShape, kind: Kind, gpu: Multiprocessors, *, by_terms: bool = False
) -> list[FragmentTile]:
    """The tiles, the fastest first; by_terms: as `tile_illegal` has it."""
    legal = [
        tile
        for each in TILES
        for parts in gpu.parts(_blocks(shape, each))
        for tile in [replace(each, parts=parts)]
        if not (tile_illegal(tile, by_terms=by_terms) or grid_illegal(shape, tile, kind))
    ]
    return sorted(legal, key=lambda tile: cycles(shape, tile, kind, gpu))


def grid_illegal(shape: GemmShape, tile: FragmentTile, kind: Kind) -> str | None:
    """Why a product's terms or a grid cannot be divided so, or None."""
    found = shape.batch * tile.parts
    if found > LARGEST_PLACE:
        return f"{found} blocks on an axis of the grid, at most {LARGEST_PLACE}"
    return parts_illegal(-(-shape.depth // kind.chunk), tile.chunks, tile.parts)


def conv_shape(problem: Im2colProblem, kind: Kind) -> GemmShape:
    """A convolution as a product: pixels of all images times filters; channels of both in whole chunks."""
    chunk = kind.chunk
    channels, filters = (-(-count // chunk) * chunk for count in (problem.channels, problem.filters))
    taps = prod(window.taps for window in problem.windows)
    return GemmShape(problem.batch * prod(problem.output), filters, channels * taps)


def product_illegal(problem: MatmulProblem, kind: Kind) -> str | None:
    """Why a product has no such kernel, or None."""
    if problem.right is not Right.PACKED and kind.bytes != 2:
        return f"the right-hand matrix is no constant, expected one for elements of {kind.bytes} bytes"
    if problem.right is not Right.PACKED and problem.columns % kind.chunk:
        return f"rows have {problem.columns} columns, expected a multiple of {kind.chunk}"
    if problem.batch > LARGEST_PLACE:
        return f"it is {problem.batch} products, expected at most {LARGEST_PLACE}"
    if problem.depth % kind.chunk:
        return f"rows have {problem.depth} terms, expected a multiple of {kind.chunk}"
    if problem.rows > LARGEST_PLACE * ROWS:
        return f"it has {problem.rows} rows, expected at most {LARGEST_PLACE * ROWS}"
    return None


def conv_illegal(problem: Im2colProblem) -> str | None:
    """Why a convolution has no such kernel, or None."""
    return f"it is in {problem.groups} groups, expected one" if problem.groups > 1 else None
