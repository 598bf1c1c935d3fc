"""Opening an artefact's file: is it one, is it whole, is it for this machine; and its table of functions."""

from __future__ import annotations

import _ctypes
import ctypes
import mmap
import os
import platform
import threading
import weakref
from pathlib import Path

from rtcc.artifact.elf import Elf
from rtcc.artifact.seal import is_whole
from rtcc.errors import ArtifactError

TABLE_SYMBOL = "rtcc_artifact_v1"

Pointer = ctypes.c_void_p


class Table(ctypes.Structure):
    """`struct rtcc_artifact` of the header."""

    _fields_ = [
        ("size", ctypes.c_size_t),
        ("threads_max", ctypes.c_int),
        ("workspace_bytes", ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int)),
        ("init", ctypes.CFUNCTYPE(ctypes.c_int, Pointer, ctypes.c_size_t, ctypes.c_int)),
        ("run", ctypes.CFUNCTYPE(ctypes.c_int, Pointer, Pointer, Pointer)),
        ("output_shape", ctypes.CFUNCTYPE(ctypes.c_int, Pointer, ctypes.c_int, Pointer)),
        ("finish", ctypes.CFUNCTYPE(None, Pointer, ctypes.c_int)),
        ("info", ctypes.CFUNCTYPE(ctypes.c_char_p)),
        ("error", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_int)),
    ]


def check_file(path: Path) -> None:
    """Refuse what is no artefact, or not as it was made, before any of its code can run."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            elf = Elf(data, str(path))
            machine, seal = elf.machine, is_whole(data)
            is_artifact = seal is not False and TABLE_SYMBOL in elf.exported
    except OSError as error:
        raise ArtifactError(
            "cannot-open",
            f"cannot open the artefact: {error.strerror}",
            where=str(path),
            hint="check the path; rtcc compile writes one",
        ) from error
    except ValueError as error:
        raise ArtifactError("not-elf", "expected an ELF file, found an empty one", where=str(path)) from error
    if machine != platform.machine():
        raise ArtifactError(
            "wrong-machine",
            f"the artefact is for {machine}, this machine is {platform.machine()}",
            where=str(path),
            hint="compile with --target for this machine",
        )
    if seal is False or (is_artifact and seal is None):
        found = "no checksum at its end" if seal is None else "bytes that do not fit the checksum at its end"
        raise ArtifactError(
            "damaged",
            f"the artefact has {found}: it was damaged, or changed by a tool such as strip",
            where=str(path),
            hint="copy the file again, or compile the model again",
        )
    if not is_artifact:
        raise ArtifactError(
            "not-an-artefact",
            f"expected a library that exports {TABLE_SYMBOL}, found none",
            where=str(path),
            hint="rtcc compile writes one",
        )


_opened: dict[str, list[tuple[int, int]]] = {}
_opened_lock = threading.Lock()


def open_table(path: Path) -> Table:
    """The artefact's table of functions; the library is unloaded when nobody holds the table any more.

    The dynamic loader takes equal path texts for equal files, even where the file was replaced since: each
    file that was seen at a path gets another spelling of that path.
    """
    folder, name = os.path.split(os.path.abspath(path))
    status = os.stat(path)
    with _opened_lock:
        seen = _opened.setdefault(os.path.join(folder, name), [])
        if (status.st_dev, status.st_ino) not in seen:
            seen.append((status.st_dev, status.st_ino))
        spelling = "/." * seen.index((status.st_dev, status.st_ino))
    try:
        library = ctypes.CDLL(f"{folder}{spelling}/{name}", mode=os.RTLD_NOW | os.RTLD_LOCAL)
        table = Table.in_dll(library, TABLE_SYMBOL)
    except (OSError, ValueError) as error:  # ValueError: no such symbol, or a message that is not UTF-8
        raise ArtifactError(
            "cannot-load", f"the dynamic loader refuses the artefact: {error}", where=str(path)
        ) from error
    weakref.finalize(table, _ctypes.dlclose, library._handle).atexit = False
    return table
