"""Winograd's convolution: which tiles are legal, and what one takes; needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import ClassVar

from rtcc.ir.ops.winograd import POINTS, Transform, amplification, transform
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.pooling.joined_pool import Pooling
from rtcc.targets.tvm.kernels.tiling import cycles_per_step, most_pixels
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import (
    Blocking,
    TransformedProblem,
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
