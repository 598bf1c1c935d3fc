# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution of plain tensors as matrix products: any groups, strides and dilations, one to three axes.

Lanes lie along the pixels, so that groups may be as narrow as they like. For some rows of results, what each
term of their sums reads is gathered into a panel, zeros for the padding; then filters are multiplied by it:

    for image, group, some rows of results:                  # shared out among tasks
        panel[k, r·W + x] = input[…, row r's and column x's element under tap k, or 0]
        for tile of filters:
            for vectors of pixels:  sums[m, p] = Σ_k weights[m, k] · panel[k, p]
            output[m, row r, x] = epilogue(sums[m, r·W + x])

Weights are [M][C/groups · taps], as ONNX has them. Long sums are cut into blocks (`summation`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, bounded, splat, vector
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import (
    Im2colProblem,
    Im2colTile,
    im2col_illegal,
    panels,
    scratch_bytes,
    width,
)
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.numbers import TOTAL
from rtcc.targets.tvm.kernels.output_row import Accumulators
from rtcc.targets.tvm.kernels.panel import pieces
from rtcc.targets.tvm.summation import block_length


def make(problem: Im2colProblem, epilogue: Epilogue | None, tile: Im2colTile) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output, scratch)."""
    numbers = problem.numbers

    def weights(kernel: FunctionBuilder) -> Products:
        return _Dense(problem, tile, kernel.buffer("weights", (problem.filters, problem.depth), numbers.name))

    return panel_kernel(problem, epilogue, tile, weights)


class Products(Protocol):
    """What multiplies a panel by a tile of filters."""

    def __call__(self, panels: Panels, group: Index, number: Index) -> None:
        """Leave the sums of tile `number` of a group's filters behind the panel."""
        ...


def panel_kernel(
    problem: Im2colProblem,
    epilogue: Epilogue | None,
    tile: Im2colTile,
    weights: Callable[[FunctionBuilder], Products],
) -> tirx.PrimFunc:
    """The kernel that gathers panels and finishes sums; weights: declares its own buffers, and multiplies."""
    reason = im2col_illegal(problem)
    assert reason is None, reason
    kernel = FunctionBuilder()
    extents = tuple(window.extent for window in problem.windows)
    numbers = problem.numbers
    data = kernel.buffer("input", (problem.batch, problem.channels, *extents), numbers.name)
    products = weights(kernel)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.batch, problem.filters, *problem.output), numbers.name)
    scratch = kernel.buffer("scratch", (scratch_bytes(problem, tile) // numbers.bytes,), numbers.name)
    body = Panels(problem, tile, kernel, data, finish, output, scratch)
    count = -(-problem.rows // tile.rows)
    with kernel.tasks("step", panels(problem, tile)) as step:
        outer = kernel.bind("outer", tirx.truncdiv(step, count))
        first = kernel.bind("first", tirx.truncmod(step, count) * tile.rows)
        group = kernel.bind("group", tirx.truncmod(outer, problem.groups))
        n = kernel.bind("n", tirx.truncdiv(outer, problem.groups))
        rows = kernel.bind("rows", bounded(tile.rows, problem.rows, first))
        body.gather(n, group, first, rows)
        with kernel.serial("filters", -(-problem.group_filters // tile.filters)) as number:
            products(body, group, number)
            body.finish_rows(n, group, number, first, rows)
    return kernel.finish()


@dataclass(frozen=True)
class Panels:
    """The kernel under construction, but for its products."""

    problem: Im2colProblem
    tile: Im2colTile
    kernel: FunctionBuilder
    data: tirx.Buffer
    finish: BoundEpilogue
    output: tirx.Buffer
    scratch: tirx.Buffer

    @property
    def width(self) -> int:
        """Elements of one row of a panel."""
        return width(self.problem, self.tile)

    # ---- the panel

    def gather(self, n: Index, group: Index, first: Index, rows: Index) -> None:
        """Fill the panel for `rows` rows of results from number `first`."""
        problem, kernel = self.problem, self.kernel
        channels = problem.channels // problem.groups
        deep, down, across = problem.windows
        with kernel.serial("r", rows) as r:
            row = kernel.bind("row", first + r)
            z0 = kernel.bind("z0", tirx.truncdiv(row, problem.output[1]))
            y0 = kernel.bind("y0", tirx.truncmod(row, problem.output[1]))
            with (
                kernel.serial("kz", deep.taps) as kz,
                kernel.serial("ky", down.taps) as ky,
            ):
                z, y = kernel.bind("z", deep.coordinate(z0, kz)), kernel.bind("y", down.coordinate(y0, ky))
                inside = kernel.bind("inside", _inside(z, deep.extent, y, down.extent))
                with kernel.serial("c", channels) as c:
                    tap = ((c * deep.taps + kz) * down.taps + ky) * across.taps
                    place = kernel.bind("place", tap * self.width + r * problem.output[2])
                    with kernel.when(inside):
                        for kx in range(across.taps):
                            source = [n, group * channels + c, z, y]
                            self._copy(source, kx, place + kx * self.width)
                    with kernel.when(tirx.Not(inside)):
                        for kx in range(across.taps):
                            self._zero(place + kx * self.width, 0, problem.output[2])

    def _copy(self, source: list[Index], kx: int, place: Index) -> None:
        """One row of one tap."""
        kernel, across, lanes = self.kernel, self.problem.windows[2], self.problem.lanes
        inside = [x for x in range(across.count) if 0 <= across.coordinate(x, kx) < across.extent]
        begin, end = (inside[0], inside[-1] + 1) if inside else (0, 0)
        self._zero(place, 0, begin)
        if across.stride == 1:
            origin = across.coordinate(begin, kx)
            whole = (end - begin) // lanes
            with kernel.serial("v", whole) as v:
                value = self.data[(*source, vector(origin + v * lanes, lanes))]
                kernel.store(self.scratch, [vector(place + begin + v * lanes, lanes)], value)
            for start, length in pieces((end - begin) % lanes, lanes):
                start += whole * lanes
                value = self.data[(*source, vector(origin + start, length))]
                kernel.store(self.scratch, [vector(place + begin + start, length)], value)
        else:
            with kernel.serial("x", end - begin, begin) as x:
                kernel.store(self.scratch, [place + x], self.data[(*source, across.coordinate(x, kx))])
        self._zero(place, end, across.count)

    def _zero(self, place: Index, begin: int, end: int) -> None:
        for start, length in pieces(end - begin, self.problem.lanes):
            zero = splat(0.0, length, self.problem.numbers.name)
            self.kernel.store(self.scratch, [vector(place + begin + start, length)], zero)

    # ---- the products

    def by_columns(self, sums: Callable[[Index], Accumulators]) -> None:
        """Put what `sums` gives for each column of the panel's vectors behind the panel."""
        kernel, tile, lanes = self.kernel, self.tile, self.problem.lanes
        column = tile.vectors * lanes
        with kernel.serial("columns", self.width // column) as columns:
            first = kernel.bind("column", columns * column)
            found = sums(first)
            for m in range(tile.filters):
                for j in range(tile.vectors):
                    place = self._sum(m) + first + j * lanes
                    value = found.buffer[found.place(m, j)].astype(f"{self.problem.numbers.name}x{lanes}")
                    kernel.store(self.scratch, [vector(place, lanes)], value)

    def at(self, k: Index, first: Index, j: int) -> Expr:
        """Vector j, from a column's first pixel on, of what term k reads."""
        return self.scratch[vector(k * self.width + first + j * self.problem.lanes, self.problem.lanes)]

    def cleared(self, name: str, dtype: str) -> Accumulators:
        """Accumulators of a register tile, a filter's vectors of pixels side by side."""
        tile, lanes = self.tile, self.problem.lanes
        return Accumulators.cleared(self.kernel, name, tile.filters, tile.vectors, lanes, dtype=dtype)

    def _sum(self, m: Index) -> Index:
        """Where the sums of a filter begin."""
        return (self.problem.depth + m) * self.width

    # ---- the results

    def finish_rows(self, n: Index, group: Index, number: Index, first: Index, rows: Index) -> None:
        """Finish the sums of a tile of filters, row by row of results."""
        problem, kernel, tile, lanes = self.problem, self.kernel, self.tile, self.problem.lanes
        count = bounded(tile.filters, problem.group_filters, number * tile.filters)
        with kernel.serial("m", count) as m, kernel.serial("r", rows) as r:
            channel = kernel.bind("channel", group * problem.group_filters + number * tile.filters + m)
            row = kernel.bind("row", first + r)
            z = kernel.bind("z", tirx.truncdiv(row, problem.output[1]))
            y = kernel.bind("y", tirx.truncmod(row, problem.output[1]))
            place = kernel.bind("place", self._sum(m) + r * problem.output[2])

            def store(x: Index, length: int) -> None:
                index = (n, channel, *((z, y, x)[3 - (problem.rank - 2) :]))
                at = Position(index, problem.rank - 1, length)
                value = self.finish(self.scratch[vector(place + x, length)], at)
                kernel.store(self.output, [n, channel, z, y, vector(x, length)], value)

            whole, rest = divmod(problem.output[2], lanes)
            with kernel.serial("v", whole) as v:
                store(v * lanes, lanes)
            for start, length in pieces(rest, lanes):
                store(whole * lanes + start, length)


@dataclass(frozen=True)
class _Dense:
    """Products by all weights: [filters][depth]."""

    problem: Im2colProblem
    tile: Im2colTile
    weights: tirx.Buffer

    def __call__(self, panels: Panels, group: Index, number: Index) -> None:
        """The sums of a tile of filters, behind the panel; rows past the last filter repeat it."""
        problem, tile = self.problem, self.tile
        last = problem.group_filters - 1
        filters = [
            panels.kernel.bind("m", group * problem.group_filters + tirx.Min(number * tile.filters + m, last))
            for m in range(tile.filters)
        ]
        panels.by_columns(lambda first: self._sums(panels, filters, first))

    def _sums(self, panels: Panels, filters: list[Index], first: Index) -> Accumulators:
        """Σ_k weights[m, k] · panel[k, p] for a register tile; long sums by blocks."""
        kernel, depth = panels.kernel, self.problem.depth
        numbers = self.problem.numbers
        block = block_length(depth, numbers)
        if block >= depth:
            sums = panels.cleared("sums", numbers.name)
            self._block(panels, sums, filters, first, 0, depth)
            return sums
        total = panels.cleared("total", TOTAL)
        with kernel.serial("block", -(-depth // block)) as number:
            begin = kernel.bind("begin", number * block)
            sums = panels.cleared("sums", numbers.name)
            self._block(panels, sums, filters, first, begin, bounded(block, depth, begin))
            total.add_all(kernel, sums)
        return total

    def _block(
        self, panels: Panels, sums: Accumulators, filters: list[Index], first: Index, begin: Index,
        count: Index,
    ) -> None:  # fmt: skip
        """Add the products of `count` terms from `begin`."""
        kernel, lanes = panels.kernel, self.problem.lanes
        with kernel.serial("k", count, begin) as k:
            for m, number in enumerate(filters):
                weight = splat(self.weights[number, k], lanes)
                for j in range(self.tile.vectors):
                    sums.add(kernel, m, j, weight * panels.at(k, first, j))


def _inside(z: Index, depth: int, y: Index, height: int):
    """Whether a row of the input exists."""
    return tirx.all(tirx.GE(z, 0), tirx.LT(z, depth), tirx.GE(y, 0), tirx.LT(y, height))
