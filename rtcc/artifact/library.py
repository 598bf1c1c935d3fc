"""Opening an artefact's file: is it one, is it whole, is it for this machine; and its table of functions."""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import mmap
import os
import platform
import threading
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from rtcc.artifact.archive import INFO_SYMBOL, MAGIC, info_text
from rtcc.artifact.elf import Elf
from rtcc.artifact.info import ArtifactInfo, read_info
from rtcc.artifact.seal import is_whole
from rtcc.errors import ArtifactError

TABLE_SYMBOL = "rtcc_artifact_v1"

_STATIC_HINT = "compile to .so to load it; rtcc.emulation.EmulatedBoard runs static libraries for Cortex-M"

_WRITES_ONE = "rtcc compile writes one"

Pointer = ctypes.c_void_p


class Table(ctypes.Structure):
    """`struct rtcc_artifact` of the header. library: the file it is in, which stays loaded with it."""

    library: ctypes.CDLL

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


def check_file(path: Path, architecture: str = "") -> None:
    """Refuse what is no artefact, or not as it was made, before any of its code can run.

    architecture: that it must be for; this machine's where none is given.
    """
    wanted = architecture or platform.machine()
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[: len(MAGIC)] == MAGIC:
                raise ArtifactError("static-library", "it is a static library, for linkers alone",
                                    where=str(path), hint=_STATIC_HINT)  # fmt: skip
            elf = Elf(data, str(path))
            machine, seal = elf.machine, is_whole(file)
            is_artifact = seal is not False and TABLE_SYMBOL in elf.exported
    except OSError as error:
        raise cannot_open(path, error) from error
    except ValueError as error:
        raise ArtifactError("not-elf", "expected an ELF file, found an empty one", where=str(path),
                            hint=_WRITES_ONE) from error  # fmt: skip
    if machine != wanted:
        found = "this machine is" if wanted == platform.machine() else "what is emulated is"
        raise ArtifactError(
            "wrong-machine",
            f"the artefact is for {machine}, {found} {wanted}",
            where=str(path),
            hint="compile with --target for it; `rtcc run --emulate` runs AArch64 artefacts elsewhere",
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
            hint=_WRITES_ONE,
        )


def cannot_open(path: Path, error: OSError) -> ArtifactError:
    """The error for a file that cannot be read."""
    message = f"cannot open the artefact: {error.strerror}"
    return ArtifactError("cannot-open", message, where=str(path), hint=f"check the path; {_WRITES_ONE}")


def read_library(path: Path) -> tuple[bytes, str]:
    """The bytes of a shared library for any machine, and its architecture; errors as of `check_file`."""
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise cannot_open(path, error) from error
    architecture = "" if contents.startswith(MAGIC) else Elf(contents, str(path)).machine
    check_file(path, architecture)
    return contents, architecture


def info_of_library(path: Path) -> ArtifactInfo:
    """What a shared library says of itself: its file is read and nothing of it runs, so it may be for another
    machine."""
    contents, _ = read_library(path)
    text = info_text(Elf(contents, str(path)))
    if text is None:
        raise ArtifactError("damaged", f"the artefact has no {INFO_SYMBOL}: its symbols were removed",
                            where=str(path), hint="compile the model again")  # fmt: skip
    return read_info(text, path)


@dataclass
class Loaded:
    """A file that the loader has: which it is, which spelling of its path it was loaded by, and how often."""

    file: tuple[int, int]
    spelling: int
    uses: int = 0


loaded_files: dict[str, list[Loaded]] = {}
"""By path."""
_released: deque[tuple[str, Loaded]] = deque()
_lock = threading.Lock()


def open_table(path: Path) -> Table:
    """The artefact's table of functions; the library is unloaded when nobody holds it any more.

    The dynamic loader takes equal path texts for equal files, even where the file was replaced since: while
    it has one of a path, another file there gets another spelling of that path.
    """
    name = os.path.abspath(path)
    with _lock:
        _forget_released()
        loaded = _loaded_as(name, path)
        folder, stem = os.path.split(name)
        spelling = f"{folder}{'/.' * loaded.spelling}/{stem}"
        try:
            library = ctypes.CDLL(spelling, mode=os.RTLD_NOW | os.RTLD_LOCAL)
            table = Table.in_dll(library, TABLE_SYMBOL)
            size, wanted = table.size, ctypes.sizeof(Table)
            if size < wanted:
                _ctypes.dlclose(library._handle)
                raise ValueError(f"its table has {size} bytes, expected {wanted} or more")
        except (OSError, ValueError) as error:  # ValueError: too small, or a message that is not UTF-8
            _released.append((name, loaded))
            raise ArtifactError(
                "cannot-load", f"the dynamic loader refuses the artefact: {error}", where=str(path)
            ) from error
    weakref.finalize(library, _release, name, loaded, library._handle).atexit = False
    table.library = library
    return table


def _loaded_as(name: str, path: Path) -> Loaded:
    """The entry of the file that lies at a path now, its use counted."""
    status, others = os.stat(path), loaded_files.setdefault(name, [])
    file = (status.st_dev, status.st_ino)
    found = next((each for each in others if each.file == file), None)
    if found is None:
        taken = {each.spelling for each in others}
        found = Loaded(file, next(n for n in itertools.count() if n not in taken))
        others.append(found)
    found.uses += 1
    return found


def _release(name: str, loaded: Loaded, handle: int) -> None:
    """Unload a library. Anything may run this at any time, so the entry is left to the next who opens."""
    _ctypes.dlclose(handle)
    _released.append((name, loaded))


def _forget_released() -> None:
    """Drop the entries of files that the loader has no more."""
    while _released:
        name, loaded = _released.popleft()
        loaded.uses -= 1
        if loaded.uses == 0:
            loaded_files[name].remove(loaded)
            if not loaded_files[name]:
                del loaded_files[name]


def _reset_lock() -> None:
    """A forked child's lock is free, whoever held the parent's."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_reset_lock)
