"""Which convolution kernels can do a problem, and the tiles that suit them; needs no TVM.

The tiles follow from a small model of the machine (two multiply-adds and two loads a cycle, the room in the
caches); it was fitted to measurements on AVX-512 and AVX2 machines, and a measurement may overrule it.
"""

from __future__ import annotations

import dataclasses
import functools

from rtcc.targets.tvm.kernels.blocked import NO_HALO
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.numbers import FLOATS
from rtcc.targets.tvm.kernels.shares import uneven, work_before
from rtcc.targets.tvm.kernels.tiling import Tiling, cycles_per_step, most_pixels, split_evenly
from rtcc.targets.tvm.summation import is_one_block

MOST_ACCUMULATORS = 256
"""Vectors that a tile may keep: several times any register file; what is more leaves the stack."""

MOST_ROWS = 4096
"""Rows that may be done together, besides all of them: what is tried takes time."""

FOREIGN_ROWS = 0.1
"""By how much a task takes longer where it reads rows that another core wrote."""

TOO_MANY_HALVES = "are added up in one go, more than a sum of halves may have"


def direct_illegal(problem: ConvProblem) -> str | None:
    """Why `direct_conv` cannot do the convolution, or None."""
    lanes, groups = problem.lanes, problem.groups
    if not problem.has_halo():
        return f"the input's halo {problem.input_halo} is narrower than {problem.needed_halo}"
    together = lanes * problem.kernel[0] * problem.kernel[1]
    if not is_one_block(together, problem.numbers):
        return f"{together} products of {lanes} channels {TOO_MANY_HALVES}"
    if groups > 1 and (problem.channels // groups % lanes or problem.filters // groups % lanes):
        return f"groups of {problem.channels // groups} channels are not whole blocks of {lanes}"
    return None


def plain_illegal(problem: ConvProblem) -> str | None:
    """Why `plain_conv` cannot do the convolution, or None."""
    if problem.groups != 1:
        return "the channels are in groups"
    if problem.input_halo != NO_HALO:
        return "a plain input has no halo"
    taps = problem.kernel[0] * problem.kernel[1]
    return None if is_one_block(taps, problem.numbers) else f"{taps} products {TOO_MANY_HALVES}"


def depthwise_illegal(problem: ConvProblem) -> str | None:
    """Why `depthwise_conv` cannot do the convolution, or None."""
    if not problem.groups == problem.channels == problem.filters:
        shape = f"{problem.filters} filters in {problem.groups} groups over {problem.channels} channels"
        return f"{shape} are not depthwise"
    taps = problem.kernel[0] * problem.kernel[1]
    if not is_one_block(taps, problem.numbers):
        return f"{taps} products {TOO_MANY_HALVES}"
    if not problem.has_halo():
        return f"the input's halo {problem.input_halo} is narrower than {problem.needed_halo}"
    return None


def depthwise_rows_illegal(problem: ConvProblem) -> str | None:
    """Why `copied_rows` cannot serve the convolution, or None; the input needs no halo."""
    top, left, bottom, right = map(max, problem.input_halo, problem.needed_halo)
    if reason := depthwise_illegal(dataclasses.replace(problem, input_halo=(top, left, bottom, right))):
        return reason
    rows = ring_shape(problem)[0]
    if problem.strides[0] > rows:
        return f"a stride of {problem.strides[0]} rows leaves rows out"
    if problem.pads[0] >= rows:
        return f"a padding of {problem.pads[0]} rows is more than the filter reaches over"
    return None


def ring_shape(problem: ConvProblem) -> tuple[int, int, int]:
    """What `copied_rows` holds: rows that a filter reaches over, padded columns, channels of a block."""
    rows, taps = ((n - 1) * step + 1 for n, step in zip(problem.kernel, problem.dilations, strict=True))
    read = (problem.output_width - 1) * problem.strides[1] + taps
    return rows, max(read, problem.pads[1] + problem.width), problem.lanes


@functools.cache
def direct_tile(problem: ConvProblem, registers: int, cache: int = 1 << 20, tasks: int = 1) -> Tile:
    """The tile with the least estimated time; arguments as `direct_tiles` has them."""
    return direct_tiles(problem, registers, cache, tasks, 1)[0]


def direct_tiles(
    problem: ConvProblem, registers: int, cache: int = 1 << 20, tasks: int = 1, count: int = 1
) -> list[Tile]:
    """The register tiles with the least estimated time, each with its best blocks, the best first.

    `registers` is 32 for AVX-512 and NEON, 16 for AVX2; `cache` the bytes of the cache next to the first
    (L2); `tasks` how many threads share the work.
    """
    joins = [1]
    if may_join_rows(problem):
        joins = [n for n in range(1, problem.output_height + 1) if problem.output_height % n == 0]
    blocks = -(-problem.filters // problem.groups // problem.lanes)
    by_lane, taps = problem.reads_lanes, problem.kernel[1]

    def room(nt: int) -> int:
        if by_lane and taps > 1 and nt > 2:
            return 0  # weights, which LLVM loads ahead, would push sums out of their registers
        return most_pixels(registers, nt, by_lane=by_lane, taps=taps)

    candidates = {
        Tile(split_evenly(join * problem.output_width, most)[0], nt, joined=join)
        for join in joins
        for nt in range(1, min(4, blocks) + 1)
        if problem.groups == 1 or blocks % nt == 0
        for most in range(1, room(nt) + 1)
    }
    ordered = sorted(candidates, key=lambda tile: (tile.joined, tile.pixels, tile.blocks))
    ordered.sort(key=lambda tile: pixel_cycles(problem, tile) * imbalance(problem, tile, tasks))
    first: dict[tuple[int, int], Tile] = {}
    for tile in ordered:
        first.setdefault((tile.pixels, tile.blocks), tile)
    return [_with_cache_blocks(problem, tile, cache // 2, tasks) for tile in list(first.values())[:count]]


def imbalance(problem: ConvProblem, tile: Tile, tasks: int) -> float:
    """How much longer the busiest task works than if all did the same."""
    tiling = Tiling(problem.output, tile.blocks, tile.joined)
    rows = tiling.form.height
    steps = problem.batch * tiling.groups * -(-rows // tile.rows)
    return uneven(steps, tasks, work_before(rows, tile.rows, tiling.groups))


def pixel_cycles(problem: ConvProblem, tile: Tile, *, is_near: bool = False) -> float:
    """Cycles that one reduction step takes for one pixel of all output channels of a group.

    is_near: leave out what it takes to bring the pixel near, which tells tiles apart.
    """
    width = tile.joined * problem.output_width
    blocks = -(-problem.filters // problem.groups // problem.lanes)
    steps_per_line = problem.lanes * problem.kernel[0] * problem.kernel[1]
    first_use = 0.0 if is_near else 2.0 / steps_per_line
    cycles = cycles_per_step(width, tile.pixels, tile.blocks, first_use, lanes=problem.lanes_read)
    return -(-blocks // tile.blocks) * cycles / width


def _with_cache_blocks(problem: ConvProblem, tile: Tile, cache: int, tasks: int) -> Tile:
    """The tile with `depth` and `rows` such that far memory is read least; `cache` is the room in bytes."""
    tiling, source = Tiling(problem.output, tile.blocks, tile.joined), problem.input
    out, reduction = tiling.form, problem.reduction_blocks
    taps = problem.kernel[0] * problem.kernel[1]
    group_weights = problem.numbers.bytes * reduction * taps * tile.blocks * problem.lanes**2
    weights = group_weights * tiling.groups
    line = problem.numbers.bytes * source.blocks * source.lanes * source.width
    row_input = line * problem.strides[0] * tile.joined

    def traffic(rows: int) -> int:
        row_groups = -(-out.height // rows)
        reread_weights = row_groups if weights > cache else 1
        reread_input = tiling.groups if rows * row_input > cache else 1
        return reread_weights * weights + reread_input * row_input * out.height

    def rank(rows: int) -> tuple[float, float, int]:
        found = imbalance(problem, dataclasses.replace(tile, rows=rows), tasks)
        return round(found, 2), traffic(rows), abs(rows * row_input - cache // 4)

    rows = min((*range(1, min(out.height, MOST_ROWS) + 1), out.height), key=rank)
    if group_weights <= cache + cache // 4 or problem.numbers != FLOATS:  # sums would rest in halves
        return dataclasses.replace(tile, rows=rows)
    depth = max(1, cache // 4 * reduction // group_weights)
    return dataclasses.replace(tile, rows=rows, depth=depth)


def may_join_rows(problem: ConvProblem) -> bool:
    """Whether rows follow each other without a gap in input and output, and each pixel depends on one."""
    halos = (problem.input_halo, problem.output_halo, problem.pads)
    return problem.kernel == problem.strides == (1, 1) and all(halo == NO_HALO for halo in halos)


def tile_illegal(problem: ConvProblem, tile: Tile) -> str | None:
    """Why a convolution cannot be cut into such tiles, or None; each number is at least 1 (depth: 0)."""
    if tile.pixels * tile.blocks > MOST_ACCUMULATORS:
        return f"it keeps {tile.pixels * tile.blocks} vectors, expected at most {MOST_ACCUMULATORS}"
    if tile.depth and problem.numbers != FLOATS:
        return "sums of halves do not rest in the output: its depth must be 0"
    if tile.joined > 1 and not (may_join_rows(problem) and problem.output_height % tile.joined == 0):
        return f"{tile.joined} rows cannot be joined into one"
    blocks = -(-problem.filters // problem.groups // problem.lanes)
    if problem.groups > 1 and blocks % tile.blocks:
        return f"{tile.blocks} blocks at a time do not divide the {blocks} of a group"
    return None


def reads_rows_by_lane(problem: ConvProblem) -> bool:
    """Whether `plain_conv` reads neighbouring pixels together and multiplies by one after the other."""
    return problem.by_lane and problem.strides[1] <= 2 and problem.dilations == (1, 1)


@functools.cache
def plain_tile(problem: ConvProblem, registers: int) -> Tile:
    """The register tile with the least estimated time."""
    return plain_tiles(problem, registers)[0]


def plain_tiles(problem: ConvProblem, registers: int) -> list[Tile]:
    """Register tiles by their estimated time; smaller than `direct_conv`'s.

    LLVM unrolls the short loop over the taps and shares the pixels that neighbouring taps read, which takes
    registers: measured best at five eighths of them for accumulators. Where pixels are read by vectors, all
    taps of a row take one register for each of those, and the weights one each.
    """
    blocks = problem.output.blocks

    def room(nt: int) -> int:
        if not reads_rows_by_lane(problem):
            return min(registers * 5 // 8 // nt, 8 if nt > 1 else 14)
        taps, stride = problem.kernel[1], problem.strides[1]
        rows = {m: -(-((m - 1) * stride + taps) // problem.lanes) for m in range(1, registers)}
        return max((m for m in rows if m * nt + rows[m] + nt < registers), default=1)

    candidates = [
        Tile(split_evenly(problem.output_width, most)[0], nt)
        for nt in range(1, min(4, blocks) + 1)
        for most in range(1, room(nt) + 1)
    ]

    def cost(tile: Tile) -> float:
        return cycles_per_step(problem.output_width, tile.pixels, tile.blocks) * -(-blocks // tile.blocks)

    return sorted(dict.fromkeys(candidates), key=cost)


NARROW_VECTORS = 2
"""Vectors of pixels in a tile of `narrow_conv`: 12 accumulators for 6 filters, enough to hide the latency."""


def is_narrow(problem: ConvProblem) -> bool:
    """Whether `plain_conv` has vectors along the row: possible, and less work than blocks of channels."""
    sides = problem.pads[1] == problem.window(1).overhang == 0
    room = problem.output_width >= problem.lanes and problem.filters <= problem.lanes // 2
    return sides and room and problem.strides[1] == 1 and problem.numbers == FLOATS


@functools.cache
def depthwise_tile(problem: ConvProblem, registers: int, tasks: int = 1) -> Tile:
    """As many pixels as leave registers for the taps of one row and the pixels that they read.

    Tasks get bands of rows where rows can be shared evenly, as those of the convolutions around do, so that
    most of what a task reads it has written itself; else blocks of channels.
    """
    most = max(1, (registers - problem.kernel[1] - 2) // 2)
    pixels = split_evenly(problem.output_width, min(most, 10))[0]
    height = problem.output_height

    def rank(rows: int) -> tuple[float, int]:
        tile = Tile(pixels, 1, rows=rows)
        foreign = FOREIGN_ROWS if problem.batch == 1 and rows == height else 0.0
        return round(imbalance(problem, tile, tasks) + (foreign if tasks > 1 else 0.0), 2), -rows

    return Tile(pixels, 1, rows=min(range(1, height + 1), key=rank))


def depthwise_tiles(problem: ConvProblem, registers: int, tasks: int = 1) -> list[Tile]:
    """Tiles of other widths beside the usual one, which comes first."""
    usual = depthwise_tile(problem, registers, tasks)
    most = [6, 8, 12, 14, max(1, registers - problem.kernel[1] - 2)]
    widths = [split_evenly(problem.output_width, each)[0] for each in most if each <= registers]
    others = [dataclasses.replace(usual, pixels=width) for width in widths]
    return list(dict.fromkeys([usual, *others]))
