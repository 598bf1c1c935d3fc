"""Reading ELF files without a toolchain: is it whole, for which machine, what does it define; and renaming
a symbol.

Little-endian files only, of 64 bits as x86-64 and AArch64 Linux use, or of 32 as Cortex-M does. Structures:
System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass

from rtcc.errors import ArtifactError

MACHINES = {40: "arm", 62: "x86_64", 183: "aarch64"}
"""Machine numbers of the ELF header, by the architecture."""

_SHT_SYMTAB, _SHT_NOBITS, _SHT_REL, _SHT_DYNSYM = 2, 8, 9, 11
_REL = struct.Struct("<II")
"""Of 32 bits: a place in a section, and the symbol's number before eight bits of what is done there."""

_STB_WEAK, _STT_FUNC, _STV_HIDDEN = 2, 2, 2
_SHF_WRITE, _SHF_ALLOC = 1, 2


@dataclass(frozen=True)
class Form:
    """How numbers lie in a file of 32 or of 64 bits.

    magic: what such a file begins with. header, section: the same fields in both. symbol: a row of a symbol
    table. order: where name, information, visibility, section, value and size stand in that. span, place: the
    two numbers offset and size, and where they begin in a row of the section table. visibility: where that
    byte lies in a symbol's row.
    """

    magic: bytes
    header: struct.Struct
    section: struct.Struct
    symbol: struct.Struct
    order: tuple[int, int, int, int, int, int]
    span: struct.Struct
    place: int
    visibility: int

    def pack_symbol(self, *fields: int) -> bytes:
        """A row of a symbol table: name, information, visibility, section, value, size."""
        row = [0] * len(fields)
        for place, field in zip(self.order, fields, strict=True):
            row[place] = field
        return self.symbol.pack(*row)


HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
SECTION = struct.Struct("<IIQQQQIIQQ")
FORM64 = Form(
    b"\x7fELF\x02\x01", HEADER, SECTION, struct.Struct("<IBBHQQ"), (0, 1, 2, 3, 4, 5),
    struct.Struct("<QQ"), 24, 5,
)  # fmt: skip
FORM32 = Form(
    b"\x7fELF\x01\x01", struct.Struct("<16sHHIIIIIHHHHHH"), struct.Struct("<IIIIIIIIII"),
    struct.Struct("<IIIBBH"), (0, 3, 4, 5, 1, 2), struct.Struct("<II"), 16, 13,
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """One row of the section table."""

    header: int  # file offset of the row itself
    name: int  # where its name stands among those of sections
    type: int
    flags: int
    address: int  # where it begins in memory; 0 in an object that is not linked
    offset: int
    size: int
    link: int
    info: int
    alignment: int

    @property
    def is_loaded(self) -> bool:
        """Whether it takes memory where the program runs."""
        return bool(self.flags & _SHF_ALLOC)

    @property
    def is_written(self) -> bool:
        """Whether it must lie in memory that changes."""
        return bool(self.flags & _SHF_WRITE)

    @property
    def has_bytes(self) -> bool:
        """Whether its contents are in the file; else they are zeros."""
        return self.type != _SHT_NOBITS


@dataclass(frozen=True)
class Symbol:
    """One row of a symbol table."""

    row: int  # file offset of the row itself
    name: str
    is_defined: bool
    is_global: bool
    is_weak: bool
    is_function: bool
    section: int  # number of the section that it is in
    value: int


class Elf:
    """An ELF file in memory (bytes or a map)."""

    def __init__(self, data: bytes | mmap.mmap, what: str) -> None:
        """`what` names the file in errors. Raises `ArtifactError` `not-elf` or `truncated`."""
        self.data = data
        self.what = what
        forms = [form for form in (FORM64, FORM32) if self.data[:6] == form.magic]
        if not forms:
            raise ArtifactError(
                "not-elf",
                f"expected a little-endian ELF file, found {self.data[:6]!r} at its start",
                where=what,
            )
        self.form = forms[0]
        if len(self.data) < self.form.header.size:
            self._truncated(self.form.header.size)
        fields = self.form.header.unpack_from(self.data)
        self.machine = MACHINES.get(fields[2], f"machine {fields[2]}")
        self.sections = self._read_sections(fields[6], fields[12])
        self._names: int = fields[13]

    def _truncated(self, expected: int) -> None:
        raise ArtifactError(
            "truncated",
            f"expected at least {expected} bytes, found {len(self.data)}",
            where=self.what,
            hint="copy the file again",
        )

    def _read_sections(self, offset: int, count: int) -> list[Section]:
        step = self.form.section.size
        if len(self.data) < offset + count * step:
            self._truncated(offset + count * step)
        sections: list[Section] = []
        for header in range(offset, offset + count * step, step):
            row = self.form.section.unpack_from(self.data, header)
            name, kind, flags, address, start, size, link, info, alignment, _ = row
            if kind != _SHT_NOBITS and len(self.data) < start + size:
                self._truncated(start + size)
            sections.append(Section(header, name, kind, flags, address, start, size, link, info, alignment))
        return sections

    def name_of(self, section: Section) -> str:
        """What a section is called."""
        start = self.sections[self._names].offset + section.name
        return self.data[start : self.data.find(b"\0", start)].decode("utf-8", "replace")

    def contents(self, section: Section) -> bytes:
        """The bytes of a section that has some."""
        return self.data[section.offset : section.offset + section.size]

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
        form, step = self.form, self.form.symbol.size
        for row in range(table.offset + step, table.offset + table.size, step):
            fields = form.symbol.unpack_from(self.data, row)
            name, info, _, section, value, _ = (fields[place] for place in form.order)
            decoded = text[name : text.index(b"\0", name)].decode("utf-8", "replace")
            binding, kind = info >> 4, info & 15
            symbols.append(
                Symbol(row, decoded, section != 0, binding != 0, binding == _STB_WEAK, kind == _STT_FUNC,
                       section, value)
            )  # fmt: skip
        return symbols

    @property
    def symbols(self) -> list[Symbol]:
        """The symbols of an object file, or of a library that was not stripped."""
        return self._symbols(self._table(_SHT_SYMTAB))

    def relocations(self, number: int) -> dict[int, Symbol]:
        """Places in a section of a 32-bit object that a linker fills in, and the symbols that they need."""
        symbols = self.symbols
        return {
            place: symbols[(what >> 8) - 1]
            for table in self.sections
            if table.type == _SHT_REL and table.info == number
            for place, what in _REL.iter_unpack(self.contents(table))
            if what >> 8
        }

    @property
    def exported(self) -> dict[str, int]:
        """The names that a shared object offers to others, and their addresses in it."""
        symbols = self._symbols(self._table(_SHT_DYNSYM))
        return {each.name: each.value for each in symbols if each.is_defined and each.is_global}


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
    elf.form.span.pack_into(result, strings.header + elf.form.place, len(data), len(text) + len(new) + 1)
    struct.pack_into("<I", result, found[0].row, len(text))
    result[found[0].row + elf.form.visibility] = _STV_HIDDEN
    return bytes(result) + text + new.encode() + b"\0"
