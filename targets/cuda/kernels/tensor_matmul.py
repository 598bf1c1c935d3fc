# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Matrix products on tensor cores: rows as they lie, by another matrix or a constant packed in chunks.

A packed constant is [blocks of columns][chunks of the sum][columns of a block][elements of a chunk].
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.fragment_tiles import FragmentTile, Kind, product_illegal, tile_illegal
from rtcc.targets.cuda.kernels.fragments import Chunks, FragmentProduct, Terms
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, Right


def make(
    problem: MatmulProblem, kind: Kind, epilogue: Epilogue | None, tile: FragmentTile, result: str
) -> tirx.PrimFunc:
    """The kernel (left, right, *epilogue parameters, output); epilogue positions are (image, row, column).

    result: TVM's name of the output's elements.
    """
    packed = problem.right is Right.PACKED
    reason = tile_illegal(tile, by_terms=not packed) or product_illegal(problem, kind)
    assert reason is None, reason
    grid = -(-problem.columns // tile.columns), -(-problem.rows // tile.rows), problem.batch
    kernel = DeviceBuilder(grid, (tile.threads, 1, 1))
    chunks = problem.depth // kind.chunk
    lefts, rights = (
        1 if shared else problem.batch for shared in (problem.shares_left, packed or problem.shares_right)
    )
    columns = grid[0] * tile.columns if packed else problem.columns
    left = kernel.buffer("left", (lefts * problem.rows * problem.depth,), kind.left)
    right = kernel.buffer("right", (rights * columns * problem.depth,), kind.right)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.batch, problem.rows, problem.columns), result)
    across, down, image = kernel.block_index
    first_row, first_column = down * tile.rows, across * tile.columns
    left_begin = 0 if lefts == 1 else image * (problem.rows * problem.depth)
    right_begin = 0 if rights == 1 else image * (problem.depth * problem.columns)

    def of_rows(row: Index, chunk: Index) -> tuple[Expr, Expr]:
        place = left_begin + (first_row + row) * problem.depth + chunk * kind.chunk
        return place, tirx.all(first_row + row < problem.rows, chunk < chunks)

    def of_constants(column: Index, chunk: Index) -> tuple[Expr, Expr]:
        return ((across * chunks + chunk) * tile.columns + column) * kind.chunk, chunk < chunks

    def of_terms(term: Index, chunk: Index) -> tuple[Expr, Expr]:
        column = first_column + chunk * kind.chunk
        exists = tirx.all(term < problem.depth, column < problem.columns)
        return right_begin + term * problem.columns + column, exists

    left_slab = Chunks.declared(kernel, tile, kind, "left_slab", tile.rows, left, of_rows)
    if packed:
        right_slab = Chunks.declared(kernel, tile, kind, "right_slab", tile.columns, right, of_constants)
    else:
        right_slab = Terms.declared(kernel, tile, kind, right, of_terms)

    def store(row: Index, column: Index, sums: Callable[[Index], Expr]) -> None:
        at, where = kernel.bind("at", first_row + row), kernel.bind("where", first_column + column)
        store_neighbours(
            kernel, output, [image, at], where, 2,
            lambda lane: finish(sums(lane), Position((image, at, where + lane), 2, 1)), at < problem.rows,
        )  # fmt: skip

    FragmentProduct(kernel, tile, kind, chunks, left_slab, right_slab).emit(store)
    return kernel.finish()
