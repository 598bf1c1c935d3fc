"""The lines of a C function, some of which turn out to be needed by none."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rtcc.targets.tvm.c_source.names import Names

WIDTH = 110
_BREAK = re.compile(r" (?=&&|\|\||[?:] )")
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Line:
    """One line; `defines`: the variable that it gives a value, and that is all it does."""

    text: str
    depth: int
    defines: str = ""


class Lines:
    """Collects lines at the present depth."""

    def __init__(self) -> None:
        self.names = Names()
        self.names_of: dict[int, str] = {}
        """C's names of buffers, by identity."""
        self.depth = 1
        self._lines: list[Line] = []

    def new_name(self, wanted: str) -> str:
        """A name that nothing else in the function has."""
        return self.names.new(wanted)

    def add(self, text: str) -> None:
        """A line that is needed."""
        self._lines.append(Line(text, self.depth))

    def define(self, name: str, text: str, deeper: int = 0) -> None:
        """A line that gives a variable a value, or declares it: needed where the variable is read."""
        self._lines.append(Line(text, self.depth + deeper, name))

    def extend(self, lines: Sequence[Line], *, indented: bool = False) -> None:
        """Lines captured before."""
        self._lines += [replace(line, depth=line.depth + indented) for line in lines]

    @contextmanager
    def captured(self) -> Generator[list[Line]]:
        """Within, lines go into the list given; the depth is the outer one's."""
        outer, self._lines = self._lines, []
        found = self._lines
        yield found
        self._lines = outer

    @contextmanager
    def block(self, head: str, before: Sequence[Line] = ()) -> Generator[None]:
        """Lines in braces; none at all where nothing is in them."""
        with self.deeper() as inner:
            yield
        if before or inner:
            self.add(f"{head} {{")
            self.extend(before, indented=True)
            self.extend(inner)
            self.add("}")

    @contextmanager
    def deeper(self) -> Generator[list[Line]]:
        """`captured`, one level deeper."""
        with self.captured() as inner:
            self.depth += 1
            yield inner
            self.depth -= 1

    def text(self) -> str:
        """All lines but those that only define what no line reads; values stand with declarations."""
        lines = _joined(self._needed())
        return "\n".join(part for line in lines for part in _folded(line))

    def _needed(self) -> list[Line]:
        kept = self._lines
        while True:
            reads: Counter[str] = Counter()
            for line in kept:
                words = Counter(_WORD.findall(line.text))
                if line.defines:
                    words[line.defines] = 0
                reads.update(words)
            needed = [line for line in kept if not line.defines or reads[line.defines]]
            if len(needed) == len(kept):
                return kept
            kept = needed


def _joined(lines: Sequence[Line]) -> list[Line]:
    """`float v;` and `v = x;` behind it become `float v = x;`."""
    found: list[Line] = []
    for line in lines:
        last = found[-1] if found else None
        head, _, value = line.text.partition(" = ")
        if (
            last is not None and line.defines and (last.defines, last.depth) == (line.defines, line.depth)
            and last.text.endswith(f" {line.defines};") and head == line.defines
            and line.defines not in _WORD.findall(value)
        ):  # fmt: skip
            found[-1] = replace(line, text=f"{last.text[:-1]} = {value}")
        else:
            found.append(line)
    return found


def _folded(line: Line) -> list[str]:
    """A line in as many as it takes, where one can be broken: best before a choice or a condition."""
    found: list[str] = []
    text, indent = line.text, "    " * line.depth
    while len(indent) + len(text) > WIDTH:
        room = text[: WIDTH - len(indent) + 1]
        places = [match.start() for match in _BREAK.finditer(room) if match.start() > WIDTH // 3]
        place = max(places) if places else room.rfind(" ")
        if place <= 0:
            break
        found.append(indent + text[:place])
        text, indent = text[place + 1 :], "    " * (line.depth + 1)
    return [*found, indent + text]
