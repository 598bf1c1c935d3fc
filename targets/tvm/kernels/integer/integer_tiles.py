"""Which integer kernels can do a convolution, the tiles that suit them, and what they ask; needs no TVM.

The tiles are those of the float kernels (`conv_tiles`): an instruction takes four channels where theirs takes
one, and everything else is a quarter as large.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import astuple, replace
from math import prod

from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.convolution.conv_demand import MOST_IN_ONE_SET, TILE_CYCLES, WAY_BYTES
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import depthwise_tile, direct_illegal, direct_tiles
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, MatmulTile
from rtcc.targets.tvm.kernels.tiling import Tiling, cycles_per_step, split_evenly

GROUP = 4
"""Bytes that one lane of an accumulator takes at a time."""

LARGEST_PRODUCT = 255 * 128
"""Of a u8 and an s8."""

LARGEST_SUM = 2**31 - 1

STORE_CYCLES = 6.0
"""Of one vector of results: an offset, a factor, two limits, conversions there and back, the store."""

WIDENING = 4.0
"""How much longer a step takes without VNNI: two widening products and two additions, of widened bytes."""


def has_vnni(features: Collection[str], lanes: int) -> bool:
    """Whether one instruction adds up four products in each of so many lanes."""
    return lanes == 16 and "avx512vnni" in features


def sum_illegal(terms: int) -> str | None:
    """Why so many products of a u8 and an s8 may not be added in i32, or None."""
    most = LARGEST_SUM // LARGEST_PRODUCT
    return None if terms <= most else f"{terms} products may exceed int32, {most} cannot"


def integer_conv_illegal(problem: ConvProblem) -> str | None:
    """Why `integer_conv` cannot do the convolution, or None."""
    terms = problem.channels // problem.groups * prod(problem.kernel)
    return sum_illegal(terms) or direct_illegal(problem)


@functools.cache
def integer_conv_tile(problem: ConvProblem, registers: int, cache: int = 1 << 20, tasks: int = 1) -> Tile:
    """The tile with the least estimated time; arguments as `direct_tiles` has them."""
    (tile,) = direct_tiles(problem, registers, 4 * cache, tasks, 1)
    return replace(tile, depth=0)


def integer_matmul_tile(problem: MatmulProblem, registers: int, tasks: int = 1) -> MatmulTile:
    """The tile with the least estimated time; a single row takes more vectors, to hide latency."""
    most = min(8 if problem.rows == 1 else 4, problem.vectors)
    candidates = {
        MatmulTile(split_evenly(problem.rows, count)[0], vectors)
        for vectors in range(1, most + 1)
        for count in range(1, (registers - vectors - 1) // vectors + 1)
    }

    def cycles(tile: MatmulTile) -> tuple[float, int]:
        groups = -(-problem.vectors // tile.vectors)
        return cycles_per_step(problem.rows, tile.rows, tile.vectors) * groups, tile.vectors

    best = min(sorted(candidates, key=astuple), key=cycles)
    row_tiles = -(-problem.rows // best.rows)
    return replace(best, group=-(-row_tiles // tasks))


def integer_matmul_demand(problem: MatmulProblem, tile: MatmulTile, *, vnni: bool) -> Demand:
    """`integer_matmul`: every four k of every row times every column."""
    groups = -(-problem.vectors // tile.vectors)
    step = cycles_per_step(problem.rows, tile.rows, tile.vectors) * (1.0 if vnni else WIDENING)
    cycles = groups * problem.depth / GROUP * step + STORE_CYCLES * problem.rows * problem.vectors
    weights = Stream(float(problem.depth * problem.vectors * problem.lanes), is_constant=True)
    left, out = float(problem.rows * problem.depth), float(problem.rows * problem.columns)
    return Demand(cycles, (weights, Stream(left), Stream(out)), groups)


def evicts_itself(problem: ConvProblem) -> bool:
    """Whether equal pixels of many blocks fall on one set of the first cache, and rows are read again.

    14x14 pixels with a border of 1 are 4096 bytes: one more column of border takes a fifth less time.
    """
    top, left, bottom, right = problem.needed_halo
    plane = (top + problem.height + bottom) * (left + problem.width + right) * problem.lanes
    return problem.kernel[0] > 1 and problem.reduction_blocks > MOST_IN_ONE_SET and plane % WAY_BYTES == 0


def integer_depthwise_tile(problem: ConvProblem, registers: int, tasks: int = 1) -> Tile:
    """An even number of pixels, since two share what they read; rows as float kernels have them."""
    tile = depthwise_tile(problem, registers, tasks)
    pixels = min(problem.output_width, registers // 4)
    return replace(tile, pixels=max(1, pixels - pixels % 2))


def integer_depthwise_demand(problem: ConvProblem, tile: Tile, *, vnni: bool) -> Demand:
    """`integer_depthwise`: four taps of a row of the filter at a time, each after a load and a shuffle."""
    pixels = problem.batch * problem.output_height * problem.output_width
    vectors = pixels * problem.output.blocks
    quads = problem.kernel[0] * -(-problem.kernel[1] // GROUP)
    each = quads * (1.5 if vnni else WIDENING) + STORE_CYCLES + TILE_CYCLES / tile.pixels
    source, out = (float(prod(form.shape)) for form in (problem.input, problem.output))
    weights = Stream(4.0 * quads * problem.output.blocks * problem.lanes, is_constant=True)
    units = problem.batch * problem.output.blocks * problem.output_height
    return Demand(vectors * each, (weights, Stream(source), Stream(out)), units)


def integer_conv_demand(problem: ConvProblem, tile: Tile, cache: int, *, vnni: bool) -> Demand:
    """`integer_conv`: every four input channels times every block of filters."""
    tiling = Tiling(problem.output, tile.blocks, tile.joined)
    pixels = problem.batch * problem.output_height * problem.output_width
    width = tiling.form.width
    steps = -(-problem.channels // problem.groups // GROUP) * prod(problem.kernel)
    row = cycles_per_step(width, tile.pixels, tile.blocks) * (1.0 if vnni else WIDENING)
    cycles = pixels / width * steps * row * tiling.groups + STORE_CYCLES * pixels * problem.output.blocks
    row_groups = -(-tiling.form.height // tile.rows)
    weights = 4.0 * steps * problem.output.blocks * problem.lanes
    source, out = (float(prod(form.shape)) for form in (problem.input, problem.output))
    return Demand(
        cycles + TILE_CYCLES * pixels / tile.pixels * tiling.groups,
        (
            Stream(weights, problem.batch * row_groups if weights > cache // 2 else 1, weights, True),
            Stream(source),
            Stream(out),
        ),
        problem.batch * tiling.groups * row_groups,
    )
