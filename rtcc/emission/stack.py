"""How much of the stack a function for Cortex-M takes, read from its first instructions.

Thumb-2 (ARMv7-M Architecture Reference Manual, A7.7): push, vpush, str with write-back and sub of sp.
"""

from __future__ import annotations

import struct

from rtcc.artifact.elf import Elf

PROLOGUE = 48
"""Halfwords of a function that are looked at."""

_WIDE = 0b11101
"""Halfwords whose top five bits are this or more begin an instruction of two."""


def frames_of(elf: Elf) -> dict[str, int]:
    """The bytes of stack that each function of an object takes for itself."""
    found: dict[str, int] = {}
    for symbol in elf.symbols:
        if symbol.is_function and symbol.is_defined:
            code = elf.contents(elf.sections[symbol.section])
            found[symbol.name] = frame_bytes(code[symbol.value & ~1 :])
    return found


def frame_bytes(code: bytes) -> int:
    """What the first instructions of a function take of the stack."""
    words = struct.unpack(f"<{len(code) // 2}H", code[: len(code) // 2 * 2])[:PROLOGUE]
    taken = at = 0
    while at < len(words):
        first = words[at]
        if first >> 11 >= _WIDE and at + 1 < len(words):
            taken += _wide(first, words[at + 1])
            at += 2
        else:
            taken += _narrow(first)
            at += 1
    return taken


def _narrow(word: int) -> int:
    if word & 0xFE00 == 0xB400:  # push
        return 4 * (word & 0x1FF).bit_count()
    if word & 0xFF80 == 0xB080:  # sub sp, #immediate
        return 4 * (word & 0x7F)
    return 0


def _wide(first: int, second: int) -> int:
    if first == 0xE92D:  # push.w
        return 4 * second.bit_count()
    if first == 0xF84D and second & 0x0FFF == 0x0D04:  # push.w of one register: str r, [sp, #-4]!
        return 4
    if first & 0xFFBF == 0xED2D and second & 0x0E00 == 0x0A00:  # vpush
        return 4 * (second & 0xFF)
    top = (first >> 10 & 1) << 11 | (second >> 12 & 7) << 8
    if first & 0xFBEF == 0xF1AD and second & 0x8F00 == 0x0D00:  # sub.w sp, sp, #expanded
        return expanded(top | second & 0xFF)
    if first & 0xFBFF == 0xF2AD and second & 0x8F00 == 0x0D00:  # subw sp, sp, #immediate
        return top | second & 0xFF
    return 0


def expanded(immediate: int) -> int:
    """The number that twelve bits of an instruction stand for (ThumbExpandImm)."""
    if immediate >> 10:
        turns, value = immediate >> 7, 0x80 | immediate & 0x7F
        return (value >> turns | value << (32 - turns)) & 0xFFFFFFFF
    byte = immediate & 0xFF
    return byte * (0x1, 0x10001, 0x1000100, 0x1010101)[immediate >> 8]
