"""What each way to compute a convolution asks of a machine, for the tile that it was given; needs no TVM.

Cycles follow the model by which tiles are chosen (`cycles_per_step`); constants here were fitted to the
kernels' times on a Zen 5 with AVX-512, see docs/algorithms.md.
"""

from __future__ import annotations

from functools import partial

from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import (
    NARROW_VECTORS,
    imbalance,
    is_narrow,
    pixel_cycles,
)
from rtcc.targets.tvm.kernels.tiling import Tiling, cycles_per_step

STORE_CYCLES = 1.0
"""Of one vector of results: the epilogue and the store."""

TILE_CYCLES = 6.0
"""Of one tile besides its multiply-adds: clearing the accumulators, addresses, the ends of the loops."""

NEAR_WEIGHTS = 0.9
"""What `cycles_per_step` is too much by where the weights of a group of filters stay in the first cache."""

NEAR_BYTES = 24 << 10
"""Weights that do: most of a first cache of 32 KiB, the smallest there is."""

WAY_BYTES = 4096
"""Addresses so far apart fall on one set of the first cache."""

MOST_IN_ONE_SET = 8
CONFLICT = 2.0
"""How much longer it takes when more lines than that are wanted in one set."""


STRIDED = 0.93
"""What `cycles_per_step` is too much by in `plain_conv` where windows move by more than a pixel: 3x3 taps
measured 0.84 to 0.95 of what it says, those of `direct_conv` 0.91 to 1.1."""


LINE_BYTES = 64
NEAR_ROWS = 32 << 10
"""Rows of all channels that stay in a first cache, in whole lines: the smallest has 32 KiB."""

FAR_LINE_CYCLES = 0.35
"""Of one line of such rows that a tile reads from the second cache; 512,28x28,128 1x1 takes 1.06 times as
long as without."""


def direct_demand(problem: ConvProblem, tile: Tile, cache: int) -> Demand:
    """`direct_conv`: every input channel times every block of filters."""
    tiling = Tiling(problem.output, tile.blocks, tile.joined)
    pixels = problem.batch * problem.output_height * problem.output_width
    steps = problem.channels // problem.groups * _taps(problem)
    blocks = problem.output.blocks
    size = problem.numbers.bytes
    weights = float(size) * steps * blocks * problem.lanes
    row_groups = -(-tiling.form.height // tile.rows)
    rounds = -(-problem.reduction_blocks // tile.depth) if tile.depth else 1
    rows_of_input = size * problem.channels * problem.width * problem.strides[0] * tile.joined * tile.rows
    pixel = pixel_cycles(problem, tile, is_near=True)  # measured: waiting for inputs is hidden, or in streams
    pixel *= _nearness(size * steps * tile.blocks * problem.lanes)
    products = steps * problem.groups * pixel * problem.share_inside
    cycles = pixels * (products + STORE_CYCLES * blocks * rounds)
    return Demand(
        cycles + TILE_CYCLES * rounds * pixels / tile.pixels * tiling.groups,
        (
            Stream(weights, problem.batch * row_groups if weights > cache // 2 else 1, weights, True),
            Stream(_input_bytes(problem), tiling.groups if rows_of_input > cache // 2 else 1),
            Stream(_output_bytes(problem), 2 * rounds - 1),
        ),
        problem.batch * tiling.groups * row_groups,
        partial(imbalance, problem, tile),
    )


def plain_demand(problem: ConvProblem, tile: Tile, cache: int) -> Demand:
    """`plain_conv`: row by row, all weights for each; channels on one set of the cache evict each other."""
    tiling = Tiling(problem.output, tile.blocks)
    rows = problem.batch * problem.output_height
    steps, tile_cycles, size = problem.channels * _taps(problem), TILE_CYCLES, problem.numbers.bytes
    if is_narrow(problem):
        row = _narrow_cycles(problem)
    else:
        row = cycles_per_step(problem.output_width, tile.pixels, tile.blocks)
        row *= _nearness(size * steps * tile.blocks * problem.lanes)
        row *= STRIDED if problem.strides[1] > 1 else 1.0
    vectors = rows * problem.output_width * problem.output.blocks
    tiles = rows * tiling.groups * -(-problem.output_width // tile.pixels)
    weights = float(size) * steps * problem.output.blocks * problem.lanes
    rows_read = problem.channels * problem.kernel[0]
    if rows_read * -(-size * problem.width // LINE_BYTES) * LINE_BYTES > NEAR_ROWS:
        tile_cycles += FAR_LINE_CYCLES * rows_read
    if problem.channels > MOST_IN_ONE_SET and size * problem.height * problem.width % WAY_BYTES == 0:
        row *= CONFLICT
    products = steps * row * problem.share_inside
    return Demand(
        rows * tiling.groups * products + STORE_CYCLES * vectors + tile_cycles * tiles,
        (
            Stream(weights, rows if weights > cache // 2 else 1, weights, True),
            Stream(float(size) * problem.batch * problem.channels * problem.height * problem.width),
            Stream(_output_bytes(problem)),
        ),
        rows,
    )


def _narrow_cycles(problem: ConvProblem) -> float:
    """Of one tap of one row of `narrow_conv`; the last vector of a row overlaps the one before."""
    whole, rest = divmod(-(-problem.output_width // problem.lanes), NARROW_VECTORS)
    filters = problem.filters
    return whole * cycles_per_step(filters, filters, NARROW_VECTORS) + (
        cycles_per_step(filters, filters, rest) if rest else 0.0
    )


def depthwise_demand(problem: ConvProblem, tile: Tile) -> Demand:
    """`depthwise_conv`: lane by lane; each tap of each pixel is one multiply-add and, mostly, one load."""
    pixels = problem.batch * problem.output_height * problem.output_width
    vectors = pixels * problem.output.blocks
    weights = problem.numbers.bytes * _taps(problem) * problem.output.blocks * problem.lanes
    per_vector = 0.55 * _taps(problem) + STORE_CYCLES + TILE_CYCLES / tile.pixels
    return Demand(
        vectors * per_vector,
        (
            Stream(float(weights), is_constant=True),
            Stream(_input_bytes(problem)),
            Stream(_output_bytes(problem)),
        ),
        problem.batch * problem.output.blocks * -(-problem.output_height // tile.rows),
        partial(imbalance, problem, tile),
    )


def _nearness(weights: int) -> float:
    """What a step costs less where so many bytes of weights, those of a tile, stay in the first cache."""
    return NEAR_WEIGHTS if weights <= NEAR_BYTES else 1.0


def _taps(problem: ConvProblem) -> int:
    return problem.kernel[0] * problem.kernel[1]


def _input_bytes(problem: ConvProblem) -> float:
    source, size = problem.input, float(problem.numbers.bytes)
    return size * source.blocks * source.lanes * source.batch * source.height * source.width


def _output_bytes(problem: ConvProblem) -> float:
    out, size = problem.output, float(problem.numbers.bytes)
    return size * out.blocks * out.lanes * out.batch * out.height * out.width
