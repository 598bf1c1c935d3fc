"""How attention is cut up among blocks and warps, and what that takes; needs no TVM.

Halves are multiplied on tensor cores, float32 by threads; a tile is the same for both.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.targets.cuda.kernels.fragment_tiles import COLUMNS, MMA_LANES, ROWS, Kind
from rtcc.targets.cuda.kernels.gemm_tiles import (
    BLOCK_CYCLES,
    COPY_CYCLES,
    LARGEST_PLACE,
    MOST_BLOCKS,
    QUAD,
    SHARED_BYTES,
    STEP_CYCLES,
    Multiprocessors,
)
from rtcc.targets.tvm.kernels.attention.attention_problem import AttentionProblem

WARP = 32
"""Threads that go in step."""

LANES = 16
"""Threads that share rows where there are no tensor cores: half a warp."""

ROW_GROUPS = 8
"""Such halves of warps in a block, as long as each has at most `MOST_ROWS` rows."""

MOST_ROWS = 4
"""Rows of a thread, without tensor cores."""

MOST_SIZE = 128
"""Numbers of a head: queries and the result's sums stay in registers."""


@dataclass(frozen=True)
class AttentionTile:
    """A block has `rows` queries of a head, and meets `keys` of them at a time.

    stages: slabs of keys and values in shared memory. slices: groups of warps that divide the keys of a slab
    where there are too few queries for all; on tensor cores alone.
    """

    rows: int
    keys: int
    stages: int = 2
    slices: int = 1

    @property
    def warps(self) -> int:
        """Warps of a block on tensor cores."""
        return self.rows // ROWS * self.slices

    @property
    def own_keys(self) -> int:
        """Keys of a slab that a warp multiplies."""
        return self.keys // self.slices

    @property
    def thread_rows(self) -> int:
        """Rows of a thread without tensor cores."""
        return min(MOST_ROWS, max(1, self.rows // ROW_GROUPS))

    @property
    def threads_of_lanes(self) -> int:
        """Threads of a block without tensor cores."""
        return self.rows // self.thread_rows * LANES


@dataclass(frozen=True)
class Slabs:
    """What a tile takes of a block for one problem; pitches are elements from a row to the next one."""

    problem: AttentionProblem
    tile: AttentionTile
    kind: Kind | None

    @property
    def chunk(self) -> int:
        """Elements that are copied at once: 16 bytes."""
        return QUAD if self.kind is None else self.kind.chunk

    @property
    def size(self) -> int:
        """Numbers of a key, zeros behind them counted in."""
        return self.problem.size if self.kind is None else _whole(self.problem.size, 2 * self.chunk)

    @property
    def width(self) -> int:
        """Numbers of a value, zeros behind them counted in."""
        along = 2 * self.chunk if self.kind is not None else QUAD * self.across
        return _whole(self.problem.width, along)

    @property
    def across(self) -> int:
        """Threads along the numbers of a value without tensor cores; the others have other keys."""
        threads = 1
        while threads < min(LANES, self.problem.width // QUAD):
            threads *= 2
        return threads

    @property
    def key_pitch(self) -> int:
        """Of queries and keys: a chunk more, so that rows fall on different banks."""
        return self.size + self.chunk

    @property
    def value_pitch(self) -> int:
        """Of values, which float32 reads along rows."""
        return self.width + (0 if self.kind is None else self.chunk)

    @property
    def power_pitch(self) -> int:
        """Of the scores of a row, which float32 passes on through shared memory."""
        return self.tile.keys + QUAD

    @property
    def stage(self) -> int:
        """Elements of one stage."""
        return self.tile.keys * (self.key_pitch + self.value_pitch)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.tile.threads_of_lanes if self.kind is None else WARP * self.tile.warps

    @property
    def parts(self) -> int:
        """Floats that a thread passes on where slices are joined: its sums, and two of each statistic."""
        return self.width // COLUMNS * 4 + 4 if self.tile.slices > 1 else 0

    @property
    def shared_bytes(self) -> int:
        """Of a block."""
        if self.kind is not None:
            return self.kind.bytes * self.tile.stages * self.stage + 4 * self.threads * self.parts
        rows = self.tile.rows * (self.key_pitch + self.power_pitch)
        return 4 * (self.tile.stages * self.stage + rows)

    @property
    def registers(self) -> int:
        """Of a thread, about."""
        if self.kind is None:
            return self.tile.thread_rows * (self.tile.keys // LANES + self.width // self.across) + 64
        return self.width // 2 + self.size // 4 + self.tile.own_keys // 2 + 64


def _whole(count: int, part: int) -> int:
    return -(-count // part) * part


TILES = (
    AttentionTile(16, 64, 3, 4),
    AttentionTile(16, 64, 2, 4),
    AttentionTile(16, 32, 3, 2),
    AttentionTile(32, 64, 3, 2),
    AttentionTile(32, 64, 2, 2),
    AttentionTile(32, 32, 3, 2),
    AttentionTile(32, 64, 2),
    AttentionTile(32, 32, 2),
    AttentionTile(64, 64, 3),
    AttentionTile(64, 64, 2),
    AttentionTile(64, 32, 3),
    AttentionTile(64, 32, 2),
    AttentionTile(128, 64, 2),
)
"""What is weighed on tensor cores."""

LANE_TILES = (
    AttentionTile(8, 64),
    AttentionTile(16, 64),
    AttentionTile(32, 64),
    AttentionTile(8, 32, 3),
    AttentionTile(16, 32, 3),
    AttentionTile(32, 32, 3),
    AttentionTile(8, 32),
    AttentionTile(16, 32),
    AttentionTile(32, 32),
    AttentionTile(16, 16, 3),
    AttentionTile(16, 16),
    AttentionTile(32, 16),
)
"""What is weighed without them."""


def tile_illegal(problem: AttentionProblem, tile: AttentionTile, kind: Kind | None) -> str | None:
    """Why attention cannot be cut so, or None."""
    rows, keys = (ROWS, 2 * COLUMNS) if kind is not None else (2 * tile.thread_rows, LANES)
    for whole, part in ((tile.rows, rows), (tile.keys, keys * max(1, tile.slices))):
        if whole < 1 or whole % part:
            return f"{whole} are no whole groups of {part}"
    if tile.slices < 1 or (kind is None and tile.slices > 1):
        return f"there are {tile.slices} slices"
    if tile.stages < 2:
        return "one slab is multiplied while others are copied: there are at least 2 stages"
    slabs = Slabs(problem, tile, kind)
    if slabs.threads > 1024:
        return f"a block has {slabs.threads} threads, expected at most 1024"
    if kind is not None and tile.rows * slabs.key_pitch > slabs.stage:
        return f"{tile.rows} queries do not fit into a slab of {tile.keys} keys and values"
    found = slabs.shared_bytes
    return f"slabs take {found} bytes, a block has {SHARED_BYTES}" if found > SHARED_BYTES else None


def attention_illegal(problem: AttentionProblem, kind: Kind | None) -> str | None:
    """Why attention has no such kernel, or None."""
    if min(problem.batch, problem.heads, problem.steps, problem.length, problem.size, problem.width) < 1:
        return "an operand has no elements"
    chunk = QUAD if kind is None else kind.chunk
    for count in (problem.size, problem.width):
        if count % chunk or count > MOST_SIZE:
            return f"a head has {count} numbers, expected a multiple of {chunk} up to {MOST_SIZE}"
    if max(problem.batch, problem.heads) > LARGEST_PLACE:
        return f"it has more than {LARGEST_PLACE} heads or sequences"
    return None


POWER_CYCLES = 20.0
"""Lanes of a multiprocessor for so many cycles: one score, from its sum to its power."""

SCORE_CYCLES = 6.0
"""Of each score or joined sum of a thread at least, where nothing beside it fills the time."""

NUMBER_CYCLES = 1.6
"""Of each product of a thread with a key's or value's number, at least."""

FRAGMENT_CYCLES = 0.3
"""The same on tensor cores, which do 64 of a thread's in some 18 cycles."""


def cycles(
    problem: AttentionProblem, tile: AttentionTile, kind: Kind | None, gpu: Multiprocessors
) -> float:
    """Predicted cycles, as `gemm_tiles.cycles`."""
    slabs = Slabs(problem, tile, kind)
    registers = slabs.threads * slabs.registers
    beside = max(1, min(gpu.registers // registers, 2 * SHARED_BYTES // slabs.shared_bytes, MOST_BLOCKS))
    blocks = -(-problem.steps // tile.rows) * problem.heads * problem.batch
    together = min(beside, -(-blocks // gpu.count))
    rounds = -(-blocks // (gpu.count * together))
    scores, numbers = tile.rows * tile.keys, slabs.size + slabs.width
    lanes = gpu.lanes / (1 + 1 / tile.thread_rows) if kind is None else gpu.lanes * MMA_LANES[kind.bytes]
    arithmetic = together * scores * (numbers / lanes + POWER_CYCLES / gpu.lanes)
    own = scores / slabs.threads
    chain = own * (SCORE_CYCLES + numbers * (NUMBER_CYCLES if kind is None else FRAGMENT_CYCLES))
    step = max(arithmetic, chain, COPY_CYCLES / (tile.stages - 1)) + 2 * STEP_CYCLES
    joining = STEP_CYCLES + SCORE_CYCLES * slabs.parts
    return rounds * (-(-problem.length // tile.keys) * step + joining + BLOCK_CYCLES)


def best_tiles(
    problem: AttentionProblem, kind: Kind | None, gpu: Multiprocessors
) -> list[AttentionTile]:
    """The legal tiles, the fastest first."""
    tiles = LANE_TILES if kind is None else TILES
    legal = [tile for tile in tiles if not tile_illegal(problem, tile, kind)]
    return sorted(legal, key=lambda tile: cycles(problem, tile, kind, gpu))
