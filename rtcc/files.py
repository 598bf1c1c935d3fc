"""Files: written so that others see the old one or the new one, never a part; and where caches lie."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rtcc.errors import InvalidInput


def replace_file(path: Path, contents: bytes, mode: int = 0o644) -> None:
    """Put a file in place whole; programs that have the old one mapped keep it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def require_folder(path: Path) -> None:
    """Refuse a path for a new file where its folder does not exist or cannot be written: before any work."""
    folder = path.parent
    if not folder.is_dir():
        raise InvalidInput(
            "no-such-folder", f"the folder {str(folder)!r} does not exist", hint=f"make it: mkdir -p {folder}"
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
