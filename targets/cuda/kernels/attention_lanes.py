# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Attention in float32: half a warp shares some queries, with their sums and statistics in registers.

Its threads take every 16th key of a slab, for all of its queries; the powers go through shared memory, and
for the products with values each thread has some columns. Where a value has fewer than 16 groups of four, the
threads left over take other keys, and their sums are added up at the end.
"""

from __future__ import annotations

from operator import add

from tvm import tirx

from rtcc.targets.cuda.device_code import LEAST_BLOCKS
from rtcc.targets.cuda.kernels.attention import NEVER, AttentionKernel, zeroed
from rtcc.targets.cuda.kernels.attention_tiles import LANES, AttentionTile
from rtcc.targets.cuda.kernels.gemm_tiles import QUAD
from rtcc.targets.tvm.function_builder import Expr, Index, vector
from rtcc.targets.tvm.kernels.attention.attention_problem import AttentionProblem
from rtcc.targets.tvm.kernels.epilogue import Epilogue


def make(problem: AttentionProblem, epilogue: Epilogue | None, tile: AttentionTile) -> tirx.PrimFunc:
    """The kernel (query, key, value[, mask], *epilogue parameters, output); positions are the output's."""
    return _Lanes(problem, epilogue, tile).finish()


class _Lanes(AttentionKernel):
    """The kernel under construction; keys, columns: of a thread, columns in groups of four."""

    def __init__(self, problem: AttentionProblem, epilogue: Epilogue | None, tile: AttentionTile) -> None:
        super().__init__(problem, None, epilogue, tile, "float32")
        kernel, slabs = self.kernel, self.slabs
        self.queries = kernel.shared("queries", (tile.rows * slabs.key_pitch,))
        self.powers = kernel.shared("powers", (tile.rows * slabs.power_pitch,))
        self.queries_by_4, self.powers_by_4, self.held_by_4 = (
            kernel.vectors(each, QUAD) for each in (self.queries, self.powers, self.held)
        )
        thread = kernel.thread_index[0]
        self.lane = kernel.bind("lane", tirx.truncmod(thread, LANES))
        self.row = kernel.bind("row", tirx.truncdiv(thread, LANES) * tile.thread_rows)
        self.part = kernel.bind("part", tirx.truncdiv(self.lane, slabs.across))
        self.column = kernel.bind("column", tirx.truncmod(self.lane, slabs.across))
        self.parts = LANES // slabs.across
        self.rows, self.keys = tile.thread_rows, tile.keys // LANES
        self.columns = slabs.width // QUAD // slabs.across

    def finish(self) -> tirx.PrimFunc:
        """All of it."""
        kernel, rows, width = self.kernel, self.rows, self.columns * QUAD
        self.fetch_queries(self.queries, 0)
        self.begin()
        sums = zeroed(kernel, "sums", rows * width)
        total, most = zeroed(kernel, "total", rows), zeroed(kernel, "most", rows, NEVER)
        with self.steps() as (stage, first):
            slab = kernel.bind("slab", stage * (self.slabs.stage // QUAD))
            scores = zeroed(kernel, "scores", rows * self.keys)
            self._multiply_keys(scores, slab)
            with kernel.unrolled("i", rows) as i:
                factor = self._powers(scores, i, first, total, most)
                with kernel.unrolled("c", width) as c:
                    kernel.store(sums, [i * width + c], sums[i * width + c] * factor)
            kernel.barrier()
            self._multiply_values(sums, slab)
        with kernel.unrolled("i", rows) as i:
            inverse = kernel.kept(tirx.const(1.0, "float32") / self.joined(total[i], LANES, add))
            with kernel.unrolled("c", width) as c:
                place = i * width + c
                whole = self.joined(sums[place], LANES, add, self.slabs.across)
                kernel.store(sums, [place], whole * inverse)
        self._store(sums)
        return kernel.finish({LEAST_BLOCKS: 1})

    def _multiply_keys(self, scores: tirx.Buffer, slab: Index) -> None:
        """scores[m, l] = Σ_d Q[m, d] · K[l, d], four terms to a load."""
        kernel, pitch = self.kernel, self.slabs.key_pitch // QUAD
        query = kernel.bind("query_row", self.row * pitch)
        place = kernel.bind("key_row", slab + self.lane * pitch)
        with kernel.serial("d", self.slabs.size // QUAD) as d:
            a, b = kernel.local("a", (self.rows * QUAD,)), kernel.local("b", (QUAD,))
            for i in range(self.rows):
                kernel.store(a, [vector(i * QUAD, QUAD)], self.queries_by_4[query + i * pitch + d])
            with kernel.unrolled("j", self.keys) as j:
                kernel.store(b, [vector(0, QUAD)], self.held_by_4[place + j * (LANES * pitch) + d])
                with kernel.unrolled("i", self.rows) as i, kernel.unrolled("term", QUAD) as term:
                    at = i * self.keys + j
                    kernel.store(scores, [at], scores[at] + a[i * QUAD + term] * b[term])

    def _powers(
        self, scores: tirx.Buffer, i: Index, first: Index, total: tirx.Buffer, most: tirx.Buffer
    ) -> Expr:
        """Scores of a row become powers, are counted and passed on; the factor of what came before."""
        kernel, row = self.kernel, self.row + i
        seen = kernel.local("seen", (1,))
        kernel.store(seen, [0], most[i])
        with kernel.unrolled("j", self.keys) as j:
            at = i * self.keys + j
            kernel.store(scores, [at], self.score(scores[at], row, first + self.lane + j * LANES))
            kernel.store(seen, [0], tirx.Max(scores[at], seen[0]))
        shift, factor = self.met(most, i, self.joined(seen[0], LANES, tirx.Max))
        kernel.store(total, [i], total[i] * factor)
        with kernel.unrolled("j", self.keys) as j:
            power = kernel.kept(tirx.exp2(scores[i * self.keys + j] - shift))
            kernel.store(total, [i], total[i] + power)
            kernel.store(self.powers, [row * self.slabs.power_pitch + self.lane + j * LANES], power)
        return factor

    def _multiply_values(self, sums: tirx.Buffer, slab: Index) -> None:
        """sums[m] += Σ_l powers[m, l] · V[l], four keys to a load of powers."""
        kernel, slabs, tile = self.kernel, self.slabs, self.tile
        pitch, width = slabs.value_pitch // QUAD, self.columns * QUAD
        place = kernel.bind("values", slab + tile.keys * (slabs.key_pitch // QUAD) + self.column)
        powers = kernel.bind("power_row", self.row * (slabs.power_pitch // QUAD))
        count = tile.keys // QUAD
        with kernel.serial("n", -(-count // self.parts)) as n:
            quad = kernel.bind("quad", n * self.parts + self.part)
            with kernel.when(None if count % self.parts == 0 else quad < count):
                a, b = kernel.local("a", (self.rows * QUAD,)), kernel.local("b", (width,))
                for i in range(self.rows):
                    power = self.powers_by_4[powers + i * (slabs.power_pitch // QUAD) + quad]
                    kernel.store(a, [vector(i * QUAD, QUAD)], power)
                with kernel.unrolled("key", QUAD) as key:
                    for q in range(self.columns):
                        value = self.held_by_4[place + (quad * QUAD + key) * pitch + q * slabs.across]
                        kernel.store(b, [vector(q * QUAD, QUAD)], value)
                    with kernel.unrolled("i", self.rows) as i, kernel.unrolled("c", width) as c:
                        at = i * width + c
                        kernel.store(sums, [at], sums[at] + a[i * QUAD + key] * b[c])

    def _store(self, sums: tirx.Buffer) -> None:
        """Store the results, rows shared out among threads that have the same columns."""
        kernel, width = self.kernel, self.columns * QUAD
        for i in range(self.rows):
            mine = None if self.parts == 1 else tirx.EQ(self.part, i % self.parts)
            with kernel.when(mine):
                for q in range(self.columns):
                    column, first = (q * self.slabs.across + self.column) * QUAD, i * width + q * QUAD
                    self.store(
                        self.row + i, column, QUAD, lambda lane, first=first: sums[first + lane]
                    )
