"""Files: written so that others see the old one or the new one, never a part; and where caches lie."""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from rtcc.errors import InvalidInput

LONGEST_NAME = 40
"""Characters of a file's name that a temporary one keeps; a name in a folder has at most 255 bytes."""


def replace_file(path: Path, contents: bytes, mode: int = 0o666) -> None:
    """Put a file in place whole; programs that have the old one mapped keep it.

    A symbolic link stays, and what it leads to is replaced. mode: permissions, less the process's umask.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:LONGEST_NAME]}.{secrets.token_hex(6)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(contents)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        error.filename, error.filename2 = str(path), None
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
        raise InvalidInput("is-a-folder", f"{str(path)!r} is a folder; expected the path of a file")


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
