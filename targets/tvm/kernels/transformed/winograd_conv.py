# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Winograd's convolution over blocked activations: transform, products, transform back, all in scratch.

`rtcc.ir.ops.winograd` has the mathematics, `tile_blocks` the loops around it. Layouts: activations as in
`blocked`; transformed weights [M/(nt·b)][rows][columns][C][nt·b]. For a tile t of a block:

    V[p, cb, t] = (Bᵀ d B)[p]                                    # all points p, each input block cb
    M[t, j, p] = Σ_c V[p, t, c] · weights[group, p, c, j]        # in parts of parts (`summation`)
    output[tile t] = epilogue(Aᵀ M[t, j] A)

A pool whose windows do not overlap and are whole within a tile joins: a window's outputs are finished one by
one, and what is stored is the largest of them, or their mean.

A tile whose inputs lie outside the image and its halo is first copied to the stack, zeros around it, so that
the input may have any halo or none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, bounded, splat, vector
from rtcc.targets.tvm.kernels.blocked_access import block_at
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue
from rtcc.targets.tvm.kernels.output_row import Accumulators
from rtcc.targets.tvm.kernels.pooling.in_registers import completed, joined
from rtcc.targets.tvm.kernels.tiling import together
from rtcc.targets.tvm.kernels.transformed.constant_matrix import multiplied
from rtcc.targets.tvm.kernels.transformed.tile_blocks import (
    AHEAD_FLOATS,
    Corner,
    TileBlock,
    TransformedConv,
    overlap,
)
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import (
    Blocking,
    Scratch,
    TileKind,
    channel_groups,
)
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem, winograd_illegal
from rtcc.targets.tvm.summation import transformed_parts


def make(problem: WinogradProblem, epilogue: Epilogue | None, by: Blocking) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output, scratch)."""
    reason = winograd_illegal(problem.conv, problem.outputs)
    assert reason is None, reason
    kernel, conv = FunctionBuilder(), problem.conv
    data = kernel.buffer("input", conv.input.shape)
    shape = (channel_groups(problem, by), problem.products, conv.channels, by.blocks * conv.lanes)
    weights = kernel.buffer("weights", shape)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", problem.stored.shape)
    scratch = kernel.buffer("scratch", (Scratch(problem, by).floats,))
    _WinogradConv(kernel, data, weights, finish, output, scratch, problem).emit(problem, by)
    return kernel.finish()


@dataclass(frozen=True)
class _WinogradConv(TransformedConv):
    """The kernel under construction."""

    problem: WinogradProblem

    @property
    def lanes(self) -> int:
        """Channels of a block, and floats of a vector."""
        return self.problem.conv.lanes

    # ---- V = Bᵀ d B

    def transform_input(self, block: TileBlock, t: Index, at: Corner, kind: TileKind) -> None:
        kernel, conv, points = self.kernel, self.problem.conv, self._points(kind)
        top, left = kernel.bind("top", at.y - conv.pads[0]), kernel.bind("left", at.x - conv.pads[1])
        inside = self._inside(top, left, kind)
        inside = inside if isinstance(inside, bool) else kernel.bind("within", inside)
        with kernel.serial("cb", conv.input.blocks) as cb:
            if inside is not False:
                with kernel.when(None if inside is True else inside):
                    self._transform(
                        block, t, cb, kind, lambda i, j: self._loaded(at.n, cb, top + i, left + j)
                    )
            if inside is not True:
                with kernel.when(None if inside is False else tirx.Not(inside)):
                    patch, columns = self._patch(at.n, cb, top, left, points), points[1]
                    self._transform(
                        block, t, cb, kind,
                        lambda i, j: patch[vector((i * columns + j) * self.lanes, self.lanes)],
                    )  # fmt: skip

    def _points(self, kind: TileKind) -> tuple[int, int]:
        """Inputs, and points, of a tile of a kind along height and width."""
        rows, columns = self.problem.transforms_of(kind)
        return rows.points, columns.points

    def _inside(self, top: Index, left: Index, kind: TileKind) -> Expr | bool:
        """Whether a tile's inputs lie within the image and its halo; known where all of a kind or none do."""
        problem, conv, points = self.problem, self.problem.conv, self._points(kind)
        conditions, extents, parts = [], (conv.height, conv.width), (kind.rows, kind.columns)
        for axis, start in ((0, top), (1, left)):
            least, most = -conv.input_halo[axis], extents[axis] + conv.input_halo[axis + 2] - points[axis]
            ends = parts[axis][0], parts[axis][-1]
            first, last = (n * problem.outputs[axis] - conv.pads[axis] for n in ends)
            if last < least or first > most:
                return False
            if first < least:
                conditions.append(tirx.GE(start, least))
            if last > most:
                conditions.append(tirx.LE(start, most))
        if not conditions:
            return True
        return conditions[0] if len(conditions) == 1 else tirx.all(*conditions)

    def _loaded(self, n: Index, cb: Index, row: Index, column: Index) -> Expr:
        return self.data[tuple(block_at(self.problem.conv.input, n, cb, row, column))]

    def _patch(
        self, n: Index, cb: Index, top: Index, left: Index, points: tuple[int, int]
    ) -> tirx.Buffer:
        """The tile's inputs on the stack, zeros outside the image."""
        kernel, lanes, conv, (rows, columns) = self.kernel, self.lanes, self.problem.conv, points
        patch = kernel.local("patch", (rows * columns * lanes,))
        with kernel.serial("i", rows * columns) as i:
            kernel.store(patch, [vector(i * lanes, lanes)], splat(0.0, lanes))
        first_row, row_end = overlap(kernel, top, rows, conv.height)
        first_column, column_end = overlap(kernel, left, columns, conv.width)
        with (
            kernel.serial("i", row_end - first_row, first_row) as i,
            kernel.serial("j", column_end - first_column, first_column) as j,
        ):
            place = [vector((i * columns + j) * lanes, lanes)]
            kernel.store(patch, place, self._loaded(n, cb, top + i, left + j))
        return patch

    def _transform(self, block: TileBlock, t: Index, cb: Index, kind: TileKind, load) -> None:
        """Transform one tile along its height, then its width, and store every point that it uses."""
        kernel, lanes, (rows, columns) = self.kernel, self.lanes, self._points(kind)
        down, across = self.problem.transforms_of(kind)
        half = kernel.local("half", (rows * columns * lanes,))
        with kernel.unrolled("j", columns) as j:
            for i, value in enumerate(multiplied(kernel, down.input, [load(i, j) for i in range(rows)])):
                kernel.store(half, [vector((j * rows + i) * lanes, lanes)], value)
        for i, row in enumerate(down.used):
            values = [half[vector((j * rows + i) * lanes, lanes)] for j in range(columns)]
            for column, value in zip(across.used, multiplied(kernel, across.input, values), strict=True):
                place = block.transformed(row * self.problem.points[1] + column, cb, t)
                kernel.store(block.scratch, [vector(place, lanes)], value)

    # ---- M = V · weights

    def multiply(self, block: TileBlock, group: Index) -> None:
        kernel, is_cut = self.kernel, any(self.problem.left_out)
        with kernel.serial("p", self.problem.products) as point:

            def emit(first: Index, width: int) -> None:
                block.store_products(self._sums(block, point, group, first, width), first, point)

            tiles = self._tiles_with(block, point) if is_cut else (0, block.count)
            block.register_tiles(tiles, emit, shifted=is_cut)

    def _tiles_with(self, block: TileBlock, point: Index) -> tuple[Index, Index]:
        """The block's tiles that have products at a point: the first, and how many."""
        problem, columns = self.problem, self.problem.points[1]
        places = tirx.truncdiv(point, columns), tirx.truncmod(point, columns)
        down, across = (
            _is_any(self.kernel.bind("place", place), numbers)
            for place, numbers in zip(places, problem.left_out, strict=True)
        )

        def number(end: Callable[[range], int]) -> Expr:
            rows, row = (
                tuple(
                    tirx.IntImm("int32", end(problem.tiles_with(row_left_out=row, column_left_out=column)))
                    for column in (False, True)
                )
                for row in (False, True)
            )
            return tirx.Select(down, tirx.Select(across, *row[::-1]), tirx.Select(across, *rows[::-1]))

        return block.part(number(lambda tiles: tiles.start), number(lambda tiles: tiles.stop))

    def _sums(
        self, block: TileBlock, point: Index, group: Index, first: Index, width: int
    ) -> Accumulators:
        """The products of a register tile, summed over the channels; many channels in parts of parts."""
        by_lane = self.problem.conv.reads_lanes
        parts = [length // self.lanes for length in transformed_parts(by_lane=by_lane)]
        at = (point, group, first)
        return self._summed(block, at, width, 0, self.problem.conv.input.blocks, parts)

    def _summed(
        self,
        block: TileBlock,
        at: tuple[Index, Index, Index],
        width: int,
        begin: Index,
        count: Index,
        parts: Sequence[int],
    ) -> Accumulators:
        """The sums over `count` channel blocks from `begin`, of `width` tiles.

        at: the point, the group and the first tile. parts: how long they are, the longest first.
        """
        parts = [length for length in parts if not isinstance(count, int) or length < count]
        if not parts:
            return self._part(block, at, width, begin, count)
        kernel, length = self.kernel, parts[0]
        sums = Accumulators.cleared(kernel, "sums", width, block.by.blocks, self.lanes)
        whole = isinstance(count, int) and count % length == 0
        with kernel.serial("part", tirx.truncdiv(count + (length - 1), length)) as number:
            start = kernel.bind("begin", begin + number * length)
            taken = length if whole or length == 1 else tirx.Min(length, begin + count - start)
            sums.add_all(kernel, self._summed(block, at, width, start, taken, parts[1:]))
        return sums

    def _part(
        self, block: TileBlock, at: tuple[Index, Index, Index], width: int, begin: Index, count: Index
    ) -> Accumulators:
        """The products of a register tile, summed over `count` channel blocks from `begin`."""
        kernel, lanes, conv, (point, group, first) = self.kernel, self.lanes, self.problem.conv, at
        acc = Accumulators.cleared(kernel, "acc", width, block.by.blocks, lanes)
        if self.problem.conv.reads_lanes:
            with kernel.serial_by("cb", count, begin, together(count)) as cb:
                self._by_lane(block, acc, at, cb)
            return acc
        columns = acc.blocks * lanes
        with (
            kernel.serial("cb", count, begin) as cb,
            kernel.serial("c", bounded(lanes, conv.channels, cb * lanes)) as c,
        ):
            channel = kernel.bind("channel", cb * lanes + c)
            kernel.prefetch(self.weights, [group, point, channel + AHEAD_FLOATS // columns], columns)
            with kernel.unrolled("m", acc.pixels) as m, kernel.unrolled("j", acc.blocks) as j:
                value = splat(block.scratch[block.transformed(point, cb, first + m) + c], lanes)
                weight = self.weights[group, point, channel, vector(j * lanes, lanes)]
                acc.add(kernel, m, j, value * weight)
        return acc

    def _by_lane(
        self, block: TileBlock, acc: Accumulators, at: tuple[Index, Index, Index], cb: Index
    ) -> None:
        """The products of one channel block; at: the point, the group and the first tile."""
        kernel, lanes, (point, group, first) = self.kernel, self.lanes, at
        channel, columns = kernel.bind("channel", cb * lanes), acc.blocks * lanes
        kernel.prefetch(self.weights, [group, point, channel + AHEAD_FLOATS // columns], columns * lanes)
        acc.add_by_lane(
            kernel, range(acc.pixels),
            lambda m: block.scratch[vector(block.transformed(point, cb, first + m), lanes)],
            lambda c, j: self.weights[group, point, channel + c, vector(j * lanes, lanes)],
        )  # fmt: skip

    # ---- output = epilogue(Aᵀ M A)

    def transform_output(
        self, block: TileBlock, t: Index, j: Index, channels: Index, at: Corner, kind: TileKind
    ) -> None:
        kernel, problem, outputs = self.kernel, self.problem, self._outputs(block, t, j, kind)
        down, across = problem.transforms_of(kind)
        rows, columns = problem.window
        result = self._corner_of_results(at)
        height, width = down.outputs // rows, across.outputs // columns
        with kernel.unrolled("i", height) as i, kernel.unrolled("q", width) as q:
            value = self._pooled(outputs, channels, at, i * rows, q * columns, across.outputs)
            self.store_finished(problem, channels, result, i, q, value)
        with kernel.serial("i", height) as i:
            self.zero_halo(problem, channels, result, i)

    def _corner_of_results(self, at: Corner) -> Corner:
        """Where the results of a tile lie in what is stored."""
        kernel, (rows, columns) = self.kernel, self.problem.window
        if self.problem.pooling is None:
            return at
        y, x = tirx.truncdiv(at.y, rows), tirx.truncdiv(at.x, columns)
        return Corner(at.n, kernel.bind("pooled_y", y), kernel.bind("pooled_x", x))

    def _pooled(
        self, outputs: tirx.Buffer, channels: Index, at: Corner, i: Index, q: Index, width: int
    ) -> Expr:
        """Row i, column q of a tile so wide, finished; with a pool, the window that begins there."""
        kernel, lanes, problem = self.kernel, self.lanes, self.problem
        rows, columns = problem.window
        values: list[Expr] = []
        for row, column in itertools.product(range(rows), range(columns)):
            value = outputs[vector(((i + row) * width + q + column) * lanes, lanes)]
            values.append(self.finished(problem, channels, at, i + row, q + column, value))
        if problem.pooling is None:
            return values[0]
        return completed(problem.pooling, joined(kernel, problem.pooling, values), lanes)

    def _outputs(self, block: TileBlock, t: Index, j: Index, kind: TileKind) -> tirx.Buffer:
        """One tile's outputs [rows][columns] of one channel block, on the stack."""
        kernel, lanes, points = self.kernel, self.lanes, self.problem.points[1]
        down, across = self.problem.transforms_of(kind)
        height, width, columns = down.outputs, across.outputs, across.points
        half = kernel.local("half", (height * columns * lanes,))
        for q, column in enumerate(across.used):
            places = [block.product(t, j, row * points + column) for row in down.used]
            values = [block.scratch[vector(place, lanes)] for place in places]
            for i, value in enumerate(multiplied(kernel, down.output, values)):
                kernel.store(half, [vector((q * height + i) * lanes, lanes)], value)
        outputs = kernel.local("outputs", (height * width * lanes,))
        with kernel.unrolled("i", height) as i:
            values = [half[vector((q * height + i) * lanes, lanes)] for q in range(columns)]
            for q, value in enumerate(multiplied(kernel, across.output, values)):
                kernel.store(outputs, [vector((i * width + q) * lanes, lanes)], value)
        return outputs


def _is_any(place: Index, numbers: Sequence[int]) -> Expr:
    """Whether a place is one of some numbers."""
    equal = [tirx.EQ(place, number) for number in numbers]
    return tirx.any(*equal) if equal else tirx.const(False)
