# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Matrix product: output[i, m, n] = epilogue(Σ_k left[i, m, k] · right[i, k, n]), row-major but for `right`.

`Right.PACKED` is for constants: [groups][K][nt·b], a group being nt vectors of b columns, zero-padded
(`stored_weights` has those in fewer bits). `Right.PLAIN` ([K][N]) and `Right.TRANSPOSED` ([N][K]) are for
activations: each group is first copied to scratch in the packed form, unless the left side has few rows
(`copies_right`); then a plain one is read where it lies, and a transposed one is left to `dot`. Any N works:
the last columns are stored in pieces of 8, 4, 2 and 1, never past a row's end.

    for (i, row group, column group):                 # shared out among tasks
        for tile of rows:
            for k:  acc[m, j] += left[i, m, k] · right[k, j]      # acc in registers
            output[i, m, j] = epilogue(acc[m, j])

A matrix-vector product has few accumulators; then several steps of k go to accumulators of their own, so that
the multiply-adds do not wait for each other. Long sums over k are cut into blocks (`summation`).

Constants come from the third cache or from memory: while one group of columns is multiplied by several tiles
of rows, the next one is asked for, a line or two with every few steps of k (measured: 89 % of the peak
without, 95 % with). Where there is one tile of rows every line is read once, in order, and asked for some
steps ahead, to the first cache: within a network that takes three quarters of the time from the second cache,
where the hardware's prefetchers begin anew with each kernel, and is no slower from farther off. (Requests to
the second cache cost 5 to 20 %, from wherever the matrix comes.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx

from rtcc.targets.tvm.function_builder import (
    FIRST_CACHE,
    LINE_FLOATS,
    SECOND_CACHE,
    Expr,
    FunctionBuilder,
    Index,
    bounded,
    splat,
    vector,
)
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.matrix_product import dot
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import (
    MatmulProblem,
    MatmulTile,
    Right,
    choose_tile,
    copies_right,
    scratch_bytes,
)
from rtcc.targets.tvm.kernels.matrix_product.stored_weights import StoredWeights
from rtcc.targets.tvm.kernels.numbers import FLOATS, TOTAL
from rtcc.targets.tvm.kernels.panel import copy_panel, pieces, transpose_panel
from rtcc.targets.tvm.summation import block_length

UNROLLED = 4
"""Steps of k that are written out: one request for a cache line to them is next to nothing."""

AHEAD_FLOATS = 2048
"""How far ahead a matrix is asked for that is read once."""

MOST_LINES = 16
"""Cache lines of a matrix that is read once in a turn of a loop: with 32 a Zen 5 takes 1.2 times as long."""


def make(
    problem: MatmulProblem, epilogue: Epilogue | None = None, tile: MatmulTile | None = None
) -> tirx.PrimFunc:
    """The kernel (task, tasks, left, right[, scale], *epilogue parameters, output[, scratch]).

    The epilogue sees positions (batch, row, column); its vectors lie along the columns.
    """
    if problem.right is Right.TRANSPOSED and not copies_right(problem):
        return dot.make(problem, epilogue)
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
        numbers, matrices = problem.numbers.name, 1 if problem.shares_left else problem.batch
        left = kernel.buffer("left", (matrices, problem.rows, problem.depth), numbers)
        stored = None
        if problem.stored is not None:
            stored = StoredWeights.declare(kernel, problem, self.groups, self.width)
        right = stored.right if stored else kernel.buffer("right", self._right_shape(), numbers)
        finish = BoundEpilogue(kernel, epilogue)
        output = kernel.buffer("output", (problem.batch, problem.rows, problem.columns), numbers)
        panel = None
        if scratch_bytes(problem, tile):
            panel = kernel.buffer("scratch", (problem.depth, self.width), numbers)
        row_tiles = -(-problem.rows // tile.rows)
        row_groups = -(-row_tiles // tile.group)
        with kernel.tasks("step", problem.batch * row_groups * self.groups) as step:
            group = kernel.bind("group", tirx.truncmod(step, self.groups))
            outer = kernel.bind("outer", tirx.truncdiv(step, self.groups))
            first = kernel.bind("first", tirx.truncmod(outer, row_groups) * tile.group)
            image = kernel.bind("image", tirx.truncdiv(outer, row_groups))

            def rows(source: tirx.Buffer | None, columns: int | None) -> None:
                part = _Part(
                    self, kernel, left, right, output, source, finish, image, group, first, columns, stored
                )  # fmt: skip
                count = bounded(tile.group, row_tiles, first)
                begun = 0
                if stored is not None and source is not None:
                    replace(part, fills=True).row_tile(first)
                    begun = 1
                with kernel.serial("tile", count - begun, first + begun) as row_tile:
                    part.row_tile(row_tile)

            def fill(columns: int) -> None:
                copy = copy_panel if problem.right is Right.PLAIN else transpose_panel
                source = 0 if problem.shares_right else image
                copy(kernel, right, panel, source, group * self.width, columns, problem.lanes)

            def in_place_where_whole(columns: int) -> None:
                if columns < self.width:
                    fill(columns)
                rows(panel if columns < self.width else None, columns)

            if problem.right is Right.PLAIN and not copies_right(problem):
                self.by_columns(kernel, group, in_place_where_whole)
            else:
                if copies_right(problem):
                    self.by_columns(kernel, group, fill)
                rows(panel, None)
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


@dataclass(frozen=True)
class _Part:
    """All rows of one row group by one column group, under construction."""

    matmul: _Matmul
    kernel: FunctionBuilder
    left: tirx.Buffer
    right: tirx.Buffer
    output: tirx.Buffer
    panel: tirx.Buffer | None
    finish: BoundEpilogue
    image: Index
    group: Index
    first: Index
    columns: int | None
    stored: StoredWeights | None
    fills: bool = False
    """Whether this is the tile that leaves the stored weights that it widens in the panel."""

    def row_tile(self, index: Index) -> None:
        """One tile of rows; the last may be shorter."""
        kernel, rows = self.kernel, self.matmul.tile.rows
        whole, rest = divmod(self.matmul.problem.rows, rows)
        if self.stored is not None and self.panel is not None and not self.fills:
            self.stored.ask_next(self.group, index - self.first - 1, max(self._row_tiles - 1, 1))
        if whole:
            with kernel.when(tirx.LT(index, whole) if rest else None):
                self._tile(index * rows, rows)
        if rest:
            with kernel.when(tirx.EQ(index, whole) if whole else None):
                self._tile(index * rows, rest)

    def _tile(self, row: Index, rows: int) -> None:
        kernel, tile, lanes = self.kernel, self.matmul.tile, self.matmul.problem.lanes
        count = rows * tile.vectors
        depth, numbers = self.matmul.problem.depth, self.matmul.problem.numbers
        acc = kernel.local("acc", (tile.steps * count * lanes,), numbers.name)
        block = min(depth, self._block_length)
        span = self.stored.span(depth, block) if self.stored is not None and self.panel is None else None
        if span is not None and self.stored is not None:
            self._scaled_blocks(self.stored, acc, row, rows, span)
            self.matmul.by_columns(kernel, self.group, lambda columns: self._store(acc, row, rows, columns))
            return
        blocks, rest = divmod(depth, block)
        sums = acc
        if depth > block:
            sums = kernel.local("sums", (count * lanes,), TOTAL)
            _clear(kernel, sums, count, lanes)
            with kernel.serial("block", blocks) as number:
                self._block(acc, row, rows, number * block, block)
                _add(kernel, sums, acc, count, lanes)
        if rest or depth == block:
            self._block(acc, row, rows, depth - (rest or block), rest or block)
            if depth > block:
                _add(kernel, sums, acc, count, lanes)
        if self.columns is not None:
            self._store(sums, row, rows, self.columns)
        else:
            self.matmul.by_columns(kernel, self.group, lambda columns: self._store(sums, row, rows, columns))

    @property
    def _block_length(self) -> int:
        """Terms whose sums go to the totals together: `steps` sums of floats, or of halves one in steps."""
        problem, steps = self.matmul.problem, self.matmul.tile.steps
        if problem.numbers == FLOATS:
            return block_length(-(-problem.depth // steps)) * steps
        return max(1, block_length(problem.depth, problem.numbers) // steps) * steps

    def _scaled_blocks(
        self, stored: StoredWeights, total: tirx.Buffer, row: Index, rows: int, span: int
    ) -> None:
        """total[m, j] = Σ over blocks of `span` k of their scales · Σ left[m, k] · integers[k, j]."""
        kernel, tile, lanes = self.kernel, self.matmul.tile, self.matmul.problem.lanes
        count = rows * tile.vectors
        acc = kernel.local("part", (tile.steps * count * lanes,))
        _clear(kernel, total, count, lanes)
        blocks, rest = divmod(self.matmul.problem.depth, span)

        def add(first: Index, depth: int) -> None:
            self._block(acc, row, rows, first, depth, scaled=False)
            with kernel.unrolled("m", rows) as m, kernel.unrolled("j", tile.vectors) as j:
                place = vector((m * tile.vectors + j) * lanes, lanes)
                factor = stored.factor(self.group, first, j)
                kernel.store(total, [place], total[place] + acc[place] * factor)

        with kernel.serial("block", blocks) as number:
            add(number * span, span)
        if rest:
            add(blocks * span, rest)

    def _block(
        self, acc: tirx.Buffer, row: Index, rows: int, first: Index, depth: int, *, scaled: bool = True
    ) -> None:
        """acc[m, j] = Σ left[m, k] · right[k, j] for `depth` values of k from `first`.

        scaled=False: of stored integers as they are, without their scales.
        """
        kernel, tile, lanes = self.kernel, self.matmul.tile, self.matmul.problem.lanes
        count = rows * tile.vectors
        _clear(kernel, acc, tile.steps * count, lanes)
        unrolled = min(UNROLLED, max(MOST_LINES // tile.vectors, 1)) if rows == 1 else UNROLLED
        unrolled = max(unrolled // tile.steps, 1) * tile.steps
        whole, rest = divmod(depth, unrolled)
        with kernel.serial("ko", whole) as ko:
            self._ask(row, first + ko * unrolled, unrolled)
            with kernel.unrolled("ki", unrolled) as ki:
                self._ask_ahead(first + ko * unrolled + ki)
                step = ki % tile.steps * count
                self._step(acc, row, rows, first + ko * unrolled + ki, step, scaled=scaled)
        for k in range(rest):
            step = k % tile.steps * count
            self._step(acc, row, rows, first + whole * unrolled + k, step, scaled=scaled)
        with kernel.unrolled("i", count) as i:
            total, place = acc[vector(i * lanes, lanes)], vector(i * lanes, lanes)
            for step in range(1, tile.steps):
                total = total + acc[vector((step * count + i) * lanes, lanes)]
            kernel.store(acc, [place], total)

    @property
    def _row_tiles(self) -> int:
        """By how many tiles of rows a group of columns is multiplied before the next one."""
        return min(self.matmul.tile.group, -(-self.matmul.problem.rows // self.matmul.tile.rows))

    def _ask_ahead(self, k: Index) -> None:
        """Prefetch constants that are read once: what comes some steps after this one."""
        if self.stored is not None:
            if self.panel is None:
                self.stored.ask_ahead(self.group, k)
            return
        if self.matmul.problem.right is Right.PACKED and self._row_tiles == 1:
            place = [0, self.group, 0, k * self.matmul.width + AHEAD_FLOATS]
            self.kernel.prefetch_from(self.right, place, self.matmul.width, FIRST_CACHE)

    def _ask(self, row: Index, k: Index, steps: int) -> None:
        """Prefetch constants, which come from far: for so many steps their share of the next columns."""
        problem, tile, width, row_tiles = (
            self.matmul.problem, self.matmul.tile, self.matmul.width, self._row_tiles,
        )  # fmt: skip
        if problem.right is not Right.PACKED or row_tiles == 1 or self.stored is not None:
            return
        floats = LINE_FLOATS * -(-steps * width // (LINE_FLOATS * row_tiles))
        number = tirx.truncdiv(row, tile.rows) - self.first
        start = problem.depth * width + (number * (problem.depth // steps) + k // steps) * floats
        place = [0, self.group, 0, start]
        self.kernel.prefetch_from(self.right, place, floats, SECOND_CACHE)

    def _step(
        self, acc: tirx.Buffer, row: Index, rows: int, k: Index, first: Index, *, scaled: bool
    ) -> None:
        """acc[m, j] += left[m, k] · right[k, j]."""
        if self.fills and self.stored is not None:
            self.stored.fill_row(self.panel, self.group, k)
        kernel, nt, lanes = self.kernel, self.matmul.tile.vectors, self.matmul.problem.lanes
        image = 0 if self.matmul.problem.shares_left else self.image
        with kernel.unrolled("m", rows) as m, kernel.unrolled("j", nt) as j:
            place = vector((first + m * nt + j) * lanes, lanes)
            value = splat(self.left[image, row + m, k], lanes)
            kernel.store(acc, [place], acc[place] + value * self._weights(k, j, scaled=scaled))

    def _weights(self, k: Index, j: Index, *, scaled: bool) -> Expr:
        lanes = self.matmul.problem.lanes
        columns = vector(j * lanes, lanes)
        if self.panel is not None:
            return self.panel[k, columns]
        if self.stored is not None:
            read = self.stored.value if scaled else self.stored.unscaled
            return read(self.group, k, j)
        image = 0 if self.matmul.problem.shares_right else self.image
        if self.matmul.problem.right is Right.PLAIN:
            return self.right[image, k, vector(self.group * self.matmul.width + j * lanes, lanes)]
        return self.right[image, self.group, k, columns]

    def _store(self, acc: tirx.Buffer, row: Index, rows: int, columns: int) -> None:
        kernel, nt, lanes = self.kernel, self.matmul.tile.vectors, self.matmul.problem.lanes
        base = self.group * self.matmul.width
        for first, length in pieces(columns, lanes):
            with kernel.unrolled("m", rows) as m:
                value = acc[vector(m * (nt * lanes) + first, length)]
                at = Position((self.image, row + m, base + first), 2, length)
                kernel.store(
                    self.output, [self.image, row + m, vector(base + first, length)], self.finish(value, at)
                )


def _clear(kernel: FunctionBuilder, sums: tirx.Buffer, count: int, lanes: int) -> None:
    """Zero the first `count` vectors of `sums`."""
    with kernel.unrolled("i", count) as i:
        kernel.store(sums, [vector(i * lanes, lanes)], splat(0.0, lanes, str(sums.ty.dtype)))


def _add(kernel: FunctionBuilder, sums: tirx.Buffer, acc: tirx.Buffer, count: int, lanes: int) -> None:
    """sums[i] += acc[i] for the first `count` vectors."""
    dtype = f"{sums.ty.dtype}x{lanes}"
    with kernel.unrolled("i", count) as i:
        place = vector(i * lanes, lanes)
        kernel.store(sums, [place], sums[place] + acc[place].astype(dtype))
