"""Winograd's convolution: which tiles are legal, and what one takes; needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

from rtcc.ir.ops.winograd import POINTS, Transform, amplification, tail, transform
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.pooling.joined_pool import Pooling
from rtcc.targets.tvm.kernels.tiling import cycles_per_step, most_pixels
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import (
    Blocking,
    TileKind,
    TransformedProblem,
    cut_tiles,
    in_blocks,
    stride_illegal,
)

INPUT_CYCLES, OUTPUT_CYCLES = 2.8, 2.5
"""Of one vector of a transformed input or product: loading, transforming, storing."""

MOST_GROWTH = 8.0
"""Tiles whose rounding errors grow more are not offered: F(4x4, 3x3) has 7.2."""


@dataclass(frozen=True)
class WinogradProblem(TransformedProblem):
    """A convolution of stride 1, and how many outputs a tile has along height and width (`size`).

    pooling: of the finished outputs before they are stored; windows are whole within a tile (`pools`).
    """

    pooling: Pooling | None = None

    parts: ClassVar[int] = 1
    product_cycles: ClassVar[float] = 0.0
    dram_weight_cycles: ClassVar[float] = 3.0

    @property
    def outputs(self) -> tuple[int, int]:
        return self.size

    @property
    def window(self) -> tuple[int, int]:
        return self.pooling.window if self.pooling else (1, 1)

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

    @property
    def products(self) -> int:
        return prod(self.points)

    @cached_property
    def rests(self) -> tuple[int, int]:
        """Outputs that the last tile along height and width has where it has fewer than others; else 0."""
        stored, window = self.stored, self.window
        rows, columns = stored.height * window[0], stored.width * window[1]
        return rows % self.outputs[0], columns % self.outputs[1]

    @cached_property
    def tails(self) -> tuple[Transform | None, Transform | None]:
        """The transforms of these last tiles."""
        sides = zip(self.outputs, self.conv.kernel, self.rests, strict=True)
        rows, columns = (tail(*side) if side[2] else None for side in sides)
        return rows, columns

    @cached_property
    def kinds(self) -> tuple[TileKind, ...]:
        """Last tiles of a row, then whole ones, those of the last row, and its last: so each product is of
        tiles that follow one another."""
        whole = [range(count - (rest > 0)) for count, rest in zip(self.grid, self.rests, strict=True)]
        last = [range(count - (rest > 0), count) for count, rest in zip(self.grid, self.rests, strict=True)]
        found: list[TileKind] = []
        places = ((whole[0], last[1]), (whole[0], whole[1]), (last[0], whole[1]), (last[0], last[1]))
        for rows, columns in places:
            first = found[-1].numbers.stop if found else 0
            found.append(TileKind(first, rows, columns, self.conv.batch))
        return tuple(kind for kind in found if len(kind.numbers))

    def transforms_of(self, kind: TileKind) -> tuple[Transform, Transform]:
        """The transforms of tiles of a kind along height and width."""
        rows, columns = (
            last if last is not None and part.stop == count else whole
            for whole, last, part, count in zip(
                self.transforms, self.tails, (kind.rows, kind.columns), self.grid, strict=True
            )
        )
        return rows, columns

    @cached_property
    def left_out(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Points along height and width at which last tiles of fewer outputs have no products."""
        rows, columns = (
            () if last is None else tuple(n for n in range(whole.points) if n not in last.used)
            for whole, last in zip(self.transforms, self.tails, strict=True)
        )
        return rows, columns

    def tiles_with(self, *, row_left_out: bool, column_left_out: bool) -> range:
        """Numbers of the tiles that have a product, by whether last tiles do without its row and column."""
        found = [
            kind.numbers
            for kind in self.kinds
            for rows, columns in [self.transforms_of(kind)]
            if not (row_left_out and rows is self.tails[0])
            if not (column_left_out and columns is self.tails[1])
        ]
        return range(found[0].start, found[-1].stop) if found else range(0)

    @cached_property
    def shares(self) -> tuple[tuple[range, int], ...]:
        (rows, columns), (rows_left, columns_left) = self.points, map(len, self.left_out)
        found = [
            (self.tiles_with(row_left_out=down, column_left_out=across), height * width)
            for down, height in ((False, rows - rows_left), (True, rows_left))
            for across, width in ((False, columns - columns_left), (True, columns_left))
        ]
        return tuple((tiles, products) for tiles, products in found if tiles and products)

    def narrower(self, by: Blocking) -> int:
        if not any(self.left_out):
            return 0  # measured on a Sapphire Rapids, 128 channels of 28x28: no gain over whole ones
        half = by.tiles // 2
        counts = {count for tiles, _ in self.shares for count, times in in_blocks(tiles, by.block) if times}
        return half if any(cut_tiles(count, by.tiles, half)[1] for count in counts) else 0

    @property
    def transform_cycles(self) -> tuple[float, float]:
        return self.products * INPUT_CYCLES, self.products * OUTPUT_CYCLES

    def most_tiles(self, registers: int, blocks: int) -> int:
        return most_pixels(registers, blocks, by_lane=self.conv.reads_lanes)

    def step_cycles(self, by: Blocking) -> float:
        return cycles_per_step(by.tiles, by.tiles, by.blocks, lanes=self.conv.lanes_read)


def tile_outputs(problem: ConvProblem, outputs: int) -> tuple[int, int]:
    """A tile of so many outputs along each axis that has taps, one along the other."""
    rows, columns = (outputs if taps > 1 else 1 for taps in problem.kernel)
    return rows, columns


def pools(problem: WinogradProblem, pooling: Pooling) -> bool:
    """Whether the kernel can pool: windows are whole in a tile, and there is one at least."""
    conv, (rows, columns) = problem.conv, pooling.window
    fits = conv.output_height >= rows and conv.output_width >= columns
    return fits and problem.outputs[0] % rows == 0 and problem.outputs[1] % columns == 0


def winograd_illegal(problem: ConvProblem, outputs: tuple[int, int]) -> str | None:
    """Why `winograd_conv` cannot do the convolution by tiles of so many outputs, or None."""
    if reason := stride_illegal(problem):
        return reason
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
