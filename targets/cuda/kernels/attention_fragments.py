# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Attention of 16 bits on tensor cores; sums, powers and statistics are float32 in registers.

A warp has 16 queries and, of each slab, the keys of its slice. The fragment that holds its sums of products
with keys is, rounded again, the left fragment of the products with values: nothing is passed on. Queries
lie in the last stage of the slabs until they are fragments. Slices join their sums at the end, in shared
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import add

from tvm import tirx

from rtcc.targets.cuda import instructions
from rtcc.targets.cuda.device_builder import WARP
from rtcc.targets.cuda.device_code import LEAST_BLOCKS
from rtcc.targets.cuda.kernels.attention import NEVER, AttentionKernel, zeroed
from rtcc.targets.cuda.kernels.attention_tiles import AttentionTile
from rtcc.targets.cuda.kernels.fragment_tiles import COLUMNS, ROWS, Kind
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.attention.attention_problem import AttentionProblem
from rtcc.targets.tvm.kernels.epilogue import Epilogue

PAIR = 2 * COLUMNS
"""Keys or numbers that one ldmatrix loads, and the terms of one mma."""

QUAD_LANES = 4
"""Lanes that share the rows of a fragment."""


def make(
    problem: AttentionProblem, kind: Kind, epilogue: Epilogue | None, tile: AttentionTile, result: str
) -> tirx.PrimFunc:
    """The kernel (query, key, value[, mask], *epilogue parameters, output); positions are the output's.

    kind: of 16 bits. result: TVM's name of the output's elements.
    """
    return _Fragments(problem, kind, epilogue, tile, result).finish()


class _Fragments(AttentionKernel):
    """The kernel under construction. Numbers of a row of fragments: [2] rows, 8 apart."""

    def __init__(
        self, problem: AttentionProblem, kind: Kind, epilogue: Epilogue | None, tile: AttentionTile,
        result: str,
    ) -> None:  # fmt: skip
        super().__init__(problem, kind, epilogue, tile, result)
        self.kind = kind.value
        kernel = self.kernel
        thread = kernel.thread_index[0]
        self.lane = kernel.bind("lane", tirx.truncmod(thread, WARP))
        warp = kernel.bind("warp", tirx.truncdiv(thread, WARP))
        self.slice = kernel.bind("slice", tirx.truncmod(warp, tile.slices))
        self.warp_row = kernel.bind("warp_row", tirx.truncdiv(warp, tile.slices) * ROWS)
        self.matrix = kernel.bind("matrix", tirx.truncdiv(self.lane, 8))
        self.line = kernel.bind("line", tirx.truncmod(self.lane, 8))
        self.terms, self.columns = self.slabs.size // PAIR, self.slabs.width // COLUMNS

    def finish(self) -> tirx.PrimFunc:
        """All of it."""
        kernel, tile = self.kernel, self.tile
        queries = kernel.local("queries", (self.terms * 4,), "uint32")
        self.fetch_queries(self.held, (tile.stages - 1) * self.slabs.stage)
        kernel.commit()
        self.begin()
        kernel.wait(tile.stages - 1)
        kernel.barrier()
        self._load_queries(queries)
        sums = zeroed(kernel, "sums", self.columns * 4)
        total, most = zeroed(kernel, "total", 2), zeroed(kernel, "most", 2, NEVER)
        with self.steps() as (stage, first):
            slab = kernel.bind("slab", stage * self.slabs.stage)
            scores = zeroed(kernel, "scores", tile.own_keys // COLUMNS * 4)
            self._multiply_keys(scores, queries, slab)
            factors = self._powers(scores, first, total, most)
            with kernel.unrolled("j", self.columns) as j:
                for number in range(4):
                    place = j * 4 + number
                    kernel.store(sums, [place], sums[place] * factors[number // 2])
            self._multiply_values(sums, scores, slab)
        for upper in range(2):
            kernel.store(total, [upper], self.joined(total[upper], QUAD_LANES, add))
        if tile.slices == 1:
            self._finish(sums, total)
        else:
            self._join_slices(sums, total, most)
        return kernel.finish({LEAST_BLOCKS: 1})

    def _load(self, register: Expr, place: Index, *, transposed: bool = False) -> None:
        load = instructions.LDMATRIX_TRANSPOSED if transposed else instructions.LDMATRIX
        self.kernel.run(load(*map(tirx.address_of, (register, self.held[place]))))

    def _multiply(self, sums: Expr, left: Expr, right: Expr) -> None:
        self.kernel.run(instructions.MMA[self.kind](*map(tirx.address_of, (sums, left, right))))

    def _load_queries(self, queries: tirx.Buffer) -> None:
        """Registers: rows 0 to 7 and 8 to 15 of the first eight terms, then of the others."""
        slabs = self.slabs
        row = self.warp_row + tirx.truncmod(self.matrix, 2) * 8 + self.line
        begin = (self.tile.stages - 1) * slabs.stage + tirx.truncdiv(self.matrix, 2) * 8
        place = self.kernel.bind("query_row", begin + row * slabs.key_pitch)
        with self.kernel.unrolled("c", self.terms) as c:
            self._load(queries[c * 4], place + c * PAIR)

    @property
    def _own_key(self) -> Index:
        """The first key of a slab that is this warp's."""
        return self.slice * self.tile.own_keys

    def _multiply_keys(self, scores: tirx.Buffer, queries: tirx.Buffer, slab: Index) -> None:
        """scores[m, l] = Σ_d Q[m, d] · K[l, d]."""
        kernel, pitch = self.kernel, self.slabs.key_pitch
        row = self._own_key + tirx.truncdiv(self.matrix, 2) * 8 + self.line
        place = kernel.bind("key_row", slab + row * pitch + tirx.truncmod(self.matrix, 2) * 8)
        with kernel.unrolled("c", self.terms) as c, kernel.unrolled("j", self.tile.own_keys // PAIR) as j:
            keys = kernel.local("keys", (4,), "uint32")
            self._load(keys[0], place + j * (PAIR * pitch) + c * PAIR)
            for half in range(2):
                self._multiply(scores[(j * 2 + half) * 4], queries[c * 4], keys[half * 2])

    def _powers(
        self, scores: tirx.Buffer, first: Index, total: tirx.Buffer, most: tirx.Buffer
    ) -> list[Expr]:
        """Scores become powers, and are counted; the factors of what came before, by row."""
        kernel, blocks = self.kernel, self.tile.own_keys // COLUMNS
        group, member = tirx.truncdiv(self.lane, QUAD_LANES), tirx.truncmod(self.lane, QUAD_LANES)
        row = kernel.bind("row", self.warp_row + group)
        key = kernel.bind("own_key", first + self._own_key + member * 2)
        seen = kernel.local("seen", (2,))
        for upper in range(2):
            kernel.store(seen, [upper], most[upper])
        with kernel.unrolled("j", blocks) as j:
            for number in range(4):
                place, upper = j * 4 + number, number // 2
                at = row + upper * 8, key + j * COLUMNS + number % 2
                kernel.store(scores, [place], self.score(scores[place], *at))
                kernel.store(seen, [upper], tirx.Max(scores[place], seen[upper]))
        shifts, factors = [], []
        for upper in range(2):
            shift, factor = self.met(most, upper, self.joined(seen[upper], QUAD_LANES, tirx.Max))
            shifts.append(shift)
            factors.append(factor)
            kernel.store(total, [upper], total[upper] * factor)
        with kernel.unrolled("j", blocks) as j:
            for number in range(4):
                place, upper = j * 4 + number, number // 2
                kernel.store(scores, [place], tirx.exp2(scores[place] - shifts[upper]))
                kernel.store(total, [upper], total[upper] + scores[place])
        return factors

    def _multiply_values(self, sums: tirx.Buffer, powers: tirx.Buffer, slab: Index) -> None:
        """sums[m] += Σ_l powers[m, l] · V[l]; registers of a fragment as `_load_queries` has them."""
        kernel, slabs = self.kernel, self.slabs
        row = self._own_key + tirx.truncmod(self.matrix, 2) * 8 + self.line
        place = slab + self.tile.keys * slabs.key_pitch + row * slabs.value_pitch
        place = kernel.bind("value_row", place + tirx.truncdiv(self.matrix, 2) * 8)
        with kernel.unrolled("c", self.tile.own_keys // PAIR) as c:
            pairs = kernel.local("pairs", (4,), "uint32")
            for register in range(4):
                first = c * 8 + register * 2
                pair = instructions.PACK[self.kind](powers[first], powers[first + 1])
                kernel.store(pairs, [register], pair)
            with kernel.unrolled("j", self.columns // 2) as j:
                values = kernel.local("values", (4,), "uint32")
                at = place + c * (PAIR * slabs.value_pitch) + j * PAIR
                self._load(values[0], at, transposed=True)
                for half in range(2):
                    self._multiply(sums[(j * 2 + half) * 4], pairs[0], values[half * 2])

    def _finish(self, sums: tirx.Buffer, total: tirx.Buffer) -> None:
        kernel = self.kernel
        inverse = [kernel.kept(tirx.const(1.0, "float32") / total[upper]) for upper in range(2)]
        with kernel.unrolled("j", self.columns) as j:
            self._store(j, lambda number: sums[j * 4 + number] * inverse[number // 2])

    def _store(self, j: Index, value: Callable[[int], Expr]) -> None:
        """Store what this thread has of eight columns: two neighbours of two rows."""
        group, member = tirx.truncdiv(self.lane, QUAD_LANES), tirx.truncmod(self.lane, QUAD_LANES)
        for upper in range(2):
            row = self.warp_row + upper * 8 + group
            self.store(row, j * COLUMNS + member * 2, 2, lambda lane, upper=upper: value(upper * 2 + lane))

    # ---- slices

    def _join_slices(self, sums: tirx.Buffer, total: tirx.Buffer, most: tirx.Buffer) -> None:
        """Each slice finishes a part of the columns, of the sums of all: [warps][number][lane]."""
        kernel, tile, count = self.kernel, self.tile, self.columns * 4
        parts = kernel.shared("parts", (self.slabs.parts * self.slabs.threads,))
        first = kernel.bind("first_slice", tirx.truncdiv(self.warp_row, ROWS) * tile.slices)

        def place(part: Index, number: Index) -> Index:
            return ((first + part) * self.slabs.parts + number) * WARP + self.lane

        with kernel.unrolled("n", count) as n:
            kernel.store(parts, [place(self.slice, n)], sums[n])
        for upper in range(2):
            kernel.store(parts, [place(self.slice, count + upper)], total[upper])
            kernel.store(parts, [place(self.slice, count + 2 + upper)], most[upper])
        kernel.barrier()
        factors = [self._factors(lambda *at: parts[place(*at)], upper) for upper in range(2)]
        with kernel.unrolled("part", -(-self.columns // tile.slices)) as part:
            j = kernel.bind("j", part * tile.slices + self.slice)
            with kernel.when(None if self.columns % tile.slices == 0 else j < self.columns):
                self._store(j, lambda number: reduce(add, (
                    parts[place(each, j * 4 + number)] * factor
                    for each, factor in enumerate(factors[number // 2])
                )))  # fmt: skip

    def _factors(self, part: Callable[[Index, Index], Expr], upper: int) -> list[Expr]:
        """What each slice's sums of a row are multiplied by; part: a slice's number."""
        kernel, slices, count = self.kernel, range(self.tile.slices), self.columns * 4
        shift = self.shift(kernel.kept(reduce(tirx.Max, (part(each, count + 2 + upper) for each in slices))))
        powers = [kernel.kept(tirx.exp2(part(each, count + 2 + upper) - shift)) for each in slices]
        total = reduce(add, (part(each, count + upper) * powers[each] for each in slices))
        inverse = kernel.kept(tirx.const(1.0, "float32") / total)
        return [kernel.kept(power * inverse) for power in powers]
