# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""A matrix product on tensor cores by a block: chunks copied ahead to shared memory, fragments in registers.

    for step over slabs of `chunks`:
        wait for this step's slabs; barrier
        begin to copy those of `stages` - 1 steps ahead
        for each pair of chunks:
            left, right = fragments by ldmatrix
            sums[i][j] += left[i] · right[j]            # mma, 16 x 8 results of a warp

A slab is [chunks][rows][elements of a chunk]: neighbouring rows' chunks lie side by side, so that the eight
rows of a matrix that ldmatrix loads fall on all banks, and neighbouring threads copy neighbouring memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.cuda import instructions
from rtcc.targets.cuda.device_builder import WARP, DeviceBuilder
from rtcc.targets.cuda.kernels.fragment_tiles import COLUMNS, ROWS, FragmentTile, Kind
from rtcc.targets.tvm.function_builder import Expr, Index

Source = Callable[[Index, Index], tuple[Expr, Expr]]
"""Row and chunk of an operand → where its first element lies in memory, and whether there is one."""


@dataclass(frozen=True)
class Chunks:
    """One operand's slabs; rows: of a slab."""

    kernel: DeviceBuilder
    tile: FragmentTile
    kind: Kind
    rows: int
    buffer: tirx.Buffer
    shared: tirx.Buffer
    source: Source

    @classmethod
    def declared(
        cls, kernel: DeviceBuilder, tile: FragmentTile, kind: Kind, name: str, rows: int, buffer: tirx.Buffer,
        source: Source,
    ) -> Chunks:  # fmt: skip
        """With shared memory of that name."""
        size = tile.stages * tile.chunks * rows * kind.chunk
        shared = kernel.shared(name, (size,), str(buffer.ty.dtype))
        return cls(kernel, tile, kind, rows, buffer, shared, source)

    def fetch(self, stage: Index, first: Index) -> None:
        """Begin to copy the slab whose first chunk is `first`."""
        kernel, tile, threads = self.kernel, self.tile, self.tile.threads
        total = self.rows * tile.chunks
        with kernel.unrolled("copy", -(-total // threads)) as n:
            number = kernel.bind("number", n * threads + kernel.thread_index[0])
            with kernel.when(None if total % threads == 0 else number < total):
                chunk = kernel.bind("chunk", tirx.truncdiv(number, self.rows))
                row = kernel.bind("row", tirx.truncmod(number, self.rows))
                place, exists = self.source(row, kernel.bind("term", first + chunk))
                there = [self.place(stage, chunk, row)]
                kernel.copy_async(self.shared, there, self.buffer, [place], self.kind.chunk, exists)

    def place(self, stage: Index, chunk: Index, row: Index) -> Index:
        """Where a row's chunk lies in shared memory."""
        return ((stage * self.tile.chunks + chunk) * self.rows + row) * self.kind.chunk

    def load(self, places: tuple[Expr, Index, Index, Index], line: Index) -> None:
        """Load matrices: where to, the stage, chunk and first row of this lane's; line: its row in that."""
        register, stage, chunk, first = places
        source = self.shared[self.place(stage, chunk, first + line)]
        self.kernel.run(instructions.LDMATRIX(*map(tirx.address_of, (register, source))))


@dataclass(frozen=True)
class Terms:
    """The right-hand operand's slabs where its rows are terms: [terms][columns + a chunk], of 16 bits each.

    ldmatrix transposes what it loads; the chunk behind each row lets the rows fall on different banks.
    """

    kernel: DeviceBuilder
    tile: FragmentTile
    kind: Kind
    buffer: tirx.Buffer
    shared: tirx.Buffer
    source: Source

    @classmethod
    def declared(
        cls, kernel: DeviceBuilder, tile: FragmentTile, kind: Kind, buffer: tirx.Buffer, source: Source
    ) -> Terms:
        """With shared memory of its own; source: term and chunk of columns → place, and whether it exists."""
        size = tile.stages * tile.chunks * kind.chunk * (tile.columns + kind.chunk)
        shared = kernel.shared("right_slab", (size,), str(buffer.ty.dtype))
        return cls(kernel, tile, kind, buffer, shared, source)

    def fetch(self, stage: Index, first: Index) -> None:
        """Begin to copy the slab whose first chunk of terms is `first`."""
        kernel, tile, chunk = self.kernel, self.tile, self.kind.chunk
        across, total = tile.columns // chunk, tile.chunks * tile.columns
        with kernel.unrolled("copy", -(-total // tile.threads)) as n:
            number = kernel.bind("number", n * tile.threads + kernel.thread_index[0])
            with kernel.when(None if total % tile.threads == 0 else number < total):
                term, columns = tirx.truncdiv(number, across), tirx.truncmod(number, across)
                place, exists = self.source(kernel.bind("term", first * chunk + term), columns)
                there = self._place(stage, term, columns * chunk)
                kernel.copy_async(self.shared, [there], self.buffer, [place], chunk, exists)

    def load(self, places: tuple[Expr, Index, Index, Index], line: Index) -> None:
        """As `Chunks.load`; the rows of a matrix are terms, its first row is the first column."""
        register, stage, chunk, first = places
        source = self.shared[self._place(stage, chunk * self.kind.chunk + line, first)]
        self.kernel.run(instructions.LDMATRIX_TRANSPOSED(*map(tirx.address_of, (register, source))))

    def _place(self, stage: Index, term: Index, column: Index) -> Index:
        terms = self.tile.chunks * self.kind.chunk
        return (stage * terms + term) * (self.tile.columns + self.kind.chunk) + column


@dataclass(frozen=True)
class FragmentProduct:
    """The product under construction; chunks: of the whole sum; part: which of its parts."""

    kernel: DeviceBuilder
    tile: FragmentTile
    kind: Kind
    chunks: int
    left: Chunks
    right: Chunks | Terms
    part: Index = 0

    def emit(self, finish: Callable[[Index, Index, Callable[[Index], Expr]], None]) -> None:
        """Compute the block's results; `finish` is told a row, a first column, the sums of two neighbours."""
        kernel, tile = self.kernel, self.tile
        down, across = tile.warp_rows // ROWS, tile.warp_columns // COLUMNS
        sums = kernel.local("sums", (down * across * 4,), self.kind.total)
        with kernel.unrolled("n", down * across * 4) as n:
            kernel.store(sums, [n], tirx.const(0, self.kind.total))
        self._accumulate(sums)
        group, member = tirx.truncdiv(self._lane, 4), tirx.truncmod(self._lane, 4)
        with (
            kernel.unrolled("i", down) as i, kernel.unrolled("j", across) as j,
            kernel.unrolled("upper", 2) as upper,
        ):  # fmt: skip
            first = (i * across + j) * 4 + upper * 2
            row = self._warp_row + i * ROWS + upper * 8 + group
            column = self._warp_column + j * COLUMNS + member * 2
            finish(row, column, lambda lane: sums[first + lane])

    @property
    def _lane(self) -> Index:
        return tirx.truncmod(self.kernel.thread_index[0], WARP)

    @property
    def _warp(self) -> Index:
        return tirx.truncdiv(self.kernel.thread_index[0], WARP)

    @property
    def _warp_row(self) -> Index:
        """First row of the tile of this thread's warp."""
        across = self.tile.columns // self.tile.warp_columns
        return tirx.truncdiv(self._warp, across) * self.tile.warp_rows

    @property
    def _warp_column(self) -> Index:
        """First column of the tile of this thread's warp."""
        across = self.tile.columns // self.tile.warp_columns
        return tirx.truncmod(self._warp, across) * self.tile.warp_columns

    def _accumulate(self, sums: tirx.Buffer) -> None:
        kernel, tile = self.kernel, self.tile
        steps, ahead = tile.steps(self.chunks), tile.stages - 1
        for step in range(ahead):
            if step < steps:
                self._fetch(step, step)
            kernel.commit()
        with kernel.serial("step", steps) as step:
            kernel.wait(ahead - 1)
            kernel.barrier()
            with kernel.when(step + ahead < steps if steps > ahead else tirx.const(False)):
                self._fetch(tirx.truncmod(step + ahead, tile.stages), step + ahead)
            kernel.commit()
            stage = kernel.bind("stage", tirx.truncmod(step, tile.stages))
            with kernel.unrolled("pair", tile.chunks // 2) as pair:
                self._products(sums, stage, pair)

    def _fetch(self, stage: Index, step: Index) -> None:
        tile = self.tile
        first = step if tile.parts == 1 else self.part * tile.steps(self.chunks) + step
        self.left.fetch(stage, first * tile.chunks)
        self.right.fetch(stage, first * tile.chunks)

    def _products(self, sums: tirx.Buffer, stage: Index, pair: Index) -> None:
        """One pair of chunks: all fragments of a warp, then all their products."""
        kernel, tile = self.kernel, self.tile
        down, across = tile.warp_rows // ROWS, tile.warp_columns // COLUMNS
        a, b = kernel.local("a", (down * 4,), "uint32"), kernel.local("b", (across * 2,), "uint32")
        matrix, line = tirx.truncdiv(self._lane, 8), tirx.truncmod(self._lane, 8)
        with kernel.unrolled("i", down) as i:
            # Registers: rows 0 to 7 and 8 to 15 of the first chunk, then of the second.
            row = self._warp_row + i * ROWS + tirx.truncmod(matrix, 2) * 8
            self.left.load((a[i * 4], stage, pair * 2 + tirx.truncdiv(matrix, 2), row), line)
        with kernel.unrolled("j", across // 2) as j:
            # Registers: both chunks of columns 0 to 7, then of 8 to 15.
            column = self._warp_column + j * (2 * COLUMNS) + tirx.truncdiv(matrix, 2) * 8
            self.right.load((b[j * 4], stage, pair * 2 + tirx.truncmod(matrix, 2), column), line)
        with kernel.unrolled("i", down) as i, kernel.unrolled("j", across) as j:
            places = (sums[(i * across + j) * 4], a[i * 4], b[j * 2])
            kernel.run(instructions.MMA[self.kind.value](*map(tirx.address_of, places)))
