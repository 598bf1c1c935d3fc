"""What an instruction of Cortex-M code does to the stack pointer, and where it goes on.

Thumb-2 (ARMv7-M Architecture Reference Manual, A5 and A7.7). Of other instructions nothing is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

_WIDE = 0b11101
"""Halfwords whose top five bits are this or more begin an instruction of two."""

_SP, _LR, _PC = 13, 14, 15
_ALWAYS = 14


class Flow(Enum):
    """Where a program goes on behind an instruction."""

    NEXT = auto()
    LEAVE = auto()  # back to the caller
    BRANCH = auto()  # there
    CHOICE = auto()  # there, or behind it
    CALL = auto()  # there, then behind it
    TABLE = auto()  # where a table behind it says, in rows of one byte or of two
    CALL_POINTER = auto()  # to an address that is computed
    POINTER = auto()


@dataclass(frozen=True)
class Instruction:
    """An instruction of `size` bytes.

    takes: bytes of stack, below 0 where it gives some back; None where they are computed. there: bytes from
    its own address to where it branches or calls. row: bytes of a row of its table. guards: the instructions
    behind it that run on a condition. cleared: a register, and how many low bits of it become 0. pointer: the
    register that becomes the stack pointer.
    """

    size: int
    flow: Flow = Flow.NEXT
    takes: int | None = 0
    there: int = 0
    row: int = 0
    guards: int = 0
    cleared: tuple[int, int] | None = None
    pointer: int | None = None


def instruction_at(words: tuple[int, ...], at: int) -> Instruction:
    """The instruction whose first halfword is `words[at]`."""
    first = words[at]
    if first >> 11 >= _WIDE and at + 1 < len(words):
        second = words[at + 1]
        return _branch(first, second) or _block(first, second) or _sum(first, second) or Instruction(4)
    return _narrow_stack(first) or _narrow_branch(first) or Instruction(2)


def _narrow_stack(word: int) -> Instruction | None:
    if word & 0xFE00 == 0xB400:  # push
        return Instruction(2, takes=4 * (word & 0x1FF).bit_count())
    if word & 0xFE00 == 0xBC00:  # pop
        return Instruction(2, _left(bool(word & 0x100)), -4 * (word & 0x1FF).bit_count())
    if word & 0xFF00 == 0xB000:  # add, sub sp, #immediate
        return Instruction(2, takes=4 * (word & 0x7F) * (1 if word & 0x80 else -1))
    register, source = word >> 4 & 8 | word & 7, word >> 3 & 15
    if word & 0xFF00 == 0x4400 and register == _SP:  # add sp, register
        return Instruction(2, takes=None)
    if word & 0xFF00 == 0x4600 and register == _SP:  # mov sp, register
        return Instruction(2, pointer=source)
    return None


def _narrow_branch(word: int) -> Instruction | None:
    if word & 0xF000 == 0xD000 and word >> 8 & 15 < _ALWAYS:
        return Instruction(2, Flow.CHOICE, there=4 + 2 * _signed(word & 0xFF, 8))
    if word & 0xF800 == 0xE000:
        return Instruction(2, Flow.BRANCH, there=4 + 2 * _signed(word & 0x7FF, 11))
    if word & 0xF500 == 0xB100:  # cbz, cbnz
        return Instruction(2, Flow.CHOICE, there=4 + ((word >> 9 & 1) << 6 | (word >> 3 & 31) << 1))
    if word & 0xFF00 == 0xBF00 and word & 15:  # it
        return Instruction(2, guards=5 - (word & -word).bit_length())
    source = word >> 3 & 15
    if word & 0xFF80 == 0x4780:  # blx
        return Instruction(2, Flow.CALL_POINTER)
    if word & 0xFF80 == 0x4700 or word & 0xFF87 == 0x4687:  # bx; mov pc
        return Instruction(2, Flow.LEAVE if source == _LR else Flow.POINTER)
    if word & 0xFF87 == 0x4487:  # add pc
        return Instruction(2, Flow.POINTER)
    return None


def _branch(first: int, second: int) -> Instruction | None:
    if first & 0xF800 == 0xF000 and second & 0x8000:
        sign, j1, j2 = first >> 10 & 1, second >> 13 & 1, second >> 11 & 1
        if second & 0x1000:  # b.w, or with another bit bl
            top = sign << 23 | (1 ^ j1 ^ sign) << 22 | (1 ^ j2 ^ sign) << 21
            there = 4 + 2 * _signed(top | (first & 0x3FF) << 11 | second & 0x7FF, 24)
            return Instruction(4, Flow.CALL if second & 0x4000 else Flow.BRANCH, there=there)
        if not second & 0x4000 and first >> 6 & 15 < _ALWAYS:
            top = sign << 19 | j2 << 18 | j1 << 17
            there = 4 + 2 * _signed(top | (first & 0x3F) << 11 | second & 0x7FF, 20)
            return Instruction(4, Flow.CHOICE, there=there)
        return None
    if first & 0xFFF0 == 0xE8D0 and second & 0xFFE0 == 0xF000:  # tbb, tbh
        row = 2 if second & 0x10 else 1
        return Instruction(4, Flow.TABLE, row=row) if first & 15 == _PC else Instruction(4, Flow.POINTER)
    return None


def _block(first: int, second: int) -> Instruction | None:
    """Loads and stores that move the stack pointer, and loads of the program counter."""
    register, words = second >> 12, second & 0xFF
    if first == 0xE92D:  # push.w
        return Instruction(4, takes=4 * second.bit_count())
    if first == 0xE8BD:  # pop.w
        return Instruction(4, _left(bool(second & 0x8000)), -4 * second.bit_count())
    if first == 0xF84D and second & 0xF00 == 0xD00:  # str register, [sp, #-immediate]!
        return Instruction(4, takes=second & 0xFF)
    if first == 0xF85D and second & 0xF00 == 0xB00:  # ldr register, [sp], #immediate
        return Instruction(4, _left(register == _PC), -(second & 0xFF))
    if first & 0xFF70 == 0xF850 and register == _PC:  # ldr pc
        return Instruction(4, Flow.POINTER)
    if first in (0xE96D, 0xE8FD):  # strd [sp, #-immediate]!; ldrd [sp], #immediate
        return Instruction(4, takes=4 * words if first == 0xE96D else -4 * words)
    if first & 0xFFBF in (0xED2D, 0xECBD) and second & 0xE00 == 0xA00:  # vpush, vpop
        return Instruction(4, takes=4 * words if first & 0xFFBF == 0xED2D else -4 * words)
    return None


def _sum(first: int, second: int) -> Instruction | None:
    """Sums that end in the stack pointer, and what a new one is rounded down by."""
    register, base = second >> 8 & 15, first & 15
    top = (first >> 10 & 1) << 11 | (second >> 12 & 7) << 8 | second & 0xFF
    if first == 0xF36F and not second & 0x70C0:  # bfc register, #0, #bits
        return Instruction(4, cleared=(register, (second & 31) + 1))
    if first & 0xFBF0 == 0xF020 and not second & 0x8000 and (expanded(top) + 1).bit_count() == 1:  # bic
        return Instruction(4, cleared=(register, expanded(top).bit_length()))
    if register != _SP or base != _SP or second & 0x8000:
        return None
    if first & 0xFFE0 in (0xEBA0, 0xEB00):  # add, sub sp, sp, register
        return Instruction(4, takes=None)
    if first & 0xFBE0 in (0xF1A0, 0xF100):  # sub.w, add.w sp, sp, #expanded
        return Instruction(4, takes=expanded(top) if first & 0xFBE0 == 0xF1A0 else -expanded(top))
    if first & 0xFBF0 in (0xF2A0, 0xF200):  # subw, addw sp, sp, #immediate
        return Instruction(4, takes=top if first & 0xFBF0 == 0xF2A0 else -top)
    return None


def _left(leaves: bool) -> Flow:
    return Flow.LEAVE if leaves else Flow.NEXT


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def expanded(immediate: int) -> int:
    """The number that twelve bits of an instruction stand for (ThumbExpandImm)."""
    if immediate >> 10:
        turns, value = immediate >> 7, 0x80 | immediate & 0x7F
        return (value >> turns | value << (32 - turns)) & 0xFFFFFFFF
    byte = immediate & 0xFF
    return byte * (0x1, 0x10001, 0x1000100, 0x1010101)[immediate >> 8]
