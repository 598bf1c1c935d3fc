"""The end of an artefact's file: a checksum of all that stands before it, read before any of its code runs.

    the ELF file   SHA-256 of it (32 bytes)   "rtccseal" (8 bytes)

Loaders of ELF files ignore what follows the tables they know.
"""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

MARK = b"rtccseal"
_DIGEST = 32
_PIECE = 1 << 20


def seal(path: Path) -> None:
    """Put the checksum of a file at its end."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(digest + MARK)


def is_whole(file: io.BufferedReader) -> bool | None:
    """Whether a file is what was sealed; None where it has no seal.

    It is read in pieces: in a map its pages would count as this process's memory.
    """
    left = file.seek(0, os.SEEK_END) - _DIGEST - len(MARK)
    if left < 0:
        return None
    file.seek(left)
    expected, mark = file.read(_DIGEST), file.read()
    if mark != MARK:
        return None
    file.seek(0)
    digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE))
    while left:
        count = file.readinto(piece[: min(left, _PIECE)])
        if not count:
            return False
        digest.update(piece[:count])
        left -= count
    return digest.digest() == expected
