# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Winograd's convolution of plain tensors in three launches: transform, products, transform back.

    V[p, c, t] = (Bᵀ d B)[p]                         # a thread has a tile t of a channel c
    M[p, f, t] = Σ_c weights[f, p, c] · V[p, c, t]   # for each point p a product by blocks, as `gemm` has it
    output[tile t of f] = epilogue(Aᵀ M A)           # a thread has a tile of a filter

Weights are [blocks of filters][points][channels][filters of a block]; blocks are as high as tiles of the
products. All tiles are whole: what the last ones have too much is not stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.gemm import Product
from rtcc.targets.cuda.kernels.gemm_tiles import QUAD, GemmTile
from rtcc.targets.cuda.kernels.partial_sums import THREADS, Sums
from rtcc.targets.cuda.kernels.slabs import Columns, Matrix, Packed
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.cuda.kernels.winograd_tiles import (
    first_product,
    problem_illegal,
    product_illegal,
    product_shape,
    scratch_lines,
)
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.transformed.constant_matrix import multiplied
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem


def make_inputs(
    problem: WinogradProblem, epilogue: Epilogue | None, tile: GemmTile, result: str = "float32"
) -> tirx.PrimFunc:
    """The kernel that transforms the input; its parameters are those of `make`."""
    conv, (rows, columns), (down, across) = problem.conv, problem.points, problem.transforms
    phase = _Phase(_threads(conv.channels * problem.tiles), problem, epilogue, tile, result)
    kernel = phase.kernel
    with phase.tiles(conv.channels) as (channel, t):
        image, top, left = phase.corner(t)
        plane = kernel.bind("plane", (image * conv.channels + channel) * (conv.height * conv.width))
        given = kernel.local("given", (rows * columns,))
        with kernel.unrolled("i", rows) as i:
            y = kernel.bind("y", top - conv.pads[0] + i)
            with kernel.unrolled("j", columns) as j:
                x = kernel.bind("x", left - conv.pads[1] + j)
                inside = tirx.all(y >= 0, y < conv.height, x >= 0, x < conv.width)
                element = phase.data[plane + y * conv.width + x]
                zero = tirx.const(0.0, "float32")
                kernel.store(given, [i * columns + j], tirx.if_then_else(inside, element, zero))
        half = kernel.local("half", (rows * columns,))
        with kernel.unrolled("j", columns) as j:
            values = [given[i * columns + j] for i in range(rows)]
            for i, value in enumerate(multiplied(kernel, down.input, values)):
                kernel.store(half, [i * columns + j], value)
        with kernel.unrolled("i", rows) as i:
            values = [half[i * columns + j] for j in range(columns)]
            for j, value in enumerate(multiplied(kernel, across.input, values)):
                line = (i * columns + j) * conv.channels + channel
                kernel.store(phase.scratch, [line, t], value)
    return kernel.finish()


def make(
    problem: WinogradProblem, epilogue: Epilogue | None, tile: GemmTile, result: str = "float32"
) -> tirx.PrimFunc:
    """The kernel of the products (input, weights, *epilogue parameters, output, scratch).

    result: TVM's name of the output's elements.
    """
    reason = problem_illegal(problem) or product_illegal(problem, tile)
    assert reason is None, reason
    shape = product_shape(problem)
    phase = _Phase(DeviceBuilder(shape.blocks(tile), (tile.threads, 1, 1)), problem, epilogue, tile, result)
    kernel = phase.kernel
    across, down, point = kernel.block_index
    begin = (down * shape.batch + point) * (shape.depth * tile.rows)
    filters = Matrix(phase.weights, begin, tile.rows, shape.depth, tile.rows)
    begin = point * (shape.depth * shape.pitch)
    tiles = Matrix(kernel.flat(phase.scratch), begin, shape.pitch, shape.depth, shape.pitch)
    product = Product(
        kernel, tile, shape.depth, Packed(kernel, "left_slab", tile, filters),
        Columns(kernel, tile, tiles, across * tile.columns), left_in_rows=False,
    )  # fmt: skip

    def store(row: Index, column: Index, sums: Sums) -> None:
        at, first = kernel.bind("row", down * tile.rows + row), across * tile.columns + column
        line = first_product(problem) + point * shape.rows + at
        store_neighbours(kernel, phase.scratch, [line], first, QUAD, sums, at < shape.rows)

    product.emit(store)
    return kernel.finish()


def make_results(
    problem: WinogradProblem, epilogue: Epilogue | None, tile: GemmTile, result: str = "float32"
) -> tirx.PrimFunc:
    """The kernel that transforms the products back; its parameters are those of `make`."""
    conv, (rows, columns), (down, across) = problem.conv, problem.points, problem.transforms
    phase = _Phase(_threads(conv.filters * problem.tiles), problem, epilogue, tile, result)
    kernel, (height, width) = phase.kernel, problem.outputs
    with phase.tiles(conv.filters) as (filter_, t):
        image, top, left = phase.corner(t)
        half = kernel.local("half", (height * columns,))
        with kernel.unrolled("j", columns) as j:
            lines = [first_product(problem) + (i * columns + j) * conv.filters for i in range(rows)]
            values = [kernel.kept(phase.scratch[line + filter_, t]) for line in lines]
            for i, value in enumerate(multiplied(kernel, down.output, values)):
                kernel.store(half, [i * columns + j], value)
        with kernel.unrolled("i", height) as i:
            y, results = kernel.bind("y", top + i), kernel.local("results", (width,))
            values = [half[i * columns + j] for j in range(columns)]
            for j, value in enumerate(multiplied(kernel, across.output, values)):
                kernel.store(results, [j], value)

            def finished(lane: Index, y: Index = y, results: tirx.Buffer = results) -> Expr:
                return phase.finish(results[lane], Position((image, filter_, y, left + lane), 3, 1))

            place = [image, filter_, y]
            store_neighbours(kernel, phase.output, place, left, width, finished, y < conv.output_height)
    return kernel.finish()


def _threads(count: int) -> DeviceBuilder:
    """A kernel of so many threads that share nothing."""
    return DeviceBuilder((-(-count // THREADS), 1, 1), (THREADS, 1, 1))


class _Phase:
    """One of the kernels under construction: all of them have the same parameters."""

    def __init__(
        self, kernel: DeviceBuilder, problem: WinogradProblem, epilogue: Epilogue | None, tile: GemmTile,
        result: str,
    ) -> None:  # fmt: skip
        conv, shape = problem.conv, product_shape(problem)
        self.kernel, self.problem = kernel, problem
        self.data = kernel.buffer("input", (conv.batch * conv.channels * conv.height * conv.width,))
        packed = -(-conv.filters // tile.rows) * tile.rows * problem.products * conv.channels
        self.weights = kernel.buffer("weights", (packed,))
        self.finish = BoundEpilogue(kernel, epilogue)
        results = conv.batch, conv.filters, conv.output_height, conv.output_width
        self.output = kernel.buffer("output", results, result)
        self.scratch = kernel.buffer("scratch", (scratch_lines(problem), shape.pitch))

    @contextmanager
    def tiles(self, channels: int) -> Iterator[tuple[Expr, Expr]]:
        """The channel and the tile of this thread, where it has one; neighbours have neighbouring tiles."""
        kernel, count = self.kernel, self.problem.tiles
        number = kernel.bind("number", kernel.block_index[0] * THREADS + kernel.thread_index[0])
        with kernel.when(number < channels * count):
            channel = kernel.bind("channel", tirx.truncdiv(number, count))
            yield channel, kernel.bind("tile", tirx.truncmod(number, count))

    def corner(self, t: Expr) -> tuple[Expr, Expr, Expr]:
        """The image of a tile, and the row and column of its first output."""
        kernel, grid, (rows, columns) = self.kernel, self.problem.grid, self.problem.outputs
        image, rest = tirx.truncdiv(t, prod(grid)), tirx.truncmod(t, prod(grid))
        y, x = tirx.truncdiv(rest, grid[1]) * rows, tirx.truncmod(rest, grid[1]) * columns
        return kernel.bind("image", image), kernel.bind("top", y), kernel.bind("left", x)
