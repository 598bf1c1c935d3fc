# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Depthwise convolution: a thread has neighbouring results of a row, whose taps overlap.

    for each row of taps:
        row[i] = what the thread's results read of it, zeros for the padding     # each element once
        sums[p] += weights[tap] · row[p · stride + tap · dilation]

Of plain tensors, a block of threads has results of one filter; weights are [filters][taps]. Of tensors in
blocks of channels, neighbouring threads have neighbouring channels, and weights are [blocks][taps][channels
of a block].
"""

from __future__ import annotations

from math import prod

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.depthwise_tiles import (
    DepthwiseNumbers,
    DepthwiseTile,
    columns,
    depthwise_illegal,
    tile_illegal,
)
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position

PLAIN = DepthwiseNumbers()


def make(
    problem: Im2colProblem,
    epilogue: Epilogue | None,
    tile: DepthwiseTile,
    numbers: DepthwiseNumbers = PLAIN,
) -> tirx.PrimFunc:
    """The kernel (input, weights, *epilogue parameters, output); epilogue positions are the result's."""
    reason = depthwise_illegal(problem, numbers.block) or tile_illegal(tile)
    assert reason is None, reason
    return _Depthwise(problem, tile, numbers, epilogue).finish()


class _Depthwise:
    """The kernel under construction."""

    def __init__(
        self, problem: Im2colProblem, tile: DepthwiseTile, numbers: DepthwiseNumbers,
        epilogue: Epilogue | None,
    ) -> None:  # fmt: skip
        self.problem, self.tile, self.numbers = problem, tile, numbers
        lanes, across = numbers.block, columns(problem, tile)
        self.taps = prod(window.taps for window in problem.windows)
        self.threads = prod(problem.output[:2]) * across * lanes
        blocks = -(-problem.filters // lanes)
        grid = -(-self.threads // tile.threads), blocks, problem.batch
        self.kernel = kernel = DeviceBuilder(grid, (tile.threads, 1, 1))
        extent = prod(window.extent for window in problem.windows)
        sources = -(-problem.channels // lanes)
        self.data = kernel.buffer("input", (problem.batch * sources * extent * lanes,), numbers.data)
        self.weights = kernel.buffer("weights", (blocks * self.taps * lanes,), numbers.weights)
        self.epilogue = BoundEpilogue(kernel, epilogue)
        shape = (problem.batch, blocks, *problem.output, lanes)
        self.output = kernel.buffer("output", shape if lanes > 1 else shape[:-1], numbers.result)
        first, self.filter_block, self.image = kernel.block_index
        self.number = kernel.bind("number", first * tile.threads + kernel.thread_index[0])
        self.lane = kernel.bind("lane", tirx.truncmod(self.number, lanes)) if lanes > 1 else 0
        group = tirx.truncdiv(self.number, lanes) if lanes > 1 else self.number
        height = problem.output[1]
        self.z = kernel.bind("z", tirx.truncdiv(group, height * across))
        self.y = kernel.bind("y", tirx.truncmod(tirx.truncdiv(group, across), height))
        self.x = kernel.bind("x", tirx.truncmod(group, across) * tile.pixels)
        self.filter_ = self.filter_block * lanes + self.lane
        source = self.filter_block
        if lanes == 1:
            source = tirx.truncdiv(self.filter_block, problem.filters // problem.channels)
        self.plane = kernel.bind("plane", (self.image * sources + source) * extent)
        self.sums = kernel.local("sums", (tile.pixels,), numbers.total)

    def finish(self) -> tirx.PrimFunc:
        """All of it."""
        kernel = self.kernel
        with kernel.unrolled("p", self.tile.pixels) as p:
            kernel.store(self.sums, [p], tirx.const(0, self.numbers.total))
        with kernel.when(self.number < self.threads):
            self._accumulate()
            self._store()
        return kernel.finish()

    def _accumulate(self) -> None:
        """Add up all taps of a thread's results."""
        kernel, tile, total = self.kernel, self.tile, self.numbers.total
        deep, down, across = self.problem.windows
        reach = (tile.pixels - 1) * across.stride + (across.taps - 1) * across.dilation + 1
        row = kernel.local("row", (reach,), total)
        begin = kernel.bind("begin", across.coordinate(self.x, 0))
        with kernel.unrolled("kz", deep.taps) as kz, kernel.unrolled("ky", down.taps) as ky:
            depth = kernel.bind("depth", deep.coordinate(self.z, kz))
            line = kernel.bind("line", down.coordinate(self.y, ky))
            inside = tirx.all(depth >= 0, depth < deep.extent, line >= 0, line < down.extent)
            exists = kernel.bind("exists", inside)
            source = kernel.bind("source", self.plane + (depth * down.extent + line) * across.extent)
            with kernel.unrolled("i", reach) as i:
                column = begin + i
                there = tirx.all(exists, column >= 0, column < across.extent)
                element = self._number(self.data[(source + column) * self.numbers.block + self.lane])
                kernel.store(row, [i], tirx.if_then_else(there, element, tirx.const(0, total)))
            with kernel.unrolled("kx", across.taps) as kx:
                tap = self.filter_block * self.taps + (kz * down.taps + ky) * across.taps + kx
                weight = kernel.kept(self._number(self.weights[tap * self.numbers.block + self.lane]))
                with kernel.unrolled("p", tile.pixels) as p:
                    product = weight * row[p * across.stride + kx * across.dilation]
                    kernel.store(self.sums, [p], self.sums[p] + product)

    def _number(self, element: Expr) -> Expr:
        """An element as it is added up; 16 bits of integers are bfloat16."""
        if str(element.ty.dtype) == "uint16":
            return vm.of_bfloat16(element)
        return element.astype(self.numbers.total)

    def _store(self) -> None:
        """Finish and store the thread's results."""
        kernel, problem = self.kernel, self.problem
        place = (self.z, self.y, self.x)[5 - problem.rank : -1]
        line = [self.image, self.filter_block, self.z, self.y]

        def value(p: Index) -> Expr:
            at = Position((self.image, self.filter_, *place, self.x + p), problem.rank - 1, 1)
            return self.epilogue(self.sums[p], at)

        if self.numbers.block == 1:
            store_neighbours(kernel, self.output, line, self.x, self.tile.pixels, value)
            return
        is_padded = problem.filters % self.numbers.block > 0
        is_result = self.filter_ < problem.filters
        for p in range(self.tile.pixels):
            index = [*line, self.x + p, self.lane]
            with kernel.when(self.x + p < problem.output[2]):
                with kernel.when(is_result if is_padded else None):
                    kernel.store(self.output, index, value(p))
                with kernel.when(tirx.Not(is_result) if is_padded else tirx.const(False)):
                    kernel.store(self.output, index, tirx.const(0, self.numbers.result))
