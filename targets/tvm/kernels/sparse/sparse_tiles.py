"""What sparse products cost, and which blocks and tiles are cheapest; needs no TVM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.convolution import im2col_tiles
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import (
    MOST_PANEL,
    MOST_PIXELS,
    Im2colProblem,
    Im2colTile,
    panels,
    scratch_bytes,
    width,
)

HELD = (1, 2, 4, 8)
"""Outputs of a block whose lanes are pixels."""

NEAR_CYCLES, FAR_CYCLES = 0.6, 1.3
"""Of a vector of the panel that is loaded, from the first cache and from the second."""

PANEL_SHARE = 8
"""Of the second cache one part is a panel's, which each column of blocks goes through again, beside the
weights and whatever else is there."""

LATENCY_CYCLES = 3.5
"""Of a multiply-add that the next one of the same sum waits for."""

BLOCK_CYCLES = 2.0
"""Of a block's number and the address that it makes, beside the multiply-adds."""

COLUMN_CYCLES = 40.0
"""Of the loop over a column's blocks: its begin, its end that nobody foresees, sums cleared and stored."""


STEPS = 4
"""Sums of one output that are added up in the end, where a tile of rows has few accumulators."""

MOST_ROWS = 12
"""Rows of a tile: more are at addresses that fall on one set of the first cache."""

LINE_CYCLES = 1.0
"""Of a number of a row that is read out of order."""


@dataclass(frozen=True)
class SparseProduct:
    """A product of [rows, depth] by a stored matrix of so many outputs, in so many blocks."""

    rows: int
    depth: int
    outputs: int
    blocks: int
    lanes: int = 16


@dataclass(frozen=True)
class ProductTile:
    """Rows by the outputs of a block stay in registers, `steps` times."""

    outputs: int
    rows: int
    steps: int


def product_tile(problem: SparseProduct, outputs: int, registers: int) -> ProductTile:
    """The tile for blocks of so many outputs: whole vectors of them."""
    vectors = outputs // problem.lanes
    count = -(-problem.rows // min(MOST_ROWS, (registers - 4) // vectors))
    rows = -(-problem.rows // count)
    held = rows * vectors
    return ProductTile(outputs, rows, STEPS if held < 2 * STEPS and held * STEPS + 4 <= registers else 1)


def product_demand(problem: SparseProduct, tile: ProductTile) -> Demand:
    """`sparse_matmul`: values once, and again for each tile of rows."""
    vectors, columns = tile.outputs // problem.lanes, problem.outputs // tile.outputs
    tiles = -(-problem.rows // tile.rows)
    held = tile.rows * vectors
    step = max(held / 2, LATENCY_CYCLES / tile.steps, LINE_CYCLES * tile.rows, BLOCK_CYCLES)
    cycles = tiles * (problem.blocks * step + columns * (COLUMN_CYCLES + 2 * held * tile.steps))
    stored = 4 * (problem.blocks * (tile.outputs + 1) + columns)
    streams = (
        Stream(stored, tiles, stored, True), Stream(4 * problem.rows * problem.depth),
        Stream(4 * problem.rows * problem.outputs),
    )  # fmt: skip
    return Demand(cycles, streams, columns)


def step_cycles(outputs: int, vectors: int, *, is_near: bool) -> float:
    """Of one block: multiply-adds, two a cycle, or the panel's loads."""
    multiplies = max(outputs * vectors / 2, LATENCY_CYCLES)
    loads = vectors * (NEAR_CYCLES if is_near else FAR_CYCLES)
    return max(multiplies, loads + BLOCK_CYCLES)


def cycles(problem: Im2colProblem, tile: Im2colTile, blocks: int, first: int, tasks: int = 1) -> float:
    """Estimated cycles of the busiest of `tasks` cores; first: bytes of the first cache."""
    columns = width(problem, tile) // (tile.vectors * problem.lanes)
    is_near = 4 * problem.depth * tile.vectors * problem.lanes <= first // 2
    step = step_cycles(tile.filters, tile.vectors, is_near=is_near)
    groups = problem.filters // tile.filters
    products = columns * (blocks * step + groups * COLUMN_CYCLES)
    count = panels(problem, tile)
    whole, rest = divmod(problem.output[2], problem.lanes)
    pieces = whole + rest.bit_count()
    around = im2col_tiles.gather_cycles(problem, tile)
    around += problem.filters * tile.rows * pieces * im2col_tiles.FINISH_CYCLES
    return (around + products) * -(-count // tasks)


def choose(
    problem: Im2colProblem, counts: Mapping[int, int], registers: int, first: int, second: int, tasks: int
) -> Im2colTile:
    """The tile of least estimated time; counts: blocks that are stored, by the outputs of a block."""
    return min(
        _tiles(problem, counts, registers, second),
        key=lambda tile: cycles(problem, tile, counts[tile.filters], first, tasks),
    )


def _tiles(
    problem: Im2colProblem, counts: Mapping[int, int], registers: int, room: int
) -> Iterator[Im2colTile]:
    pixels = problem.output[2]
    row = 4 * problem.depth * pixels
    most_rows = max(1, min(problem.rows, MOST_PIXELS // pixels, room // PANEL_SHARE // row))
    for rows in range(1, most_rows + 1):
        for outputs in counts:
            for vectors in range(1, min(16, -(-rows * pixels // problem.lanes)) + 1):
                tile = Im2colTile(outputs, vectors, rows)
                fits = outputs * vectors + outputs + 1 <= registers
                if fits and scratch_bytes(problem, tile) <= 2 * MOST_PANEL:
                    yield tile


def sparse_demand(problem: Im2colProblem, tile: Im2colTile, blocks: int, first: int) -> Demand:
    """`sparse_conv`: panel by panel, all that is stored for each."""
    inputs = problem.batch * problem.channels * prod(window.extent for window in problem.windows)
    stored = 4 * (blocks * (tile.filters + 1) + problem.filters // tile.filters)
    count = panels(problem, tile)
    return Demand(
        cycles(problem, tile, blocks, first),
        (
            Stream(stored, count, stored + scratch_bytes(problem, tile), True),
            Stream(4 * inputs),
            Stream(4 * problem.batch * problem.filters * prod(problem.output)),
        ),
        count,
    )
