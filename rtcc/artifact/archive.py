"""Reading static libraries: the objects in an `ar` archive, and what an artefact in one says of itself."""

from __future__ import annotations

import struct
from pathlib import Path

from rtcc.artifact.elf import Elf
from rtcc.artifact.info import ArtifactInfo, read_info
from rtcc.errors import ArtifactError

MAGIC = b"!<arch>\n"
_HEADER, _NAME, _SIZE, _END = 60, slice(0, 16), slice(48, 58), b"`\n"
"""Of an entry: bytes in all, where its name and its size stand, and what the header ends with."""

INFO_SYMBOL = "rtcc_info_text"


def objects_of(path: Path) -> dict[str, bytes]:
    """The objects of a static library by name, in their order.

    Raises ArtifactError: `cannot-open`, `not-an-archive`, `truncated`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError("cannot-open", f"cannot open the library: {error.strerror}", where=str(path),
                            hint="check the path; rtcc compile writes one") from error  # fmt: skip
    if not data.startswith(MAGIC):
        raise ArtifactError("not-an-archive", f"expected a static library, found {data[:8]!r} at its start",
                            where=str(path), hint="rtcc compile MODEL -o PATH.a writes one")  # fmt: skip
    found: dict[str, bytes] = {}
    names, at = b"", len(MAGIC)
    while at < len(data):
        header = data[at : at + _HEADER]
        if len(header) < _HEADER or not header.endswith(_END) or not header[_SIZE].strip().isdigit():
            raise _cut(path, at)
        size, at = int(header[_SIZE]), at + _HEADER
        contents = data[at : at + size]
        if len(contents) < size:
            raise _cut(path, at)
        name = header[_NAME].rstrip().decode("ascii", "replace")
        at += size + size % 2
        if name == "//":  # long names of GNU's archives
            names = contents
        elif name.startswith("/") and name[1:].isdigit():
            start = int(name[1:])
            found[names[start : names.find(b"/\n", start)].decode("ascii", "replace")] = contents
        elif name not in ("/", "/SYM64/"):
            found[name.removesuffix("/")] = contents
    return found


def defining_object(data: bytes, symbol: str) -> bytes | None:
    """The object of an archive that its table says defines a symbol; None where it has none."""
    size = int(data[len(MAGIC) :][_SIZE])
    table = data[len(MAGIC) + _HEADER : len(MAGIC) + _HEADER + size]
    (count,) = struct.unpack_from(">I", table)
    names = table[4 + 4 * count :].split(b"\0")
    try:
        (at,) = struct.unpack_from(">I", table, 4 + 4 * names.index(symbol.encode()))
    except ValueError:
        return None
    return data[at + _HEADER : at + _HEADER + int(data[at : at + _HEADER][_SIZE])]


def _cut(path: Path, at: int) -> ArtifactError:
    message = f"expected an object at byte {at} of the library, found none"
    return ArtifactError("truncated", message, where=str(path), hint="copy the file again")


def info_of(path: Path) -> ArtifactInfo:
    """What a static library that rtcc made says of itself; ArtifactError `not-an-artefact` for others."""
    for name, contents in objects_of(path).items():
        text = info_text(Elf(contents, f"{path} ({name})"))
        if text is not None:
            return read_info(text, path)
    raise ArtifactError("not-an-artefact", f"expected a library with {INFO_SYMBOL} in it, found none",
                        where=str(path), hint="rtcc compile writes one")  # fmt: skip


def info_text(elf: Elf) -> bytes | None:
    """What an object or a library says of itself, as JSON; None where it says nothing."""
    for symbol in elf.symbols:
        if symbol.name == INFO_SYMBOL and symbol.is_defined:
            section = elf.sections[symbol.section]
            text = elf.contents(section)[symbol.value - section.address :]
            return text[: text.index(b"\0")]
    return None
