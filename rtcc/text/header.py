"""The first line of a text module: `// rtir 1  level=graph  target=x86:cascadelake  after=fuse  left=…`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rtcc.ir.graph import LEVELS, Module
from rtcc.quoting import quote, unquote
from rtcc.text.source import Source

VERSION = 1
"""The version of the text form that this compiler writes, and the newest it reads."""

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_START = re.compile(r"\s*//[ \t]*rtir[ \t]+(\d{1,9})(?!\d)(.*)")
_FIELD = re.compile(rf'\s+([A-Za-z-]+)=((?:{_STRING}|[^\s"])*)(?=\s|$)')
_OPEN, _CLOSE = "([{", ")]}"


@dataclass
class Header:
    """What the first line says; `end` is the offset of the text after it."""

    level: str = "graph"
    target: str = ""
    after: list[str] = field(default_factory=list[str])
    left: list[str] = field(default_factory=list[str])
    end: int = 0


def header_text(module: Module) -> str:
    """The first line, without its line break."""
    line = f"// rtir {VERSION}  level={module.level}"
    if module.target:
        line += f"  target={module.target if _is_bare(module.target) else quote(module.target)}"
    if module.after:
        line += f"  after={','.join(map(_item_text, module.after))}"
    if module.left:
        line += f"  left={','.join(map(_item_text, module.left))}"
    return line


def parse_header(source: Source) -> Header:
    """The header of a text; a typed error when there is none or it is newer than this compiler."""
    found = _START.match(source.text)
    if not found:
        raise source.error(
            "no-header",
            "this is no text IR: its first line must be '// rtir 1  level=…'",
            _first_character(source),
        )
    if int(found[1]) > VERSION:
        raise source.error(
            "newer-version",
            f"this text has version {found[1]}, and the newest this compiler reads is {VERSION}",
            found.start(1), len(found[1]), hint="use a newer rtcc, or dump the module again",
        )  # fmt: skip
    header, position = Header(end=found.end()), found.start(2)
    while position < found.end() and not source.text[position : found.end()].isspace():
        part = _FIELD.match(source.text, position, found.end())
        if not part:
            raise source.error("bad-header", "expected key=value here", position + 1)
        _set(header, source, part)
        position = part.end()
    return header


def _set(header: Header, source: Source, part: re.Match[str]) -> None:
    key, value = part[1], part[2]
    match key:
        case "level" if value in LEVELS:
            header.level = value
        case "level":
            message = f"unknown level {value!r}; expected one of {', '.join(LEVELS)}"
            raise source.error("bad-header", message, part.start(2), len(value))
        case "target":
            header.target = unquote(value) if value.startswith('"') else value
        case "after":
            header.after = _items(value)
        case "left":
            header.left = _items(value)
        case _:
            message = f"unknown header field {key!r}; expected level, target, after or left"
            raise source.error("bad-header", message, part.start(1), len(key))


def _items(text: str) -> list[str]:
    return [unquote(item) if item.startswith('"') else item for item in split_items(text)]


def split_items(text: str) -> list[str]:
    """The parts between those commas that stand in no brackets and no string."""
    items, depth, start = list[str](), 0, 0
    for token in re.finditer(rf"{_STRING}|.", text):
        if token[0] in _OPEN:
            depth += 1
        elif token[0] in _CLOSE:
            depth -= 1
        elif token[0] == "," and depth <= 0:
            items.append(text[start : token.start()])
            start = token.end()
    return [*items, text[start:]]


def _item_text(item: str) -> str:
    return item if _is_bare(item) and split_items(item) == [item] else quote(item)


def _is_bare(text: str) -> bool:
    balanced = all(text.count(o) == text.count(c) for o, c in zip(_OPEN, _CLOSE, strict=True))
    return bool(re.fullmatch(r'[^\s"]+', text)) and balanced and text.isprintable()


def _first_character(source: Source) -> int:
    return len(source.text) - len(source.text.lstrip())
