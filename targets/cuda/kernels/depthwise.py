# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Depthwise convolution of plain tensors: a thread has neighbouring results of a row, whose taps overlap.

    for each row of taps:
        row[i] = what the thread's results read of it, zeros for the padding     # each element once
        sums[p] += weights[tap] · row[p · stride + tap · dilation]

A block has results of one filter; its weights are the same for all threads. Weights are [filters][taps].
"""

from __future__ import annotations

from math import prod

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.depthwise_tiles import DepthwiseTile, columns, depthwise_illegal, tile_illegal
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm.function_builder import Index
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position


def make(problem: Im2colProblem, epilogue: Epilogue | None, tile: DepthwiseTile) -> tirx.PrimFunc:
    """The kernel (input, weights, *epilogue parameters, output); epilogue positions are the result's."""
    reason = depthwise_illegal(problem) or tile_illegal(tile)
    assert reason is None, reason
    across = columns(problem, tile)
    threads = prod(problem.output[:2]) * across
    grid = -(-threads // tile.threads), problem.filters, problem.batch
    kernel = DeviceBuilder(grid, (tile.threads, 1, 1))
    extents = tuple(window.extent for window in problem.windows)
    data = kernel.flat(kernel.buffer("input", (problem.batch, problem.channels, *extents)))
    taps = prod(window.taps for window in problem.windows)
    weights = kernel.buffer("weights", (problem.filters, taps))
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.batch, problem.filters, *problem.output))
    first, filter_, image = kernel.block_index
    number = kernel.bind("number", first * tile.threads + kernel.thread_index[0])
    height = problem.output[1]
    z = kernel.bind("z", tirx.truncdiv(number, height * across))
    y = kernel.bind("y", tirx.truncmod(tirx.truncdiv(number, across), height))
    x = kernel.bind("x", tirx.truncmod(number, across) * tile.pixels)
    channel = tirx.truncdiv(filter_, problem.filters // problem.channels)
    plane = kernel.bind("plane", (image * problem.channels + channel) * prod(extents))
    sums = kernel.local("sums", (tile.pixels,))
    with kernel.unrolled("p", tile.pixels) as p:
        kernel.store(sums, [p], tirx.const(0.0, "float32"))
    with kernel.when(number < threads):
        _accumulate(kernel, problem, tile, (data, weights, sums), (plane, filter_), (z, y, x))
        place = (z, y, x)[5 - problem.rank : -1]
        store_neighbours(
            kernel, output, [image, filter_, z, y], x, tile.pixels,
            lambda p: finish(sums[p], Position((image, filter_, *place, x + p), problem.rank - 1, 1)),
        )  # fmt: skip
    return kernel.finish()


def _accumulate(
    kernel: DeviceBuilder, problem: Im2colProblem, tile: DepthwiseTile, buffers: tuple[tirx.Buffer, ...],
    at: tuple[Index, Index], place: tuple[Index, Index, Index],
) -> None:  # fmt: skip
    """Add up all taps of a thread's results."""
    data, weights, sums = buffers
    (plane, filter_), (z, y, x) = at, place
    deep, down, across = problem.windows
    reach = (tile.pixels - 1) * across.stride + (across.taps - 1) * across.dilation + 1
    row = kernel.local("row", (reach,))
    begin = kernel.bind("begin", across.coordinate(x, 0))
    with kernel.unrolled("kz", deep.taps) as kz, kernel.unrolled("ky", down.taps) as ky:
        depth = kernel.bind("depth", deep.coordinate(z, kz))
        line = kernel.bind("line", down.coordinate(y, ky))
        inside = tirx.all(depth >= 0, depth < deep.extent, line >= 0, line < down.extent)
        exists = kernel.bind("exists", inside)
        source = kernel.bind("source", plane + (depth * down.extent + line) * across.extent)
        with kernel.unrolled("i", reach) as i:
            column = begin + i
            there = tirx.all(exists, column >= 0, column < across.extent)
            element = tirx.if_then_else(there, data[source + column], tirx.const(0.0, "float32"))
            kernel.store(row, [i], element)
        with kernel.unrolled("kx", across.taps) as kx:
            weight = kernel.kept(weights[filter_, (kz * down.taps + ky) * across.taps + kx])
            with kernel.unrolled("p", tile.pixels) as p:
                product = weight * row[p * across.stride + kx * across.dilation]
                kernel.store(sums, [p], sums[p] + product)
