# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution of a plain picture by Winograd's algorithm along its columns, into blocks of channels.

`rtcc.ir.ops.winograd` has the mathematics; along the rows the filter is summed tap by tap. Vectors lie along
the rows, so that a strip of rows is transformed as it lies and few filters fill the registers as well as
many. The data is plain [N][C][H][W], the weights are [M/b][points][C][taps][b]:

    for image, strip of rows:                            # shared out among tasks
        V[p, c] = (Bᵀ rows)[p]                           # whole rows, zeros left and right of the picture
        for register tile of columns, block of filters:
            for p, filters of a register tile:
                M[p, m, x] = Σ_c,s V[p, c, x + s] · weights[p, c, s, m]
            for m:
                rows = Aᵀ M[m]                           # finished and pooled here, where there is a pool
            output = squares of filters and pixels, transposed in registers

A pool whose windows do not overlap joins: the epilogue then finishes vectors of one channel's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, splat, vector
from rtcc.targets.tvm.kernels.blocked import Blocked
from rtcc.targets.tvm.kernels.blocked_access import block_at, zero_padding
from rtcc.targets.tvm.kernels.epilogue import STORE, BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.output_row import OutputRow
from rtcc.targets.tvm.kernels.panel import pieces, transposed
from rtcc.targets.tvm.kernels.pooling.in_registers import completed, joined
from rtcc.targets.tvm.kernels.tiling import Tiling
from rtcc.targets.tvm.kernels.transformed.columns_tiles import (
    ColumnsProblem,
    ColumnsTile,
    columns_illegal,
    scratch_floats,
    strip_width,
)
from rtcc.targets.tvm.kernels.transformed.constant_matrix import multiplied


def make(problem: ColumnsProblem, epilogue: Epilogue | None, tile: ColumnsTile) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output, scratch)."""
    reason = columns_illegal(problem.conv, problem.outputs)
    assert reason is None, reason
    kernel, conv = FunctionBuilder(), problem.conv
    data = kernel.buffer("input", (conv.batch, conv.channels, conv.height, conv.width))
    taps = (problem.points, conv.channels, conv.kernel[1])
    weights = kernel.buffer("weights", (conv.output.blocks, *taps, conv.lanes))
    finish = BoundEpilogue(kernel, epilogue)
    form = replace(conv.output, height=problem.height, width=problem.width)
    output = kernel.buffer("output", form.shape)
    scratch = kernel.buffer("scratch", (sum(scratch_floats(problem, tile)),))
    strip = _Strip(problem, tile, kernel, data, scratch)
    strip.zero_sides()
    with kernel.tasks("step", conv.batch * problem.strips) as step:
        n = kernel.bind("n", tirx.truncdiv(step, problem.strips))
        number = kernel.bind("number", tirx.truncmod(step, problem.strips))
        strip.transform(n, number)
        with kernel.serial("kb", form.blocks) as kb:
            block = _Block(problem, tile, kernel, weights, scratch, finish, output, form, n, number, kb)
            block.zero_halo()
            block.tiles()
    return kernel.finish()


@dataclass(frozen=True)
class _Strip:
    """Transformed input rows, at the beginning of the scratch: [points][C][width of a strip]."""

    problem: ColumnsProblem
    tile: ColumnsTile
    kernel: FunctionBuilder
    data: tirx.Buffer
    scratch: tirx.Buffer

    def zero_sides(self) -> None:
        """Zeros left and right of the picture, which no strip writes."""
        problem, kernel, conv = self.problem, self.kernel, self.problem.conv
        left, width = conv.pads[1], strip_width(problem, self.tile)
        read = min(width, problem.width * problem.window[1] + conv.kernel[1] - 1)
        for start, count in ((0, left), (left + conv.width, read - left - conv.width)):
            if count > 0:
                with (
                    kernel.serial("row", problem.points * conv.channels) as row,
                    kernel.serial("x", count) as x,
                ):
                    kernel.store(self.scratch, [row * width + start + x], splat(0.0, 1))

    def transform(self, n: Index, number: Index) -> None:
        """V = Bᵀ rows, for the strip of that number."""
        kernel, conv = self.kernel, self.problem.conv
        top = kernel.bind("top", number * self.problem.outputs - conv.pads[0])
        lanes, used = conv.lanes, min(conv.width, strip_width(self.problem, self.tile) - conv.pads[1])
        with kernel.serial("c", conv.channels) as c:
            if used >= lanes:
                with kernel.serial("xv", used // lanes) as xv:
                    self._columns(n, c, top, xv * lanes, lanes)
                if used % lanes:
                    self._columns(n, c, top, used - lanes, lanes)
            else:
                for start, length in pieces(used, lanes):
                    self._columns(n, c, top, start, length)

    def _columns(self, n: Index, c: Index, top: Index, x: Index, count: int) -> None:
        """`count` neighbouring columns of one channel."""
        problem, kernel, conv = self.problem, self.kernel, self.problem.conv
        rows = [self._row(n, c, top, i, vector(x, count), count) for i in range(problem.points)]
        width = strip_width(problem, self.tile)
        matrix = problem.winograd.transforms[0].input
        for p, value in enumerate(multiplied(kernel, matrix, rows)):
            place = (p * conv.channels + c) * width + conv.pads[1] + x
            kernel.store(self.scratch, [vector(place, count)], value)

    def _row(self, n: Index, c: Index, top: Index, i: int, columns: Expr, count: int) -> Expr:
        """One input row of the strip; zeros above and below the picture."""
        problem, conv = self.problem, self.problem.conv
        y, value = top + i, None
        last = (problem.strips - 1) * problem.outputs - conv.pads[0] + i
        conditions = []
        if i < conv.pads[0]:
            conditions.append(tirx.GE(y, 0))
        if last >= conv.height:
            conditions.append(tirx.LT(y, conv.height))
        value = self.data[n, c, y, columns]
        if not conditions:
            return value
        inside = conditions[0] if len(conditions) == 1 else tirx.all(*conditions)
        return self.kernel.kept(tirx.if_then_else(inside, value, splat(0.0, count)))


@dataclass(frozen=True)
class _Block:
    """A block of filters over one strip."""

    problem: ColumnsProblem
    tile: ColumnsTile
    kernel: FunctionBuilder
    weights: tirx.Buffer
    scratch: tirx.Buffer
    finish: BoundEpilogue
    output: tirx.Buffer
    form: Blocked
    n: Index
    number: Index
    kb: Index

    @property
    def lanes(self) -> int:
        """Floats of a vector, and channels of a block."""
        return self.problem.conv.lanes

    @property
    def rows(self) -> int:
        """Stored rows of a strip."""
        return self.problem.outputs // self.problem.window[0]

    def zero_halo(self) -> None:
        """The halo beside the strip's rows."""
        if any(self.form.halo):
            for i in range(self.rows):
                with self._if_row(i):
                    self._row(i).zero_halo()

    def tiles(self) -> None:
        """All columns, a register tile at a time."""
        kernel, step = self.kernel, self.tile.vectors * self.lanes
        whole, rest = divmod(self.problem.width * self.problem.window[1], step)
        if whole:
            with kernel.serial("xt", whole) as xt:
                self._tile(xt * step, step)
        if rest:
            self._tile(whole * step, rest)

    def _tile(self, x: Index, columns: int) -> None:
        vectors = -(-columns // self.lanes)
        kernel, size = self.kernel, self.tile.filters
        with kernel.serial("p", self.problem.points) as p:
            whole, rest = divmod(self.problem.filters, size)
            with kernel.serial("g", whole) as g:
                self._products(p, g * size, size, x, vectors)
            if rest:
                self._products(p, whole * size, rest, x, vectors)
        with kernel.serial("m", self.problem.filters) as m:
            self._finish_filter(m, x, vectors)
        for i in range(self.rows):
            with self._if_row(i):
                self._store_row(i, x, columns)

    # ---- products

    def _products(self, p: Index, first: Index, filters: int, x: Index, vectors: int) -> None:
        """M[p, m, x] of a register tile."""
        kernel, lanes, conv = self.kernel, self.lanes, self.problem.conv
        acc = kernel.local("acc", (filters * vectors * lanes,))
        with kernel.unrolled("i", filters * vectors) as i:
            kernel.store(acc, [vector(i * lanes, lanes)], splat(0.0, lanes))
        width = strip_width(self.problem, self.tile)
        with kernel.serial("c", conv.channels) as c, kernel.serial("s", conv.kernel[1]) as s:
            base = kernel.bind("base", (p * conv.channels + c) * width + x + s)
            with kernel.unrolled("m", filters) as m, kernel.unrolled("v", vectors) as v:
                place = [vector((m * vectors + v) * lanes, lanes)]
                pixels = self.scratch[vector(base + v * lanes, lanes)]
                weight = splat(self.weights[self.kb, p, c, s, first + m], lanes)
                kernel.store(acc, place, acc[tuple(place)] + pixels * weight)
        with kernel.unrolled("m", filters) as m, kernel.unrolled("v", vectors) as v:
            value = acc[vector((m * vectors + v) * lanes, lanes)]
            kernel.store(self.scratch, [vector(self._product(p, first + m, v), lanes)], value)

    def _product(self, p: Index, m: Index, v: Index) -> Index:
        begin = scratch_floats(self.problem, self.tile)[0]
        return begin + ((m * self.tile.vectors + v) * self.problem.points + p) * self.lanes

    # ---- one filter's rows

    def _finish_filter(self, m: Index, x: Index, vectors: int) -> None:
        """Transform a filter's products back; with a pool, finish and pool them too."""
        kernel, lanes = self.kernel, self.lanes
        matrix = self.problem.winograd.transforms[0].output
        found: list[list[Expr]] = [[] for _ in range(self.rows)]
        for v in range(vectors):
            values = [self.scratch[vector(self._product(p, m, v), lanes)] for p in range(self.problem.points)]
            rows = multiplied(kernel, matrix, values)
            for i, value in enumerate(self._pooled_rows(rows, m, x + v * lanes)):
                found[i].append(kernel.kept(value))
        for i, row in enumerate(found):
            for v, value in enumerate(self._pooled_columns(row)):
                kernel.store(self.scratch, [vector(self._finished(i, v, m), lanes)], value)

    def _finished(self, i: Index, v: Index, m: Index) -> Index:
        strip, products, _ = scratch_floats(self.problem, self.tile)
        return strip + products + ((i * self.tile.vectors + v) * self.lanes + m) * self.lanes

    def _pooled_rows(self, rows: list[Expr], m: Index, x: Index) -> list[Expr]:
        """Rows of one filter finished and joined by the rows of a window."""
        pooling, lanes = self.problem.pooling, self.lanes
        if pooling is None:
            return rows
        channel, top = self.kb * lanes + m, self.number * self.problem.outputs
        finished = [
            self.finish(value, Position((self.n, channel, top + i, x), 3, lanes))
            for i, value in enumerate(rows)
        ]
        windows = range(0, len(finished), pooling.rows)
        return [joined(self.kernel, pooling, finished[i : i + pooling.rows]) for i in windows]

    def _pooled_columns(self, row: list[Expr]) -> list[Expr]:
        """Vectors of neighbouring windows out of vectors of neighbouring pixels."""
        pooling, lanes = self.problem.pooling, self.lanes
        if pooling is None:
            return row
        even = [2 * lane for lane in range(lanes)]
        odd = [lane + 1 for lane in even]
        for _ in range(pooling.columns.bit_length() - 1):
            pairs = [(row[v], row[min(v + 1, len(row) - 1)]) for v in range(0, len(row), 2)]
            halves = [[tirx.Shuffle(pair, even), tirx.Shuffle(pair, odd)] for pair in pairs]
            row = [self.kernel.kept(joined(self.kernel, pooling, both)) for both in halves]
        return [completed(pooling, value, lanes) for value in row]

    # ---- storing

    def _store_row(self, i: int, x: Index, columns: int) -> None:
        """One row of a tile, squares of filters and pixels transposed; `columns`: of the convolution."""
        kernel, lanes, filters = self.kernel, self.lanes, self.problem.filters
        row, across = self._row(i), self.problem.window[1]
        first = x if across == 1 else tirx.truncdiv(x, across)
        finish = BoundEpilogue(kernel, STORE) if self.problem.pooling else self.finish
        for v, start in enumerate(range(0, columns // across, lanes)):
            square = [self.scratch[vector(self._finished(i, v, m), lanes)] for m in range(filters)]
            square += [splat(0.0, lanes)] * (lanes - filters)
            count = min(lanes, columns // across - start)
            for q, value in enumerate(transposed(kernel, square, lanes)[:count]):
                column = first + start + q
                at = Position((self.n, self.kb * lanes, row.y, column), 1, lanes)
                value = zero_padding(self.form, self.kb, finish(value, at))
                kernel.store(self.output, block_at(self.form, self.n, self.kb, row.y, column), value)

    def _row(self, i: int) -> OutputRow:
        y = self.kernel.bind("y", self.number * self.rows + i)
        return OutputRow(self.kernel, Tiling(self.form, 1), self.output, self.finish, self.n, self.kb, y)

    def _if_row(self, i: int):
        """A condition on row i of the strip, where the last strip may have fewer."""
        inside = tirx.LT(self.number * self.rows + i, self.problem.height)
        return self.kernel.when(inside if self.problem.height % self.rows else None)
