# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution of plain tensors as a product: filters times what the taps of each result read.

    output[n, m, p] = Σ_k weights[m, k] · input[n, k's channel, p's place under k's tap]

The gathered matrix is never stored: its slabs are copied from the input, zeros for the padding. Weights are
[blocks of filters][channels of a group · taps][filters of a block]; blocks are as high as tiles.
"""

from __future__ import annotations

from math import prod

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.gemm import Product
from rtcc.targets.cuda.kernels.gemm_tiles import QUAD, GemmTile, conv_shape, group_illegal, tile_illegal
from rtcc.targets.cuda.kernels.partial_sums import (
    Finish,
    PartialSums,
    Place,
    Sums,
    adding_kernel,
    part_and_image,
)
from rtcc.targets.cuda.kernels.slabs import Columns, Matrix, Packed, Pixels, Slab
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position


def make(
    problem: Im2colProblem, epilogue: Epilogue | None, tile: GemmTile, result: str = "float32"
) -> tirx.PrimFunc:
    """The kernel (input, weights, *epilogue parameters, output); epilogue positions are the result's.

    result: TVM's name of the output's elements. With a tile of several parts it has `scratch` behind the
    output, and leaves its sums there.
    """
    shape = conv_shape(problem)
    reason = tile_illegal(tile, left_in_rows=False) or shape.illegal(tile) or group_illegal(problem, tile)
    assert reason is None, reason
    kernel = DeviceBuilder(shape.blocks(tile), (tile.threads, 1, 1))
    data, weights, finish, partial = _declared(kernel, problem, epilogue, tile, result)
    across, down, outer = kernel.block_index
    part, images_group = part_and_image(outer, shape.batch, tile.parts)
    image = kernel.bind("image", tirx.truncdiv(images_group, problem.groups))
    group = kernel.bind("group", tirx.truncmod(images_group, problem.groups))
    begin = (group * _group_blocks(problem, tile) + down) * (problem.depth * tile.rows)
    filters = Matrix(weights, begin, tile.rows, problem.depth, tile.rows)
    first_row, first_column = down * tile.rows, across * tile.columns
    product = Product(
        kernel, tile, problem.depth, Packed(kernel, "left_slab", tile, filters),
        _right_slab(kernel, problem, tile, data, (image, group, first_column)), left_in_rows=False,
        part=part,
    )  # fmt: skip
    end = finish if partial is None else partial.of_part(part)

    def store(row: Index, column: Index, sums: Sums) -> None:
        at = images_group, kernel.bind("row", first_row + row), kernel.bind("pixel", first_column + column)
        end(at, sums)

    product.emit(store)
    return kernel.finish()


def make_sums(
    problem: Im2colProblem, epilogue: Epilogue | None, tile: GemmTile, result: str = "float32"
) -> tirx.PrimFunc:
    """The kernel that adds up what `make` leaves in scratch, with the same parameters."""
    return adding_kernel(
        conv_shape(problem), QUAD, lambda kernel: _declared(kernel, problem, epilogue, tile, result)[2:]
    )


def _declared(
    kernel: DeviceBuilder, problem: Im2colProblem, epilogue: Epilogue | None, tile: GemmTile,
    result: str,
) -> tuple[tirx.Buffer, tirx.Buffer, Finish, PartialSums | None]:  # fmt: skip
    """Data and weights, how results are stored (images are those of groups), the scratch of several parts."""
    pixels, extents = prod(problem.output), tuple(window.extent for window in problem.windows)
    data = kernel.buffer("input", (problem.batch, problem.channels, *extents))
    packed = problem.groups * _group_blocks(problem, tile) * problem.depth * tile.rows
    weights = kernel.buffer("weights", (packed,))
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.batch, problem.filters, pixels), result)
    partial = PartialSums.declared(kernel, conv_shape(problem), tile.parts, QUAD, "float32")

    def store(at: Place, sums: Sums) -> None:
        images_group, row, first = at
        image = kernel.bind("image", tirx.truncdiv(images_group, problem.groups))
        group = tirx.truncmod(images_group, problem.groups)
        channel = kernel.bind("channel", group * problem.group_filters + row)

        def value(lane: Index) -> Expr:
            place = _place(problem, first + lane)
            return finish(sums(lane), Position((image, channel, *place), problem.rank - 1, 1))

        store_neighbours(kernel, output, [image, channel], first, QUAD, value, row < problem.group_filters)

    return data, weights, store, partial


def _group_blocks(problem: Im2colProblem, tile: GemmTile) -> int:
    return -(-problem.group_filters // tile.rows)


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
