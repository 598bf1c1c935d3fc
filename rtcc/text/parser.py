"""Text to modules: the grammar's actions build the ops as they are read, so that no tree is kept."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from lark import Lark, Token
from lark.exceptions import UnexpectedCharacters, UnexpectedToken
from lark.lexer import PatternStr

from rtcc.errors import InvalidInput, ParseError
from rtcc.ir.graph import Module
from rtcc.system.limits import within_limits
from rtcc.text.blobs import FOLDER
from rtcc.text.builder import Builder
from rtcc.text.header import parse_header
from rtcc.text.source import Source

_TERMINALS = {
    "NAME": "a name", "STRING": "a string", "VALUE": "a %value", "CONSTANT": "a #constant",
    "SYMBOL": "an @name",
    "OPERAND": "an operand (%value, #constant or _)", "NUMBER": "a number", "SCALAR": "a number",
    "LIST": "a list […]", "TYPE": "a type", "BLOB": "blob<sha256:…>", "SPLAT": "splat(…)",
    "$END": "the end of the text",
}  # fmt: skip


def parse_module(text: str, *, source: str = "<string>", blobs: Path | None = None) -> Module:
    """The module a text describes.

    source: what errors call the text, usually its path. blobs: the folder that holds the bytes of
    big constants. Raises ParseError with `file:line:col`; ops are not checked further: `verify` does that.
    """
    origin = Source(text, source)
    header = parse_header(origin)
    parser = _parser()
    parser.builder.begin(origin, header, blobs)
    try:
        with within_limits("parsing the text"):
            parser.parse(text)
        return parser.builder.module
    except UnexpectedToken as error:
        token = cast("Token", error.token)
        what = "the end of the text" if token.type == "$END" else repr(str(token))
        offset = len(text.rstrip()) if token.type == "$END" else token.start_pos or 0
        length = 1 if token.type == "$END" else len(token)
        raise _unexpected(origin, what, sorted(error.expected), offset, length) from None
    except UnexpectedCharacters as error:
        offset = cast("int", error.pos_in_stream)
        raise _unexpected(origin, repr(text[offset]), sorted(error.allowed or ()), offset, 1) from None
    finally:
        parser.builder.forget()


def read_module(path: Path | str) -> Module:
    """The module in a text file; the bytes of big constants stay in `blobs/` beside it until used."""
    path = Path(path)
    if path.exists() and not path.is_file():  # opening a pipe would wait for its other end
        raise ParseError("not-text", "expected a file, found a folder, pipe or device", where=str(path))
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        message = f"cannot read the text: {error.strerror or error}"
        raise InvalidInput("missing-file", message, where=str(path), hint="check the path") from error
    except UnicodeDecodeError as error:
        raise ParseError("not-text", f"{path} is no text IR: {error}") from error
    return parse_module(text, source=str(path), blobs=path.parent / FOLDER)


def bare_parser() -> Lark:
    """The grammar alone, building nothing: what the benchmark measures against."""
    return Lark(_grammar(), parser="lalr", lexer="contextual", maybe_placeholders=True)


@cache
def _grammar() -> str:
    return files("rtcc.text").joinpath("grammar.lark").read_text("utf-8")


class _Parser(threading.local):
    """The tables and the builder of one thread: the tables call that builder's methods."""

    def __init__(self) -> None:
        self.builder = Builder()
        actions = cast("Any", self.builder)
        self.lark = Lark(
            _grammar(), parser="lalr", lexer="contextual", maybe_placeholders=True, transformer=actions
        )
        self.parse = cast("Callable[[str], object]", self.lark.parse)  # pyright: ignore[reportUnknownMemberType]


@cache
def _parser() -> _Parser:
    return _Parser()


def _unexpected(origin: Source, what: str, expected: Sequence[str], offset: int, length: int) -> ParseError:
    names = [_TERMINALS.get(name) or _literal(name) for name in expected]
    return origin.error(
        "syntax", f"found {what}, expected {' or '.join(dict.fromkeys(names))}", offset, length
    )


def _literal(name: str) -> str:
    for terminal in _parser().lark.terminals:
        if terminal.name == name and isinstance(terminal.pattern, PatternStr):
            return repr(terminal.pattern.value)
    return name.lower()
