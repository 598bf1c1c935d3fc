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

What remains of a row is a second, narrower tile. A 1×1 convolution of stride 1 without halos may have several rows
joined into one, so that tiles run across row ends. `Tile` says how the loops are blocked for the caches; where that
takes several passes over the input channels, the output must not share memory with an epilogue's parameter.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import tirx

from rtcc.targets.tvm.function_builder import FunctionBuilder, Index, bounded, splat, vector
from rtcc.targets.tvm.kernels.blocked import NO_HALO
from rtcc.targets.tvm.kernels.convolution import ConvProblem, Tile, cycles_per_step, split_evenly, uneven
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue
from rtcc.targets.tvm.kernels.output_row import Accumulators, OutputRow, Tiling


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


def choose_tile(problem: ConvProblem, registers: int, cache: int = 1 << 20, tasks: int = 1) -> Tile:
    """The tile with the least estimated time.

    `registers` is 32 for AVX-512 and NEON, 16 for AVX2; `cache` the bytes of the cache next to the first (L2); `tasks`
    how many threads share the work.
    """
    joins = [1]
    if may_join_rows(problem):
        joins = [n for n in range(1, problem.output_height + 1) if problem.output_height % n == 0]
    blocks = -(-problem.filters // problem.groups // problem.lanes)
    candidates = {
        Tile(split_evenly(join * problem.output_width, most)[0], nt, joined=join)
        for join in joins
        for nt in range(1, min(4, blocks) + 1)
        if problem.groups == 1 or blocks % nt == 0
        for most in range(1, (registers - nt - 1) // nt + 1)
    }
    ordered = sorted(candidates, key=lambda tile: (tile.joined, tile.pixels, tile.blocks))
    best = min(
        ordered, key=lambda tile: _pixel_cost(problem, tile) * uneven(_units(problem, tile), tasks)
    )
    return _with_cache_blocks(problem, best, cache // 2, tasks)


def _units(problem: ConvProblem, tile: Tile) -> int:
    """Into how many parts the work can be divided among tasks."""
    tiling = _DirectConv(problem, tile).tiling
    return problem.batch * tiling.groups * -(-tiling.form.height // tile.rows)


def _pixel_cost(problem: ConvProblem, tile: Tile) -> float:
    """Cycles that one reduction step takes for one pixel of all output channels."""
    width = tile.joined * problem.output_width
    blocks = -(-problem.filters // problem.groups // problem.lanes)
    steps_per_line = problem.lanes * problem.kernel[0] * problem.kernel[1]
    cycles = cycles_per_step(width, tile.pixels, tile.blocks, first_use=2.0 / steps_per_line)
    return -(-blocks // tile.blocks) * cycles / width


def _with_cache_blocks(problem: ConvProblem, tile: Tile, cache: int, tasks: int) -> Tile:
    """The tile with `depth` and `rows` such that the far memory is read least; `cache` is the room in bytes."""
    conv = _DirectConv(problem, tile)
    out, source = conv.tiling.form, problem.input
    taps = problem.kernel[0] * problem.kernel[1]
    group_weights = 4 * conv.reduction_blocks * taps * tile.blocks * problem.lanes**2
    weights = group_weights * conv.tiling.groups
    row_input = 4 * source.blocks * source.lanes * source.width * problem.strides[0] * tile.joined

    def traffic(rows: int) -> int:
        row_groups = -(-out.height // rows)
        reread_weights = row_groups if weights > cache else 1
        reread_input = conv.tiling.groups if rows * row_input > cache else 1
        return reread_weights * weights + reread_input * row_input * out.height

    def rank(rows: int) -> tuple[float, float, int]:
        imbalance = uneven(_units(problem, dataclasses.replace(tile, rows=rows)), tasks)
        return round(imbalance, 1), traffic(rows), abs(rows * row_input - cache // 4)

    rows = min(range(1, out.height + 1), key=rank)
    if group_weights <= cache + cache // 4:
        return dataclasses.replace(tile, rows=rows)
    depth = max(1, cache // 4 * conv.reduction_blocks // group_weights)
    return dataclasses.replace(tile, rows=rows, depth=depth)


def may_join_rows(problem: ConvProblem) -> bool:
    """Whether rows follow each other without a gap in input and output, and each pixel depends on one."""
    halos = (problem.input_halo, problem.output_halo, problem.pads)
    return problem.kernel == problem.strides == (1, 1) and all(halo == NO_HALO for halo in halos)


def make(problem: ConvProblem, epilogue: Epilogue | None = None, tile: Tile | None = None) -> tirx.PrimFunc:
    """The kernel (task, tasks, input, weights, *epilogue parameters, output); `tile` as weights were packed."""
    reason = illegal(problem)
    assert reason is None, reason
    tile = tile or choose_tile(problem, 32 if problem.lanes == 16 else 16)
    return _DirectConv(problem, tile).build(epilogue)


@dataclass(frozen=True)
class _DirectConv:
    """The kernel's loops and everything that follows from the problem and its tile."""

    problem: ConvProblem
    tile: Tile

    def build(self, epilogue: Epilogue | None) -> tirx.PrimFunc:
        problem, tile, tiling = self.problem, self.tile, self.tiling
        kernel = FunctionBuilder()
        data = kernel.buffer("input", problem.input.joined(tile.joined).shape)
        taps = (self.reduction_blocks, *problem.kernel, problem.lanes)
        weights = kernel.buffer("weights", (tiling.groups, *taps, tile.blocks * problem.lanes))
        finish = BoundEpilogue(kernel, epilogue)
        output = kernel.buffer("output", tiling.form.shape)
        row_groups = -(-tiling.form.height // tile.rows)
        with kernel.tasks("step", problem.batch * tiling.groups * row_groups) as step:
            kb = kernel.bind("kb", tirx.truncmod(step, tiling.groups))
            outer = kernel.bind("outer", tirx.truncdiv(step, tiling.groups))
            top = kernel.bind("top", tirx.truncmod(outer, row_groups) * tile.rows)
            n = kernel.bind("n", tirx.truncdiv(outer, row_groups))
            rows = bounded(tile.rows, tiling.form.height, top)
            with kernel.serial("sweep", self.passes) as sweep, kernel.serial("row", rows) as step_row:
                y = kernel.bind("y", top + step_row)
                row = OutputRow(kernel, tiling, output, finish, n, kb, y)
                row.zero_halo()
                row.tiles(tile.pixels, lambda x, pixels: self._tile(row, data, weights, sweep, x, pixels))
        return kernel.finish()

    @property
    def tiling(self) -> Tiling:
        """The output as the tiles cut it."""
        return Tiling(self.problem.output, self.tile.blocks, self.tile.joined)

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

    def _tile(
        self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer, sweep: Index, x: Index, pixels: int
    ) -> None:
        kernel, last = row.kernel, self.passes - 1
        acc = row.accumulators(pixels)
        if last:
            with kernel.when(tirx.GT(sweep, 0)):
                row.resume(acc, x)
        self._reduce(row, data, weights, sweep, acc, x)
        if last:
            with kernel.when(tirx.LT(sweep, last)):
                row.suspend(acc, x)
        with kernel.when(tirx.EQ(sweep, last) if last else None):
            row.store(acc, x)

    def _reduce(
        self, row: OutputRow, data: tirx.Buffer, weights: tirx.Buffer, sweep: Index, acc: Accumulators, x: Index
    ) -> None:
        """Add the products of this pass's input blocks to the accumulators."""
        problem, kernel, lanes = self.problem, row.kernel, self.problem.lanes
        first = sweep * self.depth
        with (
            kernel.serial("cb", bounded(self.depth, self.reduction_blocks, first), first) as cb,
            kernel.serial("r", problem.kernel[0]) as r,
            kernel.serial("s", problem.kernel[1]) as s,
            kernel.serial("c", lanes) as c,
            kernel.unrolled("m", acc.pixels) as m,
            kernel.unrolled("j", acc.blocks) as j,
        ):
            y = problem.window(0).coordinate(row.y, r) + problem.input_halo[0]
            column = problem.window(1).coordinate(x + m, s) + problem.input_halo[1]
            value = splat(data[row.n, self._first_input_block(row.kb) + cb, y, column, c], lanes)
            acc.add(kernel, m, j, value * weights[row.kb, cb, r, s, c, vector(j * lanes, lanes)])

    def _first_input_block(self, kb: Index) -> Index:
        """Where in the input the channels of a filter's group begin, in blocks."""
        if self.problem.groups == 1:
            return 0
        filters = self.problem.filters // self.problem.groups
        return tirx.truncdiv(kb, filters // (self.problem.lanes * self.tile.blocks)) * self.reduction_blocks
