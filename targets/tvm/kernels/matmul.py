# pyright: basic
"""Matrix product: output[i, m, n] = epilogue(Σ_k left[i, m, k] · right[i, k, n]), all plain row-major but `right`.

`Right.PACKED` is for constants: [groups][K][nt·b] (`pack_weights`), a group being nt vectors of b columns, zero-padded.
`Right.PLAIN` ([K][N]) and `Right.TRANSPOSED` ([N][K]) are for activations: each group is first copied to scratch in the
packed form. Any N works: the last columns are stored in pieces of 8, 4, 2 and 1, never past a row's end.

    for (i, row group, column group):                 # shared out among tasks
        for tile of rows:
            for k:  acc[m, j] += left[i, m, k] · right[k, j]      # acc in registers
            output[i, m, j] = epilogue(acc[m, j])

A matrix-vector product has few accumulators; then several steps of k go to accumulators of their own, so that the
multiply-adds do not wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, bounded, splat, vector
from rtcc.targets.tvm.kernels.convolution import cycles_per_step, split_evenly, uneven
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.panel import copy_panel, pieces, transpose_panel


class Right(Enum):
    """How the right-hand matrix lies in memory."""

    PACKED = "packed"
    PLAIN = "plain"
    TRANSPOSED = "transposed"


@dataclass(frozen=True)
class MatmulProblem:
    """[batch, rows, depth] × [batch, depth, columns]; `shares_left` and `shares_right`: one matrix for all of the batch."""

    rows: int
    columns: int
    depth: int
    batch: int = 1
    shares_left: bool = False
    shares_right: bool = False
    right: Right = Right.PACKED
    lanes: int = 16

    @property
    def vectors(self) -> int:
        """Vectors in a row of the output, the last possibly partial."""
        return -(-self.columns // self.lanes)


@dataclass(frozen=True)
class MatmulTile:
    """`rows` × `vectors` accumulators, `steps` times over; `group` row tiles are finished before the next columns."""

    rows: int
    vectors: int
    steps: int = 1
    group: int = 1


def pack_weights(weights: NDArray[Any], problem: MatmulProblem, tile: MatmulTile) -> NDArray[Any]:
    """[K][N] (or [batch][K][N])  →  [batch][groups][K][nt·b], zero-padded."""
    columns = tile.vectors * problem.lanes
    matrices = weights.reshape(-1, problem.depth, problem.columns)
    groups = -(-problem.columns // columns)
    padded = np.zeros((len(matrices), problem.depth, groups * columns), weights.dtype)
    padded[..., : problem.columns] = matrices
    return np.ascontiguousarray(padded.reshape(len(matrices), problem.depth, groups, columns).transpose(0, 2, 1, 3))


def scratch_bytes(problem: MatmulProblem, tile: MatmulTile) -> int:
    """What each task needs as scratch, in bytes; 0 means that the kernel has no such parameter."""
    if problem.right is Right.PACKED:
        return 0
    return 4 * problem.depth * tile.vectors * problem.lanes


def choose_tile(problem: MatmulProblem, registers: int, cache: int = 1 << 20, tasks: int = 1) -> MatmulTile:
    """The tile with the least estimated time; arguments as `direct_conv.choose_tile`'s."""
    candidates = {
        (split_evenly(problem.rows, most)[0], nt)
        for nt in range(1, min(8, problem.vectors) + 1)
        for most in range(1, (registers - nt - 1) // nt + 1)
        if nt <= 4 or most * nt <= registers * 3 // 4
    }

    def cost(shape: tuple[int, int]) -> float:
        rows, nt = shape
        groups = -(-problem.vectors // nt)
        panel = 4 * problem.depth * nt * problem.lanes
        far = 1 + max(0.0, panel / (cache * 5 // 8) - 1) / 4 if problem.rows > rows else 1.0
        sharing = uneven(problem.batch * groups * -(-problem.rows // rows), tasks)
        cycles = cycles_per_step(problem.rows, rows, nt, first_use=2.0 / problem.lanes)
        return groups * cycles * sharing * far * (1.5 if _rows_in_one_set(problem, rows) > 8 else 1.0)

    rows, nt = min(sorted(candidates), key=cost)
    steps = min(4, -(-8 // (rows * nt)))
    return MatmulTile(rows, nt, steps, _row_group(problem, rows, nt, cache // 2, tasks))


def _rows_in_one_set(problem: MatmulProblem, rows: int) -> int:
    """How many rows of a tile fall on the same set of a first cache whose ways hold 4 KiB each."""
    stride = 4 * problem.depth
    return -(-rows // (4096 // math.gcd(4096, stride))) if stride % 64 == 0 else 1


def _row_group(problem: MatmulProblem, rows: int, nt: int, cache: int, tasks: int) -> int:
    """Row tiles to finish before the next columns such that the far memory is read least."""
    tiles, groups = -(-problem.rows // rows), -(-problem.vectors // nt)
    if problem.right is not Right.PACKED:
        return tiles
    left, right = 4 * problem.depth * problem.rows, 4 * problem.depth * problem.columns

    def rank(group: int) -> tuple[float, int, int]:
        row_groups = -(-tiles // group)
        near = 4 * problem.depth * group * rows <= cache
        traffic = (row_groups if right > cache else 1) * right + (1 if near else groups) * left
        return round(uneven(problem.batch * groups * row_groups, tasks), 1), traffic, -group

    return min(range(1, tiles + 1), key=rank)


def make(
    problem: MatmulProblem, epilogue: Epilogue | None = None, tile: MatmulTile | None = None
) -> tirx.PrimFunc:
    """The kernel (task, tasks, left, right, *epilogue parameters, output[, scratch]).

    The epilogue sees positions (batch, row, column); its vectors lie along the columns.
    """
    return _Matmul(problem, tile or choose_tile(problem, 32 if problem.lanes == 16 else 16)).build(epilogue)


@dataclass(frozen=True)
class _Matmul:
    problem: MatmulProblem
    tile: MatmulTile

    @property
    def groups(self) -> int:
        """Column groups, the last possibly partial."""
        return -(-self.problem.vectors // self.tile.vectors)

    @property
    def width(self) -> int:
        """Columns in a group."""
        return self.tile.vectors * self.problem.lanes

    def build(self, epilogue: Epilogue | None) -> tirx.PrimFunc:
        problem, tile = self.problem, self.tile
        kernel = FunctionBuilder()
        left = kernel.buffer("left", (1 if problem.shares_left else problem.batch, problem.rows, problem.depth))
        right = kernel.buffer("right", self._right_shape())
        finish = BoundEpilogue(kernel, epilogue)
        output = kernel.buffer("output", (problem.batch, problem.rows, problem.columns))
        panel = None
        if problem.right is not Right.PACKED:
            panel = kernel.buffer("scratch", (problem.depth, self.width))
        row_tiles = -(-problem.rows // tile.rows)
        row_groups = -(-row_tiles // tile.group)
        with kernel.tasks("step", problem.batch * row_groups * self.groups) as step:
            group = kernel.bind("group", tirx.truncmod(step, self.groups))
            outer = kernel.bind("outer", tirx.truncdiv(step, self.groups))
            first = kernel.bind("first", tirx.truncmod(outer, row_groups) * tile.group)
            image = kernel.bind("image", tirx.truncdiv(outer, row_groups))
            if panel is not None:
                self._fill(kernel, right, panel, image, group)
            with kernel.serial("tile", bounded(tile.group, row_tiles, first), first) as row_tile:
                part = _Part(self, kernel, left, right, output, panel, finish, image, group)
                part.row_tile(row_tile)
        return kernel.finish()

    def by_columns(self, kernel: FunctionBuilder, group: Index, emit: Callable[[int], None]) -> None:
        """emit(columns) for full groups and for the last one, which may have fewer columns."""
        last = self.problem.columns - (self.groups - 1) * self.width
        if last == self.width:
            emit(self.width)
        elif self.groups == 1:
            emit(last)
        else:
            with kernel.when(tirx.LT(group, self.groups - 1)):
                emit(self.width)
            with kernel.when(tirx.EQ(group, self.groups - 1)):
                emit(last)

    def _right_shape(self) -> tuple[int, ...]:
        problem = self.problem
        matrices = 1 if problem.shares_right else problem.batch
        match problem.right:
            case Right.PACKED:
                return matrices, self.groups, problem.depth, self.width
            case Right.PLAIN:
                return matrices, problem.depth, problem.columns
            case Right.TRANSPOSED:
                return matrices, problem.columns, problem.depth

    def _fill(
        self, kernel: FunctionBuilder, right: tirx.Buffer, panel: tirx.Buffer, image: Index, group: Index
    ) -> None:
        image = 0 if self.problem.shares_right else image
        copy = copy_panel if self.problem.right is Right.PLAIN else transpose_panel

        def emit(columns: int) -> None:
            copy(kernel, right, panel, image, group * self.width, columns, self.problem.lanes)

        self.by_columns(kernel, group, emit)


@dataclass(frozen=True)
class _Part:
    """All rows of one row group × one column group, under construction."""

    matmul: _Matmul
    kernel: FunctionBuilder
    left: tirx.Buffer
    right: tirx.Buffer
    output: tirx.Buffer
    panel: tirx.Buffer | None
    finish: BoundEpilogue
    image: Index
    group: Index

    def row_tile(self, index: Index) -> None:
        """One tile of rows; the last may be shorter."""
        kernel, rows = self.kernel, self.matmul.tile.rows
        whole, rest = divmod(self.matmul.problem.rows, rows)
        if whole:
            with kernel.when(tirx.LT(index, whole) if rest else None):
                self._tile(index * rows, rows)
        if rest:
            with kernel.when(tirx.EQ(index, whole) if whole else None):
                self._tile(index * rows, rest)

    def _tile(self, row: Index, rows: int) -> None:
        kernel, tile, lanes = self.kernel, self.matmul.tile, self.matmul.problem.lanes
        count = rows * tile.vectors
        acc = kernel.local("acc", (tile.steps * count * lanes,))
        with kernel.unrolled("i", tile.steps * count) as i:
            kernel.store(acc, [vector(i * lanes, lanes)], splat(0.0, lanes))
        whole, rest = divmod(self.matmul.problem.depth, tile.steps)
        with kernel.serial("ko", whole) as ko, kernel.unrolled("ki", tile.steps) as ki:
            self._step(acc, row, rows, ko * tile.steps + ki, ki * count)
        for k in range(rest):
            self._step(acc, row, rows, whole * tile.steps + k, 0)
        with kernel.unrolled("i", count) as i:
            total, place = acc[vector(i * lanes, lanes)], vector(i * lanes, lanes)
            for step in range(1, tile.steps):
                total = total + acc[vector((step * count + i) * lanes, lanes)]
            kernel.store(acc, [place], total)
        self.matmul.by_columns(kernel, self.group, lambda columns: self._store(acc, row, rows, columns))

    def _step(self, acc: tirx.Buffer, row: Index, rows: int, k: Index, first: Index) -> None:
        """acc[m, j] += left[m, k] · right[k, j]."""
        kernel, nt, lanes = self.kernel, self.matmul.tile.vectors, self.matmul.problem.lanes
        image = 0 if self.matmul.problem.shares_left else self.image
        with kernel.unrolled("m", rows) as m, kernel.unrolled("j", nt) as j:
            place = vector((first + m * nt + j) * lanes, lanes)
            value = splat(self.left[image, row + m, k], lanes)
            kernel.store(acc, [place], acc[place] + value * self._weights(k, j))

    def _weights(self, k: Index, j: Index) -> Expr:
        lanes = self.matmul.problem.lanes
        columns = vector(j * lanes, lanes)
        if self.panel is not None:
            return self.panel[k, columns]
        image = 0 if self.matmul.problem.shares_right else self.image
        return self.right[image, self.group, k, columns]

    def _store(self, acc: tirx.Buffer, row: Index, rows: int, columns: int) -> None:
        kernel, nt, lanes = self.kernel, self.matmul.tile.vectors, self.matmul.problem.lanes
        base = self.group * self.matmul.width
        for first, length in pieces(columns, lanes):
            with kernel.unrolled("m", rows) as m:
                value = acc[vector(m * (nt * lanes) + first, length)]
                at = Position((self.image, row + m, base + first), 2, length)
                kernel.store(self.output, [self.image, row + m, vector(base + first, length)], self.finish(value, at))
