"""Which rows of which memory an instruction reads and writes: what tokens are derived from and checked by."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rtcc.targets.fpga.core import PARAMETER_BYTES, Core
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Buffer, Exec, Load, Mode, Store


class Memory(Enum):
    """What two units share. The accumulators belong to EXEC alone."""

    INP = "INP"
    WGT = "WGT"
    PRM = "PRM"
    OUT = "OUT"
    DRAM = "DRAM"


@dataclass(frozen=True)
class Access:
    """Rows from `first` up to `end` of a memory, all of which may be touched."""

    memory: Memory
    first: int
    end: int
    writes: bool


FILLED = {Buffer.INP: Memory.INP, Buffer.WGT: Memory.WGT, Buffer.PRM: Memory.PRM}


def rows_of(memory: Memory, core: Core) -> int:
    """How many rows a buffer has; 2³² for DRAM, whose limit a program sets."""
    return {
        Memory.INP: core.inp_rows, Memory.WGT: core.wgt_rows, Memory.PRM: core.prm_rows,
        Memory.OUT: core.out_rows, Memory.DRAM: 1 << 32,
    }[memory]  # fmt: skip


def accesses(instruction: Instruction, core: Core) -> tuple[Access, ...]:
    """What an instruction touches, a range that holds all of its rows for each plane or operand."""
    match instruction:
        case Load():
            lines = instruction.pad_top + instruction.ny + instruction.pad_bottom
            columns = instruction.pad_left + instruction.nx + instruction.pad_right
            end = instruction.sram + instruction.nz * lines * columns
            filled = Access(FILLED[Buffer(instruction.buffer)], instruction.sram, end, True)
            return (filled, *_dram(instruction, writes=False))
        case Store():
            end = instruction.sram + instruction.nx * instruction.ny * instruction.nz
            return (Access(Memory.OUT, instruction.sram, end, False), *_dram(instruction, writes=True))
        case Exec():
            return _exec(instruction, core)
        case _:
            return ()


def _dram(block: Load | Store, *, writes: bool) -> tuple[Access, ...]:
    """A range per plane; planes that follow each other at once are one."""
    size = (block.ny - 1) * block.stride_y + block.nx
    if block.nz > 1 and block.stride_z == size:
        return (Access(Memory.DRAM, block.dram, block.dram + block.nz * size, writes),)
    starts = (block.dram + plane * block.stride_z for plane in range(block.nz))
    return tuple(Access(Memory.DRAM, start, start + size, writes) for start in starts)


def _exec(each: Exec, core: Core) -> tuple[Access, ...]:
    last = (
        (each.n_ic - 1) * each.stride_ic + (each.n_ky - 1) * each.stride_ky
        + (each.n_kx - 1) * each.stride_kx + (each.ny - 1) * each.stride_y + (each.nx - 1) * each.stride_x
    )  # fmt: skip
    found = [Access(Memory.INP, each.inp, each.inp + last + 1, False)]
    weights = {Mode.MATRIX: each.taps * core.n, Mode.CHANNEL: each.taps}.get(Mode(each.mode), 0)
    if weights:
        found.append(Access(Memory.WGT, each.wgt, each.wgt + weights, False))
    if each.flush:
        found.append(Access(Memory.OUT, each.out, each.out + each.pixels, True))
        group = PARAMETER_BYTES * each.prm
        found.append(Access(Memory.PRM, group, group + PARAMETER_BYTES, False))
    return tuple(found)
