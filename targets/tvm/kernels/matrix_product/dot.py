# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Few rows times a transposed matrix: output[i, m, n] = epilogue(Σ_k left[i, m, k] · right[i, n, k]).

Both sides are read along k. One vector of the output takes as many accumulators as it has lanes; at the end
these are added up crosswise, which leaves column n in lane n.
"""

from __future__ import annotations

from tvm import tirx

from rtcc.targets.tvm.function_builder import FunctionBuilder, Index, splat, vector
from rtcc.targets.tvm.kernels.epilogue import BoundEpilogue, Epilogue, Position
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem
from rtcc.targets.tvm.kernels.panel import pieces


def make(problem: MatmulProblem, epilogue: Epilogue | None = None) -> tirx.PrimFunc:
    """The kernel (task, tasks, left, right, *epilogue parameters, output)."""
    lanes = problem.lanes
    kernel = FunctionBuilder()
    matrices = [1 if shared else problem.batch for shared in (problem.shares_left, problem.shares_right)]
    left = kernel.buffer("left", (matrices[0], problem.rows, problem.depth))
    right = kernel.buffer("right", (matrices[1], problem.columns, problem.depth))
    finish = BoundEpilogue(kernel, epilogue)
    output = kernel.buffer("output", (problem.batch, problem.rows, problem.columns))
    whole = problem.columns // lanes
    with kernel.tasks("step", problem.batch * problem.vectors) as step:
        group = kernel.bind("group", tirx.truncmod(step, problem.vectors))
        image = kernel.bind("image", tirx.truncdiv(step, problem.vectors))

        def emit(columns: int) -> None:
            with kernel.serial("m", problem.rows) as m:
                first = [0 if problem.shares_left else image, 0 if problem.shares_right else image]
                acc = _products(kernel, problem, left, right, (*first, m, group * lanes), columns)
                _add_up(kernel, acc, lanes)
                for start, length in pieces(columns, lanes):
                    at = Position((image, m, group * lanes + start), 2, length)
                    value = finish(acc[vector(start, length)], at)
                    kernel.store(output, [image, m, vector(group * lanes + start, length)], value)

        if whole:
            with kernel.when(tirx.LT(group, whole) if whole < problem.vectors else None):
                emit(lanes)
        if whole < problem.vectors:
            with kernel.when(tirx.EQ(group, whole) if whole else None):
                emit(problem.columns - whole * lanes)
    return kernel.finish()


def _products(
    kernel: FunctionBuilder,
    problem: MatmulProblem,
    left: tirx.Buffer,
    right: tirx.Buffer,
    at: tuple[Index, Index, Index, Index],
    columns: int,
) -> tirx.Buffer:
    """One accumulator per column, to be added up over its lanes; what remains of k goes to lane 0."""
    left_image, right_image, m, n = at
    lanes, depth = problem.lanes, problem.depth
    acc = kernel.local("acc", (lanes * lanes,))
    with kernel.unrolled("j", lanes) as j:
        kernel.store(acc, [vector(j * lanes, lanes)], splat(0.0, lanes))

    def step(k: Index, count: int) -> None:
        with kernel.unrolled("j", columns) as j:
            place = vector(j * lanes, count)
            product = left[left_image, m, vector(k, count)] * right[right_image, n + j, vector(k, count)]
            kernel.store(acc, [place], acc[place] + product)

    with kernel.serial("k", depth // lanes) as k:
        step(k * lanes, lanes)
    for start, length in pieces(depth % lanes, lanes):
        step(depth // lanes * lanes + start, length)
    return acc


def _add_up(kernel: FunctionBuilder, acc: tirx.Buffer, lanes: int) -> None:
    """acc[0 : lanes] becomes, in lane n, the sum over accumulator n."""
    distance = lanes // 2
    while distance:
        first = [lane if not lane & distance else lane - distance + lanes for lane in range(lanes)]
        second = [lane + distance if not lane & distance else lane + lanes for lane in range(lanes)]
        for i in range(distance):
            pair = [acc[vector(i * lanes, lanes)], acc[vector((i + distance) * lanes, lanes)]]
            total = tirx.Shuffle(pair, first) + tirx.Shuffle(pair, second)
            kernel.store(acc, [vector(i * lanes, lanes)], total)
        distance //= 2
