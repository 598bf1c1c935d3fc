"""Reading ELF files without a toolchain: is it whole, for which machine, what does it define; and renaming
a symbol.

64-bit little-endian files only, which is what x86-64 and AArch64 Linux use. Structures: System V ABI,
chapters 4 and 5.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from rtcc.errors import ArtifactError

MACHINES = {62: "x86_64", 183: "aarch64"}
"""Machine numbers of the ELF header, by the architecture that a target triple starts with."""

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
SYMBOL = struct.Struct("<IBBHQQ")
_MAGIC = b"\x7fELF"
_ARCHIVE, _MEMBER_HEADER = b"!<arch>\n", 60
_SHT_SYMTAB, _SHT_NOBITS, _SHT_DYNSYM = 2, 8, 11
_STB_WEAK, _STT_FUNC, _STV_HIDDEN = 2, 2, 2


@dataclass(frozen=True)
class Section:
    """One row of the section table."""

    header: int  # file offset of the row itself
    type: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True)
class Symbol:
    """One row of a symbol table."""

    row: int  # file offset of the row itself
    name: str
    is_defined: bool
    is_global: bool
    is_weak: bool
    is_function: bool


class Elf:
    """An ELF file in memory (bytes or a map)."""

    def __init__(self, data: bytes | mmap.mmap, what: str) -> None:
        """`what` names the file in errors. Raises `ArtifactError` `not-elf` or `truncated`."""
        self.data = data
        self.what = what
        if self.data[:6] != b"\x7fELF\x02\x01":
            raise ArtifactError(
                "not-elf",
                f"expected a 64-bit little-endian ELF file, found {self.data[:6]!r} at its start",
                where=what,
            )
        if len(self.data) < HEADER.size:
            self._truncated(HEADER.size)
        fields = HEADER.unpack_from(self.data)
        self.machine = MACHINES.get(fields[2], f"machine {fields[2]}")
        self.sections = self._read_sections(fields[6], fields[12])

    def _truncated(self, expected: int) -> None:
        raise ArtifactError(
            "truncated",
            f"expected at least {expected} bytes, found {len(self.data)}",
            where=self.what,
            hint="copy the file again",
        )

    def _read_sections(self, offset: int, count: int) -> list[Section]:
        if len(self.data) < offset + count * SECTION.size:
            self._truncated(offset + count * SECTION.size)
        sections: list[Section] = []
        for header in range(offset, offset + count * SECTION.size, SECTION.size):
            _, kind, _, _, start, size, link, _, _, _ = SECTION.unpack_from(self.data, header)
            if kind != _SHT_NOBITS and len(self.data) < start + size:
                self._truncated(start + size)
            sections.append(Section(header, kind, start, size, link))
        return sections

    def _table(self, kind: int) -> Section | None:
        return next((section for section in self.sections if section.type == kind), None)

    def _symbols(self, table: Section | None) -> list[Symbol]:
        if table is None:
            return []
        try:
            return self._rows(table)
        except (IndexError, ValueError, struct.error) as error:
            raise ArtifactError(
                "damaged",
                f"its symbol table makes no sense: {error}",
                where=self.what,
                hint="copy the file again",
            ) from error

    def _rows(self, table: Section) -> list[Symbol]:
        strings = self.sections[table.link]
        text = self.data[strings.offset : strings.offset + strings.size]
        symbols: list[Symbol] = []
        for row in range(table.offset + SYMBOL.size, table.offset + table.size, SYMBOL.size):
            name, info, _, section, _, _ = SYMBOL.unpack_from(self.data, row)
            decoded = text[name : text.index(b"\0", name)].decode("utf-8", "replace")
            binding, kind = info >> 4, info & 15
            symbols.append(
                Symbol(row, decoded, section != 0, binding != 0, binding == _STB_WEAK, kind == _STT_FUNC)
            )
        return symbols

    @property
    def symbols(self) -> list[Symbol]:
        """The symbols of an object file."""
        return self._symbols(self._table(_SHT_SYMTAB))

    @property
    def exported(self) -> set[str]:
        """The names that a shared object offers to others."""
        return {s.name for s in self._symbols(self._table(_SHT_DYNSYM)) if s.is_defined and s.is_global}


def architecture_of(path: Path) -> str:
    """The architecture of a shared library, or of a static one's first member that is no table of its own.

    Raises `ArtifactError` `cannot-open` or `not-elf`.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            after = len(_ARCHIVE) + _MEMBER_HEADER
            start = data.find(_MAGIC, after) if data[: len(_ARCHIVE)] == _ARCHIVE else 0
            head = data[start : start + HEADER.size] if start >= 0 else b""
    except (OSError, ValueError) as error:
        message = f"cannot open the artefact: {getattr(error, 'strerror', None) or 'it is empty'}"
        raise ArtifactError("cannot-open", message, where=str(path)) from error
    if len(head) < HEADER.size or not head.startswith(_MAGIC):
        message = "expected a library of ELF objects, found something else"
        raise ArtifactError("not-elf", message, where=str(path))
    number = HEADER.unpack(head)[2]
    return MACHINES.get(number, f"machine {number}")


def rename_and_hide(data: bytes, kernel: str, new: str) -> bytes:
    """The object file of a kernel with its one global function called `new`, hidden from other shared
    objects.

    The string table moves to the end of the file, one name longer. `kernel` names the object in errors.
    Raises `ArtifactError` where the object does not define exactly one global function (weak ones aside).
    """
    elf = Elf(data, f"object of kernel @{kernel}")
    found = [s for s in elf.symbols if s.is_defined and s.is_global and s.is_function and not s.is_weak]
    if len(found) != 1:
        names = ", ".join(sorted(symbol.name for symbol in found)) or "none"
        raise ArtifactError(
            "kernel-symbol", f"expected one global function in the object of @{kernel}, found {names}"
        )
    table = elf._table(_SHT_SYMTAB)  # pyright: ignore[reportPrivateUsage]
    assert table is not None
    strings = elf.sections[table.link]
    text = data[strings.offset : strings.offset + strings.size]
    result = bytearray(data)
    struct.pack_into("<QQ", result, strings.header + 24, len(data), len(text) + len(new) + 1)
    struct.pack_into("<I", result, found[0].row, len(text))
    result[found[0].row + 5] = _STV_HIDDEN
    return bytes(result) + text + new.encode() + b"\0"
