"""How much of the stack a function for Cortex-M takes, with all that it calls, read from its instructions."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from rtcc.artifact.elf import Elf
from rtcc.emission.thumb import Flow, Instruction, instruction_at

ALIGNED = 8
"""Bytes that the stack pointer is a multiple of where a function begins."""

MOST = 1 << 20
"""Bytes of a frame: what takes more does so in a loop."""


_GONE = (Flow.LEAVE, Flow.BRANCH, Flow.TABLE, Flow.POINTER)
"""What is behind these is reached from elsewhere."""


@dataclass(frozen=True)
class Depth:
    """Bytes of stack; unknown: why they may be more, by function."""

    bytes: int
    unknown: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"at least {self.bytes:,} ({', '.join(self.unknown)})" if self.unknown else f"{self.bytes:,}"


def deepest(depths: Iterable[Depth]) -> Depth:
    """The most that any of some functions takes."""
    found = list(depths)
    unknown = dict.fromkeys(each for depth in found for each in depth.unknown)
    return Depth(max((depth.bytes for depth in found), default=0), tuple(unknown))


@dataclass(frozen=True)
class Place:
    """Where a function begins: in an object's section."""

    elf: Elf
    section: int
    offset: int

    @property
    def key(self) -> tuple[int, int, int]:
        """Equal for equal places."""
        return id(self.elf), self.section, self.offset


@dataclass(frozen=True)
class Body:
    """What one function does: the most stack that it takes itself; what it calls, under which name where that
    is in another object, and the stack taken then; what cannot be read."""

    frame: int
    calls: tuple[tuple[str | Place, int], ...]
    unknown: tuple[str, ...]


class CallGraph:
    """The functions of some objects, and of the libraries that they are linked with."""

    def __init__(self, elves: Iterable[Elf], *, whole: bool = True) -> None:
        """whole: no function is missing; those that are otherwise take nothing."""
        self._whole = whole
        self._depths: dict[tuple[int, int, int], Depth] = {}
        self._open: set[tuple[int, int, int]] = set()
        self._places: dict[str, Place] = {}
        for elf in elves:
            for symbol in elf.symbols:
                if symbol.is_defined and symbol.is_global and symbol.section < len(elf.sections):
                    self._places.setdefault(symbol.name, Place(elf, symbol.section, symbol.value & ~1))
        self._codes: dict[tuple[int, int], Code] = {}

    def depth(self, name: str) -> Depth:
        """The longest path from a function, in bytes."""
        return self._depth_of(name, name)

    def _depth_of(self, called: str | Place, name: str) -> Depth:
        place = self._places.get(called) if isinstance(called, str) else called
        if place is None:
            return Depth(0, (f"{name} is in no library",) if self._whole else ())
        if place.key in self._depths:
            return self._depths[place.key]
        if place.key in self._open:
            return Depth(0, (f"{name} calls itself",))
        self._open.add(place.key)
        body = self._code(place).body(place.offset)
        most, unknown = body.frame, dict.fromkeys(f"{name} {each}" for each in body.unknown)
        for callee, taken in body.calls:
            found = self._depth_of(callee, callee if isinstance(callee, str) else name)
            most = max(most, taken + found.bytes)
            unknown.update(dict.fromkeys(found.unknown))
        self._open.remove(place.key)
        depth = self._depths[place.key] = Depth(most, tuple(unknown))
        return depth

    def _code(self, place: Place) -> Code:
        return self._codes.setdefault((id(place.elf), place.section), Code(place.elf, place.section))


class Code:
    """A section of instructions."""

    def __init__(self, elf: Elf, section: int) -> None:
        self.elf, self.section = elf, section
        data = elf.contents(elf.sections[section])
        self.words: tuple[int, ...] = struct.unpack(f"<{len(data) // 2}H", data[: len(data) // 2 * 2])
        self.data = data

    @cached_property
    def _needed(self) -> Mapping[int, str | Place]:
        """What a linker fills in, by its offset: a name, or a place in this object."""
        found: dict[int, str | Place] = {}
        for offset, symbol in self.elf.relocations(self.section).items():
            local = symbol.is_defined and not symbol.is_global
            found[offset] = Place(self.elf, symbol.section, symbol.value & ~1) if local else symbol.name
        return found

    @cached_property
    def _kinds(self) -> list[tuple[int, bool]]:
        """From which offsets on there are data, or instructions (mapping symbols of the ABI for ELF)."""
        marks = (s for s in self.elf.symbols if s.section == self.section and s.name[:2] in ("$t", "$d"))
        return sorted((symbol.value, symbol.name.startswith("$d")) for symbol in marks)

    def _end_of_data(self, offset: int) -> int:
        """Where data end that lie at an offset; the offset itself where there are none."""
        behind = bisect_right(self._kinds, (offset, True))
        if behind == 0 or not self._kinds[behind - 1][1]:
            return offset
        return self._kinds[behind][0] if behind < len(self._kinds) else len(self.data)

    def body(self, entry: int) -> Body:
        """The function that begins at an offset: all paths through it."""
        return _Walk(self).body(entry)

    def rows(self, table: int, row: int) -> list[int]:
        """Where a table of branches leads."""
        end = self._end_of_data(table)
        count = (end - table) // row
        numbers = struct.unpack_from(f"<{count}{'BH'[row - 1]}", self.data, table)
        return [table + 2 * number for number in numbers if table + 2 * number >= end]

    def target(self, offset: int, instruction: Instruction) -> str | Place | None:
        """What an instruction names, where it is in another section; None for one in this."""
        needed = self._needed.get(offset)
        if not isinstance(needed, Place):
            return needed
        return Place(needed.elf, needed.section, needed.offset + instruction.there)

    def is_data(self, offset: int) -> bool:
        """Whether there are no instructions."""
        return offset < 0 or offset + 2 > len(self.data) or self._end_of_data(offset) > offset


class _Walk:
    """One walk through a function."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.frame = 0
        self.depths: dict[int, int] = {}
        self.left: list[tuple[int, int]] = []
        self.calls: dict[tuple[str | tuple[int, int, int], int], str | Place] = {}
        self.unknown: dict[str, None] = {}

    def body(self, entry: int) -> Body:
        self.left.append((entry, 0))
        while self.left:
            self._run(*self.left.pop())
        calls = tuple((callee, taken) for (_, taken), callee in self.calls.items())
        return Body(self.frame, calls, tuple(self.unknown))

    def _run(self, offset: int, depth: int) -> None:
        """From an offset on, with so much stack taken, until it was here before with as much."""
        guarded, cleared = 0, (-1, 0)
        while depth > self.depths.get(offset, -1) and not self.code.is_data(offset):
            self.depths[offset] = depth
            each = instruction_at(self.code.words, offset // 2)
            if each.takes is None or depth > MOST:
                self.unknown["takes what it computes"] = None
                return
            cleared = each.cleared or cleared
            if each.pointer is not None and each.pointer == cleared[0]:
                depth += max(0, (1 << cleared[1]) - ALIGNED)
            if each.takes > 0 or not guarded:
                depth = max(0, depth + each.takes)
            self.frame = max(self.frame, depth)
            self._follow(each, offset, depth)
            if each.flow in _GONE and not guarded:
                return
            guarded = each.guards or max(0, guarded - 1)
            offset += each.size

    def _follow(self, each: Instruction, offset: int, depth: int) -> None:
        """Note where an instruction leads besides what is behind it."""
        match each.flow:
            case Flow.CALL_POINTER | Flow.POINTER:
                self.unknown["calls what it computes"] = None
            case Flow.TABLE:
                self.left += [(target, depth) for target in self.code.rows(offset + 4, each.row)]
            case Flow.CALL | Flow.BRANCH | Flow.CHOICE:
                callee = self.code.target(offset, each)
                if callee is None and each.flow is Flow.CALL:
                    callee = Place(self.code.elf, self.code.section, offset + each.there)
                if callee is None:
                    self.left.append((offset + each.there, depth))
                    return
                key = callee if isinstance(callee, str) else callee.key
                self.calls[key, depth] = callee
            case _:
                pass
