# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Convolution on tensor cores over activations in blocks of channels, as many as a chunk of 16 bytes has.

    output[n, p, m] = Σ_k input[n, k's channels, p's place under k's tap] · weights[m, k]

Rows are pixels of all images, columns filters; a chunk is a block of channels under a tap. Weights are
[blocks of filters][blocks of channels][taps][filters of a block][channels of a block]. Padding is zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.fragment_tiles import (
    PAIR,
    FragmentTile,
    Kind,
    conv_illegal,
    conv_shape,
    grid_illegal,
    tile_illegal,
)
from rtcc.targets.cuda.kernels.fragments import Chunks, FragmentProduct
from rtcc.targets.cuda.kernels.partial_sums import (
    Finish,
    PartialSums,
    Place,
    Sums,
    adding_kernel,
    part_and_image,
)
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position


def make(
    problem: Im2colProblem, kind: Kind, epilogue: Epilogue | None, tile: FragmentTile, result: str
) -> tirx.PrimFunc:
    """The kernel (input, weights, *epilogue parameters, output); epilogue positions are the result's.

    result: TVM's name of the output's elements. With a tile of several parts it has `scratch` behind the
    output, and leaves its sums there.
    """
    shape = conv_shape(problem, kind)
    reason = tile_illegal(tile) or conv_illegal(problem) or grid_illegal(shape, tile, kind)
    assert reason is None, reason
    filter_taps = [window.taps for window in problem.windows]
    pixels, taps = prod(problem.output), prod(filter_taps)
    grid = -(-shape.rows // tile.rows), -(-problem.filters // tile.columns), tile.parts
    kernel = DeviceBuilder(grid, (tile.threads, 1, 1))
    channel_blocks = -(-problem.channels // kind.chunk)
    chunks = channel_blocks * taps
    data, weights, finish, partial = _declared(kernel, problem, kind, epilogue, tile, result)
    part, _ = part_and_image(kernel.block_index[2], 1, tile.parts)
    first_row, first_column = kernel.block_index[0] * tile.rows, kernel.block_index[1] * tile.columns

    def of_pixels(row: Index, chunk: Index) -> tuple[Expr, Expr]:
        pixel = first_row + row
        image, rest = tirx.truncdiv(pixel, pixels), tirx.truncmod(pixel, pixels)
        block, tap = tirx.truncdiv(chunk, taps), tirx.truncmod(chunk, taps)
        place, inside = image * channel_blocks + block, [pixel < shape.rows, chunk < chunks]
        for axis, window in enumerate(problem.windows):
            step = _digit(rest, problem.output, axis)
            at = kernel.bind("at", window.coordinate(step, _digit(tap, filter_taps, axis)))
            place = place * window.extent + at
            if window.before or window.overhang:
                inside += [at >= 0, at < window.extent]
        return place * kind.chunk, tirx.all(*inside)

    def of_filters(column: Index, chunk: Index) -> tuple[Expr, Expr]:
        place = (kernel.block_index[1] * chunks + chunk) * tile.columns + column
        return place * kind.chunk, chunk < chunks

    slabs = (
        Chunks.declared(kernel, tile, kind, "left_slab", tile.rows, data, of_pixels),
        Chunks.declared(kernel, tile, kind, "right_slab", tile.columns, weights, of_filters),
    )
    end = finish if partial is None else partial.of_part(part)

    def store(row: Index, column: Index, sums: Sums) -> None:
        at = 0, kernel.bind("pixel", first_row + row), kernel.bind("filter", first_column + column)
        end(at, sums)

    FragmentProduct(kernel, tile, kind, chunks, *slabs, part).emit(store)
    return kernel.finish()


def make_sums(
    problem: Im2colProblem, kind: Kind, epilogue: Epilogue | None, tile: FragmentTile, result: str
) -> tirx.PrimFunc:
    """The kernel that adds up what `make` leaves in scratch, with the same parameters."""
    return adding_kernel(
        conv_shape(problem, kind), PAIR,
        lambda kernel: _declared(kernel, problem, kind, epilogue, tile, result)[2:],
    )  # fmt: skip


def _declared(
    kernel: DeviceBuilder, problem: Im2colProblem, kind: Kind, epilogue: Epilogue | None,
    tile: FragmentTile, result: str,
) -> tuple[tirx.Buffer, tirx.Buffer, Finish, PartialSums | None]:  # fmt: skip
    """Data and weights, how results are stored, and the scratch of several parts."""
    shape, pixels = conv_shape(problem, kind), prod(problem.output)
    extent = prod(window.extent for window in problem.windows)
    channel_blocks, blocks = (-(-count // kind.chunk) for count in (problem.channels, problem.filters))
    columns = -(-problem.filters // tile.columns) * tile.columns
    data = kernel.buffer("input", (problem.batch * channel_blocks * extent * kind.chunk,), kind.left)
    weights = kernel.buffer("weights", (columns * shape.depth,), kind.right)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.batch * blocks * pixels, kind.chunk), result)
    partial = PartialSums.declared(kernel, shape, tile.parts, PAIR, kind.total)

    def store(at: Place, sums: Sums) -> None:
        _, pixel, filter_ = at
        image, rest = kernel.bind("image", tirx.truncdiv(pixel, pixels)), tirx.truncmod(pixel, pixels)
        place = tuple(_digit(rest, problem.output, axis) for axis in range(5 - problem.rank, 3))

        def value(lane: Index) -> Expr:
            return finish(sums(lane), Position((image, filter_ + lane, *place), problem.rank - 1, 1))

        line = (image * blocks + tirx.truncdiv(filter_, kind.chunk)) * pixels + rest
        exists = tirx.all(pixel < shape.rows, filter_ < blocks * kind.chunk)
        is_whole = problem.filters % kind.chunk == 0
        store_neighbours(
            kernel, output, [line], tirx.truncmod(filter_, kind.chunk), PAIR, value, exists,
            None if is_whole else lambda lane: filter_ + lane < problem.filters,
        )  # fmt: skip

    return data, weights, store, partial


def _digit(number: Index, counts: Sequence[int], axis: int) -> Index:
    """A number's coordinate on an axis, of a grid with such extents."""
    if counts[axis] == 1:
        return tirx.IntImm("int32", 0)
    rest = prod(counts[axis + 1 :])
    upper = tirx.truncdiv(number, rest) if rest > 1 else number
    return upper if prod(counts[:axis]) == 1 else tirx.truncmod(upper, counts[axis])
