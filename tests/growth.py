"""How the work of a function grows with its input: counted in calls, which no machine's load can change."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def calls(run: Callable[[], Any]) -> int:
    """Function calls, Python's and C's, that `run` makes on this thread."""
    count = 0

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def growth(run: Callable[[int], None], count: int = 500, factor: int = 4) -> float:
    """Calls for `factor` times as much input over calls for `count`, divided by `factor`: 1 is linear."""
    return calls(lambda: run(count * factor)) / calls(lambda: run(count)) / factor
