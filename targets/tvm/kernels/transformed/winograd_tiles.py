"""How Winograd's convolution is cut into blocks, and what it needs as scratch; needs no TVM.

The blocks follow from a small model of the machine, as `conv_tiles` has it; its constants were fitted to
measurements on a Zen 5 with AVX-512, and a measurement may overrule it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod

from rtcc.ir.ops.winograd import POINTS, Transform, amplification, transform
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.shares import uneven
from rtcc.targets.tvm.kernels.tiling import cycles_per_step

FLOAT_BYTES = 4

INPUT_CYCLES, OUTPUT_CYCLES = 2.8, 2.5
"""Of one vector of a transformed input or product: loading, transforming, storing."""

FAR_CYCLES = 2.0
"""Of one vector of transformed input that comes from beyond the second cache."""

PANEL_CYCLES = 0.4
"""Of one vector of weights, for each register tile, where those of a group exceed the first cache."""

FIRST_CACHE = 32 << 10
"""Bytes of weights that stay in the first cache beside a register tile's inputs."""

WEIGHT_CYCLES, DRAM_WEIGHT_CYCLES = 0.5, 3.0
"""Of one vector of weights that comes from the third cache, or from memory, for each block."""

THIRD_CACHE = 12 << 20
"""Bytes of weights from which on they come from memory."""

MOST_GROWTH = 8.0
"""Tiles whose rounding errors grow more are not offered: F(4x4, 3x3) has 7.1."""

MOST_REGISTER_TILES = 8
"""Register tiles in a block at most."""


@dataclass(frozen=True)
class WinogradProblem:
    """A convolution of stride 1, and how many outputs a tile has along height and width."""

    conv: ConvProblem
    outputs: tuple[int, int]

    @cached_property
    def transforms(self) -> tuple[Transform, Transform]:
        """The transforms along height and width."""
        (rows, columns), (height, width) = self.outputs, self.conv.kernel
        return transform(rows, height), transform(columns, width)

    @cached_property
    def points(self) -> tuple[int, int]:
        """Inputs, and points, of a tile along height and width."""
        rows, columns = self.transforms
        return rows.points, columns.points

    @cached_property
    def products(self) -> int:
        """Matrix products: points of a tile."""
        return prod(self.points)

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Tiles along height and width of one image."""
        return (
            -(-self.conv.output_height // self.outputs[0]),
            -(-self.conv.output_width // self.outputs[1]),
        )

    @cached_property
    def tiles(self) -> int:
        """Tiles of the whole batch."""
        return self.conv.batch * prod(self.grid)


@dataclass(frozen=True)
class WinogradTile:
    """How the work is cut up, from the inside outwards.

    `tiles` by `blocks` of output channels stay in registers; `groups` such register tiles are transformed
    together, a block. `splits`: into how many parts the output channels are divided among tasks; each
    transforms its input.
    """

    tiles: int
    blocks: int
    groups: int = 1
    splits: int = 1

    @property
    def block(self) -> int:
        """Tiles of a block."""
        return self.tiles * self.groups


def channel_groups(problem: WinogradProblem, tile: WinogradTile) -> int:
    """Groups of output channels; the last may have fewer blocks."""
    return -(-problem.conv.output.blocks // tile.blocks)


def input_floats(problem: WinogradProblem, tile: WinogradTile) -> int:
    """Room for one point of a block's transformed input; a line more than that, so that points spread over
    the sets of a cache."""
    conv = problem.conv
    return (conv.input.blocks * tile.block + 1) * conv.lanes


def scratch_bytes(problem: WinogradProblem, tile: WinogradTile) -> int:
    """What each task needs as scratch, in bytes: the transformed input, the products of a channel group."""
    products = tile.block * tile.blocks * problem.conv.lanes
    return FLOAT_BYTES * problem.products * (input_floats(problem, tile) + products)


def tile_outputs(problem: ConvProblem, outputs: int) -> tuple[int, int]:
    """A tile of so many outputs along each axis that has taps, one along the other."""
    rows, columns = (outputs if taps > 1 else 1 for taps in problem.kernel)
    return rows, columns


def winograd_illegal(problem: ConvProblem, outputs: tuple[int, int]) -> str | None:
    """Why `winograd_conv` cannot do the convolution by tiles of so many outputs, or None."""
    if problem.strides != (1, 1) or problem.dilations != (1, 1):
        return "the stride or dilation is not 1"
    if problem.groups != 1:
        return "the channels are in groups"
    kernel = f"{problem.kernel[0]}x{problem.kernel[1]}"
    if problem.kernel == (1, 1):
        return f"the kernel is {kernel}"
    pairs = [pair for pair in zip(outputs, problem.kernel, strict=True) if pair != (1, 1)]
    if any(m == 1 or taps == 1 or m + taps - 1 not in POINTS for m, taps in pairs):
        return f"the kernel is {kernel}, too large for tiles of {outputs[0]}x{outputs[1]}"
    grows = amplification(outputs, problem.kernel)
    if grows > MOST_GROWTH:
        return f"rounding errors grow {grows:.1f} times with {kernel} taps, more than {MOST_GROWTH:g}"
    return None


@cache
def choose_tile(
    problem: WinogradProblem, registers: int, second_cache: int = 1 << 20, tasks: int = 1
) -> WinogradTile:
    """The blocks with the least estimated time; arguments as `conv_tiles.direct_tiles`'s."""
    return best_tiles(problem, registers, second_cache, tasks)[0]


def best_tiles(
    problem: WinogradProblem, registers: int, second_cache: int = 1 << 20, tasks: int = 1
) -> list[WinogradTile]:
    """For each register tile the blocks with the least estimated time, the best first."""
    candidates = _candidates(problem, registers, tasks)
    ordered = sorted(candidates, key=lambda tile: cycles(problem, tile, second_cache, tasks))
    first: dict[tuple[int, int], WinogradTile] = {}
    for tile in ordered:
        first.setdefault((tile.tiles, tile.blocks), tile)
    return list(first.values())


def _candidates(problem: WinogradProblem, registers: int, tasks: int) -> Iterator[WinogradTile]:
    """All blockings worth looking at, in a fixed order."""
    for blocks in range(1, min(4, problem.conv.output.blocks) + 1):
        most = min(problem.tiles, (registers - blocks - 1) // blocks)
        for tiles in range(-(-most // 3), most + 1):
            for groups in range(1, min(MOST_REGISTER_TILES, -(-problem.tiles // tiles)) + 1):
                channels = channel_groups(problem, WinogradTile(tiles, blocks, groups))
                for splits in range(1, min(tasks, channels) + 1):
                    yield WinogradTile(tiles, blocks, groups, splits)


def cycles(problem: WinogradProblem, tile: WinogradTile, second_cache: int, tasks: int = 1) -> float:
    """Estimated cycles of the busiest of `tasks` cores, what memory adds included."""
    total = compute_cycles(problem, tile) + _far_cycles(problem, tile, second_cache)
    return total / tasks * _imbalance(problem, tile, tasks)


def _imbalance(problem: WinogradProblem, tile: WinogradTile, tasks: int) -> float:
    """How much longer the busiest task works than if all did the same; register tiles are computed whole."""
    groups, register_tiles = channel_groups(problem, tile), -(-problem.tiles // tile.tiles)

    def before(step: int) -> float:
        block, split = divmod(step, tile.splits)
        first = block * tile.groups
        here = min(tile.groups, register_tiles - first)
        return groups * first + here * (split * groups // tile.splits)

    return uneven(blocks_of_tiles(problem, tile) * tile.splits, tasks, before)


def compute_cycles(problem: WinogradProblem, tile: WinogradTile) -> float:
    """Estimated cycles with operands in near caches; register tiles are computed whole."""
    conv, groups = problem.conv, channel_groups(problem, tile)
    whole, rest = divmod(problem.tiles, tile.block)
    register_tiles = whole * tile.groups + -(-rest // tile.tiles)
    step = cycles_per_step(tile.tiles, tile.tiles, tile.blocks)
    if FLOAT_BYTES * conv.channels * tile.blocks * conv.lanes > FIRST_CACHE:
        step += PANEL_CYCLES * tile.blocks
    vectors = tile.splits * INPUT_CYCLES * conv.input.blocks + OUTPUT_CYCLES * conv.output.blocks
    return problem.products * (register_tiles * conv.channels * groups * step + problem.tiles * vectors)


def _far_cycles(problem: WinogradProblem, tile: WinogradTile, second_cache: int) -> float:
    """What waiting for weights, and for transformed inputs that exceed the second cache, adds."""
    conv, groups = problem.conv, channel_groups(problem, tile)
    weights, scratch = weight_bytes(problem, tile), scratch_bytes(problem, tile)
    far = 0.0
    if scratch + weights > second_cache:
        vectors = weights / FLOAT_BYTES / conv.lanes * blocks_of_tiles(problem, tile)
        far += vectors * (WEIGHT_CYCLES if weights <= THIRD_CACHE else DRAM_WEIGHT_CYCLES)
    if scratch > second_cache * 5 // 8:
        far += FAR_CYCLES * problem.products * problem.tiles * groups * conv.input.blocks
    return far


def blocks_of_tiles(problem: WinogradProblem, tile: WinogradTile) -> int:
    """Blocks that are transformed one after the other; the last may be smaller."""
    return -(-problem.tiles // tile.block)


def weight_bytes(problem: WinogradProblem, tile: WinogradTile) -> int:
    """Bytes of the packed weights."""
    columns = channel_groups(problem, tile) * tile.blocks * problem.conv.lanes
    return FLOAT_BYTES * problem.products * problem.conv.channels * columns
