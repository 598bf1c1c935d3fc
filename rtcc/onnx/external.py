"""Tensor data kept in files beside the model: found safely, mapped rather than read.

A model names its data files, and a model may come from anywhere. A file is used only if it is a
plain file with one name, inside the model's own folder, reached through no symbolic link.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

from rtcc.errors import InvalidModel

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ExternalData:
    """The data files of one model; `folder` is None for a model that came without a path."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._mapped: dict[str, mmap.mmap | bytes] = {}

    def view(self, location: str, offset: int, length: int | None, tensor: str) -> memoryview:
        """`length` bytes (None: to the end) of a data file, mapped read-only.

        InvalidModel("external-data") when the location or the range is not acceptable.
        """
        content = self._mapped.get(location)
        if content is None:
            content = self._mapped[location] = self._map(location, tensor)
        length = len(content) - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > len(content):
            raise _refuse(
                f"bytes {offset}…{offset + length} are wanted from {location!r}, which has {len(content)}",
                tensor,
                "the data file is incomplete or belongs to another model: export both again",
            )
        return memoryview(content)[offset : offset + length]

    def _map(self, location: str, tensor: str) -> mmap.mmap | bytes:
        if self.folder is None:
            raise _refuse(
                f"the data lies in {location!r}, but the model was given without a folder",
                tensor,
                "give the path of the .onnx file instead of its bytes",
            )
        descriptor = _open_inside(self.folder, location, tensor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _refuse(f"{location!r} is not a plain file", tensor)
            if status.st_nlink > 1:
                raise _refuse(
                    f"{location!r} has {status.st_nlink} names (hard links)",
                    tensor,
                    "copy it to a file of its own",
                )
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) if status.st_size else b""
        finally:
            os.close(descriptor)


def _open_inside(folder: Path, location: str, tensor: str) -> int:
    """A descriptor of the file, walking from the folder one name at a time and following no link."""
    if not location or "\0" in location or os.path.isabs(location):
        raise _refuse(f"the location {location!r} is not a relative path", tensor)
    names = [name for name in location.replace("\\", "/").split("/") if name not in ("", ".")]
    if ".." in names or not names:
        raise _refuse(f"the location {location!r} leaves the model's folder", tensor)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names[:-1]:
            inner = os.open(name, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        return os.open(names[-1], _FILE, dir_fd=directory)
    except OSError as error:
        link = error.errno in (errno.ELOOP, errno.ENOTDIR)
        found = (
            "goes through a symbolic link or a plain file" if link else (error.strerror or "cannot be opened")
        )
        raise _refuse(
            f"the data file {location!r}: {found}", tensor, f"it must lie in {str(folder) or '.'}"
        ) from error
    finally:
        os.close(directory)


def _refuse(message: str, tensor: str, hint: str | None = None) -> InvalidModel:
    return InvalidModel("external-data", message, where=f"initialiser {tensor!r}", hint=hint)
