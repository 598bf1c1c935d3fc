"""The end of an artefact's file: a checksum of all that stands before it, read before any of its code runs.

    the ELF file   SHA-256 of it (32 bytes)   "rtccseal" (8 bytes)

Loaders of ELF files ignore what follows the tables they know.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path

MARK = b"rtccseal"
_DIGEST = 32


def seal(path: Path) -> None:
    """Put the checksum of a file at its end."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(digest + MARK)


def is_whole(data: bytes | mmap.mmap) -> bool | None:
    """Whether a file is what was sealed; None where it has no seal."""
    end = len(data) - _DIGEST - len(MARK)
    if end < 0 or data[-len(MARK) :] != MARK:
        return None
    with memoryview(data) as view, view[:end] as contents:
        return hashlib.sha256(contents).digest() == data[end : end + _DIGEST]
