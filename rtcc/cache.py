"""Where what was computed once is kept on disk."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$RTCC_CACHE`, else `$XDG_CACHE_HOME/rtcc`, else `~/.cache/rtcc`."""
    if named := os.environ.get("RTCC_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rtcc"
