"""What a matrix product is told, how its constants are packed, and the tile that suits it; needs no TVM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from rtcc.ir import DType
from rtcc.targets.tvm.kernels.numbers import FLOATS, Numbers
from rtcc.targets.tvm.kernels.shares import uneven, work_before
from rtcc.targets.tvm.kernels.tiling import cycles_per_step, split_evenly

FEW_ROWS = 4
"""Up to so many rows a right-hand activation is read where it lies."""

COPY_ROWS = 4
"""Rows of products that take as long as copying the right-hand matrix that they need."""

MOST_ACCUMULATORS = 256
"""Vectors that a tile may keep: several times any register file; what is more leaves the stack."""


REGISTER_CYCLES, PANEL_CYCLES = 1.5, 6.0
"""Of widening a vector of stored weights: in registers, by each tile of rows; to scratch, for all of them."""


MOST_GROUP_SIZES = 1 << 14
"""Up to so many tiles every size of a group of them is weighed."""


class Right(Enum):
    """How the right-hand matrix lies in memory."""

    PACKED = "packed"
    PLAIN = "plain"
    TRANSPOSED = "transposed"


@dataclass(frozen=True)
class Stored:
    """A packed matrix in fewer bits; block: how many rows share a scale, 0 where there are no scales."""

    element: DType
    block: int = 0

    @property
    def rows(self) -> int:
        """How many rows of the matrix lie in one row of the container's elements."""
        return 2 if self.element is DType.I4 else 1

    @property
    def bytes(self) -> int:
        """Of one element of the container."""
        return self.element.bits * self.rows // 8


@dataclass(frozen=True)
class MatmulProblem:
    """[batch, rows, depth] x [batch, depth, columns]; a shared side is one matrix for all of the batch.

    stored: how a packed right-hand matrix is stored, None: in float32.
    """

    rows: int
    columns: int
    depth: int
    batch: int = 1
    shares_left: bool = False
    shares_right: bool = False
    right: Right = Right.PACKED
    lanes: int = 16
    stored: Stored | None = None
    numbers: Numbers = FLOATS

    @property
    def vectors(self) -> int:
        """Vectors in a row of the output, the last possibly partial."""
        return -(-self.columns // self.lanes)


@dataclass(frozen=True)
class MatmulTile:
    """`rows` by `vectors` accumulators, `steps` times; `group` row tiles are done before the next columns."""

    rows: int
    vectors: int
    steps: int = 1
    group: int = 1


def tile_illegal(tile: MatmulTile) -> str | None:
    """Why no product can be cut into such tiles, or None."""
    held = tile.rows * tile.vectors * tile.steps
    return (
        f"it keeps {held} vectors, expected at most {MOST_ACCUMULATORS}" if held > MOST_ACCUMULATORS else None
    )


def copies_right(problem: MatmulProblem) -> bool:
    """Whether the right matrix is copied to scratch group by group; few rows do not repay that."""
    return problem.right is not Right.PACKED and problem.rows > FEW_ROWS


def scratch_bytes(problem: MatmulProblem, tile: MatmulTile) -> int:
    """What each task needs as scratch, in bytes; 0 means that the kernel has no such parameter."""
    if widens_to_scratch(problem, tile.rows):
        return problem.numbers.bytes * problem.depth * tile.vectors * problem.lanes
    partial = problem.right is Right.PLAIN and problem.columns % (tile.vectors * problem.lanes)
    if not copies_right(problem) and not partial:
        return 0
    return problem.numbers.bytes * problem.depth * tile.vectors * problem.lanes


def widens_to_scratch(problem: MatmulProblem, rows: int) -> bool:
    """Whether stored weights are widened once for all tiles of so many rows."""
    return problem.stored is not None and REGISTER_CYCLES * -(-problem.rows // rows) > PANEL_CYCLES


def widening_cycles(problem: MatmulProblem, rows: int, vectors: int) -> float:
    """Of a step of k: what widening the stored weights takes for all tiles of so many rows."""
    if problem.stored is None:
        return 0.0
    return vectors * min(REGISTER_CYCLES * -(-problem.rows // rows), PANEL_CYCLES)


def choose_tile(problem: MatmulProblem, registers: int, cache: int = 1 << 20, tasks: int = 1) -> MatmulTile:
    """The tile with the least estimated time; arguments as `conv_tiles.direct_tiles`'s."""
    return best_tiles(problem, registers, cache, tasks, 1)[0]


def best_tiles(
    problem: MatmulProblem, registers: int, cache: int = 1 << 20, tasks: int = 1, count: int = 1
) -> list[MatmulTile]:
    """The tiles with the least estimated time, the best first."""
    if problem.right is Right.TRANSPOSED and not copies_right(problem):
        return [MatmulTile(1, 1)]
    candidates = {
        (split_evenly(problem.rows, most)[0], nt)
        for nt in range(1, min(8, problem.vectors) + 1)
        for most in range(1, (registers - nt - 1) // nt + 1)
        if nt <= 4 or most * nt <= registers * 3 // 4
    }

    def cost(shape: tuple[int, int]) -> float:
        rows, nt = shape
        groups = -(-problem.vectors // nt)
        panel = problem.numbers.bytes * problem.depth * nt * problem.lanes
        far = 1 + max(0.0, panel / (cache * 5 // 8) - 1) / 4 if problem.rows > rows else 1.0
        sharing = imbalance(problem, rows, groups, tasks)
        cycles = cycles_per_step(problem.rows, rows, nt, first_use=2.0 / problem.lanes)
        cycles += widening_cycles(problem, rows, nt)
        return groups * cycles * sharing * far * (1.5 if _rows_in_one_set(problem, rows) > 8 else 1.0)

    return [
        MatmulTile(rows, nt, min(4, -(-8 // (rows * nt))), _row_group(problem, rows, nt, cache // 2, tasks))
        for rows, nt in sorted(sorted(candidates), key=cost)[:count]
    ]


def _rows_in_one_set(problem: MatmulProblem, rows: int) -> int:
    """How many rows of a tile fall on the same set of a first cache whose ways hold 4 KiB each."""
    stride = problem.numbers.bytes * problem.depth
    return -(-rows // (4096 // math.gcd(4096, stride))) if stride % 64 == 0 else 1


def imbalance(problem: MatmulProblem, rows: int, groups: int, tasks: int) -> float:
    """How much longer the busiest task works than if all did the same; a step is `rows` rows of a group."""
    steps = problem.batch * -(-problem.rows // rows) * groups
    return uneven(steps, tasks, work_before(problem.rows, rows, groups))


def _row_group(problem: MatmulProblem, rows: int, nt: int, cache: int, tasks: int) -> int:
    """Row tiles to finish before the next columns such that the far memory is read least.

    A right-hand matrix that is copied is copied once for each group of rows.
    """
    tiles, groups = -(-problem.rows // rows), -(-problem.vectors // nt)
    copied = COPY_ROWS / problem.rows if copies_right(problem) else 0.0
    line = problem.numbers.bytes * problem.depth
    left, right = line * problem.rows, line * problem.columns

    def rank(group: int) -> tuple[float, int, int]:
        row_groups = -(-tiles // group)
        near = line * group * rows <= cache
        traffic = (row_groups if right > cache else 1) * right + (1 if near else groups) * left
        time = imbalance(problem, group * rows, groups, tasks) * (1 + copied * row_groups)
        return round(time, 2), row_groups if copied else traffic, -group

    return min(_group_sizes(tiles), key=rank)


def _group_sizes(tiles: int) -> Sequence[int]:
    """The sizes of groups to weigh: all, or of very many tiles small ones and those that make few groups."""
    if tiles <= MOST_GROUP_SIZES:
        return range(1, tiles + 1)
    few = range(1, math.isqrt(tiles) + 1)
    return sorted({*few, *(-(-tiles // count) for count in few)})
