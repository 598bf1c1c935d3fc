"""Weights inside an artefact, written once: an object for static libraries, a segment for shared ones.

A C compiler and a linker would each copy them. A static library gets an ELF object that is written here. In a
shared library the code finds them `weights_address` bytes behind its own ELF header (`__ehdr_start`), where
nothing lies when it is linked; then they are put at the end of the file, and a program header that the linker
made for a note (`NOTE`) is made theirs:

    linked file   padding   weights   names of sections   table of sections

They have a section of their own too, so that `strip` keeps them. Structures: System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from rtcc.artifact.elf import FORM32, FORM64, HEADER, MACHINES, SECTION
from rtcc.errors import ArtifactError

Bytes = bytes | bytearray

ALIGNMENT = 64
SEGMENT_ALIGNMENT = 2 << 20
ROOM = 16 << 20
"""What tables, launches and the runtime may take of a library beside its kernels."""

WEIGHTS_OBJECT = "weights.o"
"""The file of a static library that holds its weights; kernels' files are called otherwise."""

NOTE = ".note.rtcc"
SECTION_NAME = ".rodata.weights"

_ET_REL, _SHT_PROGBITS, _SHT_SYMTAB, _SHT_STRTAB = 1, 1, 2, 3
_SHF_ALLOC, _STB_GLOBAL, _STT_OBJECT, _STV_HIDDEN = 2, 1, 1, 2
_PT_LOAD, _PT_NOTE, _PF_R = 1, 4, 4
_EF_ARM_EABI5 = 0x05000000
_PHOFF, _SHOFF, _PHNUM, _SHNUM, _SHSTRNDX = 4, 5, 9, 11, 12
"""Where the header's fields stand behind its identity."""

_SEGMENT = struct.Struct("<IIQQQQQQ")
"""Type, flags, offset, virtual and physical address, size in the file and in memory, alignment."""


def weights_text(symbol: str) -> str:
    """The C that says where embedded weights are: RTCC_WEIGHTS(w), in either kind of library."""
    return f"""\
#ifdef RTCC_WEIGHTS_AT
__asm__(".section {NOTE},\\"a\\",%note\\n.balign 4\\n.long 5, 0, 1\\n"
        ".asciz \\"rtcc\\"\\n.balign 4\\n.previous\\n");
extern const char __ehdr_start[] __attribute__((visibility("hidden")));
#define RTCC_WEIGHTS(w) ((void)(w), __ehdr_start + RTCC_WEIGHTS_AT)
#else
extern const char {symbol}[] __attribute__((visibility("hidden")));
#define RTCC_WEIGHTS(w) ((void)(w), {symbol})
#endif
"""


def weights_address(objects: Iterable[Bytes]) -> int:
    """Where a shared library of these objects has its weights: behind all else, whatever that takes."""
    size = ROOM + sum(len(contents) for contents in objects)
    return -(-size // SEGMENT_ALIGNMENT) * SEGMENT_ALIGNMENT


def write_weights_object(path: Path, symbol: str, weights: Bytes, architecture: str) -> None:
    """An object file that defines a hidden symbol: the weights, read-only. architecture: as ELF has it."""
    names = _Names()
    rodata, note = names.add(SECTION_NAME), names.add(".note.GNU-stack")
    symtab, strtab, shstrtab = names.add(".symtab"), names.add(".strtab"), names.add(".shstrtab")
    form = FORM32 if architecture == "arm" else FORM64
    row = form.pack_symbol(1, _STB_GLOBAL << 4 | _STT_OBJECT, _STV_HIDDEN, 1, 0, len(weights))
    symbols = bytes(form.symbol.size) + row
    strings = b"\0" + symbol.encode() + b"\0"
    tables = (symbols, strings, names.text)
    begin = ALIGNMENT + -(-len(weights) // ALIGNMENT) * ALIGNMENT
    starts = [begin, begin + len(symbols), begin + len(symbols) + len(strings)]
    end = starts[2] + len(names.text)
    sections = -(-end // 8) * 8
    rows = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        (rodata, _SHT_PROGBITS, _SHF_ALLOC, 0, ALIGNMENT, len(weights), 0, 0, ALIGNMENT, 0),
        (note, _SHT_PROGBITS, 0, 0, begin, 0, 0, 0, 1, 0),
        (symtab, _SHT_SYMTAB, 0, 0, starts[0], len(symbols), 4, 1, 8, form.symbol.size),
        (strtab, _SHT_STRTAB, 0, 0, starts[1], len(strings), 0, 0, 1, 0),
        (shstrtab, _SHT_STRTAB, 0, 0, starts[2], len(names.text), 0, 0, 1, 0),
    ]
    number = next(number for number, name in MACHINES.items() if name == architecture)
    identity = (form.magic + b"\x01").ljust(16, b"\0")
    flags = _EF_ARM_EABI5 if architecture == "arm" else 0
    sizes = (form.header.size, 0, 0, form.section.size, len(rows), 5)
    header = form.header.pack(identity, _ET_REL, number, 1, 0, 0, sections, flags, *sizes)
    with path.open("wb") as file:
        file.write(header.ljust(ALIGNMENT, b"\0"))
        file.write(weights)
        file.seek(begin)
        file.write(b"".join(tables))
        file.seek(sections)
        file.write(b"".join(form.section.pack(*row) for row in rows))


class _Names:
    """A table of the names of sections."""

    def __init__(self) -> None:
        self.text = b"\0"

    def add(self, name: str) -> int:
        """Where the name stands."""
        at = len(self.text)
        self.text += name.encode() + b"\0"
        return at


def append_weights(library: Path, weights: Bytes, address: int) -> None:
    """Put weights into a shared library that was linked from `weights_text` with that address.

    Raises `ArtifactError` `link-failed` where the linker left no room for them.
    """
    with library.open("r+b") as file:
        identity: bytes
        fields: list[int]
        identity, *fields = HEADER.unpack(file.read(HEADER.size))
        segments = _table(file, fields[_PHOFF], fields[_PHNUM], _SEGMENT)
        sections = _table(file, fields[_SHOFF], fields[_SHNUM], SECTION)
        alignment = _require_room(segments, address)
        old = sections[fields[_SHSTRNDX]]
        names = _contents(file, old)
        note = sections[_named(sections, names, NOTE)]
        offset = -(-file.seek(0, 2) // alignment) * alignment
        size = len(weights)
        load = (_PT_LOAD, _PF_R, offset, address, address, size, size, alignment)
        others = [each for each in segments if not _is_of(each, note)]
        if len(others) != len(segments) - 1:
            raise _failed(f"{len(segments) - len(others)} program headers of {NOTE}")
        row = (len(names), _SHT_PROGBITS, _SHF_ALLOC, address, offset, size, 0, 0, ALIGNMENT, 0)
        names += SECTION_NAME.encode() + b"\0"
        behind = offset + -(-size // 8) * 8
        sections[fields[_SHSTRNDX]] = (*old[:4], behind, len(names), *old[6:])
        fields[_SHOFF] = behind + -(-len(names) // 8) * 8
        fields[_SHNUM] = len(sections) + 1
        file.seek(offset)
        file.write(weights)
        file.seek(behind)
        file.write(names)
        file.seek(fields[_SHOFF])
        file.write(b"".join(SECTION.pack(*each) for each in (*sections, row)))
        file.seek(0)
        file.write(HEADER.pack(identity, *fields))
        file.seek(fields[_PHOFF])
        file.write(b"".join(_SEGMENT.pack(*each) for each in (*others, load)))


Row = tuple[int, ...]


def _table(file: BinaryIO, offset: int, count: int, row: struct.Struct) -> list[Row]:
    file.seek(offset)
    return list(row.iter_unpack(file.read(count * row.size)))


def _contents(file: BinaryIO, section: Row) -> bytes:
    file.seek(section[4])
    return file.read(section[5])


def _named(sections: list[Row], names: bytes, wanted: str) -> int:
    """The number of the section of a name."""
    for number, each in enumerate(sections):
        if names[each[0] : names.index(b"\0", each[0])] == wanted.encode():
            return number
    raise _failed(f"no section {wanted}")


def _is_of(segment: Row, section: Row) -> bool:
    """Whether a program header is that of a note."""
    return segment[0] == _PT_NOTE and segment[2] <= section[4] < segment[2] + segment[5]


def _require_room(segments: list[Row], address: int) -> int:
    """The alignment of segments, which must all end before the address."""
    loads = [each for each in segments if each[0] == _PT_LOAD]
    end = max(each[3] + each[6] for each in loads)
    if end > address:
        raise _failed(f"code and data up to {end:#x}, where weights are expected from {address:#x} on")
    return max(each[7] for each in loads)


def _failed(found: str) -> ArtifactError:
    hint = "please report it, with the linker's version"
    return ArtifactError("link-failed", f"the linked library has {found}", hint=hint)
