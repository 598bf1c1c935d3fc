"""What one instruction takes of its unit: the RTL's registers as numbers, and the cycles that follow.

The event simulation (`model.py`) puts them together with queues, tokens and the memory port; the compiler
adds them up where it has not simulated yet (`compiler/choice.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.isa.fields import INSTRUCTION_BITS
from rtcc.targets.fpga.isa.table import Load, Mode, Store

LATENCY = 24
"""Cycles of a memory that nobody describes: from address to first beat, from last beat to answer."""

VISIT_GAP = 3
"""Cycles between two visits to one accumulator."""

WORKS = 2
"""LOADs that may be under way."""

STORE_BURSTS = 16
"""Bursts that STORE may have unanswered."""

QUIET = 8
"""Cycles after the last event until the core says that it is done."""

WEIGHTED = (Mode.MATRIX, Mode.CHANNEL)
"""Modes whose every tap has weights of its own; others load one tile for all."""


def instruction_beats(core: Core) -> int:
    """Beats that fetching one instruction takes of the read port."""
    return INSTRUCTION_BITS // core.dram_bits


def exec_cycles(core: Core, mode: Mode, taps: int, pixels: int) -> int:
    """From the first pixel of an EXEC to that of the next one, where nothing else is waited for: the least.

    A tap takes its pixels, and two visits to an accumulator are apart; weights of the second tap begin to
    load with the first tap, and each tap begins after its own.
    """
    by_pixels = (taps - 1) * max(pixels, VISIT_GAP)
    by_weights = (taps - 2) * core.n + 1 if mode in WEIGHTED else 0
    return max(by_pixels, by_weights) + pixels + VISIT_GAP - 1


def weight_cycles(core: Core, mode: Mode, taps: int) -> int:
    """In which an EXEC has the loader of weights, n rows a tile."""
    return core.n * (taps if mode in WEIGHTED else 1)


def drain_cycles(core: Core) -> int:
    """From the last pixel of an EXEC until it gives its tokens."""
    return core.n + 12


def bursts(core: Core, dram: int, rows: int) -> Iterator[int]:
    """The rows of each burst of a line that begins at a row of DRAM."""
    most = core.burst // core.beats_per_row
    while rows:
        taken = min(rows, most - dram % most)
        yield taken
        dram += taken
        rows -= taken


def line_parts(core: Core, instruction: Load | Store) -> list[tuple[int, int, int]]:
    """The bursts of a transfer: their rows, and the rows of padding written before and after each."""
    is_load = isinstance(instruction, Load)
    left, right, top, bottom = (
        (instruction.pad_left, instruction.pad_right, instruction.pad_top, instruction.pad_bottom)
        if is_load
        else (0, 0, 0, 0)
    )
    width = left + instruction.nx + right
    found: list[tuple[int, int, int]] = []
    for z in range(instruction.nz):
        for y in range(instruction.ny):
            dram = instruction.dram + z * instruction.stride_z + y * instruction.stride_y
            line = list(bursts(core, dram, instruction.nx))
            before = left + (top * width if y == 0 else 0)
            after = right + (bottom * width if y == instruction.ny - 1 else 0)
            for place, rows in enumerate(line):
                found.append((rows, before if place == 0 else 0, after if place == len(line) - 1 else 0))
    return found
