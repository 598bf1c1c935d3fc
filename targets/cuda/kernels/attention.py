# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Attention in one kernel: output[b, m, h] = softmax(Q·Kᵀ·scale + mask)·V, the scores never stored.

Queries, keys, values and output are [batch, length, heads, size], as products write them and read them again.
A block has some queries of a head, and meets its keys and values slab by slab:

    for step over slabs of `keys`:
        wait for this step's slab; barrier
        begin to copy that of `stages` - 1 steps ahead
        scores[m, l] = (Σ_d Q[m, d] · K[l, d]) · scale + mask
        most'[m] = max(most[m], scores[m, l])
        powers[m, l] = exp(scores[m, l] - most'[m])
        total[m] and sums[m] ·= exp(most[m] - most'[m])       # of what came before
        total[m] += Σ_l powers[m, l]
        sums[m] += Σ_l powers[m, l] · V[l]
    output[m] = sums[m] / total[m]

Powers are of two: factor and mask are scaled by log2(e). Where no key has been seen `most` is -inf, and the
powers are those of the scores themselves: they are 0, as is the total of a query that may see no key, whose
result is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import e, log2

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.instructions import SHUFFLE_XOR
from rtcc.targets.cuda.kernels.attention_tiles import AttentionTile, Slabs, attention_illegal, tile_illegal
from rtcc.targets.cuda.kernels.fragment_tiles import Kind
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.attention.attention_problem import AttentionProblem
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position

LOG2_E = log2(e)

NEVER = float("-inf")
"""The score of a key that is not there."""


class AttentionKernel:
    """The kernel under construction (query, key, value[, mask], *epilogue parameters, output).

    kind: how tensor cores multiply, None where threads do. result: TVM's name of the output's elements.
    """

    def __init__(
        self, problem: AttentionProblem, kind: Kind | None, epilogue: Epilogue | None, tile: AttentionTile,
        result: str,
    ) -> None:  # fmt: skip
        reason = attention_illegal(problem, kind) or tile_illegal(problem, tile, kind)
        assert reason is None, reason
        self.problem, self.tile, self.slabs = problem, tile, Slabs(problem, tile, kind)
        batch, heads, dtype = problem.batch, problem.heads, "float32" if kind is None else kind.left
        grid = -(-problem.steps // tile.rows), heads, batch
        self.kernel = kernel = DeviceBuilder(grid, (self.slabs.threads, 1, 1))
        self.query = kernel.buffer("query", (batch, problem.steps, heads, problem.size), dtype)
        self.key = kernel.buffer("key", (batch, problem.length, heads, problem.size), dtype)
        self.value = kernel.buffer("value", (batch, problem.length, heads, problem.width), dtype)
        self.mask = None if problem.mask is None else kernel.buffer("mask", problem.mask, dtype)
        self.finished = BoundEpilogue(kernel, epilogue)
        self.output = kernel.buffer("output", (batch, problem.steps, heads, problem.width), result)
        self.held = kernel.shared("slabs", (tile.stages * self.slabs.stage,), dtype)
        block, self.head, self.image = kernel.block_index
        self.first = kernel.bind("first", block * tile.rows)

    # ---- copies

    def fetch_queries(self, held: tirx.Buffer, begin: int) -> None:
        """Begin to copy the block's queries."""
        slabs = self.slabs
        self._copy(held, begin, slabs.key_pitch, slabs.size, self.query, self.first, self.tile.rows)

    def _fetch(self, stage: Index, step: Index) -> None:
        """Begin to copy a step's keys and values."""
        slabs, keys = self.slabs, self.tile.keys
        begin = self.kernel.bind("begin", stage * slabs.stage)
        first = self.kernel.bind("first_key", step * keys)
        self._copy(self.held, begin, slabs.key_pitch, slabs.size, self.key, first, keys)
        begin = begin + keys * slabs.key_pitch
        self._copy(self.held, begin, slabs.value_pitch, slabs.width, self.value, first, keys)

    def _copy(
        self, held: tirx.Buffer, begin: Index, pitch: int, width: int, source: tirx.Buffer, first: Index,
        count: int,
    ) -> None:  # fmt: skip
        """[count][pitch] in shared memory: `width` numbers of tokens from `first` on, zeros outside."""
        kernel, chunk, threads = self.kernel, self.slabs.chunk, self.slabs.threads
        _, tokens, _, numbers = (int(extent) for extent in source.ty.shape)
        each, total = width // chunk, count * width // chunk
        with kernel.unrolled("copy", -(-total // threads)) as n:
            number = kernel.bind("number", n * threads + kernel.thread_index[0])
            with kernel.when(None if total % threads == 0 else number < total):
                row = kernel.bind("row", tirx.truncdiv(number, each))
                column = kernel.bind("column", tirx.truncmod(number, each) * chunk)
                exists = [] if tokens % count == 0 else [first + row < tokens]
                exists += [] if width == numbers else [column < numbers]
                kernel.copy_async(
                    held, [begin + row * pitch + column], source,
                    [self.image, first + row, self.head, column], chunk,
                    tirx.all(*exists) if exists else None,
                )  # fmt: skip

    @contextmanager
    def steps(self) -> Iterator[tuple[Index, Index]]:
        """What is done with each slab: its stage, and its first key. Copies go ahead of it."""
        kernel, tile = self.kernel, self.tile
        steps, ahead = -(-self.problem.length // tile.keys), tile.stages - 1
        with kernel.serial("step", steps) as step:
            kernel.wait(ahead - 1)
            kernel.barrier()
            with kernel.when(step + ahead < steps if steps > ahead else tirx.const(False)):
                self._fetch(tirx.truncmod(step + ahead, tile.stages), step + ahead)
            kernel.commit()
            stage = kernel.bind("stage", tirx.truncmod(step, tile.stages))
            yield stage, kernel.bind("from_key", step * tile.keys)

    def begin(self) -> None:
        """Begin to copy what the first steps read."""
        steps, ahead = -(-self.problem.length // self.tile.keys), self.tile.stages - 1
        for step in range(ahead):
            if step < steps:
                self._fetch(step, step)
            self.kernel.commit()

    # ---- scores

    def score(self, total: Expr, row: Index, key: Index) -> Expr:
        """What a sum of products becomes, in powers of two; row: of the block."""
        problem = self.problem
        value = total * tirx.const(problem.scale * LOG2_E, "float32")
        exists = [] if problem.length % self.tile.keys == 0 else [key < problem.length]
        if self.mask is not None and problem.mask is not None:
            places = (self.image, self.head, self.first + row, key)
            index = [at if size > 1 else 0 for at, size in zip(places, problem.mask, strict=True)]
            element = self.mask[tuple(index)]
            is_bfloat16 = str(element.ty.dtype) == "uint16"
            element = vm.of_bfloat16(element) if is_bfloat16 else element.astype("float32")
            added = element * tirx.const(LOG2_E, "float32")
            if problem.mask[2] > 1 and problem.steps % self.tile.rows:
                there = [*exists, self.first + row < problem.steps]
                added = tirx.if_then_else(tirx.all(*there), added, tirx.const(0.0, "float32"))
            value = value + added
        if not exists:
            return value
        return tirx.if_then_else(tirx.all(*exists), value, tirx.const(NEVER, "float32"))

    def met(self, most: tirx.Buffer, row: Index, seen: Expr) -> tuple[Expr, Expr]:
        """What is taken off scores now that `seen` is the largest, and the factor of what came before."""
        kernel = self.kernel
        shift = self.shift(seen)
        factor = kernel.kept(tirx.exp2(most[row] - shift))
        kernel.store(most, [row], seen)
        return shift, factor

    def shift(self, most: Expr) -> Expr:
        """What is taken off scores of which this is the largest; nothing where no key has been seen."""
        none = tirx.EQ(most, tirx.const(NEVER, "float32"))
        return self.kernel.kept(tirx.Select(none, tirx.const(0.0, "float32"), most))

    def joined(self, value: Expr, lanes: int, join: Callable[[Expr, Expr], Expr], apart: int = 1) -> Expr:
        """A value of every `apart`-th of so many neighbouring lanes combined, for all of these."""
        distance = lanes // 2
        while distance >= apart:
            value = self.kernel.kept(join(value, self.kernel.kept(SHUFFLE_XOR(value, distance))))
            distance //= 2
        return value

    def store(self, row: Index, column: Index, count: int, value: Callable[[Index], Expr]) -> None:
        """Store neighbouring results of a query."""
        at = self.kernel.bind("at", self.first + row)

        def finished(lane: Index) -> Expr:
            return self.finished(value(lane), Position((self.image, at, self.head, column + lane), 3, 1))

        store_neighbours(
            self.kernel, self.output, [self.image, at, self.head], column, count, finished,
            at < self.problem.steps,
        )  # fmt: skip


def zeroed(kernel: DeviceBuilder, name: str, count: int, value: float = 0.0) -> tirx.Buffer:
    """Registers that hold one number."""
    buffer = kernel.local(name, (count,))
    with kernel.unrolled("n", count) as n:
        kernel.store(buffer, [n], tirx.const(value, "float32"))
    return buffer

