"""The instruction set, written down once: encoder, decoder, RTL package and documentation come from here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from rtcc.targets.fpga.isa.fields import Instruction, at

OPCODE_BITS = 3


class Unit(IntEnum):
    """The three units, in the order of their ring."""

    LOAD = 0
    EXEC = 1
    STORE = 2


class Buffer(IntEnum):
    """The buffers that LOAD fills."""

    INP = 0
    WGT = 1
    PRM = 2


class Mode(IntEnum):
    """What EXEC computes for each tap.

    MATRIX: acc[j] += Σᵢ inp[i] · w[i][j], the weights n rows of n bytes per tap, row i of input channel i.
    CHANNEL: acc[j] += inp[j] · w[j], one row of weights for each tap (depthwise).
    SCALE: acc[j] += inp[j] · immediate. MAX: acc[j] = max(acc[j], inp[j] · immediate).
    """

    MATRIX = 0
    CHANNEL = 1
    SCALE = 2
    MAX = 3


class Fault(IntEnum):
    """Why a unit stopped; see `Register.FAULTS`."""

    NONE = 0
    ILLEGAL = 1
    SRAM_RANGE = 2
    DRAM_RANGE = 3
    BUS = 4
    DEADLOCK = 5
    ABORTED = 6


@dataclass(frozen=True, kw_only=True)
class Load(Instruction):
    """Copies a block of DRAM rows into a buffer, and puts the pad value around it.

    Buffer rows are written one after the other: for z in nz: for y in pad_top + ny + pad_bottom: for x in
    pad_left + nx + pad_right. Inside, the row is that of DRAM at dram + z · stride_z + y · stride_y + x,
    y and x counted from the block's first; outside, n bytes of the pad value. Addresses are modulo 2³².
    """

    OPCODE: ClassVar[int] = 0
    NAME: ClassVar[str] = "LOAD"
    UNIT: ClassVar[int] = Unit.LOAD

    buffer: int = at(0, 7, 2, "0 INP, 1 WGT, 2 PRM")
    sram: int = at(1, 0, 16, "first row in the buffer")
    dram: int = at(2, 0, 32, "first row in DRAM, counted from the base register")
    nx: int = at(4, 0, 16, "rows that follow each other in DRAM", counts=True)
    ny: int = at(5, 0, 16, "lines of nx rows", counts=True)
    nz: int = at(6, 0, 16, "planes of ny lines", counts=True)
    pad_left: int = at(7, 0, 4, "padding rows before each line")
    pad_right: int = at(7, 4, 4, "padding rows after each line")
    pad_top: int = at(7, 8, 4, "padding lines before each plane")
    pad_bottom: int = at(7, 12, 4, "padding lines after each plane")
    stride_y: int = at(8, 0, 32, "rows of DRAM from line to line")
    stride_z: int = at(10, 0, 32, "rows of DRAM from plane to plane")
    pad_value: int = at(12, 0, 8, "every byte of a padding row", signed=True)

    def fault(self) -> str | None:
        if self.buffer not in tuple(Buffer):
            return f"buffer must be 0 to 2, found {self.buffer}"
        return super().fault()


@dataclass(frozen=True, kw_only=True)
class Exec(Instruction):
    """Computes a tile of n output channels: a loop nest over taps, and for each tap over pixels.

    For ic in n_ic, ky in n_ky, kx in n_kx (the taps, in this order), for oy in ny, ox in nx (the pixels):
    p = oy · nx + ox; the input row is inp + ic · stride_ic + ky · stride_ky + kx · stride_kx + oy ·
    stride_y + ox · stride_x (modulo 2¹⁶) and acc + p the accumulator's, modified as the mode says, in 32
    bits that wrap.
    With init the first tap writes instead of modifying. With flush the last tap also requantises: row
    out + p becomes clip(round_half_even((acc + bias) · multiplier / 2^shift) + zero, low, high), with bias,
    multiplier and shift of group prm, lane by lane; acc + bias wraps in 32 bits, all else is exact.
    With raw, one byte of the product (acc + bias) · multiplier, signed, takes the place of what is rounded.
    So four instructions give the sums themselves, with a multiplier of 1: the first one computes them, and
    three of mode SCALE with an immediate of 0 add nothing and give the other bytes.
    """

    OPCODE: ClassVar[int] = 1
    NAME: ClassVar[str] = "EXEC"
    UNIT: ClassVar[int] = Unit.EXEC

    mode: int = at(0, 7, 2, "0 MATRIX, 1 CHANNEL, 2 SCALE, 3 MAX")
    init: int = at(0, 9, 1, "the first tap writes the accumulators instead of modifying them")
    flush: int = at(0, 10, 1, "the last tap requantises into the output buffer")
    immediate: int = at(0, 11, 21, "SCALE and MAX: the weight", signed=True)
    wgt: int = at(1, 0, 16, "MATRIX and CHANNEL: weight row of the first tap")
    inp: int = at(2, 0, 16, "input row of the first tap and pixel")
    acc: int = at(3, 0, 16, "accumulator row of the first pixel")
    out: int = at(4, 0, 16, "output row of the first pixel")
    prm: int = at(5, 0, 13, "group of n channels in the parameter buffer")
    raw_byte: int = at(5, 13, 2, "raw: which byte of the product, 0 the lowest")
    raw: int = at(5, 15, 1, "with flush, results are bytes of the products, not requantised")
    ny: int = at(6, 0, 16, "lines of pixels", counts=True)
    nx: int = at(7, 0, 16, "pixels of a line", counts=True)
    stride_y: int = at(8, 0, 16, "input rows from line to line")
    stride_x: int = at(9, 0, 16, "input rows from pixel to pixel")
    n_ic: int = at(10, 0, 16, "taps: blocks of input channels", counts=True)
    n_ky: int = at(11, 0, 8, "taps: kernel rows", counts=True)
    n_kx: int = at(11, 8, 8, "taps: kernel columns", counts=True)
    stride_ic: int = at(12, 0, 16, "input rows from block to block")
    stride_ky: int = at(13, 0, 16, "input rows from kernel row to kernel row")
    low: int = at(14, 0, 8, "least result", signed=True)
    high: int = at(14, 8, 8, "greatest result", signed=True)
    zero: int = at(15, 0, 8, "zero point of the result", signed=True)
    stride_kx: int = at(15, 8, 8, "input rows from kernel column to kernel column")

    def unused(self) -> tuple[str, ...]:
        return ("immediate",) if self.mode in (Mode.MATRIX, Mode.CHANNEL) else ("wgt",)

    def fault(self) -> str | None:
        if self.low > self.high:
            return f"low must not be above high, found {self.low} and {self.high}"
        return super().fault()

    @property
    def taps(self) -> int:
        return self.n_ic * self.n_ky * self.n_kx

    @property
    def pixels(self) -> int:
        return self.ny * self.nx


@dataclass(frozen=True, kw_only=True)
class Store(Instruction):
    """Copies rows of the output buffer, one after the other, to a block of DRAM rows.

    For z in nz, y in ny, x in nx the row of DRAM is dram + z · stride_z + y · stride_y + x, modulo 2³².
    """

    OPCODE: ClassVar[int] = 2
    NAME: ClassVar[str] = "STORE"
    UNIT: ClassVar[int] = Unit.STORE

    sram: int = at(1, 0, 16, "first row in the output buffer")
    dram: int = at(2, 0, 32, "first row in DRAM, counted from the base register")
    nx: int = at(4, 0, 16, "rows that follow each other in DRAM", counts=True)
    ny: int = at(5, 0, 16, "lines of nx rows", counts=True)
    nz: int = at(6, 0, 16, "planes of ny lines", counts=True)
    stride_y: int = at(8, 0, 32, "rows of DRAM from line to line")
    stride_z: int = at(10, 0, 32, "rows of DRAM from plane to plane")


@dataclass(frozen=True, kw_only=True)
class Finish(Instruction):
    """The last instruction: nothing after it is fetched. It waits in the queue of STORE.

    The core is done when FINISH was reached and every instruction before it, of all units, is complete.
    """

    OPCODE: ClassVar[int] = 3
    NAME: ClassVar[str] = "FINISH"
    UNIT: ClassVar[int] = Unit.STORE


INSTRUCTIONS: tuple[type[Instruction], ...] = (Load, Exec, Store, Finish)


@dataclass(frozen=True)
class Parameter:
    """What one channel's requantisation takes, 8 bytes in the parameter buffer, lowest bit first."""

    name: str
    low: int
    width: int
    signed: bool
    meaning: str


PARAMETERS = (
    Parameter("bias", 0, 32, True, "added to the accumulator"),
    Parameter("multiplier", 32, 25, True, "the factor is multiplier / 2^shift"),
    Parameter("shift", 57, 6, False, "0 to 63; bit 63 of the entry is ignored"),
)


class Register(IntEnum):
    """Byte offsets of the 32-bit registers on the control port."""

    IDENTITY = 0x00
    CONTROL = 0x04
    STATUS = 0x08
    FAULTS = 0x0C
    BASE_LOW = 0x10
    BASE_HIGH = 0x14
    LIMIT = 0x18
    PROGRAM = 0x1C
    LENGTH = 0x20
    CYCLES = 0x24
    LOADS = 0x28
    EXECS = 0x2C
    STORES = 0x30
    ARRAY_CYCLES = 0x34
    WAITS_FOR_LOAD = 0x38
    WAITS_FOR_STORE = 0x3C
    CONFIGURATION = 0x40


IDENTITY = 0x52544302
"""Read from `Register.IDENTITY`: "RTC" and the version of this interface."""

REGISTERS: dict[Register, str] = {
    Register.IDENTITY: f"reads {IDENTITY:#010x}: RTC and the version of this interface",
    Register.CONTROL: "writing 1 starts the program; ignored while the core is busy. Writing 2 stops the one "
    "that runs: nothing more is started or asked for, what the memory port has begun is finished, then the "
    "core is done, with the fault ABORTED; ignored while it is not busy",
    Register.STATUS: "bit 0 busy, bit 1 done, bit 2 done with a fault; these two stay until the next start",
    Register.FAULTS: "a code of 4 bits for fetch (0), LOAD (4), EXEC (8), STORE (12) and the whole core (16)",
    Register.BASE_LOW: "byte address of the DRAM image, low 32 bits; a multiple of 4096",
    Register.BASE_HIGH: "and its high bits",
    Register.LIMIT: "rows of the DRAM image; an access at or above it is a fault",
    Register.PROGRAM: "row of the first instruction",
    Register.LENGTH: "instructions in the program, FINISH included",
    Register.CYCLES: "clock cycles from start to done",
    Register.LOADS: "LOAD instructions completed",
    Register.EXECS: "EXEC instructions completed",
    Register.STORES: "STORE instructions completed",
    Register.ARRAY_CYCLES: "cycles in which the array took a pixel",
    Register.WAITS_FOR_LOAD: "cycles in which EXEC was idle for want of a token from LOAD",
    Register.WAITS_FOR_STORE: "cycles in which EXEC was idle for want of a token from STORE, "
    "but not of one from LOAD",
    Register.CONFIGURATION: "what a program depends on, each as log2: n and queue in 3 bits, "
    "rows of the buffers in 5",
}


class ConfigurationField(IntEnum):
    """Lowest bit of each logarithm in `Register.CONFIGURATION`; a core runs programs of its value only."""

    N = 0
    QUEUE = 3
    INP = 6
    WGT = 11
    ACC = 16
    OUT = 21
    PRM = 26


class FaultField(IntEnum):
    """Lowest bit of each code of 4 bits in `Register.FAULTS`."""

    FETCH = 0
    LOAD = 4
    EXEC = 8
    STORE = 12
    CORE = 16
