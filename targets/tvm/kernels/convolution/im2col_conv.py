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

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import FunctionBuilder, Index, bounded, splat, vector
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
    reason = im2col_illegal(problem)
    assert reason is None, reason
    kernel = FunctionBuilder()
    extents = tuple(window.extent for window in problem.windows)
    numbers = problem.numbers
    data = kernel.buffer("input", (problem.batch, problem.channels, *extents), numbers.name)
    weights = kernel.buffer("weights", (problem.filters, problem.depth), numbers.name)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.batch, problem.filters, *problem.output), numbers.name)
    scratch = kernel.buffer("scratch", (scratch_bytes(problem, tile) // numbers.bytes,), numbers.name)
    body = _Im2colConv(problem, tile, kernel, data, weights, finish, output, scratch)
    count = -(-problem.rows // tile.rows)
    with kernel.tasks("step", panels(problem, tile)) as step:
        outer = kernel.bind("outer", tirx.truncdiv(step, count))
        first = kernel.bind("first", tirx.truncmod(step, count) * tile.rows)
        group = kernel.bind("group", tirx.truncmod(outer, problem.groups))
        n = kernel.bind("n", tirx.truncdiv(outer, problem.groups))
        rows = kernel.bind("rows", bounded(tile.rows, problem.rows, first))
        body.gather(n, group, first, rows)
        with kernel.serial("filters", -(-problem.group_filters // tile.filters)) as number:
            body.products(group, number)
            body.finish_rows(n, group, number, first, rows)
    return kernel.finish()


@dataclass(frozen=True)
class _Im2colConv:
    """The kernel under construction."""

    problem: Im2colProblem
    tile: Im2colTile
    kernel: FunctionBuilder
    data: tirx.Buffer
    weights: tirx.Buffer
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

    def products(self, group: Index, number: Index) -> None:
        """The sums of a tile of filters, behind the panel; rows past the last filter repeat it."""
        kernel, tile, problem, lanes = self.kernel, self.tile, self.problem, self.problem.lanes
        column = tile.vectors * lanes
        last = problem.group_filters - 1
        filters = [
            kernel.bind("m", group * problem.group_filters + tirx.Min(number * tile.filters + m, last))
            for m in range(tile.filters)
        ]
        with kernel.serial("columns", self.width // column) as columns:
            first = kernel.bind("column", columns * column)
            sums = self._sums(filters, first)
            for m in range(tile.filters):
                for j in range(tile.vectors):
                    place = self._sum(m) + first + j * lanes
                    found = sums.buffer[sums.place(m, j)].astype(f"{problem.numbers.name}x{lanes}")
                    kernel.store(self.scratch, [vector(place, lanes)], found)

    def _sum(self, m: Index) -> Index:
        """Where the sums of a filter begin."""
        return (self.problem.depth + m) * self.width

    def _sums(self, filters: list[Index], first: Index) -> Accumulators:
        """Σ_k weights[m, k] · panel[k, p] for a register tile; long sums by blocks."""
        kernel, depth = self.kernel, self.problem.depth
        numbers = self.problem.numbers
        block = block_length(depth, numbers)
        if block >= depth:
            sums = self._cleared("sums", numbers.name)
            self._block(sums, filters, first, 0, depth)
            return sums
        total = self._cleared("total", TOTAL)
        with kernel.serial("block", -(-depth // block)) as number:
            begin = kernel.bind("begin", number * block)
            sums = self._cleared("sums", numbers.name)
            self._block(sums, filters, first, begin, bounded(block, depth, begin))
            total.add_all(kernel, sums)
        return total

    def _cleared(self, name: str, dtype: str) -> Accumulators:
        """Accumulators of a register tile, a filter's vectors of pixels side by side."""
        tile, lanes = self.tile, self.problem.lanes
        return Accumulators.cleared(self.kernel, name, tile.filters, tile.vectors, lanes, dtype=dtype)

    def _block(
        self, sums: Accumulators, filters: list[Index], first: Index, begin: Index, count: Index
    ) -> None:
        """Add the products of `count` terms from `begin`."""
        kernel, lanes = self.kernel, self.problem.lanes
        with kernel.serial("k", count, begin) as k:
            for m, number in enumerate(filters):
                weight = splat(self.weights[number, k], lanes)
                for j in range(self.tile.vectors):
                    value = self.scratch[vector(k * self.width + first + j * lanes, lanes)]
                    sums.add(kernel, m, j, weight * value)

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


def _inside(z: Index, depth: int, y: Index, height: int):
    """Whether a row of the input exists."""
    return tirx.all(tirx.GE(z, 0), tirx.LT(z, depth), tirx.GE(y, 0), tirx.LT(y, height))
