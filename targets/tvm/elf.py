"""ELF relocatable objects, read and renamed without a toolchain and without TVM.

A kernel is compiled once under `PLACEHOLDER` and cached by content; each use then gives it the name of
its ONNX node with `rename_symbol`, so perf and gdb show the node. Works for 32- and 64-bit objects of either
byte order. Layout constants: System V ABI, chapter 4 ("Object Files").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from rtcc.errors import CodegenError

PLACEHOLDER = "rtcc_kernel_" + "x" * 84
"""The symbol every kernel is compiled under: 96 characters, the longest name a kernel can be given."""

_SHT_SYMTAB = 2
_SHN_UNDEF = 0


@dataclass(frozen=True)
class Symbol:
    """One entry of an object's symbol table."""

    name: str
    defined: bool
    is_global: bool
    size: int


@dataclass(frozen=True)
class _Format:
    """Field layout of one ELF class and byte order."""

    order: str
    wide: bool

    def sections(self, data: bytes) -> list[tuple[int, int, int, int, int]]:
        """(type, file offset, size, link, entry size) of each section."""
        header = "HHIQQQIHHHHHH" if self.wide else "HHIIIIIHHHHHH"
        fields = struct.unpack_from(self.order + header, data, 16)
        offset, entry, count = fields[5], fields[10], fields[11]
        shape = "IIQQQQIIQQ" if self.wide else "IIIIIIIIII"
        rows: list[tuple[int, int, int, int, int]] = []
        for i in range(count):
            _, kind, _, _, at, size, link, _, _, each = struct.unpack_from(
                self.order + shape, data, offset + i * entry
            )
            rows.append((kind, at, size, link, each))
        return rows

    def symbol(self, data: bytes, at: int) -> tuple[int, int, int, int]:
        """(name offset, info, section index, size) of the symbol at a file offset."""
        if self.wide:
            name, info, _, section, _, size = struct.unpack_from(self.order + "IBBHQQ", data, at)
        else:
            name, _, size, info, _, section = struct.unpack_from(self.order + "IIIBBH", data, at)
        return name, info, section, size


def _format(data: bytes) -> _Format:
    if data[:4] != b"\x7fELF":
        raise CodegenError(
            "not-elf", f"expected an ELF object, found {len(data)} bytes starting with {data[:4]!r}"
        )
    return _Format("<" if data[5] == 1 else ">", data[4] == 2)


def read_symbols(data: bytes) -> list[Symbol]:
    """The named symbols of an ELF object in table order."""
    form = _format(data)
    sections = form.sections(data)
    symbols: list[Symbol] = []
    for kind, at, size, link, each in sections:
        if kind != _SHT_SYMTAB:
            continue
        strings = sections[link][1]
        for entry in range(at + each, at + size, each):
            name, info, section, length = form.symbol(data, entry)
            end = data.index(b"\0", strings + name)
            text = data[strings + name : end].decode("ascii")
            if text:
                symbols.append(Symbol(text, section != _SHN_UNDEF, info >> 4 != 0, length))
    return symbols


def undefined_symbols(data: bytes) -> list[str]:
    """Names an ELF object expects from elsewhere, sorted."""
    return sorted({s.name for s in read_symbols(data) if not s.defined})


def rename_symbol(data: bytes, name: str) -> bytes:
    """Give the kernel compiled as `PLACEHOLDER` its final name; size and every offset stay as they were.

    `name` is a C identifier of at most 96 ASCII characters. Raises `CodegenError` for other names, and where
    the placeholder does not occur exactly once.
    """
    if not (name.isascii() and name.isidentifier()) or len(name) > len(PLACEHOLDER):
        raise CodegenError(
            "kernel-symbol",
            f"kernel symbol {name!r} is not a C identifier of at most {len(PLACEHOLDER)} characters",
            hint="sanitise the node's name and shorten it before naming the kernel",
        )
    matching = sum(symbol.name == PLACEHOLDER for symbol in read_symbols(data))
    if matching != 1:
        raise CodegenError(
            "kernel-symbol", f"expected the symbol {PLACEHOLDER[:14]}… once, found it {matching} times"
        )
    old = PLACEHOLDER.encode() + b"\0"  # the debug sections repeat the name: all of them change
    return data.replace(old, name.encode().ljust(len(old), b"\0"))
