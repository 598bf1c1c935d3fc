"""What the matrix product's micro-kernel asks of a machine, for the tile that it was given; needs no TVM."""

from __future__ import annotations

from functools import partial

from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import (
    MatmulProblem,
    MatmulTile,
    Right,
    imbalance,
    widening_cycles,
)
from rtcc.targets.tvm.kernels.tiling import cycles_per_step


def matmul_demand(problem: MatmulProblem, tile: MatmulTile, cache: int) -> Demand:
    """`matmul`: groups of columns one after the other, each against all rows."""
    groups = -(-problem.vectors // tile.vectors)
    row_tiles = -(-problem.rows // tile.rows)
    row = cycles_per_step(problem.rows, tile.rows, tile.vectors, first_use=2.0 / problem.lanes)
    if tile.steps > 1:  # several sums per accumulator, so that nobody waits for the one before
        row /= tile.steps
    size = problem.numbers.bytes
    bits = 8 * size if problem.stored is None else problem.stored.element.bits
    right = bits / 8 * problem.depth * problem.vectors * problem.lanes
    left = float(size) * problem.depth * problem.rows
    row += widening_cycles(problem, tile.rows, tile.vectors)
    near = size * problem.depth * tile.group * tile.rows <= cache // 2
    return Demand(
        problem.batch * groups * problem.depth * row,
        (
            Stream(
                right * (1 if problem.shares_right else problem.batch),
                (-(-row_tiles // tile.group) if right > cache // 2 else 1)
                * (problem.batch if problem.shares_right else 1),
                right,
                problem.right is Right.PACKED,
            ),
            Stream(left * (1 if problem.shares_left else problem.batch), 1 if near else groups, left),
            Stream(float(size) * problem.batch * problem.rows * problem.columns),
        ),
        problem.batch * groups * -(-row_tiles // tile.group),
        partial(imbalance, problem, tile.group * tile.rows, groups),
    )
