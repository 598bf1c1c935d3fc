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
from rtcc.targets.tvm.kernels.convolution.conv_tiles import (
    depthwise_tile,
    direct_illegal,
    direct_tiles,
    plain_illegal,
)
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, MatmulTile
from rtcc.targets.tvm.kernels.shares import uneven, work_before
from rtcc.targets.tvm.kernels.tiling import Tiling, cycles_per_step, split_evenly

GROUP = 4
"""Bytes that one lane of an accumulator takes at a time."""

STORE_CYCLES = 2.5
"""Of one vector of results: an offset, a factor, two limits, conversions there and back, the store."""

PAIRED, SINGLE = 0.5, 1.8
"""Cycles of four taps of a depthwise convolution: a shuffle of pixels that serves two results, or one."""

WIDENING = 4.0
"""How much longer a step takes without one: two products and two additions, of widened bytes."""


def _widening(four_products: bool) -> float:
    return 1.0 if four_products else WIDENING


def without_vectors(features: Collection[str]) -> bool:
    """Whether vectors are so many numbers in registers of their own: on Cortex-M."""
    return "thumb2" in features


def has_four_products(features: Collection[str], lanes: int, *, signed: bool = False) -> bool:
    """Whether one instruction adds up four products of u8 by s8, or of s8 by s8, in each of so many lanes.

    Cores without vectors add them up lane by lane, of either sign.
    """
    if without_vectors(features):
        return True
    if signed:
        return lanes == 4 and "dotprod" in features
    return (lanes == 16 and "avx512vnni" in features) or (lanes == 4 and "i8mm" in features)


@functools.cache
def integer_conv_tile(problem: ConvProblem, registers: int, cache: int = 1 << 20, tasks: int = 1) -> Tile:
    """The tile with the least estimated time; arguments as `direct_tiles` has them."""
    return integer_conv_tiles(problem, registers, cache, tasks, 1)[0]


def integer_conv_tiles(
    problem: ConvProblem, registers: int, cache: int, tasks: int, count: int
) -> list[Tile]:
    """Tiles by their estimated time; arguments as `direct_tiles` has them."""
    return [replace(tile, depth=0) for tile in direct_tiles(problem, registers, 4 * cache, tasks, count)]


MATRIX_DEPTH = 8
"""Channels, or elements of a row, that one instruction of I8MM takes of each pixel or row."""

MATRIX_LANES = 4
MATRIX_ACCUMULATORS = 24
"""Vectors that a tile of I8MM may keep beside its operands, a pair of pixels and one of filters each."""


def has_matrix_products(features: Collection[str], lanes: int) -> bool:
    """Whether one instruction multiplies two pixels by two filters, eight bytes deep, of either sign."""
    return lanes == MATRIX_LANES and "i8mm" in features


def matrix_conv_illegal(problem: ConvProblem) -> str | None:
    """Why `integer_matrix_conv` cannot do the convolution, or None."""
    if problem.channels // problem.groups % MATRIX_DEPTH:
        return f"{problem.channels // problem.groups} channels are no whole eights"
    if problem.strides[1] != 1:
        return "pixels that are not neighbours are no rows of one vector"
    return direct_illegal(problem)


def matrix_conv_tiles(
    problem: ConvProblem, registers: int, cache: int, tasks: int, count: int
) -> list[Tile]:
    """Tiles of `integer_matrix_conv` by their estimated time; arguments as `direct_tiles` has them."""
    found = [
        tile
        for tile in direct_tiles(problem, registers, 4 * cache, tasks, registers * MATRIX_LANES)
        if -(-tile.pixels // 2) * 2 * tile.blocks <= MATRIX_ACCUMULATORS
    ]
    found.sort(key=lambda tile: matrix_cycles(problem.output_width * tile.joined, tile.pixels, tile.blocks)
               * -(-problem.output.blocks // tile.blocks) / tile.joined)  # fmt: skip
    return [replace(tile, depth=0) for tile in found[:count]]


def matrix_cycles(extent: int, rows: int, blocks: int) -> float:
    """Of eight channels of `extent` pixels, in tiles of rows by blocks of four filters, as `cycles_per_step`.

    A pair of pixels takes two loads and a shuffle, which goes the way of products.
    """

    def tile(count: int) -> float:
        pairs = -(-count // 2)
        cycles = max(pairs * (2 * blocks + 1) / 2, pairs + blocks, 4.0)
        return cycles + 0.1 * pairs + 0.4 * blocks

    whole, rest = divmod(extent, rows)
    return whole * tile(rows) + (tile(rest) if rest else 0.0)


GROUPED = 0.75
"""Cycles of four channels of a pixel and their filters in `integer_grouped`: a load, a shuffle, products."""

GROUPED_PIXELS = 12
"""Of a tile of `integer_grouped`, at most."""


def integer_grouped_illegal(problem: ConvProblem) -> str | None:
    """Why `integer_grouped` cannot do the convolution, or None."""
    size = problem.channels // problem.groups
    if problem.filters != problem.channels or size == 1 or size >= problem.lanes or problem.lanes % size:
        filters = problem.filters // problem.groups
        return f"groups of {size} channels and {filters} filters are not equal parts of {problem.lanes}"
    if not problem.has_halo():
        return f"the input's halo {problem.input_halo} is narrower than {problem.needed_halo}"
    return None


def integer_grouped_tile(problem: ConvProblem, registers: int, tasks: int = 1) -> Tile:
    """Some pixels of a row of one block; rows as depthwise kernels have them."""
    pixels = split_evenly(problem.output_width, min(GROUPED_PIXELS, registers // 2))[0]
    return replace(depthwise_tile(problem, registers, tasks), pixels=pixels)


def integer_grouped_demand(problem: ConvProblem, tile: Tile, *, four_products: bool) -> Demand:
    """`integer_grouped`: every four channels of a group for every tap of every vector of results."""
    steps = prod(problem.kernel) * -(-problem.channels // problem.groups // GROUP)
    vectors = problem.batch * problem.output_height * problem.output_width * problem.output.blocks
    each = steps * (GROUPED if four_products else WIDENING) + STORE_CYCLES + TILE_CYCLES / tile.pixels
    source, out = (float(prod(form.shape)) for form in (problem.input, problem.output))
    weights = Stream(4.0 * steps * problem.output.blocks * problem.lanes, is_constant=True)
    units = problem.batch * problem.output.blocks * -(-problem.output_height // tile.rows)
    return Demand(vectors * each, (weights, Stream(source), Stream(out)), units)


COPIED = 64
"""Bytes that `integer_plain` copies at a time."""

MOST_CHANNELS = 15

MOST_ROWS = 16
"""Of results in a band of `integer_plain`: what it copies for them stays in the first cache."""


def integer_plain_illegal(problem: ConvProblem) -> str | None:
    """Why `integer_plain` cannot do the convolution, or None."""
    if problem.channels > MOST_CHANNELS:
        return f"{problem.channels} channels fill a block, which other kernels take"
    if problem.kernel[1] == 1 or problem.dilations[1] > 1:
        return "a row of the filter has no neighbouring taps to be taken four at a time"
    return plain_illegal(problem)


def quads_of(problem: ConvProblem) -> int:
    """Fours of taps in a row of the filter, the last possibly partial."""
    return -(-problem.kernel[1] // GROUP)


def band_shape(problem: ConvProblem, tile: Tile) -> tuple[int, int, int]:
    """The bytes that `integer_plain` copies at a time: channels, rows, columns with zeros around them."""
    rows = (tile.rows - 1) * problem.strides[0] + (problem.kernel[0] - 1) * problem.dilations[0] + 1
    read = (problem.output_width - 1) * problem.strides[1] + quads_of(problem) * GROUP
    width = max(read, problem.pads[1] + problem.width)
    return problem.channels, rows, -(-width // COPIED) * COPIED


def integer_plain_tiles(problem: ConvProblem, registers: int, tasks: int, count: int) -> list[Tile]:
    """Register tiles by their estimated time, with bands of rows that tasks can share evenly."""

    def rank(rows: int) -> tuple[float, int]:
        bands = -(-problem.output_height // rows)
        steps = problem.batch * bands
        return round(uneven(steps, tasks, work_before(problem.output_height, rows, 1)), 2), -rows

    rows = min(range(1, min(MOST_ROWS, problem.output_height) + 1), key=rank)
    found = direct_tiles(problem, registers, 1 << 30, 1, count)
    return [Tile(tile.pixels, tile.blocks, 0, rows) for tile in found]


def integer_plain_demand(problem: ConvProblem, tile: Tile, *, four_products: bool) -> Demand:
    """`integer_plain`: every four taps of every row of the filter times every block of filters."""
    tiling = Tiling(problem.output, tile.blocks)
    rows = problem.batch * problem.output_height
    steps = problem.channels * problem.kernel[0] * quads_of(problem)
    each = cycles_per_step(problem.output_width, tile.pixels, tile.blocks) * _widening(four_products)
    bands = problem.batch * -(-problem.output_height // tile.rows)
    copied = 2.0 * bands * prod(band_shape(problem, tile)) / COPIED
    vectors = rows * problem.output_width * problem.output.blocks
    tiles = rows * tiling.groups * -(-problem.output_width // tile.pixels)
    weights = Stream(4.0 * steps * problem.output.blocks * problem.lanes, is_constant=True)
    source = float(problem.batch * problem.channels * problem.height * problem.width)
    return Demand(
        rows * tiling.groups * steps * each + STORE_CYCLES * vectors + TILE_CYCLES * tiles + copied,
        (weights, Stream(source), Stream(float(prod(problem.output.shape)))),
        bands,
    )


def integer_matmul_tiles(problem: MatmulProblem, registers: int, tasks: int = 1) -> list[MatmulTile]:
    """Tiles by their estimated time; a single row takes more vectors, to hide latency."""
    most = min(8 if problem.rows == 1 else 4, problem.vectors)
    candidates = {
        MatmulTile(split_evenly(problem.rows, count)[0], vectors)
        for vectors in range(1, most + 1)
        for count in range(1, (registers - vectors - 1) // vectors + 1)
    }

    def cycles(tile: MatmulTile) -> tuple[float, int]:
        groups = -(-problem.vectors // tile.vectors)
        return cycles_per_step(problem.rows, tile.rows, tile.vectors) * groups, tile.vectors

    ordered = sorted(sorted(candidates, key=astuple), key=cycles)
    groups = [-(-problem.rows // (tile.rows * tasks)) for tile in ordered]
    return [replace(tile, group=group) for tile, group in zip(ordered, groups, strict=True)]


def matrix_matmul_illegal(problem: MatmulProblem) -> str | None:
    """Why `integer_matrix_matmul` cannot do the product, or None."""
    if problem.depth % MATRIX_DEPTH:
        return f"rows of {problem.depth} are no whole eights"
    return "half of each matrix of a single row's products would be wasted" if problem.rows == 1 else None


def matrix_matmul_tiles(problem: MatmulProblem, tasks: int = 1) -> list[MatmulTile]:
    """Tiles of `integer_matrix_matmul` by their estimated time."""
    most = MATRIX_ACCUMULATORS // 2
    shapes = {
        (split_evenly(problem.rows, 2 * pairs)[0], vectors)
        for vectors in range(1, min(4, problem.vectors) + 1)
        for pairs in range(1, most // vectors + 1)
    }

    def cycles(shape: tuple[int, int]) -> tuple[float, int]:
        rows, vectors = shape
        return matrix_cycles(problem.rows, rows, vectors) * -(-problem.vectors // vectors), vectors

    return [
        MatmulTile(rows, vectors, group=-(-problem.rows // (rows * tasks)))
        for rows, vectors in sorted(sorted(shapes), key=cycles)
    ]


def integer_matmul_demand(
    problem: MatmulProblem, tile: MatmulTile, *, four_products: bool, in_pairs: bool = False
) -> Demand:
    """`integer_matmul`: every four k of every row times every column; in_pairs: by I8MM."""
    groups = -(-problem.vectors // tile.vectors)
    step = cycles_per_step(problem.rows, tile.rows, tile.vectors) * _widening(four_products)
    if in_pairs:  # of eight k
        step = matrix_cycles(problem.rows, tile.rows, tile.vectors) / 2
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


def integer_depthwise_tiles(problem: ConvProblem, registers: int, tasks: int = 1) -> list[Tile]:
    """Even numbers of pixels, since two share what they read, the usual one first; rows as of floats."""
    tile = depthwise_tile(problem, registers, tasks)
    widths = [min(problem.output_width, registers * n // 8) for n in (2, 1, 3)]
    return [replace(tile, pixels=max(1, each - each % 2)) for each in dict.fromkeys(widths)]


def takes_pairs(problem: ConvProblem) -> bool:
    """Whether four pixels serve two neighbouring results of `integer_depthwise`."""
    return problem.kernel[1] == 3 and problem.strides[1] == problem.dilations[1] == 1


def integer_depthwise_demand(problem: ConvProblem, tile: Tile, *, four_products: bool) -> Demand:
    """`integer_depthwise`: four taps of a row of the filter at a time, each after a load and a shuffle."""
    pixels = problem.batch * problem.output_height * problem.output_width
    vectors = pixels * problem.output.blocks
    quads = problem.kernel[0] * quads_of(problem)
    step = (PAIRED if takes_pairs(problem) else SINGLE) * _widening(four_products)
    each = quads * step + STORE_CYCLES + TILE_CYCLES / tile.pixels
    source, out = (float(prod(form.shape)) for form in (problem.input, problem.output))
    weights = Stream(4.0 * quads * problem.output.blocks * problem.lanes, is_constant=True)
    units = problem.batch * problem.output.blocks * problem.output_height
    return Demand(vectors * each, (weights, Stream(source), Stream(out)), units)


def integer_conv_demand(
    problem: ConvProblem, tile: Tile, cache: int, *, four_products: bool, in_pairs: bool = False
) -> Demand:
    """`integer_conv`: every four input channels times every block of filters; in_pairs: by I8MM."""
    tiling = Tiling(problem.output, tile.blocks, tile.joined)
    pixels = problem.batch * problem.output_height * problem.output_width
    width = tiling.form.width
    steps = -(-problem.channels // problem.groups // GROUP) * prod(problem.kernel)
    row = cycles_per_step(width, tile.pixels, tile.blocks) * _widening(four_products) * problem.share_inside
    if in_pairs:  # of eight channels; the border's columns are read
        row = matrix_cycles(width, tile.pixels, tile.blocks) / 2 * problem.window(0).share_inside
    products = pixels / width * steps * row * tiling.groups
    cycles = products + STORE_CYCLES * pixels * problem.output.blocks
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
