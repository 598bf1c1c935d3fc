"""The bytes of big constants: one file per content beside the text, `blobs/<sha256>`.

A file holds the elements in logical row-major order, little-endian, sub-byte types one to a byte.
"""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import ParseError
from rtcc.ir.graph import Module
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant, Value
from rtcc.system.files import Contents, Shared, replace_file

FOLDER = "blobs"
"""The folder beside the text that holds the blobs."""

MAPPED_BYTES = 1 << 20
"""Blobs at least this big are mapped, smaller ones read: a mapping takes a file descriptor."""


REMEMBERED_HASHES = 1 << 16
"""Files whose hashes are kept in mind, for as long as they stay as they are."""


class BlobConstant(Constant):
    """A constant whose bytes are loaded from a file when first asked for, and compared with their hash."""

    def __init__(self, symbol: str, type: TensorType, path: Path) -> None:
        """Take the file at `path` to hold a tensor of that type; ParseError when it cannot."""
        Value.__init__(self, type, symbol)
        self.path = path
        self.__dict__["sha256"] = path.name
        try:
            found = path.stat().st_size
        except OSError as error:
            raise ParseError(
                "missing-blob", f"#{symbol}: its bytes are not there: {error.strerror or error}",
                where=str(path), hint="copy the blobs folder along with the text",
            ) from error  # fmt: skip
        expected = _bytes(type)
        if found != expected:
            raise ParseError(
                "bad-blob", f"#{symbol}: {type} takes {expected} bytes, the blob has {found}", where=str(path)
            )

    @property
    def is_splat(self) -> bool:
        """Never: a splat is written inline."""
        return False

    @property
    def is_inline(self) -> bool:
        """Never: it has a file."""
        return False

    @cached_property
    def _data(self) -> NDArray[Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        shape, dtype = self.type.sizes, self.type.dtype.numpy
        try:
            if (found := _hash(self.path)) != self.path.name:
                raise ParseError(
                    "bad-blob", f"#{self.symbol}: the blob's bytes have the hash {found}",
                    where=str(self.path), hint="the file is damaged: write the module again",
                )  # fmt: skip
            if self.path.stat().st_size >= MAPPED_BYTES:
                return np.memmap(self.path, dtype, "r", shape=shape)
            array = np.frombuffer(self.path.read_bytes(), dtype).reshape(shape)
        except (OSError, ValueError) as error:
            message = f"#{self.symbol}: its bytes cannot be read: {error}"
            raise ParseError("missing-blob", message, where=str(self.path)) from error
        return array


def check_blobs(module: Module) -> None:
    """Read every blob of a module and compare it with its hash; ParseError for the first that differs."""
    for constant in module.constants.values():
        if isinstance(constant, BlobConstant):
            _ = constant.data


def write_blobs(module: Module, folder: Path) -> None:
    """Put the bytes of every big constant into `folder`; what is there and whole stays."""
    for constant in module.constants.values():
        if is_blob(constant):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / constant.sha256
            if not path.exists() or _hash(path) != path.name:
                replace_file(path, _contents(constant))


def is_blob(constant: Constant) -> bool:
    """Whether the text only names the bytes of this constant."""
    return not (constant.is_splat or constant.is_inline or constant.type.dtype.bits == 0)


def _contents(constant: Constant) -> Contents:
    """The bytes of a constant; of a blob elsewhere the file, whose hash is right."""
    data = constant.data
    origin = constant.path if isinstance(constant, BlobConstant) else _mapped_file(constant)
    if origin is not None and _hash(origin) == origin.name:
        return Shared(origin)
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data


def _hash(path: Path) -> str:
    """The hash of a file's bytes, computed again only where the file has changed."""
    found = path.stat()
    return _hash_of(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@lru_cache(REMEMBERED_HASHES)
def _hash_of(path: Path, state: tuple[int, ...]) -> str:
    """state: what the file system says of the file, which differs once it has changed."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _bytes(type: TensorType) -> int:
    """What the elements take in a blob, where no layout pads them."""
    return prod(type.sizes) * type.dtype.bytes


def _mapped_file(constant: Constant) -> Path | None:
    """The blob that a constant's array maps, where it maps the whole of one."""
    data = constant.data
    if not isinstance(data, np.memmap) or data.filename is None:
        return None
    path = Path(data.filename)
    whole = path.name == constant.sha256 and path.exists() and path.stat().st_size == data.nbytes
    return path if whole else None
