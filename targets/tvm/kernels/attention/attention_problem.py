"""What an attention kernel is told, how it is cut into tiles, and what it needs as scratch; needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.summation import LONGEST

FLOAT_BYTES = 4

POWER_CYCLES = 14.0
"""Of one vector of scores, from its product to its power: measured on a Zen 5 with 16 lanes."""

STEP_CYCLES = 0.55
"""Of one multiply-add of vectors, tiles' beginnings and ends included."""

MOST_BYTES = 512 << 10
"""Keys and values of one head at most: they are read again for every block of rows, from the second cache."""

USUAL_ROWS = 12
"""Rows of a block: their products with the values fill the registers where a head is two vectors wide."""

MOST_ROWS = 96
"""Rows of a block at most; the scores of more leave the first cache."""

TILE_ROWS = 6
"""Rows of a register tile where it is more than two vectors wide."""


@dataclass(frozen=True)
class AttentionProblem:
    """softmax(Q·Kᵀ·scale + mask)·V of [batch, steps or length, heads, size] and values of `width`.

    mask: the sizes of what is added to the scores, each 1 or that of [batch, heads, steps, length].
    tile: rows of a block, 0 for the usual ones.
    """

    batch: int
    heads: int
    steps: int
    length: int
    size: int
    width: int
    scale: float
    mask: tuple[int, ...] | None = None
    lanes: int = 16
    tile: int = 0

    @property
    def rows(self) -> int:
        """Rows of a block; the last block is moved back to end with the last row."""
        return self.tile or min(USUAL_ROWS, self.steps)

    @property
    def blocks(self) -> int:
        """Blocks of rows of one head."""
        return -(-self.steps // self.rows)

    @property
    def key_vectors(self) -> int:
        """Vectors of a row of scores, the last possibly partial."""
        return -(-self.length // self.lanes)

    @property
    def most_vectors(self) -> int:
        """Vectors of a register tile of `TILE_ROWS` rows: 32 registers with 16 lanes, 16 with fewer."""
        return 4 if self.lanes == 16 else 2


def parts_of_scratch(problem: AttentionProblem) -> tuple[int, int, int, int]:
    """Floats of the transposed keys, the values, a block's scores, and its sums; whole vectors each."""
    row = problem.key_vectors * problem.lanes
    sums = -(-problem.rows // problem.lanes) * problem.lanes
    return row * problem.size, problem.length * problem.width, problem.rows * row, sums


def scratch_bytes(problem: AttentionProblem) -> int:
    """What each task needs as scratch, in bytes."""
    return FLOAT_BYTES * sum(parts_of_scratch(problem))


def attention_illegal(problem: AttentionProblem) -> str | None:
    """Why the kernel cannot do the problem, or None."""
    if min(problem.batch, problem.heads, problem.steps, problem.size, problem.width) < 1:
        return "an operand has no elements"
    if problem.width % problem.lanes:
        return f"the values have {problem.width} columns, not whole vectors of {problem.lanes}"
    if not problem.lanes <= problem.length <= LONGEST or problem.size > LONGEST:
        return f"it sums {problem.length} keys of {problem.size} numbers, at most {LONGEST} are possible"
    if problem.rows > min(MOST_ROWS, problem.steps):
        return f"a block has {problem.rows} rows, expected at most {min(MOST_ROWS, problem.steps)}"
    keys, values, _, _ = parts_of_scratch(problem)
    if FLOAT_BYTES * (keys + values) > MOST_BYTES:
        return f"keys and values of a head take {FLOAT_BYTES * (keys + values)} bytes, more than {MOST_BYTES}"
    return None


def attention_demand(problem: AttentionProblem) -> Demand:
    """What the kernel asks of a machine: its arithmetic, each operand once, and the result."""
    rows = problem.batch * problem.heads * problem.steps
    columns = problem.key_vectors * problem.size + problem.length * problem.width / problem.lanes
    heads = FLOAT_BYTES * problem.batch * problem.heads
    return Demand(
        rows * (STEP_CYCLES * columns + POWER_CYCLES * problem.key_vectors),
        (
            Stream(heads * problem.steps * problem.size),
            Stream(heads * problem.length * problem.size),
            Stream(heads * problem.length * problem.width),
            Stream(heads * problem.steps * problem.width),
        ),
        problem.batch * problem.heads * problem.blocks,
    )
