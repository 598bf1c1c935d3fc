# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Attention: output[b, m, h] = softmax(Q·Kᵀ·scale + mask)·V, the scores never stored.

Queries, keys, values and output are [batch, length, heads, size], as products write them and read them again,
so heads are neither split nor joined by copying. In scratch lie one head's keys, transposed and scaled, its
values, and the scores of one block of rows:

    for (b, head, block of rows):                        # shared out among tasks
        where the head is new: keys[j, d, lanes] = K·scale, values[l] = V
        scores[m, l] = Σ_d Q[m, d] · keys[l, d]          # tiles in registers
        scores[m, l] = exp(scores[m, l] + mask - most), and their sum
        output[m] = Σ_l scores[m, l] · values[l] / sum   # tiles in registers

The last block, and the last tile of a block, overlap those before where rows are no multiple: they compute
the same rows to the same bits once more. Results do not depend on how tasks divide the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm import vector_math
from rtcc.targets.tvm.function_builder import (
    FIRST_CACHE,
    Expr,
    FunctionBuilder,
    Index,
    share,
    splat,
    vector,
)
from rtcc.targets.tvm.kernels.attention.attention_problem import (
    TILE_ROWS,
    AttentionProblem,
    attention_illegal,
    parts_of_scratch,
)
from rtcc.targets.tvm.kernels.attention.softmax import combined
from rtcc.targets.tvm.kernels.panel import transposed

AHEAD = 16
"""How many positions ahead keys and values are asked for, whose heads lie apart."""

UNROLLED = 4
"""Steps of a sum that are written out."""


def make(problem: AttentionProblem) -> tirx.PrimFunc:
    """The kernel (task, tasks, query, key, value[, mask], output, scratch)."""
    reason = attention_illegal(problem)
    assert reason is None, reason
    kernel, batch, heads = FunctionBuilder(), problem.batch, problem.heads
    query = kernel.buffer("query", (batch, problem.steps, heads, problem.size))
    key = kernel.buffer("key", (batch, problem.length, heads, problem.size))
    value = kernel.buffer("value", (batch, problem.length, heads, problem.width))
    mask = None if problem.mask is None else kernel.buffer("mask", problem.mask)
    output = kernel.buffer("output", (batch, problem.steps, heads, problem.width))
    scratch = kernel.buffer("scratch", (sum(parts_of_scratch(problem)),))
    steps = batch * heads * problem.blocks
    begin = kernel.bind("begin", share(steps, kernel.task, kernel.task_count)[0])
    with kernel.tasks("step", steps) as step:
        block = kernel.bind("block", tirx.truncmod(step, problem.blocks))
        both = kernel.bind("both", tirx.truncdiv(step, problem.blocks))
        image = kernel.bind("image", tirx.truncdiv(both, heads))
        head = kernel.bind("head", tirx.truncmod(both, heads))
        first = kernel.bind("first", _held(block * problem.rows, problem.steps - problem.rows))
        each = _Block(problem, kernel, scratch, image, head, first)
        with kernel.when(tirx.Or(tirx.EQ(block, 0), tirx.EQ(step, begin))):
            each.store_keys(key)
            each.store_values(value)
        each.scores(query)
        each.powers(mask)
        each.output(output)
    return kernel.finish()


def _held(start: Index, last: int) -> Index:
    """The start, or the last one that is possible."""
    return tirx.Min(start, tirx.IntImm("int32", last))


@dataclass(frozen=True)
class _Block:
    """A block of rows of one head, and where its scratch lies."""

    problem: AttentionProblem
    kernel: FunctionBuilder
    scratch: tirx.Buffer
    image: Index
    head: Index
    first: Index

    def key_place(self, j: Index, d: Index) -> Index:
        """Where number d of a vector of keys begins."""
        return (j * self.problem.size + d) * self.problem.lanes

    def value_place(self, position: Index) -> Index:
        """Where the values of a position begin."""
        return parts_of_scratch(self.problem)[0] + position * self.problem.width

    def score_place(self, row: Index) -> Index:
        """Where the scores of a row begin."""
        row_floats = self.problem.key_vectors * self.problem.lanes
        return sum(parts_of_scratch(self.problem)[:2]) + row * row_floats

    def sum_place(self, row: Index) -> Index:
        """Where one over the sum of a row's powers is."""
        return sum(parts_of_scratch(self.problem)[:3]) + row

    # ---- the head's keys and values

    def store_keys(self, key: tirx.Buffer) -> None:
        """keys[j, d, lane] = K[j·lanes + lane, d] · scale; zero beyond the last key."""
        problem, kernel, lanes = self.problem, self.kernel, self.problem.lanes
        whole, rest = divmod(problem.length, lanes)
        squares = problem.size // lanes
        scale = splat(problem.scale, lanes)
        with kernel.serial("j", whole) as j:
            with kernel.serial("square", squares) as square:
                rows = [
                    key[self.image, j * lanes + row, self.head, vector(square * lanes, lanes)]
                    for row in range(lanes)
                ]
                for row in range(lanes):
                    place = [self.image, (j + 1) * lanes + row, self.head, square * lanes]
                    kernel.prefetch_from(key, place, lanes, FIRST_CACHE)
                for d, column in enumerate(transposed(kernel, rows, lanes)):
                    place = vector(self.key_place(j, square * lanes + d), lanes)
                    kernel.store(self.scratch, [place], column * scale)
            self._keys_one_by_one(key, j, lanes, squares * lanes)
        if rest:
            self._keys_one_by_one(key, whole, rest, 0)

    def _keys_one_by_one(self, key: tirx.Buffer, j: Index, count: int, first: int) -> None:
        """The numbers from `first` on of `count` keys of vector j."""
        problem, kernel, lanes = self.problem, self.kernel, self.problem.lanes
        with kernel.serial("d", problem.size - first, first) as d:
            place = kernel.bind("place", self.key_place(j, d))
            kernel.store(self.scratch, [vector(place, lanes)], splat(0.0, lanes))
            with kernel.serial("lane", count) as lane:
                number = key[self.image, j * lanes + lane, self.head, d]
                kernel.store(self.scratch, [place + lane], number * splat(problem.scale, 1))

    def store_values(self, value: tirx.Buffer) -> None:
        """values[l] = V[l], side by side: where heads lie apart, rows would share few sets of the cache."""
        problem, kernel, lanes = self.problem, self.kernel, self.problem.lanes
        columns = problem.width // lanes
        with kernel.serial("position", problem.length) as position:
            kernel.prefetch(value, [self.image, position + AHEAD, self.head], problem.width)
            for v in range(columns):
                loaded = value[self.image, position, self.head, vector(v * lanes, lanes)]
                kernel.store(self.scratch, [vector(self.value_place(position) + v * lanes, lanes)], loaded)

    # ---- the rows

    def scores(self, query: tirx.Buffer) -> None:
        """scores[m, l] = Σ_d Q[m, d] · keys[l, d]."""
        problem, lanes = self.problem, self.problem.lanes

        def number(row: Index, d: Index) -> Expr:
            return query[self.image, self.first + row, self.head, d]

        def vectors(d: Index, j: Index) -> Expr:
            return self.scratch[vector(self.key_place(j, d), lanes)]

        def finish(row: Index, j: Index, total: Expr) -> None:
            place = self.score_place(row) + j * lanes
            self.kernel.store(self.scratch, [vector(place, lanes)], total)

        self._product(problem.key_vectors, problem.size, number, vectors, finish)

    def powers(self, mask: tirx.Buffer | None) -> None:
        """scores[m, l] = exp(scores[m, l] + mask - most), and one over their sum."""
        problem, kernel, lanes = self.problem, self.kernel, self.problem.lanes
        with kernel.serial("m", problem.rows) as m:
            begin = kernel.bind("begin", self.score_place(m))

            def score(start: Index, length: int) -> Expr:
                place = [vector(begin + start, length)]
                if mask is not None:
                    masked = self.scratch[place[0]] + self._masked(mask, m, start, length)
                    kernel.store(self.scratch, place, masked)
                return self.scratch[place[0]]

            most = combined(kernel, problem.length, lanes, float("-inf"), tirx.Max, score)

            def power(start: Index, length: int) -> Expr:
                place = vector(begin + start, length)
                shifted = self.scratch[place] - splat(most, length)
                kernel.store(self.scratch, [place], vector_math.exp_below_one(shifted))
                return self.scratch[place]

            total = combined(kernel, problem.length, lanes, 0.0, lambda a, b: a + b, power)
            kernel.store(self.scratch, [self.sum_place(m)], tirx.FloatImm("float32", 1.0) / total)

    def _masked(self, mask: tirx.Buffer, m: Index, start: Index, length: int) -> Expr:
        """What the mask adds to a row's scores from `start` on."""
        assert self.problem.mask is not None
        axes = (self.image, self.head, self.first + m)
        index = [at if size > 1 else 0 for at, size in zip(axes, self.problem.mask[:3], strict=True)]
        if self.problem.mask[3] == 1:
            return splat(mask[(*index, 0)], length)
        return mask[(*index, vector(start, length))]

    def output(self, output: tirx.Buffer) -> None:
        """output[m] = Σ_l scores[m, l] · values[l] / sum."""
        problem, kernel, lanes = self.problem, self.kernel, self.problem.lanes

        def number(row: Index, position: Index) -> Expr:
            return self.scratch[self.score_place(row) + position]

        def vectors(position: Index, v: Index) -> Expr:
            return self.scratch[vector(self.value_place(position) + v * lanes, lanes)]

        def finish(row: Index, v: Index, total: Expr) -> None:
            place = [self.image, self.first + row, self.head, vector(v * lanes, lanes)]
            kernel.store(output, place, total * splat(self.scratch[self.sum_place(row)], lanes))

        self._product(problem.width // lanes, problem.length, number, vectors, finish)

    # ---- products of the block's rows

    def _product(
        self,
        columns: int,
        depth: int,
        number: Callable[[Index, Index], Expr],
        vectors: Callable[[Index, Index], Expr],
        finish: Callable[[Index, Index, Expr], None],
    ) -> None:
        """finish(m, j, Σ_k number(m, k) · vectors(k, j)) for every row of the block and vector j."""
        kernel, rows = self.kernel, self.problem.rows
        width = min(columns, self.problem.most_vectors)
        parts = 1 if width * rows <= self.problem.most_vectors * TILE_ROWS else -(-rows // TILE_ROWS)
        height = -(-rows // parts)
        with kernel.serial("part", parts) as part:
            row = kernel.bind("row", _held(part * height, rows - height))
            with kernel.serial("group", columns // width) as group:
                self._tile((height, width), row, group * width, depth, number, vectors, finish)
            if columns % width:
                place = columns // width * width
                self._tile((height, columns % width), row, place, depth, number, vectors, finish)

    def _tile(
        self,
        shape: tuple[int, int],
        row: Index,
        column: Index,
        depth: int,
        number: Callable[[Index, Index], Expr],
        vectors: Callable[[Index, Index], Expr],
        finish: Callable[[Index, Index, Expr], None],
    ) -> None:
        kernel, lanes, (height, width) = self.kernel, self.problem.lanes, shape
        acc = kernel.local("acc", (height * width * lanes,))
        with kernel.unrolled("i", height * width) as i:
            kernel.store(acc, [vector(i * lanes, lanes)], splat(0.0, lanes))

        def step(k: Index) -> None:
            with kernel.unrolled("m", height) as m, kernel.unrolled("j", width) as j:
                place = vector((m * width + j) * lanes, lanes)
                product = splat(number(row + m, k), lanes) * vectors(k, column + j)
                kernel.store(acc, [place], acc[place] + product)

        with kernel.serial("ko", depth // UNROLLED) as ko, kernel.unrolled("ki", UNROLLED) as ki:
            step(ko * UNROLLED + ki)
        for k in range(depth - depth % UNROLLED, depth):
            step(k)
        with kernel.unrolled("m", height) as m, kernel.unrolled("j", width) as j:
            finish(row + m, column + j, acc[vector((m * width + j) * lanes, lanes)])
