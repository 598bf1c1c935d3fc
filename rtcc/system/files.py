"""Files: written so that others see the old one or the new one, never a part; and where caches lie."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shlex
import shutil
import stat
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rtcc.errors import InvalidInput

LONGEST_NAME = 40
"""Characters of a file's name that a temporary one keeps; a name in a folder has at most 255 bytes."""

COPIED_BYTES = 4 << 20
"""Of a file at a time."""


@dataclass(frozen=True)
class Shared:
    """The contents of a file that never changes: linked where the file system can, else copied."""

    path: Path


Contents = bytes | bytearray | memoryview | Path | Shared | Iterable[bytes]
"""Bytes; pieces that are asked for as they are written; a file that is moved; one that is shared."""


def replace_file(path: Path, contents: Contents, mode: int = 0o666) -> None:
    """Put a file in place whole; see `replace_files`."""
    replace_files([NewFile(path, contents, mode)])


@dataclass(frozen=True)
class NewFile:
    """What a path is to hold. mode: its permissions, less the umask; a shared file keeps its own."""

    path: Path
    contents: Contents
    mode: int = 0o666


def _make(temporary: Path, file: NewFile) -> None:
    """The new file under another name."""
    if isinstance(file.contents, Shared):
        with suppress(OSError):
            os.link(os.path.realpath(file.contents.path), temporary)  # the file, not a link to it
            return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, file.mode), "wb") as stream:
        match file.contents:
            case Path():
                _take_over(stream, file.contents, temporary)
            case Shared(path):
                _copy(path, stream)
            case bytes() | bytearray() | memoryview():
                stream.write(file.contents)
            case _:
                stream.writelines(file.contents)


def _copy(source: Path, stream: BinaryIO) -> None:
    with source.open("rb") as contents:
        shutil.copyfileobj(contents, stream, COPIED_BYTES)


def _take_over(stream: BinaryIO, source: Path, path: Path) -> None:
    """Move a file over the one open at `path`, whose permissions stay; copied from another file system."""
    mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
    try:
        os.replace(source, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, stream)
    else:
        os.chmod(path, mode)


def replace_files(files: Sequence[NewFile]) -> None:
    """Put files in place in this order, each whole; none where one of them cannot be written.

    Programs that have an old one mapped keep it. A symbolic link stays, and what it leads to is replaced.
    """
    written: list[tuple[Path, Path]] = []
    for file in files:
        target = Path(os.path.realpath(file.path))
        temporary = target.with_name(f".{target.name[:LONGEST_NAME]}.{secrets.token_hex(6)}")
        written.append((temporary, target))
    at = files[0].path
    try:
        for file, (temporary, _) in zip(files, written, strict=True):
            at = file.path
            _make(temporary, file)
        for file, (temporary, target) in zip(files, written, strict=True):
            at = file.path
            os.replace(temporary, target)
    except BaseException as error:
        for temporary, _ in written:
            with suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(at), None
        raise


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Keep other compilations from replacing files of the folder meanwhile, so that sets stay together.

    Where the file system has no locks each file is still whole, and the artefact checks its weights.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def require_folder(path: Path) -> None:
    """Refuse a path for a new file where its folder does not exist or cannot be written: before any work."""
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise InvalidInput(
            "no-such-folder",
            f"the folder {str(folder)!r} does not exist",
            hint=f"make it: mkdir -p {shlex.quote(str(folder))}",
        )
    if not os.access(folder, os.W_OK):
        raise InvalidInput("read-only-folder", f"files cannot be made in the folder {str(folder)!r}")
    if path.is_dir():
        message = f"{str(path)!r} is a folder; expected the path of a file"
        raise InvalidInput("is-a-folder", message, hint="name a file in it")


def require_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path | None]) -> None:
    """Refuse paths of new files, before any work, that cannot be written or of which one destroys another.

    inputs: files that are read. InvalidInput: what `require_folder` raises; same-file, where two outputs are
    one, or one is an input.
    """
    known = {os.path.realpath(path): path for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        require_folder(path)
        other = known.setdefault(os.path.realpath(path), path)
        if other is not path:
            message = f"{str(path)!r} is to be written, and is {str(other)!r} as well"
            raise InvalidInput("same-file", message, hint="give each file a path of its own")


def cache_folder() -> Path:
    """`$RTCC_CACHE`, else `$XDG_CACHE_HOME/rtcc`, else `~/.cache/rtcc`; InvalidInput without a home."""
    if named := os.environ.get("RTCC_CACHE"):
        return Path(named)
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "rtcc"
    try:
        return Path.home() / ".cache" / "rtcc"
    except RuntimeError as error:
        raise InvalidInput(
            "no-cache-folder", f"there is no place for the cache: {error}", hint="set RTCC_CACHE to a folder"
        ) from error
