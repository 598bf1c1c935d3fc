# pyright: basic
"""Direct convolution over blocked activations: any kernel size, stride and dilation, groups of whole blocks.

Layouts: activations as in `blocked`, weights [K/(nt·b)][C/b][R][S][b][nt·b] (`pack_weights`), zero-padded to whole
blocks. One pass of the inner loops keeps a tile of pixels × nt·b output channels in registers over the whole
reduction: for every input channel and tap, nt weight vectors are loaded and each of the tile's pixels
is broadcast and multiplied into nt accumulators.

    for (n, kb, y):  for x by tile:                       # shared out among tasks
        for cb, r, s, c:                                  # reduction
            acc[m, j] += input[n, cb, y·sh + r·dh, (x + m)·sw + s·dw, c] · weights[kb, cb, r, s, c, j]
        output[n, kb·nt + j, y, x + m] = epilogue(acc[m, j])

What remains of a row is a second, narrower tile. A 1×1 convolution of stride 1 without halos has its rows joined into one, so that
tiles run across row ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, bounded, splat, vector
from rtcc.targets.tvm.kernels.blocked import NO_HALO, Blocked, zero_halo_of_row
from rtcc.targets.tvm.kernels.convolution import ConvProblem, Tile, split_evenly
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position


def illegal(problem: ConvProblem) -> str | None:
    """Why this kernel cannot do the convolution, or None."""
    lanes, groups = problem.lanes, problem.groups
    if not problem.has_halo():
        return f"the input's halo {problem.input_halo} is narrower than {problem.needed_halo}"
    if groups > 1 and (problem.channels // groups % lanes or problem.filters // groups % lanes):
        return f"groups of {problem.channels // groups} channels are not whole blocks of {lanes}"
    return None


def pack_weights(weights: NDArray[Any], problem: ConvProblem, tile: Tile) -> NDArray[Any]:
    """ONNX weights [K][C/groups][R][S]  →  [K/(nt·b)][C/b][R][S][b][nt·b], zero-padded."""
    lanes, columns = problem.lanes, tile.blocks * problem.lanes
    filters, channels, rows, taps = weights.shape
    padded = np.zeros((-(-filters // columns) * columns, -(-channels // lanes) * lanes, rows, taps), weights.dtype)
    padded[:filters, :channels] = weights
    shape = (padded.shape[0] // columns, columns, padded.shape[1] // lanes, lanes, rows, taps)
    return np.ascontiguousarray(padded.reshape(shape).transpose(0, 2, 4, 5, 3, 1))


def choose_tile(problem: ConvProblem, registers: int) -> Tile:
    """The tile with the least estimated time for `registers` vector registers (32 for AVX-512 and NEON, 16 for AVX2)."""
    blocks = -(-problem.filters // problem.groups // problem.lanes)
    width = problem.output_width
    if _joins_rows(problem):
        width *= problem.output_height

    def cost(tile: Tile) -> float:
        whole, rest = divmod(width, tile.pixels)
        groups = -(-blocks // tile.blocks)
        total = whole * _step_cost(tile) + (_step_cost(Tile(rest, tile.blocks)) if rest else 0.0)
        return groups * total

    candidates = [
        Tile(split_evenly(width, most)[0], nt)
        for nt in range(1, min(4, blocks) + 1)
        for most in range(1, (registers - nt - 1) // nt + 1)
    ]
    return min(sorted(set(candidates), key=lambda tile: (tile.pixels, tile.blocks)), key=cost)


def _step_cost(tile: Tile) -> float:
    """Cycles of one reduction step: two multiply-adds or two loads a cycle, and four cycles of latency to hide."""
    work = tile.pixels * tile.blocks
    loads = tile.pixels + tile.blocks
    return max(work / 2, loads / 2, 4.0) + 0.1 * loads


def _joins_rows(problem: ConvProblem) -> bool:
    return (
        problem.kernel == (1, 1)
        and problem.strides == (1, 1)
        and problem.input_halo == problem.output_halo == problem.pads == NO_HALO
    )


def make(problem: ConvProblem, epilogue: Epilogue | None = None, tile: Tile | None = None) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output); `tile` as weights were packed."""
    reason = illegal(problem)
    assert reason is None, reason
    tile = tile or choose_tile(problem, 32 if problem.lanes == 16 else 16)
    return _DirectConv(problem, tile).build(epilogue)


@dataclass(frozen=True)
class _DirectConv:
    """The kernel's outer loops and everything that follows from the problem and its tile."""

    problem: ConvProblem
    tile: Tile

    def build(self, epilogue: Epilogue | None) -> tirx.PrimFunc:
        problem, tile, lanes, out = self.problem, self.tile, self.problem.lanes, self.joined_output
        kernel = FunctionBuilder()
        data = kernel.buffer("input", self._joined(problem.input).shape)
        taps = (self.reduction_blocks, *problem.kernel, lanes)
        weights = kernel.buffer("weights", (self._groups_of_blocks, *taps, tile.blocks * lanes))
        finish = BoundEpilogue(kernel, epilogue)
        output = kernel.buffer("output", out.shape)
        row_groups = -(-out.height // tile.rows)
        with kernel.tasks("step", problem.batch * self._groups_of_blocks * row_groups) as step:
            top = kernel.bind("top", tirx.truncmod(step, row_groups) * tile.rows)
            outer = kernel.bind("outer", tirx.truncdiv(step, row_groups))
            kb = kernel.bind("kb", tirx.truncmod(outer, self._groups_of_blocks))
            n = kernel.bind("n", tirx.truncdiv(outer, self._groups_of_blocks))
            rows = bounded(tile.rows, out.height, top)
            with kernel.serial("sweep", self.passes) as sweep, kernel.serial("row", rows) as row:
                y = kernel.bind("y", top + row)
                _Row(self, kernel, data, weights, output, finish, n, kb, y, sweep).build()
        return kernel.finish()

    @property
    def reduction_blocks(self) -> int:
        """Input blocks that each output sums over."""
        return -(-self.problem.channels // self.problem.groups // self.problem.lanes)

    @property
    def depth(self) -> int:
        """Input blocks summed in one pass."""
        return self.tile.depth or self.reduction_blocks

    @property
    def passes(self) -> int:
        """Passes over the input blocks; between two of them the sums rest in the output."""
        return -(-self.reduction_blocks // self.depth)

    @property
    def joined_output(self) -> Blocked:
        """The output as the tiles see it."""
        return self._joined(self.problem.output)

    def first_input_block(self, kb: Index) -> Index:
        """Where in the input the channels of a filter's group begin, in blocks."""
        if self.problem.groups == 1:
            return 0
        filters = self.problem.filters // self.problem.groups
        return tirx.truncdiv(kb, filters // (self.problem.lanes * self.tile.blocks)) * self.reduction_blocks

    @property
    def _groups_of_blocks(self) -> int:
        return -(-self.problem.output.blocks // self.tile.blocks)

    def _joined(self, form: Blocked) -> Blocked:
        """The activation, its rows joined into one where tiles may run across their ends."""
        if not _joins_rows(self.problem):
            return form
        return dataclasses.replace(form, height=1, width=form.height * form.width)


@dataclass(frozen=True)
class _Row:
    """One row of one group of output blocks in one pass over the input blocks, under construction."""

    conv: _DirectConv
    kernel: FunctionBuilder
    data: tirx.Buffer
    weights: tirx.Buffer
    output: tirx.Buffer
    finish: BoundEpilogue
    n: Index
    kb: Index
    y: Index
    sweep: Index

    def build(self) -> None:
        """The row: its halo, its whole tiles and what remains."""
        kernel, tile, out = self.kernel, self.conv.tile, self.conv.joined_output
        for j in range(tile.blocks):
            with self._if_block_exists(j):
                zero_halo_of_row(kernel, self.output, out, self.n, self.kb * tile.blocks + j, self.y)
        whole, rest = divmod(out.width, tile.pixels)
        if whole:
            with kernel.serial("xt", whole) as xt:
                self._tile(xt * tile.pixels, tile.pixels)
        if rest:
            self._tile(whole * tile.pixels, rest)

    def _tile(self, x: Index, pixels: int) -> None:
        kernel, passes = self.kernel, self.conv.passes
        lanes = self.conv.problem.lanes
        acc = kernel.local("acc", (pixels * self.conv.tile.blocks * lanes,))
        with self._accumulators(pixels) as (_, _, place):
            kernel.store(acc, [place], splat(0.0, lanes))
        if passes > 1:
            with kernel.when(tirx.GT(self.sweep, 0)), self._accumulators(pixels) as (j, m, place):
                kernel.store(acc, [place], self.output[tuple(self._at(j, x + m))])
        self._reduce(acc, x, pixels)
        if passes > 1:
            unfinished = kernel.when(tirx.LT(self.sweep, passes - 1))
            with unfinished, self._accumulators(pixels) as (j, m, place):
                kernel.store(self.output, self._at(j, x + m), acc[place])
        last = kernel.when(tirx.EQ(self.sweep, passes - 1) if passes > 1 else None)
        with last, self._accumulators(pixels) as (j, m, place):
            kernel.store(self.output, self._at(j, x + m), self._finished(acc[place], j, x + m))

    def _reduce(self, acc: tirx.Buffer, x: Index, pixels: int) -> None:
        """Add the products of this pass's input blocks to the accumulators."""
        problem, kernel, nt, lanes = self.conv.problem, self.kernel, self.conv.tile.blocks, self.conv.problem.lanes
        top, left = (problem.input_halo[i] - problem.pads[i] for i in (0, 1))
        first = self.sweep * self.conv.depth
        with (
            kernel.serial("cb", bounded(self.conv.depth, self.conv.reduction_blocks, first), first) as cb,
            kernel.serial("r", problem.kernel[0]) as r,
            kernel.serial("s", problem.kernel[1]) as s,
            kernel.serial("c", lanes) as c,
            kernel.unrolled("m", pixels) as m,
            kernel.unrolled("j", nt) as j,
        ):
            block = self.conv.first_input_block(self.kb) + cb
            row = self.y * problem.strides[0] + r * problem.dilations[0] + top
            column = (x + m) * problem.strides[1] + s * problem.dilations[1] + left
            place = vector((m * nt + j) * lanes, lanes)
            value = splat(self.data[self.n, block, row, column, c], lanes)
            weight = self.weights[self.kb, cb, r, s, c, vector(j * lanes, lanes)]
            kernel.store(acc, [place], acc[place] + value * weight)

    def _finished(self, value: Expr, j: Index, x: Index) -> Expr:
        out, joined = self.conv.problem.output, self.conv.joined_output
        y = self.y
        if joined != out:
            y, x = tirx.truncdiv(x, out.width), tirx.truncmod(x, out.width)
        block = self.kb * self.conv.tile.blocks + j
        at = Position((self.n, block * out.lanes, y, x), 1, out.lanes)
        return out.zero_padding(block, self.finish(value, at))

    def _at(self, j: Index, x: Index) -> list[Index]:
        return self.conv.joined_output.at(self.n, self.kb * self.conv.tile.blocks + j, self.y, x)

    @contextmanager
    def _accumulators(self, pixels: int) -> Iterator[tuple[Index, Index, Expr]]:
        """(block, pixel, index into the accumulators) of each vector of the tile whose block exists."""
        kernel, nt, lanes = self.kernel, self.conv.tile.blocks, self.conv.problem.lanes
        with kernel.unrolled("j", nt) as j, self._if_block_exists(j), kernel.unrolled("m", pixels) as m:
            yield j, m, vector((m * nt + j) * lanes, lanes)

    def _if_block_exists(self, j: Index) -> AbstractContextManager[None]:
        """A condition on block j of the group, where the last group may have fewer than the others."""
        blocks, nt = self.conv.problem.output.blocks, self.conv.tile.blocks
        return self.kernel.when(tirx.LT(self.kb * nt + j, blocks) if blocks % nt else None)
