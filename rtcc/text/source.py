"""The text being parsed, and the one function that draws an error under it."""

from __future__ import annotations

from rtcc.errors import ParseError

WIDTH = 100
"""Longest piece of a source line that an error shows."""


class Source:
    """A text with a name (usually a path), for errors that show line and column."""

    def __init__(self, text: str, name: str) -> None:
        self.text = text
        self.name = name

    def line_and_column(self, offset: int) -> tuple[int, int]:
        """The position of a character, both counted from 1."""
        before = self.text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1

    def error(
        self, code: str, message: str, offset: int, length: int = 1, *, hint: str | None = None
    ) -> ParseError:
        """An error to raise: `message`, then the source line with carets under `length` characters."""
        offset = min(offset, len(self.text))
        number, column = self.line_and_column(offset)
        start = offset - column + 1
        end = self.text.find("\n", start)
        line = self.text[start : end if end >= 0 else len(self.text)].rstrip("\r")
        cut = max(0, column - 1 - WIDTH // 2) if len(line) > WIDTH else 0
        shown = line[cut : cut + WIDTH]
        before = "".join("\t" if c == "\t" else " " for c in shown[: column - 1 - cut])
        carets = "^" * max(1, min(length, len(shown) - len(before)))
        margin = " " * len(str(number))
        drawing = f"\n  {number} | {shown}\n  {margin} | {before}{carets}"
        return ParseError(code, message + drawing, where=f"{self.name}:{number}:{column}", hint=hint)
