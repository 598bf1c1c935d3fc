"""How convolutions by transformed tiles are cut into blocks, and what they need as scratch; needs no TVM.

Winograd's and Fourier's have one structure: tiles of the input are transformed, for each product (a point, or
a frequency) a matrix of tiles is multiplied by one of weights, and the results are transformed back. They go
by blocks of tiles whose transformed inputs and products stay in the second cache.

The blocks follow from a small model of the machine, as `conv_tiles` has it; its constants were fitted to
measurements on a Zen 5 with AVX-512, and a measurement may overrule it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import prod
from typing import ClassVar

from rtcc.targets.tvm.caches import Caches
from rtcc.targets.tvm.kernels.blocked import Blocked
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.convolution.conv_tiles import MOST_ACCUMULATORS
from rtcc.targets.tvm.kernels.shares import uneven

FLOAT_BYTES = 4

FAR_CYCLES = 2.0
"""Of one vector of transformed input that comes from beyond the second cache."""

PANEL_CYCLES = 0.4
"""Of one vector of weights, for each register tile, where those of a group exceed the first cache."""

WEIGHT_CYCLES = 0.5
"""Of one vector of weights that comes from the third cache, for each block."""

MOST_REGISTER_TILES = 8
"""Register tiles in a block at most."""


LONE_PRODUCT_CYCLES = 4.0
"""Of one product of a depthwise tile, which no register tile shares: measured 2 to 7."""

TILE_CYCLES = 16.0
"""Of each vector of a half transformed tile that has left the first cache, over all passes; measured with
depthwise tiles of 40 by 40 (9) and 64 by 64 points (15)."""


@dataclass(frozen=True)
class Blocking:
    """How the work is cut up, from the inside outwards; all 1 for a depthwise convolution.

    `tiles` by `blocks` of output channels stay in registers; `groups` such register tiles are transformed
    together, a block. `splits`: into how many parts the output channels are divided among tasks; each
    transforms its input.
    """

    tiles: int = 1
    blocks: int = 1
    groups: int = 1
    splits: int = 1

    @property
    def block(self) -> int:
        """Tiles of a block."""
        return self.tiles * self.groups


@dataclass(frozen=True)
class TileKind:
    """Tiles that are transformed alike: from number `first` on, those of a part of each image's grid."""

    first: int
    rows: range
    columns: range
    batch: int

    @property
    def numbers(self) -> range:
        """Their numbers."""
        return range(self.first, self.first + self.batch * len(self.rows) * len(self.columns))


@dataclass(frozen=True)
class TransformedProblem(ABC):
    """A convolution of stride 1 by transformed tiles; size: of one along height and width, in its unit."""

    conv: ConvProblem
    size: tuple[int, int]

    parts: ClassVar[int]
    """Numbers that an operand of a product consists of: 2 where it is complex."""

    product_cycles: ClassVar[float]
    """Of one product of a register tile beside its multiply-adds."""

    dram_weight_cycles: ClassVar[float]
    """Of one vector of weights that comes from memory, for each block."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[int, int]:
        """Outputs of a tile along height and width."""

    @property
    @abstractmethod
    def products(self) -> int:
        """Matrix products: points of a tile, or pairs of its spectrum."""

    @property
    @abstractmethod
    def transform_cycles(self) -> tuple[float, float]:
        """Of transforming one tile of one block of channels, and of transforming its products back."""

    @abstractmethod
    def step_cycles(self, by: Blocking) -> float:
        """Of one channel of a register tile's products."""

    def most_tiles(self, registers: int, blocks: int) -> int:
        """The most tiles of a register tile with so many blocks of output channels."""
        return (registers - self.parts * (blocks + 1)) // (self.parts * blocks)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a filter of its own, so that there are no matrices."""
        return self.conv.groups > 1

    @property
    def half_floats(self) -> int:
        """Room in front of all other scratch for a tile that is transformed along one axis."""
        return 0

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of finished outputs that become one result; (1, 1) without a pool."""
        return 1, 1

    @cached_property
    def stored(self) -> Blocked:
        """What is stored, as a blocked activation."""
        out, (rows, columns) = self.conv.output, self.window
        return replace(out, height=out.height // rows, width=out.width // columns)

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles along height and width of one image."""
        (rows, columns), (height, width) = self.outputs, self.window
        return -(-self.stored.height * height // rows), -(-self.stored.width * width // columns)

    @property
    def tiles(self) -> int:
        """Tiles of the whole batch."""
        return self.conv.batch * prod(self.grid)

    @cached_property
    def kinds(self) -> tuple[TileKind, ...]:
        """All tiles, in the order of their numbers: row by row, kind by kind."""
        rows, columns = self.grid
        return (TileKind(0, range(rows), range(columns), self.conv.batch),)

    @cached_property
    def shares(self) -> tuple[tuple[range, int], ...]:
        """Numbers of the tiles that have a product, and how many products those tiles have; all products."""
        return ((range(self.tiles), self.products),)

    def narrower(self, by: Blocking) -> int:
        """Tiles of the narrower register tile that may come last in a block; 0 where there is none."""
        return 0

    def fits(self, by: Blocking) -> bool:
        """Whether weights and scratch are of a size that is worth looking at."""
        return True


@dataclass(frozen=True)
class Scratch:
    """Where a task's scratch lies, in floats: a tile half transformed, products, transformed inputs.

    Products, which are read all points of a tile at a time, are within reach of short offsets there.
    """

    problem: TransformedProblem
    by: Blocking

    @property
    def inputs(self) -> int:
        """From one product's transformed inputs to the next; a line more than they need, so that products
        spread over the sets of a cache."""
        conv = self.problem.conv
        return (self.problem.parts * conv.input.blocks * self.by.block + 1) * conv.lanes

    @property
    def products(self) -> int:
        """Where the products begin."""
        return self.problem.half_floats

    @property
    def transformed(self) -> int:
        """Where the transformed inputs begin."""
        problem = self.problem
        vectors = self.by.block * self.by.blocks * problem.products * problem.parts
        return self.products + vectors * problem.conv.lanes

    @property
    def floats(self) -> int:
        """Of all."""
        problem = self.problem
        if problem.is_depthwise:
            return problem.half_floats
        return self.transformed + problem.products * self.inputs


def scratch_bytes(problem: TransformedProblem, by: Blocking) -> int:
    """What each task needs as scratch, in bytes."""
    return FLOAT_BYTES * Scratch(problem, by).floats


def weight_bytes(problem: TransformedProblem, by: Blocking) -> int:
    """Bytes of the packed weights."""
    conv = problem.conv
    columns = channel_groups(problem, by) * by.blocks * conv.lanes
    channels = 1 if problem.is_depthwise else conv.channels
    return FLOAT_BYTES * problem.parts * problem.products * channels * columns


def channel_groups(problem: TransformedProblem, by: Blocking) -> int:
    """Groups of output channels; the last may have fewer blocks."""
    return -(-problem.conv.output.blocks // by.blocks)


def blocks_of_tiles(problem: TransformedProblem, by: Blocking) -> int:
    """Blocks that are transformed one after the other; the last may be smaller."""
    return -(-problem.tiles // by.block)


def units(problem: TransformedProblem, by: Blocking) -> int:
    """Into how many parts the work can be divided."""
    if problem.is_depthwise:
        return problem.tiles * problem.conv.input.blocks
    return blocks_of_tiles(problem, by) * by.splits


def stride_illegal(problem: ConvProblem) -> str | None:
    """Why tiles of a convolution do not overlap as transforms want it, or None."""
    if problem.strides != (1, 1) or problem.dilations != (1, 1):
        return "the stride or dilation is not 1"
    return None


def blocking_illegal(problem: TransformedProblem, by: Blocking) -> str | None:
    """Why transformed tiles cannot be taken together so, or None."""
    if min(by.tiles, by.blocks, by.groups, by.splits) < 1:
        return "its numbers must be at least 1"
    held = by.tiles * by.blocks * problem.parts
    if held > MOST_ACCUMULATORS:
        return f"it keeps {held} vectors, expected at most {MOST_ACCUMULATORS}"
    if by.groups > -(-problem.tiles // by.tiles):
        return f"it joins {by.groups} times {by.tiles} tiles, there are {problem.tiles}"
    blocks = problem.conv.output.blocks
    if by.splits > -(-blocks // by.blocks):
        return f"{blocks} blocks of channels, {by.blocks} at a time, have no {by.splits} parts"
    return None


# ------------------------------------------------------------------------------------------------ the choice


@cache
def choose_blocking(
    problem: TransformedProblem, registers: int, caches: Caches, tasks: int = 1
) -> Blocking:
    """The blocking with the least estimated time; registers and tasks as `direct_tiles` has them."""
    return best_blockings(problem, registers, caches, tasks)[0]


def best_blockings(
    problem: TransformedProblem, registers: int, caches: Caches, tasks: int = 1
) -> list[Blocking]:
    """For each register tile the blocking with the least estimated time, the best first."""
    if problem.is_depthwise:
        return [Blocking()]
    fitting = [by for by in _blockings(problem, registers, tasks) if problem.fits(by)]
    first: dict[tuple[int, int], Blocking] = {}
    for by in sorted(fitting or [Blocking()], key=lambda by: cycles(problem, by, caches, tasks)):
        first.setdefault((by.tiles, by.blocks), by)
    return list(first.values())


def _blockings(problem: TransformedProblem, registers: int, tasks: int) -> Iterator[Blocking]:
    """All blockings worth looking at, in a fixed order."""
    for blocks in range(1, min(4, problem.conv.output.blocks) + 1):
        room = problem.most_tiles(registers, blocks)
        most = min(problem.tiles, max(1, room))
        for tiles in range(-(-most // 3), most + 1):
            for groups in range(1, min(MOST_REGISTER_TILES, -(-problem.tiles // tiles)) + 1):
                channels = channel_groups(problem, Blocking(tiles, blocks, groups))
                for splits in range(1, min(tasks, channels) + 1):
                    yield Blocking(tiles, blocks, groups, splits)


def cycles(problem: TransformedProblem, by: Blocking, caches: Caches, tasks: int = 1) -> float:
    """Estimated cycles of the busiest of `tasks` cores, what memory adds included."""
    total = compute_cycles(problem, by, caches) + _far_cycles(problem, by, caches)
    return total / tasks * imbalance(problem, by, tasks)


def imbalance(problem: TransformedProblem, by: Blocking, tasks: int) -> float:
    """How much longer the busiest task works than if all did the same; register tiles are computed whole."""
    groups, register_tiles = channel_groups(problem, by), -(-problem.tiles // by.tiles)

    def before(step: int) -> float:
        if problem.is_depthwise:
            return step
        block, split = divmod(step, by.splits)
        first = block * by.groups
        here = min(by.groups, register_tiles - first)
        return groups * first + here * (split * groups // by.splits)

    return uneven(units(problem, by), tasks, before)


def compute_cycles(problem: TransformedProblem, by: Blocking, caches: Caches) -> float:
    """Estimated cycles with operands in near caches; register tiles are computed whole."""
    conv, (forward, backward) = problem.conv, problem.transform_cycles
    if problem.is_depthwise:
        each = forward + LONE_PRODUCT_CYCLES * problem.products + backward
        return problem.tiles * conv.input.blocks * (each + _tile_cycles(problem, caches))
    products = 0.0
    for width, count in register_tiles(problem, by):
        step = problem.step_cycles(replace(by, tiles=width))
        if FLOAT_BYTES * problem.parts * conv.channels * by.blocks * conv.lanes > caches.weights_in_first:
            step += PANEL_CYCLES * problem.parts * by.blocks
        products += count * (conv.channels * step + problem.product_cycles)
    transforms = by.splits * forward * conv.input.blocks + backward * conv.output.blocks
    points = sum(len(tiles) * count for tiles, count in problem.shares)
    return products * channel_groups(problem, by) + points / problem.products * transforms


def register_tiles(problem: TransformedProblem, by: Blocking) -> list[tuple[int, int]]:
    """Widths of register tiles, and how many there are of all products, for each group of channels."""
    whole = narrow = 0
    narrower = problem.narrower(by)
    for tiles, products in problem.shares:
        for count, times in in_blocks(tiles, by.block):
            wide, rest = cut_tiles(count, by.tiles, narrower)
            whole += wide * times * products
            narrow += (rest > 0) * times * products
    return [(by.tiles, whole), (narrower, narrow)] if narrow else [(by.tiles, whole)]


def cut_tiles(count: int, width: int, narrower: int) -> tuple[int, int]:
    """Whole register tiles of so many tiles, and what is left for a narrower one; else the last is whole."""
    whole = (count + width - 1 - narrower) // width if narrower else -(-count // width)
    return whole, max(0, count - whole * width)


def in_blocks(tiles: range, block: int) -> list[tuple[int, int]]:
    """How many of the tiles a block has, and how many blocks have so many."""
    first, last = tiles.start // block, (tiles.stop - 1) // block
    if first == last:
        return [(len(tiles), 1)]
    ends = [((first + 1) * block - tiles.start, 1), (tiles.stop - last * block, 1)]
    return [*ends, (block, last - first - 1)]


def _tile_cycles(problem: TransformedProblem, caches: Caches) -> float:
    """What a half transformed tile waits for that the first cache does not hold."""
    size = FLOAT_BYTES * problem.half_floats
    return TILE_CYCLES * problem.half_floats / problem.conv.lanes * max(0.0, 1 - caches.first / max(size, 1))


def _far_cycles(problem: TransformedProblem, by: Blocking, caches: Caches) -> float:
    """What waiting for weights, and for transformed inputs that exceed the second cache, adds."""
    conv, weights, scratch = problem.conv, weight_bytes(problem, by), scratch_bytes(problem, by)
    price = WEIGHT_CYCLES if weights <= caches.weights_in_third else problem.dram_weight_cycles
    vectors = weights / FLOAT_BYTES / conv.lanes
    if problem.is_depthwise:
        return vectors * price
    far = 0.0
    if scratch + weights > caches.second:
        far += vectors * blocks_of_tiles(problem, by) * price
    if scratch > caches.second * 5 // 8:
        inputs = problem.parts * problem.products * problem.tiles * conv.input.blocks
        far += FAR_CYCLES * inputs * channel_groups(problem, by)
    return far
