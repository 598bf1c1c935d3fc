# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""A matrix product in float32 by a block: slabs copied ahead to shared memory, sums in registers.

    for step over slabs of `depth` terms:
        wait for this step's slabs; barrier
        begin to copy those of `stages` - 1 steps ahead
        for each term: sums[i][j] += left[i] · right[j]       # thread_rows x thread_columns

A thread's rows and columns come in groups of four neighbours, spread over the tile so that the threads of a
warp read different banks. Where slices of the block's threads divide the terms of each slab, their sums are
added up at the end, in the slabs' memory, and each slice finishes a part of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.gemm_tiles import PADDING, QUAD, GemmTile
from rtcc.targets.cuda.kernels.slabs import Slab
from rtcc.targets.tvm.function_builder import Expr, Index, vector


@dataclass(frozen=True)
class Product:
    """The product under construction. left_in_rows: as `GemmTile.shared_bytes` has it; part: of the terms."""

    kernel: DeviceBuilder
    tile: GemmTile
    depth: int
    left: Slab
    right: Slab
    left_in_rows: bool
    part: Index = 0

    def emit(self, finish: Callable[[Index, Index, Callable[[Index], Expr]], None]) -> None:
        """Compute the block's results; `finish` is told a row and a first column of the tile, and the sums
        of four neighbours from there.
        """
        kernel, tile = self.kernel, self.tile
        sums = kernel.local("sums", (tile.thread_rows * tile.thread_columns,))
        with kernel.unrolled("n", tile.thread_rows * tile.thread_columns) as n:
            kernel.store(sums, [n], tirx.const(0.0, "float32"))
        self._accumulate(sums)
        quads = tile.thread_columns // QUAD
        if tile.slices > 1:
            self._exchange(sums)
            count = tile.thread_rows * quads
            with kernel.unrolled("part", -(-count // tile.slices)) as part:
                number = kernel.bind("quad", part * tile.slices + self._slice)
                with kernel.when(None if count % tile.slices == 0 else number < count):
                    i, q = tirx.truncdiv(number, quads), tirx.truncmod(number, quads)
                    finish(self.row(i), self.column(q), lambda lane: self._total(number * QUAD + lane))
            return
        with kernel.unrolled("i", tile.thread_rows) as i, kernel.unrolled("q", quads) as q:
            first = i * tile.thread_columns + q * QUAD
            finish(self.row(i), self.column(q), lambda lane: sums[first + lane])

    def _exchange(self, sums: tirx.Buffer) -> None:
        """Put the sums of all slices where all threads find them."""
        kernel, tile = self.kernel, self.tile
        kernel.wait(0)
        kernel.barrier()
        with kernel.unrolled("n", tile.thread_rows * tile.thread_columns) as n:
            kernel.store(self.right.shared, [self._place(self._slice, n)], sums[n])
        kernel.barrier()

    def _place(self, part: Index, n: Index) -> Index:
        """Where a slice's n-th sum of this thread lies."""
        tile = self.tile
        return (part * (tile.thread_rows * tile.thread_columns) + n) * tile.slice_threads + self._thread

    def _total(self, n: Index) -> Expr:
        """The n-th sum, over all slices in their order."""
        total = self.right.shared[self._place(0, n)]
        for part in range(1, self.tile.slices):
            total = total + self.right.shared[self._place(part, n)]
        return total

    @property
    def _slice(self) -> Index:
        """The slice that this thread belongs to."""
        if self.tile.slices == 1:
            return tirx.IntImm("int32", 0)
        return tirx.truncdiv(self.kernel.thread_index[0], self.tile.slice_threads)

    @property
    def _thread(self) -> Index:
        """The thread's place in its slice."""
        if self.tile.slices == 1:
            return self.kernel.thread_index[0]
        return tirx.truncmod(self.kernel.thread_index[0], self.tile.slice_threads)

    def row(self, i: Index) -> Index:
        """Row of the tile of this thread's i-th."""
        tile, thread = self.tile, tirx.truncdiv(self._thread, self.tile.across)
        if self.left_in_rows:
            return i * (tile.rows // tile.thread_rows) + thread
        group = tirx.truncdiv(i, QUAD) if not isinstance(i, int) else i // QUAD
        lane = tirx.truncmod(i, QUAD) if not isinstance(i, int) else i % QUAD
        return group * (tile.rows // (tile.thread_rows // QUAD)) + thread * QUAD + lane

    def column(self, q: Index) -> Index:
        """First column of the tile of this thread's q-th group of four."""
        tile, thread = self.tile, tirx.truncmod(self._thread, self.tile.across)
        return q * (tile.columns // (tile.thread_columns // QUAD)) + thread * QUAD

    def _accumulate(self, sums: tirx.Buffer) -> None:
        kernel, tile = self.kernel, self.tile
        steps, ahead = tile.steps(self.depth), tile.stages - 1
        left = kernel.vectors(self.left.shared, QUAD)
        right = kernel.vectors(self.right.shared, QUAD)
        for step in range(min(ahead, steps)):
            self._fetch(step, step)
        for _ in range(steps, ahead):
            kernel.commit()
        with kernel.serial("step", steps) as step:
            kernel.wait(ahead - 1)
            kernel.barrier()
            with kernel.when(step + ahead < steps if steps > ahead else tirx.const(False)):
                self._copies(tirx.truncmod(step + ahead, tile.stages), step + ahead)
            kernel.commit()
            stage = kernel.bind("stage", tirx.truncmod(step, tile.stages))
            if self.left_in_rows:
                self._products_of_rows(sums, left, right, stage)
            else:
                self._products(sums, left, right, stage)

    def _fetch(self, stage: Index, step: Index) -> None:
        self._copies(stage, step)
        self.kernel.commit()

    def _copies(self, stage: Index, step: Index) -> None:
        """What lies behind the last term, where the last part has fewer, is zeros."""
        tile = self.tile
        first = step if tile.parts == 1 else self.part * tile.steps(self.depth) + step
        self.left.fetch(stage, first * tile.depth)
        self.right.fetch(stage, first * tile.depth)

    def _products(self, sums: tirx.Buffer, left: tirx.Buffer, right: tirx.Buffer, stage: Index) -> None:
        """Both slabs are [depth][…]: four rows, four columns to a load."""
        kernel, tile = self.kernel, self.tile
        a = kernel.local("a", (tile.thread_rows,))
        with kernel.unrolled("own", tile.slice_depth) as own:
            k = self._slice * tile.slice_depth + own
            line = (stage * tile.depth + k) * (tile.rows // QUAD)
            for group in range(tile.thread_rows // QUAD):
                place = line + tirx.truncdiv(self.row(group * QUAD), QUAD)
                kernel.store(a, [vector(group * QUAD, QUAD)], left[place])
            self._by_columns(sums, right, stage, k, lambda i: a[i])

    def _products_of_rows(
        self, sums: tirx.Buffer, left: tirx.Buffer, right: tirx.Buffer, stage: Index
    ) -> None:
        """The left slab is [rows][depth]: four terms of a row to a load."""
        kernel, tile = self.kernel, self.tile
        pitch = (tile.depth + PADDING) // QUAD
        a = kernel.local("a", (tile.thread_rows * QUAD,))
        with kernel.unrolled("own", tile.slice_depth // QUAD) as own:
            terms = self._slice * (tile.slice_depth // QUAD) + own
            with kernel.unrolled("i", tile.thread_rows) as i:
                place = (stage * tile.rows + self.row(i)) * pitch + terms
                kernel.store(a, [vector(i * QUAD, QUAD)], left[place])
            with kernel.unrolled("lane", QUAD) as lane:
                self._by_columns(sums, right, stage, terms * QUAD + lane, lambda i: a[i * QUAD + lane])

    def _by_columns(
        self, sums: tirx.Buffer, right: tirx.Buffer, stage: Index, k: Index, left: Callable[[Index], Expr]
    ) -> None:
        """sums[i][j] += left[i] · right[k][j]"""
        kernel, tile = self.kernel, self.tile
        b = kernel.local("b", (tile.thread_columns,))
        line = (stage * tile.depth + k) * (tile.columns // QUAD)
        for q in range(tile.thread_columns // QUAD):
            place = line + tirx.truncdiv(self.column(q), QUAD)
            kernel.store(b, [vector(q * QUAD, QUAD)], right[place])
        with kernel.unrolled("i", tile.thread_rows) as i, kernel.unrolled("j", tile.thread_columns) as j:
            place = i * tile.thread_columns + j
            kernel.store(sums, [place], sums[place] + left(i) * b[j])
