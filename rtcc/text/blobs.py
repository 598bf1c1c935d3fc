"""The bytes of big constants: one file per content beside the text, `blobs/<sha256>`.

A file holds the elements in logical row-major order, little-endian, sub-byte types one to a byte.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import ParseError
from rtcc.ir.graph import Module
from rtcc.ir.types import TensorType
from rtcc.ir.value import Constant, Value

FOLDER = "blobs"
"""The folder beside the text that holds the blobs."""

MAPPED_BYTES = 1 << 20
"""Blobs at least this big are mapped, smaller ones read: a mapping takes a file descriptor."""


class BlobConstant(Constant):
    """A constant whose bytes are loaded from a file when they are first asked for."""

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
        if not isinstance(constant, BlobConstant):
            continue
        found = hashlib.sha256(np.ascontiguousarray(constant.data).data.cast("B")).hexdigest()
        if found != constant.path.name:
            raise ParseError(
                "bad-blob", f"#{constant.symbol}: the blob's bytes have the hash {found}",
                where=str(constant.path), hint="the file is damaged: write the module again",
            )  # fmt: skip


def write_blobs(module: Module, folder: Path) -> None:
    """Put the bytes of every big constant into `folder`; files that are there already stay."""
    for constant in module.constants.values():
        if is_blob(constant):
            folder.mkdir(parents=True, exist_ok=True)
            _write_blob(constant, folder / constant.sha256)


def is_blob(constant: Constant) -> bool:
    """Whether the text only names the bytes of this constant."""
    return not (constant.is_splat or constant.is_inline or constant.type.dtype.bits == 0)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under another name, then rename it to `path`."""
    part = path.with_name(f".{path.name[:40]}.{uuid4().hex}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _write_blob(constant: Constant, path: Path) -> None:
    if path.exists() and path.stat().st_size == _bytes(constant.type):
        return
    origin = constant.path if isinstance(constant, BlobConstant) else _mapped_file(constant)
    if origin is None:
        contents = np.ascontiguousarray(constant.data).reshape(-1).view(np.uint8)
        write_atomically(path, lambda part: part.write_bytes(contents.data))  # tofile misses a full disk
        return

    def link_or_copy(part: Path) -> None:
        try:
            os.link(origin, part)
        except OSError:
            shutil.copyfile(origin, part)

    write_atomically(path, link_or_copy)


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
