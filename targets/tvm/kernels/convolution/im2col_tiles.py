"""How convolution by gathered panels is cut up, what it needs as scratch and what it costs; needs no TVM.

The tiles follow from the model of the machine that `conv_problem` has; GATHER_CYCLES and FINISH_CYCLES were
fitted to measurements on a Zen 5 with AVX-512.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import prod

from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.numbers import FLOATS, Numbers
from rtcc.targets.tvm.kernels.tiling import cycles_per_step
from rtcc.targets.tvm.kernels.window import Window

GATHER_CYCLES = 1.0
"""Of one vector that is copied into a panel."""

STRIDED_CYCLES = 0.2
"""Of one element that is copied into a panel where the last stride is not 1."""

ROW_CYCLES = 3.0
"""Of one row of a panel, for each row of results."""

FINISH_CYCLES = 4.0
"""Of one vector of results: stored, loaded, finished, stored."""

WIDEST_KERNEL = 16
"""Taps along the last axis: gathering them is written out."""

MOST_PANEL = 4 << 20
"""Bytes of a panel."""

MOST_PIXELS = 1024
"""Results of one channel in a panel, where a row has no more."""


@dataclass(frozen=True)
class Im2colProblem:
    """A convolution of plain tensors over one to three spatial axes, any groups; fewer axes are led by ones.

    channels, filters: of all groups. pads: before and after each axis.
    """

    batch: int
    groups: int
    channels: int
    filters: int
    rank: int
    windows: tuple[Window, Window, Window]
    lanes: int = 16
    numbers: Numbers = FLOATS

    @property
    def depth(self) -> int:
        """Terms of a result: channels of a group times taps."""
        return self.channels // self.groups * prod(window.taps for window in self.windows)

    @property
    def group_filters(self) -> int:
        """Filters of a group."""
        return self.filters // self.groups

    @property
    def output(self) -> tuple[int, int, int]:
        """Results along the three axes."""
        a, b, c = (window.count for window in self.windows)
        return a, b, c

    @property
    def rows(self) -> int:
        """Rows of results of one channel of one image."""
        return self.output[0] * self.output[1]


@dataclass(frozen=True)
class Im2colTile:
    """`filters` by `vectors` of pixels stay in registers; a panel holds `rows` rows of results."""

    filters: int
    vectors: int
    rows: int


def width(problem: Im2colProblem, tile: Im2colTile) -> int:
    """Elements of one row of a panel."""
    column = tile.vectors * problem.lanes
    return -(-tile.rows * problem.output[2] // column) * column


def scratch_bytes(problem: Im2colProblem, tile: Im2colTile) -> int:
    """What each task needs as scratch: a panel, and the results of a tile's filters."""
    return problem.numbers.bytes * (problem.depth + tile.filters) * width(problem, tile)


def im2col_illegal(problem: Im2colProblem) -> str | None:
    """Why `im2col_conv` cannot do the convolution, or None."""
    if problem.windows[2].taps > WIDEST_KERNEL:
        return f"the kernel has {problem.windows[2].taps} taps in a row, more than {WIDEST_KERNEL}"
    if problem.numbers.bytes * problem.depth * problem.output[2] > MOST_PANEL:
        return f"{problem.depth} terms of {problem.output[2]} results in a row exceed a panel"
    return None


@cache
def choose_tile(problem: Im2colProblem, registers: int, cache: int = 1 << 20, tasks: int = 1) -> Im2colTile:
    """The tile with the least estimated time; arguments as `conv_tiles.direct_tile`'s."""
    return min(_tiles(problem, registers, cache), key=lambda tile: cycles(problem, tile, tasks))


def _tiles(problem: Im2colProblem, registers: int, room: int) -> Iterator[Im2colTile]:
    pixels = problem.output[2]
    row = problem.numbers.bytes * problem.depth * pixels
    most_rows = max(1, min(problem.rows, MOST_PIXELS // pixels, room // 2 // row))
    for rows in range(1, most_rows + 1):
        for vectors in range(1, min(6, -(-rows * pixels // problem.lanes)) + 1):
            most = min(problem.group_filters, (registers - vectors - 1) // vectors)
            for filters in range(max(1, most // 2), most + 1):
                tile = Im2colTile(filters, vectors, rows)
                if scratch_bytes(problem, tile) <= 2 * MOST_PANEL:
                    yield tile


def panels(problem: Im2colProblem, tile: Im2colTile) -> int:
    """Panels of all images and groups."""
    return problem.batch * problem.groups * -(-problem.rows // tile.rows)


def cycles(problem: Im2colProblem, tile: Im2colTile, tasks: int = 1) -> float:
    """Estimated cycles of the busiest of `tasks` cores, operands in near caches; panels are whole."""
    step = cycles_per_step(tile.filters, tile.filters, tile.vectors)
    columns = width(problem, tile) // (tile.vectors * problem.lanes)
    products = -(-problem.group_filters // tile.filters) * columns * problem.depth * step
    finished = problem.group_filters * tile.rows * -(-problem.output[2] // problem.lanes) * FINISH_CYCLES
    count = panels(problem, tile)
    each = gather_cycles(problem, tile) + products + finished
    return each * count / tasks * (-(-count // tasks) * tasks / count)


def gather_cycles(problem: Im2colProblem, tile: Im2colTile) -> float:
    """Of filling one panel."""
    pixels = problem.output[2]
    row = STRIDED_CYCLES * pixels
    if problem.windows[2].stride == 1:
        row = GATHER_CYCLES * -(-pixels // problem.lanes)
    return problem.depth * tile.rows * (ROW_CYCLES + row)


def im2col_demand(problem: Im2colProblem, tile: Im2colTile) -> Demand:
    """`im2col_conv`: panel by panel, all weights of a group for each."""
    inputs = problem.batch * problem.channels * prod(window.extent for window in problem.windows)
    size = problem.numbers.bytes
    weights = size * problem.filters * problem.depth
    count = panels(problem, tile)
    return Demand(
        cycles(problem, tile),
        (
            Stream(weights, count / problem.groups, weights / problem.groups, True),
            Stream(size * inputs),
            Stream(size * problem.batch * problem.filters * prod(problem.output)),
        ),
        count,
    )
