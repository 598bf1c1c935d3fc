"""LOAD and STORE: lines of rows between DRAM and the buffers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rtcc.targets.fpga.isa.table import Buffer, Fault, Load, Store
from rtcc.targets.fpga.simulator.machine import Machine

ADDRESSES = 1 << 32


def load(machine: Machine, instruction: Load) -> Fault:
    """Fill a buffer; the first line that reaches beyond the buffer or DRAM stops it and is the fault."""
    rows = {Buffer.INP: machine.inp, Buffer.WGT: machine.wgt, Buffer.PRM: machine.prm}[
        Buffer(instruction.buffer)
    ]
    inside = slice(instruction.pad_left, instruction.pad_left + instruction.nx)
    width = instruction.pad_left + instruction.nx + instruction.pad_right
    is_padded = width > instruction.nx
    pad = instruction.pad_value & 255 if rows.dtype == np.uint8 else instruction.pad_value
    sram = instruction.sram
    for start in _load_lines(instruction):
        if sram + width > len(rows):
            return Fault.SRAM_RANGE
        line = rows[sram : sram + width]
        if start is None or is_padded:
            line[:] = pad
        if start is not None:
            if start + instruction.nx > len(machine.dram):
                return Fault.DRAM_RANGE
            line[inside] = _as(rows, machine.dram[start : start + instruction.nx])
        sram += width
    return Fault.NONE


def _as(rows: NDArray[np.generic], data: NDArray[np.uint8]) -> NDArray[np.generic]:
    """Bytes of DRAM as a buffer counts them: signed where it computes with them."""
    return data if rows.dtype == np.uint8 else data.view(np.int8)


def _load_lines(instruction: Load) -> Iterator[int | None]:
    """For each line of the buffer the DRAM row where it begins, or None for padding."""
    for z in range(instruction.nz):
        yield from (None for _ in range(instruction.pad_top))
        plane = instruction.dram + z * instruction.stride_z
        yield from ((plane + y * instruction.stride_y) % ADDRESSES for y in range(instruction.ny))
        yield from (None for _ in range(instruction.pad_bottom))


def store(machine: Machine, instruction: Store) -> Fault:
    """Write lines in order up to the first that reaches beyond the buffer or DRAM, which is the fault."""
    sram = instruction.sram
    for z in range(instruction.nz):
        plane = instruction.dram + z * instruction.stride_z
        for y in range(instruction.ny):
            start = (plane + y * instruction.stride_y) % ADDRESSES
            if sram + instruction.nx > len(machine.out):
                return Fault.SRAM_RANGE
            if start + instruction.nx > len(machine.dram):
                return Fault.DRAM_RANGE
            machine.dram[start : start + instruction.nx] = machine.out[sram : sram + instruction.nx]
            sram += instruction.nx
    return Fault.NONE
