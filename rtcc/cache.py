"""Where what was computed once is kept on disk."""

from __future__ import annotations

import os
from pathlib import Path

from rtcc.errors import InvalidInput


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
