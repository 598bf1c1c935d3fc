# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Matrix products by constants on tensor cores: rows as they lie, the constant packed in chunks.

A packed constant is [blocks of columns][chunks of the sum][columns of a block][elements of a chunk].
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.kernels.fragment_tiles import FragmentTile, Kind, product_illegal, tile_illegal
from rtcc.targets.cuda.kernels.fragments import Chunks, FragmentProduct
from rtcc.targets.cuda.kernels.stores import store_neighbours
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem


def make(
    problem: MatmulProblem, kind: Kind, epilogue: Epilogue | None, tile: FragmentTile, result: str
) -> tirx.PrimFunc:
    """The kernel (left, right, *epilogue parameters, output); epilogue positions are (0, row, column).

    result: TVM's name of the output's elements.
    """
    reason = tile_illegal(tile) or product_illegal(problem, kind)
    assert reason is None, reason
    grid = -(-problem.columns // tile.columns), -(-problem.rows // tile.rows), 1
    kernel = DeviceBuilder(grid, (tile.threads, 1, 1))
    chunks = problem.depth // kind.chunk
    left = kernel.buffer("left", (problem.rows * problem.depth,), kind.left)
    right = kernel.buffer("right", (grid[0] * tile.columns * problem.depth,), kind.right)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.rows, problem.columns), result)
    across, down, _ = kernel.block_index
    first_row, first_column = down * tile.rows, across * tile.columns

    def of_rows(row: Index, chunk: Index) -> tuple[Expr, Expr]:
        place = (first_row + row) * problem.depth + chunk * kind.chunk
        return place, tirx.all(first_row + row < problem.rows, chunk < chunks)

    def of_constants(column: Index, chunk: Index) -> tuple[Expr, Expr]:
        return ((across * chunks + chunk) * tile.columns + column) * kind.chunk, chunk < chunks

    slabs = (
        Chunks.declared(kernel, tile, kind, "left_slab", tile.rows, left, of_rows),
        Chunks.declared(kernel, tile, kind, "right_slab", tile.columns, right, of_constants),
    )

    def store(row: Index, column: Index, sums: Callable[[Index], Expr]) -> None:
        at, where = kernel.bind("at", first_row + row), kernel.bind("where", first_column + column)
        store_neighbours(
            kernel, output, [at], where, 2,
            lambda lane: finish(sums(lane), Position((0, at, where + lane), 2, 1)), at < problem.rows,
        )  # fmt: skip

    FragmentProduct(kernel, tile, kind, chunks, *slabs).emit(store)
    return kernel.finish()
