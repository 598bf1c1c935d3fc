"""Convolution by Fourier transforms: which tiles are legal, what one takes, their choice; needs no TVM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import log2
from typing import ClassVar

from rtcc.ir.ops.fft_conv import Spectrum
from rtcc.targets.tvm.caches import Caches
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import (
    Blocking,
    TransformedProblem,
    choose_blocking,
    cycles,
    scratch_bytes,
    stride_illegal,
    weight_bytes,
)

SIZES = (8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
"""Points along an axis that tiles are chosen from."""

FEWEST_TAPS = 4
"""Kernels of fewer taps along both axes have better ways."""

REAL_CYCLES, COMPLEX_CYCLES = 0.19, 0.39
"""Of one point of a transform of real numbers, or of complex ones, times its halvings squared: larger ones
leave the registers."""

STORE_CYCLES = 1.0
"""Of one vector of results."""

MOST_SCRATCH = 8 << 20
"""Bytes of scratch from which on tiles are not considered."""

MOST_WEIGHTS = 256 << 20
"""Bytes of transformed weights from which on tiles are not considered: an artefact holds them."""


@dataclass(frozen=True)
class FftProblem(TransformedProblem):
    """A convolution of stride 1, dense or depthwise, and how many points a tile has along each axis (`size`).

    The height's are even or 1, the width's even.
    """

    parts: ClassVar[int] = 2
    product_cycles: ClassVar[float] = 8.0
    dram_weight_cycles: ClassVar[float] = 6.0

    @property
    def points(self) -> tuple[int, int]:
        """Points of a tile along height and width."""
        return self.size

    @property
    def outputs(self) -> tuple[int, int]:
        return self.points[0] - self.conv.kernel[0] + 1, self.points[1] - self.conv.kernel[1] + 1

    @property
    def spectrum(self) -> Spectrum:
        """How a tile's spectrum is stored."""
        return Spectrum(*self.points)

    @property
    def products(self) -> int:
        return self.spectrum.pairs

    @property
    def row_floats(self) -> int:
        """From one row of a half transformed tile to the next; odd vectors, so that rows spread over sets."""
        return (self.points[1] + 1) * self.conv.lanes

    @property
    def half_floats(self) -> int:
        return self.points[0] * self.row_floats

    @property
    def transform_cycles(self) -> tuple[float, float]:
        (rows, columns), (height, width) = self.points, self.outputs
        forward = columns * _real_cycles(rows) + self._row_cycles
        return forward, self._row_cycles + width * (_real_cycles(rows) + STORE_CYCLES * height)

    @property
    def _row_cycles(self) -> float:
        """Of transforming the rows of a tile whose columns are."""
        rows, columns = self.points
        middle = max(0, rows // 2 - 1) * columns * COMPLEX_CYCLES * log2(columns) ** 2
        return middle + self.spectrum.real_rows * _real_cycles(columns)

    def step_cycles(self, by: Blocking) -> float:
        products = max(2.0 * by.tiles * by.blocks, by.tiles + by.blocks, 4.0)
        return products + 0.1 * by.tiles + 0.4 * by.blocks

    def fits(self, by: Blocking) -> bool:
        return weight_bytes(self, by) <= MOST_WEIGHTS and scratch_bytes(self, by) <= MOST_SCRATCH


def _real_cycles(points: int) -> float:
    return points * REAL_CYCLES * log2(points) ** 2


def fft_illegal(problem: ConvProblem) -> str | None:
    """Why `fft_conv` cannot do the convolution, or None."""
    if reason := stride_illegal(problem):
        return reason
    if problem.groups != 1 and not problem.groups == problem.channels == problem.filters:
        return "the channels are in groups"
    if max(problem.kernel) < FEWEST_TAPS:
        return f"the kernel is {problem.kernel[0]}x{problem.kernel[1]}, too small to gain"
    if max(problem.kernel) > SIZES[-1]:
        return f"the kernel is {problem.kernel[0]}x{problem.kernel[1]}, tiles have at most {SIZES[-1]} points"
    smallest = FftProblem(problem, next(_points(problem)))
    if (size := weight_bytes(smallest, Blocking())) > MOST_WEIGHTS:
        return f"the transformed weights would take {size >> 20} MiB, more than {MOST_WEIGHTS >> 20}"
    if (size := scratch_bytes(smallest, Blocking())) > MOST_SCRATCH:
        return f"a tile's spectra take {size >> 20} MiB, more than {MOST_SCRATCH >> 20}"
    return None


@cache
def choose_points(
    problem: ConvProblem, registers: int, caches: Caches, tasks: int = 1
) -> tuple[FftProblem, Blocking]:
    """The points and blocks with the least estimated time; arguments as `choose_blocking`'s."""
    sized = [FftProblem(problem, points) for points in _points(problem)]
    fitting = [each for each in sized if each.fits(Blocking())]
    chosen = [(each, choose_blocking(each, registers, caches, tasks)) for each in fitting]
    return min(chosen, key=lambda pair: cycles(*pair, caches, tasks))


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
