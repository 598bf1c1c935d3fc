# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Matrix product of u8 rows and an s8 constant in i32: output[m, n] = epilogue(Σ_k left[m, k] · right[k, n]).

The constant is packed [groups][K/4][nt·b][4], zero-padded: a lane of an accumulator is a column, its four
bytes four neighbouring k, which are one broadcast number of a row (`integer_dot`).

    for (row group, column group):  for tile of rows:                  # shared out among tasks
        for k4:  acc[m, j] += left[m, k4] · right[group, k4, j]        # acc in registers
        output[m, j] = epilogue(acc[m, j])
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import FunctionBuilder, Index, bounded, vector
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.integer.integer_dot import broadcast_group, dot
from rtcc.targets.tvm.kernels.integer.integer_tiles import GROUP
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
) -> tirx.PrimFunc:
    """The kernel (task, tasks, left, right, *epilogue parameters, output); output, data: element types.

    The epilogue sees positions (0, row, column); its vectors lie along the columns.
    """
    return _IntegerMatmul(problem, tile, frozenset(features), data).build(epilogue, output)


@dataclass(frozen=True)
class _IntegerMatmul:
    problem: MatmulProblem
    tile: MatmulTile
    features: frozenset[str]
    data: str

    @property
    def groups(self) -> int:
        """Column groups, the last possibly partial."""
        return -(-self.problem.vectors // self.tile.vectors)

    def build(self, epilogue: Epilogue | None, dtype: str) -> tirx.PrimFunc:
        problem, tile = self.problem, self.tile
        kernel = FunctionBuilder()
        left = kernel.buffer("left", (problem.rows, problem.depth), self.data)
        width = tile.vectors * problem.lanes
        right = kernel.buffer("right", (self.groups, problem.depth // GROUP, width * GROUP), "int8")
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
