# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Matrix product by a stored sparse matrix, vectors of outputs to a block: the dense product's inner loop.

    for column of blocks, tile of rows:                      # columns shared out among tasks
        for b in starts[column] to starts[column + 1]:
            acc[m] += left[m, terms[b]] · values[b]          # acc in registers, values one vector or several
        output[m, column] = epilogue(acc[m])

With few rows several blocks go to accumulators of their own: multiply-adds do not wait for each other.
Values are read once, in order. Terms and starts out of range, which only edited ones can be, are cut to it.
"""

from __future__ import annotations

from tvm import tirx

from rtcc.targets.tvm.function_builder import FunctionBuilder, Index, splat, vector
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.output_row import Accumulators
from rtcc.targets.tvm.kernels.sparse.sparse_tiles import ProductTile, SparseProduct
from rtcc.targets.tvm.kernels.sparse.stored_matrix import StoredMatrix


def make(problem: SparseProduct, epilogue: Epilogue | None, tile: ProductTile) -> tirx.PrimFunc:
    """The kernel (task, tasks, left, values, terms, starts, *epilogue parameters, output).

    The epilogue sees positions (0, row, column), as that of `matmul`.
    """
    kernel = FunctionBuilder()
    left = kernel.buffer("left", (problem.rows, problem.depth))
    columns = problem.outputs // tile.outputs
    matrix = StoredMatrix.declare(kernel, problem.blocks, tile.outputs, columns)
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.rows, problem.outputs))
    lanes, vectors = problem.lanes, tile.outputs // problem.lanes

    def rows(column: Index, row: Index, count: int) -> None:
        sums = [
            Accumulators.cleared(kernel, f"sums{step}", count, vectors, lanes) for step in range(tile.steps)
        ]

        def add(block: Index, step: int) -> None:
            term = matrix.term(kernel, block, problem.depth)
            for j in range(vectors):
                value = matrix.values[block, vector(j * lanes, lanes)]
                for m in range(count):
                    sums[step].add(kernel, m, j, splat(left[row + m, term], lanes) * value)

        begin, stored = matrix.bounds(kernel, column)
        whole = kernel.bind("whole", tirx.truncdiv(tirx.Max(stored, tirx.IntImm("int32", 0)), tile.steps))
        with kernel.serial("turn", whole) as turn:
            for step in range(tile.steps):
                add(kernel.bind("block", begin + turn * tile.steps + step), step)
        with kernel.serial("rest", stored - whole * tile.steps, begin + whole * tile.steps) as block:
            add(block, 0)
        for other in sums[1:]:
            sums[0].add_all(kernel, other)
        for m in range(count):
            for j in range(vectors):
                at = Position((0, row + m, column * tile.outputs + j * lanes), 2, lanes)
                value = finish(sums[0].buffer[sums[0].place(m, j)], at)
                kernel.store(output, [row + m, vector(column * tile.outputs + j * lanes, lanes)], value)

    whole, rest = divmod(problem.rows, tile.rows)
    with kernel.tasks("column", columns) as column:
        if whole:
            with kernel.serial("tile", whole) as number:
                rows(column, kernel.bind("row", number * tile.rows), tile.rows)
        if rest:
            rows(column, tirx.IntImm("int32", whole * tile.rows), rest)
    return kernel.finish()
