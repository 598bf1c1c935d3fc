"""What a model's size may exhaust, as errors: the interpreter's stack and the memory."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rtcc.errors import Unsupported


@contextmanager
def within_limits(doing: str) -> Generator[None]:
    """Turn an exhausted stack or memory into `Unsupported`; `doing` is what was going on."""
    try:
        yield
    except RecursionError as error:
        raise Unsupported(
            "nested-too-deep",
            f"{doing} needs more nested calls than Python's stack has",
            hint="make the model shallower: fewer graphs, functions or symbolic sizes inside one another",
        ) from error
    except MemoryError as error:
        raise too_little_memory(doing) from error


def too_little_memory(doing: str) -> Unsupported:
    """The error for memory that `doing` needs and the machine does not give."""
    return Unsupported(
        "out-of-memory",
        f"there is too little memory for {doing}",
        hint="use smaller inputs or constants, or a machine with more memory",
    )
