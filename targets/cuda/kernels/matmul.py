# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Matrix products: [batch, rows, depth] x [batch, depth, columns], or by a constant that is packed.

A packed constant is [blocks of columns][depth][columns of a block]; blocks are as wide as tiles.
"""

from __future__ import annotations

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.gemm import Product
from rtcc.targets.cuda.kernels.gemm_tiles import QUAD, GemmTile, product_shape, tile_illegal
from rtcc.targets.cuda.kernels.partial_sums import (
    Finish,
    PartialSums,
    Place,
    Sums,
    adding_kernel,
    part_and_image,
)
from rtcc.targets.cuda.kernels.slabs import Columns, Matrix, Packed, Rows, Slab
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, Right


def make(
    problem: MatmulProblem, epilogue: Epilogue | None, tile: GemmTile, result: str = "float32"
) -> tirx.PrimFunc:
    """The kernel (left, right, *epilogue parameters, output); epilogue positions are (image, row, column).

    result: TVM's name of the output's elements. With a tile of several parts it has `scratch` behind the
    output, and leaves its sums there.
    """
    shape = product_shape(problem)
    reason = tile_illegal(tile, left_in_rows=True) or shape.illegal(tile)
    assert reason is None, reason
    assert problem.right is not Right.TRANSPOSED, "the right-hand matrix is plain or packed"
    kernel = DeviceBuilder(shape.blocks(tile), (tile.threads, 1, 1))
    left, right, finish, partial = _declared(kernel, problem, epilogue, tile, result)
    across, down, outer = kernel.block_index
    part, image = part_and_image(outer, shape.batch, tile.parts)
    first_row, first_column = down * tile.rows, across * tile.columns
    begin = 0 if problem.shares_left else image * (problem.rows * problem.depth)
    rows = Matrix(left, begin, problem.depth, problem.rows, problem.depth)
    product = Product(
        kernel, tile, problem.depth, Rows(kernel, tile, rows, first_row),
        _right_slab(kernel, problem, tile, right, (across, image)), left_in_rows=True, part=part,
    )  # fmt: skip
    end = finish if partial is None else partial.of_part(part)

    def store(row: Index, column: Index, sums: Sums) -> None:
        at = image, kernel.bind("row", first_row + row), kernel.bind("column", first_column + column)
        end(at, sums)

    product.emit(store)
    return kernel.finish()


def make_sums(
    problem: MatmulProblem, epilogue: Epilogue | None, tile: GemmTile, result: str = "float32"
) -> tirx.PrimFunc:
    """The kernel that adds up what `make` leaves in scratch, with the same parameters."""
    return adding_kernel(
        product_shape(problem), QUAD, lambda kernel: _declared(kernel, problem, epilogue, tile, result)[2:]
    )


def _declared(
    kernel: DeviceBuilder, problem: MatmulProblem, epilogue: Epilogue | None, tile: GemmTile,
    result: str,
) -> tuple[tirx.Buffer, tirx.Buffer, Finish, PartialSums | None]:  # fmt: skip
    """Both operands, how results are stored, and the scratch of several parts."""
    lefts = 1 if problem.shares_left else problem.batch
    left = kernel.buffer("left", (lefts * problem.rows * problem.depth,))
    right = kernel.buffer("right", (_right_elements(problem, tile),))
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.batch, problem.rows, problem.columns), result)
    partial = PartialSums.declared(kernel, product_shape(problem), tile.parts, QUAD, "float32")

    def store(at: Place, sums: Sums) -> None:
        image, row, column = at

        def value(lane: Index) -> Expr:
            return finish(sums(lane), Position((image, row, column + lane), 2, 1))

        store_neighbours(kernel, output, [image, row], column, QUAD, value, row < problem.rows)

    return left, right, store, partial


def _right_elements(problem: MatmulProblem, tile: GemmTile) -> int:
    if problem.right is Right.PACKED:
        return -(-problem.columns // tile.columns) * problem.depth * tile.columns
    return (1 if problem.shares_right else problem.batch) * problem.depth * problem.columns


def _right_slab(
    kernel: DeviceBuilder, problem: MatmulProblem, tile: GemmTile, right: tirx.Buffer,
    at: tuple[Index, Index],
) -> Slab:  # fmt: skip
    """at: the block's place along the columns, and the image."""
    across, image = at
    if problem.right is Right.PACKED:
        begin = across * (problem.depth * tile.columns)
        packed = Matrix(right, begin, tile.columns, problem.depth, tile.columns)
        return Packed(kernel, "right_slab", tile, packed)
    begin = 0 if problem.shares_right else image * (problem.depth * problem.columns)
    matrix = Matrix(right, begin, problem.columns, problem.depth, problem.columns)
    return Columns(kernel, tile, matrix, across * tile.columns)
