"""How Winograd's convolution along the columns of a plain picture is cut up; needs no TVM.

Constants were fitted to the kernel's times on a Zen 5 with AVX-512.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rtcc.ir.ops.winograd import POINTS, amplification
from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.convolution.conv_tiles import MOST_ACCUMULATORS
from rtcc.targets.tvm.kernels.pooling.joined_pool import Pooling
from rtcc.targets.tvm.kernels.tiling import cycles_per_step, split_evenly
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import MOST_GROWTH, WinogradProblem

FLOAT_BYTES = 4

MOST_TERMS = 128
"""Channels times taps of a row, which are added up one after the other before the transform back."""

INPUT_CYCLES, OUTPUT_CYCLES = 1.5, 1.0
"""Of one vector of a transformed input or product: loading, transforming, storing."""

SQUARE_CYCLES = 2.0
"""Of one row of a square of pixels and channels that is transposed and stored."""

FAR_STORES = 3.0
"""How much longer stores past the second cache take than a stream would: they come in bursts."""


@dataclass(frozen=True)
class ColumnsProblem:
    """A convolution of a plain picture, `outputs` rows at a time, perhaps pooled before it is stored."""

    conv: ConvProblem
    outputs: int
    pooling: Pooling | None = None

    @cached_property
    def winograd(self) -> WinogradProblem:
        """The same as tiles of one column."""
        return WinogradProblem(self.conv, (self.outputs, 1))

    @property
    def points(self) -> int:
        """Input rows, and points, of a strip."""
        return self.outputs + self.conv.kernel[0] - 1

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns that become one result."""
        return self.pooling.window if self.pooling else (1, 1)

    @cached_property
    def height(self) -> int:
        """Rows of what is stored."""
        return self.conv.output_height // self.window[0]

    @cached_property
    def width(self) -> int:
        """Columns of what is stored."""
        return self.conv.output_width // self.window[1]

    @property
    def strips(self) -> int:
        """Strips of rows of one image."""
        return -(-self.height * self.window[0] // self.outputs)

    @property
    def filters(self) -> int:
        """Filters of a block of channels that are computed: those of padding too where there are several."""
        return min(self.conv.filters, self.conv.lanes)


@dataclass(frozen=True)
class ColumnsTile:
    """`vectors` of a row's pixels by `filters` stay in registers; `blocks` of channels done together: 1."""

    vectors: int
    blocks: int
    filters: int


def columns_illegal(problem: ConvProblem, outputs: int) -> str | None:
    """Why `columns_conv` cannot do the convolution by strips of so many rows, or None."""
    if problem.strides != (1, 1) or problem.dilations != (1, 1):
        return "the stride or dilation is not 1"
    if problem.groups != 1:
        return "the channels are in groups"
    rows, taps = problem.kernel
    if rows == 1 or outputs + rows - 1 not in POINTS:
        return f"no strip of {outputs} rows has a transform for {rows} taps along the columns"
    if problem.channels * taps > MOST_TERMS:
        return f"{problem.channels * taps} products along the rows are more than {MOST_TERMS}"
    grows = amplification((outputs, 1), problem.kernel)
    if grows > MOST_GROWTH:
        return f"rounding errors grow {grows:.1f} times with {rows} taps, more than {MOST_GROWTH:g}"
    return None


def tile_illegal(problem: ColumnsProblem, tile: ColumnsTile) -> str | None:
    """Why a convolution cannot be cut up so, or None."""
    if tile.blocks != 1:
        return f"{tile.blocks} blocks of channels are done together, expected 1"
    if tile.vectors * tile.filters > MOST_ACCUMULATORS:
        return f"it keeps {tile.vectors * tile.filters} vectors, expected at most {MOST_ACCUMULATORS}"
    if tile.filters > problem.filters:
        return f"it takes {tile.filters} filters at a time, there are {problem.filters} in a block"
    return None


def pools(conv: ConvProblem, outputs: int, pooling: Pooling) -> bool:
    """Whether the kernel can pool: windows are whole in a strip, and halving vectors comes to their width."""
    halves = pooling.columns & (pooling.columns - 1) == 0 and pooling.columns <= conv.lanes
    fits = conv.output_height >= pooling.rows and conv.output_width >= pooling.columns
    return halves and fits and outputs % pooling.rows == 0


def choose_tile(problem: ColumnsProblem, registers: int) -> ColumnsTile:
    """The register tile with the least estimated time."""
    most = -(-problem.conv.output_width // problem.conv.lanes)
    candidates = {
        ColumnsTile(vectors, 1, split_evenly(problem.filters, filters)[0])
        for vectors in range(1, min(4, most) + 1)
        for filters in range(1, problem.filters + 1)
        if vectors * (filters + 1) < registers
    }
    return min(sorted(candidates, key=lambda t: (t.vectors, t.filters)), key=lambda t: _row(problem, t))


def _row(problem: ColumnsProblem, tile: ColumnsTile) -> float:
    """Cycles of one tap of a row, for all filters of a block."""
    vectors = -(-problem.width * problem.window[1] // problem.conv.lanes)
    whole, rest = divmod(vectors, tile.vectors)
    cycles = whole * cycles_per_step(problem.filters, tile.filters, tile.vectors)
    return cycles + (cycles_per_step(problem.filters, tile.filters, rest) if rest else 0.0)


def strip_width(problem: ColumnsProblem, tile: ColumnsTile) -> int:
    """Floats of a transformed row: what whole register tiles read."""
    step = tile.vectors * problem.conv.lanes
    return -(-problem.width * problem.window[1] // step) * step + problem.conv.kernel[1] - 1


def scratch_floats(problem: ColumnsProblem, tile: ColumnsTile) -> tuple[int, int, int]:
    """Room for a transformed strip, for a tile's products, and for its finished rows."""
    lanes = problem.conv.lanes
    strip = problem.points * problem.conv.channels * strip_width(problem, tile)
    square = tile.vectors * lanes * lanes
    return -(-strip // lanes) * lanes, problem.points * square, problem.outputs * square


def scratch_bytes(problem: ColumnsProblem, tile: ColumnsTile) -> int:
    """What each task needs as scratch, in bytes."""
    return FLOAT_BYTES * sum(scratch_floats(problem, tile))


def columns_demand(problem: ColumnsProblem, tile: ColumnsTile, cache: int) -> Demand:
    """`columns_conv`: strip by strip, all weights for each; cache: bytes of the second one."""
    conv, lanes = problem.conv, problem.conv.lanes
    strips, blocks = conv.batch * problem.strips, conv.output.blocks
    vectors = -(-conv.output_width // lanes)
    products = conv.channels * conv.kernel[1] * _row(problem, tile)
    inputs = INPUT_CYCLES * conv.channels * -(-conv.width // lanes)
    outputs = OUTPUT_CYCLES * vectors * problem.filters
    rows = problem.outputs // problem.window[0] * -(-vectors // problem.window[1])
    cycles = problem.points * (inputs + blocks * (products + outputs)) + blocks * rows * SQUARE_CYCLES * lanes
    stored = FLOAT_BYTES * conv.batch * blocks * lanes * problem.height * problem.width
    floats = problem.points * conv.channels * conv.kernel[1] * blocks * lanes
    return Demand(
        strips * cycles,
        (
            Stream(FLOAT_BYTES * floats, is_constant=True),
            Stream(FLOAT_BYTES * conv.batch * conv.channels * conv.height * conv.width),
            Stream(stored, FAR_STORES if stored > cache // 2 else 1.0),
        ),
        strips,
    )
