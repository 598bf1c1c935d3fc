# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""The transforms of one tile of one block of channels, along its height and along its width.

Between the two a tile rests in scratch: rows of frequencies by columns of points,

    0, 1: those of frequency 0 and of the highest, which are real
    2·u, 2·u + 1: real and imaginary part of frequency u

Then the rows are transformed, pair by pair as `rtcc.ir.ops.fft_conv` numbers them. Columns and rows are loops
around transforms that are written out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, splat, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at
from rtcc.targets.tvm.kernels.transformed.fft_tiles import FftProblem
from rtcc.targets.tvm.kernels.transformed.tile_blocks import overlap
from rtcc.targets.tvm.kernels.transformed.unrolled_fft import Complex, UnrolledFft

Pairs = Callable[[Index, Sequence[Complex]], None]
"""Takes neighbouring pairs of a spectrum from the given number on."""


@dataclass(frozen=True)
class TileTransform:
    """Writes the transforms into a kernel."""

    kernel: FunctionBuilder
    problem: FftProblem
    scratch: tirx.Buffer

    @property
    def lanes(self) -> int:
        """Channels of a block, and floats of a vector."""
        return self.problem.conv.lanes

    def _at(self, row: Index, column: Index) -> list[Expr]:
        return [vector(row * self.problem.row_floats + column * self.lanes, self.lanes)]

    # ---- along the height

    def columns(self, data: tirx.Buffer, n: Index, cb: Index, top: Index, left: Index) -> None:
        """Transform every column of the tile whose inputs begin at (top, left); zeros outside the image."""
        kernel, conv, (rows, columns) = self.kernel, self.problem.conv, self.problem.points
        low, high = overlap(kernel, top, rows, conv.height)
        with kernel.serial("j", columns) as j:
            x = kernel.bind("x", left + j)
            inside = kernel.bind("inside", tirx.And(tirx.GE(x, 0), tirx.LT(x, conv.width)))
            with kernel.when(inside):
                column = kernel.local("column", (rows * self.lanes,))
                self._zero(column, 0, low)
                with kernel.serial("i", high - low, low) as i:
                    value = data[tuple(block_at(conv.input, n, cb, top + i, x))]
                    kernel.store(column, [vector(i * self.lanes, self.lanes)], value)
                self._zero(column, high, rows)
                values = [column[vector(i * self.lanes, self.lanes)] for i in range(rows)]
                real, imaginary = UnrolledFft(kernel).spectrum(values)
                for u, (a, b) in enumerate(zip(real, imaginary, strict=True)):
                    first, second = self._rows_of(u)
                    kernel.store(self.scratch, self._at(first, j), a)
                    if b is not None:
                        kernel.store(self.scratch, self._at(second, j), b)
            with kernel.when(tirx.Not(inside)), kernel.serial("i", rows) as i:
                kernel.store(self.scratch, self._at(i, j), splat(0.0, self.lanes))

    def _zero(self, column: tirx.Buffer, begin: Index, end: Index) -> None:
        with self.kernel.serial("i", end - begin, begin) as i:
            self.kernel.store(column, [vector(i * self.lanes, self.lanes)], splat(0.0, self.lanes))

    def _rows_of(self, u: int) -> tuple[int, int]:
        """Where real and imaginary part of a row of frequencies lie (the same where it is real)."""
        if u == 0:
            return 0, 0
        return (1, 1) if 2 * u == self.problem.points[0] else (2 * u, 2 * u + 1)

    def outputs(self, count: Index, store: Callable[[Index, tirx.Buffer], None]) -> None:
        """Transform back `count` columns; store(column, its outputs from the first row on)."""
        kernel, (rows, _) = self.kernel, self.problem.points
        with kernel.serial("j", count) as j:
            real, imaginary = [], []
            for u in range(rows // 2 + 1):
                first, second = self._rows_of(u)
                real.append(self.scratch[tuple(self._at(first, j))])
                imaginary.append(self.scratch[tuple(self._at(second, j))] if first != second else None)
            height = self.problem.outputs[0]
            column = kernel.local("column", (height * self.lanes,))
            for i, value in enumerate(UnrolledFft(kernel).signal(real, imaginary, rows)[:height]):
                kernel.store(column, [vector(i * self.lanes, self.lanes)], value)
            store(j, column)

    # ---- along the width

    def rows(self, store: Pairs) -> None:
        """Transform the rows of a tile whose columns are, and hand on its pairs."""
        kernel, edges, half = self.kernel, self.problem.spectrum.real_rows, self.problem.points[1] // 2
        with kernel.serial("r", edges) as r:
            first, rest = self._real_row(r)
            store(r, [first])
            store(edges + r * (half - 1), rest)
        with self._middle() as u:
            store(edges * half + (u - 1) * 2 * half, self._complex_row(u))

    def rows_back(self, load: Callable[[Index], Complex]) -> None:
        """Transform products back along the width."""
        kernel, edges, half = self.kernel, self.problem.spectrum.real_rows, self.problem.points[1] // 2
        with kernel.serial("r", edges) as r:
            rest = [load(edges + r * (half - 1) + q) for q in range(half - 1)]
            self._real_row_back(r, load(r), rest)
        with self._middle() as u:
            first = edges * half + (u - 1) * 2 * half
            self._complex_row_back(u, [load(first + q) for q in range(2 * half)])

    def filtered_rows(self, weight: Callable[[Index], Complex]) -> None:
        """Transform the rows, multiply each pair by its weight, and transform them back."""
        kernel, edges, half = self.kernel, self.problem.spectrum.real_rows, self.problem.points[1] // 2
        with kernel.serial("r", edges) as r:
            first, rest = self._real_row(r)
            (a, b), (c, d) = first, weight(r)
            scaled = kernel.kept(a * c), kernel.kept(b * d)
            base = edges + r * (half - 1)
            self._real_row_back(r, scaled, [self._product(x, weight(base + q)) for q, x in enumerate(rest)])
        with self._middle() as u:
            base = edges * half + (u - 1) * 2 * half
            row = self._complex_row(u)
            self._complex_row_back(u, [self._product(x, weight(base + q)) for q, x in enumerate(row)])

    def _middle(self):
        """A loop over the rows of complex frequencies."""
        return self.kernel.serial("u", max(0, self.problem.points[0] // 2 - 1), 1)

    def _real_row(self, r: Index) -> tuple[Complex, list[Complex]]:
        """The spectrum of one of the real rows: the pair of real numbers, the other pairs."""
        columns = self.problem.points[1]
        values = [self.scratch[tuple(self._at(r, j))] for j in range(columns)]
        real, imaginary = UnrolledFft(self.kernel).spectrum(values)
        return (real[0], real[-1]), list(zip(real[1:-1], imaginary[1:-1], strict=True))

    def _real_row_back(self, r: Index, first: Complex, rest: Sequence[Complex]) -> None:
        columns = self.problem.points[1]
        real = [first[0], *(a for a, _ in rest), first[1]]
        imaginary = [None, *(b for _, b in rest), None]
        found = UnrolledFft(self.kernel).signal(real, imaginary, columns)
        for j, value in enumerate(found[: self.problem.outputs[1]]):
            self.kernel.store(self.scratch, self._at(r, j), value)

    def _complex_row(self, u: Index) -> list[Complex]:
        columns = self.problem.points[1]
        real = [self.scratch[tuple(self._at(2 * u, j))] for j in range(columns)]
        imaginary = [self.scratch[tuple(self._at(2 * u + 1, j))] for j in range(columns)]
        return UnrolledFft(self.kernel).transform(list(zip(real, imaginary, strict=True)), -1)

    def _complex_row_back(self, u: Index, row: Sequence[Complex]) -> None:
        found = UnrolledFft(self.kernel).transform(row, 1)
        for j, (real, imaginary) in enumerate(found[: self.problem.outputs[1]]):
            self.kernel.store(self.scratch, self._at(2 * u, j), real)
            self.kernel.store(self.scratch, self._at(2 * u + 1, j), imaginary)

    def _product(self, x: Complex, w: Complex) -> Complex:
        (a, b), (c, d) = x, w
        return self.kernel.kept(a * c - b * d), self.kernel.kept(a * d + b * c)
