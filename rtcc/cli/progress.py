"""What long work shows while it runs: one line on a terminal, nothing in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console

Say = Callable[[str], None]


@contextmanager
def progress(first: str) -> Generator[Say]:
    """A line on standard error with what is going on; call the result to change it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status(first) as status:
        yield lambda text: status.update(text)


def kernels_done(say: Say) -> Callable[[int, int], None]:
    """What to call with (kernels done, kernels in all) as code is generated."""
    return lambda done, total: say(f"generating code: {done} of {total} kernels")
