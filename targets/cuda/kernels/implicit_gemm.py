# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution of plain tensors as a product: filters times what the taps of each result read.

    output[n, m, p] = Σ_k weights[m, k] · input[n, k's channel, p's place under k's tap]

The gathered matrix is never stored: its slabs are copied from the input, zeros for the padding. Weights are
[blocks of filters][channels of a group · taps][filters of a block]; blocks are as high as tiles.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.gemm import Product
from rtcc.targets.cuda.kernels.gemm_tiles import QUAD, GemmTile, conv_shape, group_illegal, tile_illegal
from rtcc.targets.cuda.kernels.slabs import Columns, Matrix, Packed, Pixels, Slab
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position


def make(problem: Im2colProblem, epilogue: Epilogue | None, tile: GemmTile) -> tirx.PrimFunc:
    """The kernel (input, weights, *epilogue parameters, output); epilogue positions are the result's."""
    shape, pixels = conv_shape(problem), prod(problem.output)
    reason = tile_illegal(tile, left_in_rows=False) or shape.illegal(tile) or group_illegal(problem, tile)
    assert reason is None, reason
    kernel = DeviceBuilder(shape.blocks(tile), (tile.threads, 1, 1))
    extents = tuple(window.extent for window in problem.windows)
    data = kernel.buffer("input", (problem.batch, problem.channels, *extents))
    group_blocks = -(-problem.group_filters // tile.rows)
    packed = problem.groups * group_blocks * problem.depth * tile.rows
    weights = kernel.buffer("weights", (packed,))
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.batch, problem.filters, pixels))
    across, down, outer = kernel.block_index
    image = kernel.bind("image", tirx.truncdiv(outer, problem.groups))
    group = kernel.bind("group", tirx.truncmod(outer, problem.groups))
    begin = (group * group_blocks + down) * (problem.depth * tile.rows)
    filters = Matrix(weights, begin, tile.rows, problem.depth, tile.rows)
    first_row, first_column = down * tile.rows, across * tile.columns
    product = Product(
        kernel, tile, problem.depth, Packed(kernel, "left_slab", tile, filters),
        _right_slab(kernel, problem, tile, data, (image, group, first_column)), left_in_rows=False,
    )  # fmt: skip

    def store(row: Index, column: Index, sums: Callable[[Index], Expr]) -> None:
        at, where = kernel.bind("row", first_row + row), kernel.bind("pixel", first_column + column)
        channel = kernel.bind("channel", group * problem.group_filters + at)

        def value(lane: Index) -> Expr:
            place = _place(problem, where + lane)
            return finish(sums(lane), Position((image, channel, *place), problem.rank - 1, 1))

        store_neighbours(kernel, output, [image, channel], where, QUAD, value, at < problem.group_filters)

    product.emit(store)
    return kernel.finish()


def _place(problem: Im2colProblem, pixel: Index) -> tuple[Index, ...]:
    """A result's place on the axes that the tensors have."""
    _, height, width = problem.output
    z, y = tirx.truncdiv(pixel, height * width), tirx.truncmod(tirx.truncdiv(pixel, width), height)
    return (z, y, tirx.truncmod(pixel, width))[5 - problem.rank :]


def _right_slab(
    kernel: DeviceBuilder, problem: Im2colProblem, tile: GemmTile, data: tirx.Buffer, at: tuple[Index, ...]
) -> Slab:
    """The pixels, which are the columns of a plain matrix where a filter has one tap and moves by one."""
    image, group, first = at
    channels = problem.channels // problem.groups
    if all(each.taps == each.stride == 1 and each.count == each.extent for each in problem.windows):
        pixels = prod(problem.output)
        flat = kernel.flat(data)
        begin = (image * problem.channels + group * channels) * pixels
        return Columns(kernel, tile, Matrix(flat, begin, pixels, channels, pixels), first)
    return Pixels(kernel, tile, problem, kernel.flat(data), image, group * channels, first)
