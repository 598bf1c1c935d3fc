"""How convolution by Fourier transforms is cut into tiles and blocks, and its scratch; needs no TVM.

Tiles and blocks follow from a small model of the machine; its constants were fitted to measurements on a Zen
5 with AVX-512, and a measurement may overrule it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import log2, prod

from rtcc.ir.ops.fft_conv import Spectrum
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.shares import uneven

FLOAT_BYTES = 4

SIZES = (8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
"""Points along an axis that tiles are chosen from."""

FEWEST_TAPS = 4
"""Kernels of fewer taps along both axes have better ways."""

REAL_CYCLES, COMPLEX_CYCLES = 0.19, 0.39
"""Of one point of a transform of real numbers, or of complex ones, times its halvings squared: larger ones
leave the registers."""

STORE_CYCLES = 1.0
"""Of one vector of results."""

PANEL_CYCLES = 0.4
"""Of one vector of weights, for each register tile, where those of a group exceed the first cache."""

FIRST_CACHE = 32 << 10
"""Bytes of weights that stay in the first cache beside a register tile's inputs."""

WEIGHT_CYCLES, DRAM_WEIGHT_CYCLES = 0.5, 6.0
"""Of one vector of weights that comes from the third cache, or from memory, for each block."""

THIRD_CACHE = 16 << 20
"""Bytes of weights from which on they come from memory."""

FAR_CYCLES = 2.0
"""Of one vector of transformed input that comes from beyond the second cache."""

MOST_REGISTER_TILES = 8
"""Register tiles in a block at most."""

MOST_SCRATCH = 8 << 20
"""Bytes of scratch from which on tiles are not considered."""

MOST_WEIGHTS = 256 << 20
"""Bytes of transformed weights from which on tiles are not considered: an artefact holds them."""


@dataclass(frozen=True)
class FftProblem:
    """A convolution of stride 1, dense or depthwise, and how many points a tile has along height and width.

    The height's are even or 1, the width's even.
    """

    conv: ConvProblem
    points: tuple[int, int]

    @property
    def outputs(self) -> tuple[int, int]:
        """Outputs of a tile along height and width."""
        return self.points[0] - self.conv.kernel[0] + 1, self.points[1] - self.conv.kernel[1] + 1

    @property
    def spectrum(self) -> Spectrum:
        """How a tile's spectrum is stored."""
        return Spectrum(*self.points)

    @property
    def pairs(self) -> int:
        """Complex products, or pairs of real ones, of a tile."""
        return self.spectrum.pairs

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return self.conv.groups > 1

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles along height and width of one image."""
        rows, columns = self.outputs
        return -(-self.conv.output_height // rows), -(-self.conv.output_width // columns)

    @property
    def tiles(self) -> int:
        """Tiles of the whole batch."""
        return self.conv.batch * prod(self.grid)


@dataclass(frozen=True)
class FftTile:
    """How the work is cut up, from the inside outwards; all 1 for a depthwise convolution.

    `tiles` by `blocks` of output channels stay in registers, as complex numbers; `groups` such register tiles
    are transformed together, a block. `splits`: into how many parts the output channels are divided among
    tasks; each transforms its input.
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
class FftScratch:
    """Where a task's scratch lies, in floats: a tile half transformed, transformed inputs, products."""

    problem: FftProblem
    tile: FftTile

    @property
    def row(self) -> int:
        """From one row of a half transformed tile to the next; odd vectors, so that rows spread over sets."""
        return (self.problem.points[1] + 1) * self.problem.conv.lanes

    @property
    def half(self) -> int:
        """Of a tile that is transformed along one axis."""
        return self.problem.points[0] * self.row

    @property
    def pair(self) -> int:
        """From one pair of a block's transformed inputs to the next; a line more than they need."""
        conv = self.problem.conv
        return (2 * conv.input.blocks * self.tile.block + 1) * conv.lanes

    @property
    def products(self) -> int:
        """Where the products begin."""
        return self.half + self.problem.pairs * self.pair

    @property
    def floats(self) -> int:
        """Of all."""
        if self.problem.is_depthwise:
            return self.half
        products = self.tile.block * self.tile.blocks * self.problem.pairs * 2 * self.problem.conv.lanes
        return self.products + products


def scratch_bytes(problem: FftProblem, tile: FftTile) -> int:
    """What each task needs as scratch, in bytes."""
    return FLOAT_BYTES * FftScratch(problem, tile).floats


def channel_groups(problem: FftProblem, tile: FftTile) -> int:
    """Groups of output channels; the last may have fewer blocks."""
    return -(-problem.conv.output.blocks // tile.blocks)


def fft_illegal(problem: ConvProblem) -> str | None:
    """Why `fft_conv` cannot do the convolution, or None."""
    if problem.strides != (1, 1) or problem.dilations != (1, 1):
        return "the stride or dilation is not 1"
    if problem.groups != 1 and not problem.groups == problem.channels == problem.filters:
        return "the channels are in groups"
    if max(problem.kernel) < FEWEST_TAPS:
        return f"the kernel is {problem.kernel[0]}x{problem.kernel[1]}, too small to gain"
    if max(problem.kernel) > SIZES[-1]:
        return f"the kernel is {problem.kernel[0]}x{problem.kernel[1]}, tiles have at most {SIZES[-1]} points"
    smallest = FftProblem(problem, next(_points(problem)))
    if (size := weight_bytes(smallest, FftTile())) > MOST_WEIGHTS:
        return f"the transformed weights would take {size >> 20} MiB, more than {MOST_WEIGHTS >> 20}"
    if (size := scratch_bytes(smallest, FftTile())) > MOST_SCRATCH:
        return f"a tile's spectra take {size >> 20} MiB, more than {MOST_SCRATCH >> 20}"
    return None


@cache
def choose(
    problem: ConvProblem, registers: int, second_cache: int = 1 << 20, tasks: int = 1
) -> tuple[FftProblem, FftTile]:
    """The points and blocks with the least estimated time; arguments as `conv_tiles.direct_tile`'s."""
    sized = [FftProblem(problem, points) for points in _points(problem)]
    fitting = [each for each in sized if _fits(each, FftTile())]
    chosen = [(each, choose_tile(each, registers, second_cache, tasks)) for each in fitting]
    return min(chosen, key=lambda pair: cycles(*pair, second_cache, tasks))


def _fits(problem: FftProblem, tile: FftTile) -> bool:
    """Whether weights and scratch keep their bounds."""
    return weight_bytes(problem, tile) <= MOST_WEIGHTS and scratch_bytes(problem, tile) <= MOST_SCRATCH


def _points(problem: ConvProblem) -> Iterator[tuple[int, int]]:
    """Sizes of tiles worth looking at, in a fixed order."""
    rows = _sizes(problem.kernel[0], problem.output_height, 1)
    for height in rows:
        for width in _sizes(problem.kernel[1], problem.output_width, 2):
            yield height, width


def _sizes(taps: int, extent: int, single: int) -> list[int]:
    """Points along an axis: up to the first that needs but one tile; `single` for one tap."""
    if taps == 1:
        return [single]
    sizes = [size for size in SIZES if size >= taps]
    whole = next((n for n, size in enumerate(sizes) if size >= extent + taps - 1), len(sizes) - 1)
    return sizes[: whole + 1]


@cache
def choose_tile(problem: FftProblem, registers: int, second_cache: int = 1 << 20, tasks: int = 1) -> FftTile:
    """The blocks with the least estimated time for such points."""
    if problem.is_depthwise:
        return FftTile()
    fitting = [tile for tile in _blockings(problem, registers, tasks) if _fits(problem, tile)]
    return min(fitting or [FftTile()], key=lambda tile: cycles(problem, tile, second_cache, tasks))


def _blockings(problem: FftProblem, registers: int, tasks: int) -> Iterator[FftTile]:
    """All blockings worth looking at, in a fixed order."""
    for blocks in range(1, min(4, problem.conv.output.blocks) + 1):
        most = min(problem.tiles, max(1, (registers - 2 * blocks - 2) // (2 * blocks)))
        for tiles in range(-(-most // 3), most + 1):
            for groups in range(1, min(MOST_REGISTER_TILES, -(-problem.tiles // tiles)) + 1):
                channels = channel_groups(problem, FftTile(tiles, blocks, groups))
                for splits in range(1, min(tasks, channels) + 1):
                    yield FftTile(tiles, blocks, groups, splits)


# ------------------------------------------------------------------------------------------------------ cost


def cycles(problem: FftProblem, tile: FftTile, second_cache: int, tasks: int = 1) -> float:
    """Estimated cycles of the busiest of `tasks` cores, what memory adds included."""
    total = compute_cycles(problem, tile) + _far_cycles(problem, tile, second_cache)
    return total / tasks * _imbalance(problem, tile, tasks)


def _imbalance(problem: FftProblem, tile: FftTile, tasks: int) -> float:
    """How much longer the busiest task works than if all did the same; register tiles are computed whole."""
    groups, register_tiles = channel_groups(problem, tile), -(-problem.tiles // tile.tiles)

    def before(step: int) -> float:
        if problem.is_depthwise:
            return step
        block, split = divmod(step, tile.splits)
        first = block * tile.groups
        here = min(tile.groups, register_tiles - first)
        return groups * first + here * (split * groups // tile.splits)

    return uneven(units(problem, tile), tasks, before)


def units(problem: FftProblem, tile: FftTile) -> int:
    """Into how many parts the work can be divided."""
    if problem.is_depthwise:
        return problem.tiles * problem.conv.input.blocks
    return blocks_of_tiles(problem, tile) * tile.splits


def compute_cycles(problem: FftProblem, tile: FftTile) -> float:
    """Estimated cycles with operands in near caches; register tiles are computed whole."""
    conv, forward, backward = problem.conv, _forward_cycles(problem), _backward_cycles(problem)
    if problem.is_depthwise:
        return problem.tiles * conv.input.blocks * (forward + backward)
    whole, rest = divmod(problem.tiles, tile.block)
    register_tiles = whole * tile.groups + -(-rest // tile.tiles)
    step = max(2.0 * tile.tiles * tile.blocks, tile.tiles + tile.blocks, 4.0) + 0.1 * tile.tiles
    step += 0.4 * tile.blocks
    if 2 * FLOAT_BYTES * conv.channels * tile.blocks * conv.lanes > FIRST_CACHE:
        step += 2 * PANEL_CYCLES * tile.blocks
    products = register_tiles * channel_groups(problem, tile) * problem.pairs * (conv.channels * step + 8.0)
    transforms = tile.splits * forward * conv.input.blocks + backward * conv.output.blocks
    return products + problem.tiles * transforms


def _forward_cycles(problem: FftProblem) -> float:
    """Of the transform of one tile of one block of channels."""
    rows, columns = problem.points
    return columns * _real_cycles(rows) + _row_cycles(problem)


def _backward_cycles(problem: FftProblem) -> float:
    rows, _ = problem.points
    height, width = problem.outputs
    return _row_cycles(problem) + width * (_real_cycles(rows) + STORE_CYCLES * height)


def _row_cycles(problem: FftProblem) -> float:
    rows, columns = problem.points
    middle = max(0, rows // 2 - 1) * columns * COMPLEX_CYCLES * log2(columns) ** 2
    return middle + problem.spectrum.real_rows * _real_cycles(columns)


def _real_cycles(points: int) -> float:
    return points * REAL_CYCLES * log2(points) ** 2


def _far_cycles(problem: FftProblem, tile: FftTile, second_cache: int) -> float:
    """What waiting for weights, and for transformed inputs that exceed the second cache, adds."""
    conv = problem.conv
    weights, scratch = weight_bytes(problem, tile), scratch_bytes(problem, tile)
    price = WEIGHT_CYCLES if weights <= THIRD_CACHE else DRAM_WEIGHT_CYCLES
    vectors = weights / FLOAT_BYTES / conv.lanes
    if problem.is_depthwise:
        return vectors * price
    far = 0.0
    if scratch + weights > second_cache:
        far += vectors * blocks_of_tiles(problem, tile) * price
    if scratch > second_cache * 5 // 8:
        inputs = 2 * problem.pairs * problem.tiles * conv.input.blocks
        far += FAR_CYCLES * inputs * channel_groups(problem, tile)
    return far


def blocks_of_tiles(problem: FftProblem, tile: FftTile) -> int:
    """Blocks that are transformed one after the other; the last may be smaller."""
    return -(-problem.tiles // tile.block)


def weight_bytes(problem: FftProblem, tile: FftTile) -> int:
    """Bytes of the packed weights."""
    conv = problem.conv
    columns = channel_groups(problem, tile) * tile.blocks * conv.lanes
    return FLOAT_BYTES * 2 * problem.pairs * (1 if problem.is_depthwise else conv.channels) * columns
