# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""A convolution of a plain input with so few filters that blocks of channels would be mostly padding.

Vectors lie along the row instead: per tap, a vector of neighbouring pixels is loaded and multiplied by each
filter's weight, which is broadcast. Finished pixels are turned into channel vectors in registers. The last
vector of a row overlaps the one before, so a row needs at least one whole vector, stride 1 and no padding at
its sides.
"""

from __future__ import annotations

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, Index, splat, vector
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.convolution.conv_tiles import NARROW_VECTORS
from rtcc.targets.tvm.kernels.output_row import Accumulators, OutputRow
from rtcc.targets.tvm.kernels.panel import transposed
from rtcc.targets.tvm.kernels.window_taps import tap_bounds


def emit_row(row: OutputRow, problem: ConvProblem, data: tirx.Buffer, weights: tirx.Buffer) -> None:
    """One output row; `weights` is [1][C][R][S][b], as `plain_conv` packs it."""
    lanes, width, step = problem.lanes, problem.output_width, NARROW_VECTORS * problem.lanes
    whole = width // step
    if whole:
        with row.kernel.serial("xt", whole) as xt:
            _tile(row, problem, data, weights, [xt * step + v * lanes for v in range(NARROW_VECTORS)])
    rest = list(range(whole * step, width - lanes + 1, lanes))
    if width % lanes:
        rest.append(width - lanes)
    if rest:
        _tile(row, problem, data, weights, rest)


def _tile(
    row: OutputRow, problem: ConvProblem, data: tirx.Buffer, weights: tirx.Buffer, starts: list[Index]
) -> None:
    kernel, lanes, filters = row.kernel, problem.lanes, problem.filters
    sums = kernel.local("sums", (len(starts) * filters * lanes,))
    with kernel.unrolled("i", len(starts) * filters) as i:
        kernel.store(sums, [vector(i * lanes, lanes)], splat(0.0, lanes))
    first, end = tap_bounds(problem.window(0), row.y)
    first = kernel.bind("first", first)
    with (
        kernel.serial("c", problem.channels) as c,
        kernel.serial("r", end - first, first) as r,
        kernel.serial("s", problem.kernel[1]) as s,
    ):
        y = problem.window(0).coordinate(row.y, r)
        for v, start in enumerate(starts):
            pixels = data[row.n, c, y, vector(start + s * problem.dilations[1], lanes)]
            with kernel.unrolled("k", filters) as k:
                place = vector((v * filters + k) * lanes, lanes)
                weight = splat(weights[0, c, r, s, k], lanes)
                kernel.store(sums, [place], sums[place] + pixels * weight)
    for v, start in enumerate(starts):
        _store(row, lanes, [sums[vector((v * filters + k) * lanes, lanes)] for k in range(filters)], start)


def _store(row: OutputRow, lanes: int, channels: list[Expr], start: Index) -> None:
    """Channels of neighbouring pixels to pixels of neighbouring channels, then as any tile."""
    square = channels + [splat(0.0, lanes)] * (lanes - len(channels))
    pixels = row.kernel.local("pixels", (lanes * lanes,))
    for m, value in enumerate(transposed(row.kernel, square, lanes)):
        row.kernel.store(pixels, [vector(m * lanes, lanes)], value)
    row.store(Accumulators(pixels, lanes, 1, lanes), start)
