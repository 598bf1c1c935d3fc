"""Names of a C function's variables: those of the TIR where C and this file leave them free."""

from __future__ import annotations

import re

KEYWORDS = frozenset(
    """auto break case char const continue default do double else enum extern float for goto if inline int
    long register restrict return short signed sizeof static struct switch typedef union unsigned void
    volatile while _Bool _Complex _Imaginary bool true false NULL NAN INFINITY main
    isnan memcpy memmove floorf floor ceilf ceil fabsf fabs sqrtf sqrt nearbyintf nearbyint""".split()
)  # fmt: skip


class Names:
    """One function's names, each given once; a loop's counter may come again after the loop."""

    def __init__(self) -> None:
        self._taken: set[str] = set(KEYWORDS)
        self._counters: set[str] = set()
        self._open: set[str] = set()

    def new(self, wanted: str) -> str:
        """A name that nothing else in the function has."""
        name = _free(wanted, self._taken | self._counters)
        self._taken.add(name)
        return name

    def counter(self, wanted: str) -> str:
        """A name that no loop around has; `close` gives it back."""
        name = _free(wanted, self._taken | self._open)
        self._open.add(name)
        self._counters.add(name)
        return name

    def close(self, counter: str) -> None:
        """The end of the counter's loop."""
        self._open.remove(counter)


def _free(wanted: str, taken: set[str]) -> str:
    base = re.sub(r"\W", "_", wanted, flags=re.ASCII).strip("_") or "v"
    base = f"v{base}" if base[0].isdigit() else base
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    return name
