# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Matrix product of u8 rows and an s8 constant in i32: output[m, n] = epilogue(Σ_k left[m, k] · right[k, n]).

The constant is packed [groups][K/4][nt·b][4], zero-padded: a lane of an accumulator is a column, its four
bytes four neighbouring k, which are one broadcast number of a row (`integer_dot`).

    for (row group, column group):  for tile of rows:                  # shared out among tasks
        for k4:  acc[m, j] += left[m, k4] · right[group, k4, j]        # acc in registers
        output[m, j] = epilogue(acc[m, j])

Packed eight deep, [groups][K/8][nt·b][8], it is multiplied by two rows and two columns at a time
(`integer_matrix`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import FunctionBuilder, Index, bounded, vector
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.integer.integer_dot import broadcast_group, dot
from rtcc.targets.tvm.kernels.integer.integer_matrix import PairSums, column_pairs
from rtcc.targets.tvm.kernels.integer.integer_tiles import (
    GROUP,
    MATRIX_DEPTH,
    MATRIX_LANES,
    matrix_matmul_illegal,
)
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, MatmulTile
from rtcc.targets.tvm.kernels.output_row import Accumulators
from rtcc.targets.tvm.kernels.panel import pieces

AHEAD_BYTES = 4096
"""How far ahead the constant is asked for."""


def make(
    problem: MatmulProblem,
    epilogue: Epilogue | None,
    tile: MatmulTile,
    output: str,
    features: Collection[str],
    data: str = "uint8",
    deep: int = GROUP,
) -> tirx.PrimFunc:
    """The kernel (task, tasks, left, right, *epilogue parameters, output); output, data: element types.

    deep: of the constant's packing, GROUP or MATRIX_DEPTH. The epilogue sees positions (0, row, column); its
    vectors lie along the columns.
    """
    assert deep == GROUP or matrix_matmul_illegal(problem) is None
    return _IntegerMatmul(problem, tile, frozenset(features), data, deep).build(epilogue, output)


@dataclass(frozen=True)
class _IntegerMatmul:
    problem: MatmulProblem
    tile: MatmulTile
    features: frozenset[str]
    data: str
    deep: int

    @property
    def groups(self) -> int:
        """Column groups, the last possibly partial."""
        return -(-self.problem.vectors // self.tile.vectors)

    def build(self, epilogue: Epilogue | None, dtype: str) -> tirx.PrimFunc:
        problem, tile = self.problem, self.tile
        kernel = FunctionBuilder()
        left = kernel.buffer("left", (problem.rows, problem.depth), self.data)
        width = tile.vectors * problem.lanes
        packed = (self.groups, problem.depth // self.deep, width * self.deep)
        right = kernel.buffer("right", packed, "int8")
        finish = BoundEpilogue(kernel, epilogue)
        output = kernel.buffer("output", (problem.rows, problem.columns), dtype)
        row_tiles = -(-problem.rows // tile.rows)
        row_groups = -(-row_tiles // tile.group)
        whole, rest = divmod(problem.rows, tile.rows)
        with kernel.tasks("step", row_groups * self.groups) as step:
            group = kernel.bind("group", tirx.truncmod(step, self.groups))
            first = kernel.bind("first", tirx.truncdiv(step, self.groups) * tile.group)
            part = _Part(self, kernel, left, right, output, finish, group)
            with kernel.serial("tile", bounded(tile.group, row_tiles, first), first) as number:
                if whole:
                    with kernel.when(tirx.LT(number, whole) if rest else None):
                        part.rows(number * tile.rows, tile.rows)
                if rest:
                    with kernel.when(tirx.EQ(number, whole) if whole else None):
                        part.rows(number * tile.rows, rest)
        return kernel.finish()


@dataclass(frozen=True)
class _Part:
    """The rows of one column group, under construction."""

    matmul: _IntegerMatmul
    kernel: FunctionBuilder
    left: tirx.Buffer
    right: tirx.Buffer
    output: tirx.Buffer
    finish: BoundEpilogue
    group: Index

    def rows(self, row: Index, count: int) -> None:
        """One tile of so many rows, from `row` on."""
        kernel, problem, blocks = self.kernel, self.matmul.problem, self.matmul.tile.vectors
        if self.matmul.deep == MATRIX_DEPTH:
            acc = self._pair_products(row, count)
        else:
            acc = Accumulators.cleared(kernel, "acc", count, blocks, problem.lanes, 0, "int32")
            with kernel.serial("q", problem.depth // GROUP) as q:
                self._step(acc, row, q)
        last = problem.columns - (self.matmul.groups - 1) * blocks * problem.lanes
        if last == blocks * problem.lanes:
            self._store(acc, row, last)
            return
        with kernel.when(tirx.LT(self.group, self.matmul.groups - 1)):
            self._store(acc, row, blocks * problem.lanes)
        with kernel.when(tirx.EQ(self.group, self.matmul.groups - 1)):
            self._store(acc, row, last)

    def _pair_products(self, row: Index, count: int) -> Accumulators:
        """The sums of so many rows, two by two; the last of an odd number stands in a pair twice."""
        kernel, blocks = self.kernel, self.matmul.tile.vectors
        sums = PairSums.cleared(kernel, count, blocks)
        columns = blocks * MATRIX_LANES * MATRIX_DEPTH
        with kernel.serial("q", self.matmul.problem.depth // MATRIX_DEPTH) as q:
            eights = [
                tirx.reinterpret("int32x2", self.left[row + m, vector(q * MATRIX_DEPTH, MATRIX_DEPTH)])
                for m in range(count)
            ]
            pairs = [
                tirx.reinterpret(f"{self.matmul.data}x16", tirx.Shuffle([one, other], [0, 1, 2, 3]))
                for one, other in zip(eights[::2], [*eights[1::2], eights[-1]], strict=False)
            ]
            for column, span in column_pairs(blocks):
                for pair, value in enumerate(pairs):
                    sums.add(kernel, pair, column, value, self.right[self.group, q, span])
            kernel.prefetch(self.right, [self.group, q + AHEAD_BYTES // columns], columns)
        return sums.in_order(kernel)

    def _step(self, acc: Accumulators, row: Index, q: Index) -> None:
        """Four products of each row and column more."""
        kernel, lanes = self.kernel, acc.lanes
        with kernel.unrolled("m", acc.pixels) as m:
            value = broadcast_group(self.left[row + m, vector(q * GROUP, GROUP)], lanes)
            with kernel.unrolled("j", acc.blocks) as j:
                place = acc.place(m, j)
                weight = self.right[self.group, q, vector(j * (lanes * GROUP), lanes * GROUP)]
                kernel.store(
                    acc.buffer, [place], dot(acc.buffer[place], value, weight, self.matmul.features)
                )
        columns = acc.blocks * lanes * GROUP
        kernel.prefetch(self.right, [self.group, q + AHEAD_BYTES // columns], columns)

    def _store(self, acc: Accumulators, row: Index, columns: int) -> None:
        kernel, lanes = self.kernel, acc.lanes
        base = self.group * (acc.blocks * lanes)
        for first, length in pieces(columns, lanes):
            with kernel.unrolled("m", acc.pixels) as m:
                value = acc.buffer[vector(m * (acc.blocks * lanes) + first, length)]
                at = Position((0, row + m, base + first), 2, length)
                place = [row + m, vector(base + first, length)]
                kernel.store(self.output, place, self.finish(value, at))
