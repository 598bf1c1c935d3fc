"""Pipeline text: `fold-constants,fuse,quantize{scheme=int8,calibration=mse}` read and written.

    pipeline  =  [ item { "," item } ]
    item      =  pass-name [ "{" [ option { "," option } ] "}" ]  |  "-O0" | "-O1" | "-O2"
    option    =  name "=" value
    value     =  word | "string" | "[" [ value { "," value } ] "]"

An -O item stands for the passes of that named pipeline, of which a target may have its own. Spaces and line
breaks mean nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from rtcc.errors import ParseError
from rtcc.pipeline.base import Pass
from rtcc.pipeline.catalogue import NAMED_PIPELINES, find_pass, pass_names
from rtcc.pipeline.options import (
    BadOption,
    describe_type,
    option_defaults,
    option_types,
    read_option,
    write_option,
)

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

_GRAMMAR = r"""
    pipeline: [item ("," item)*]
    item: WORD ["{" _options "}"]
    options: _options
    _options: [option ("," option)*]
    option: WORD "=" _value
    _value: WORD | STRING | list
    list: "[" [_value ("," _value)*] "]"
    WORD: /[^\s,{}\[\]="]+/
    STRING: /"(\\.|[^"\\])*"/
    %ignore /\s+/
"""


def parse_pipeline(text: str, named: Mapping[str, str] = NAMED_PIPELINES) -> tuple[Pass, ...]:
    """The passes that a pipeline's text names, with their options.

    named: what the -O items stand for, a target's own (`Target.named_pipelines`) where one is known.

    Errors (ParseError, drawn under the text): pipeline-syntax, unknown-pass, unknown-option,
    missing-option, bad-option, repeated-option.
    """
    from lark import Token

    passes: list[Pass] = []
    for item in _items(text):
        head = cast("Tree[Token]", item).children[0]
        assert isinstance(head, Token)
        if head.value in named:
            passes += parse_pipeline(named[head.value])
        else:
            passes.append(_read_pass(cast("Tree[Token]", item), text))
    return tuple(passes)


def parse_options(name: str, text: str) -> Pass:
    """The pass of a name with options as a pipeline has them between braces; errors as `parse_pipeline`."""
    from lark import Token, Tree

    options = _parsed(text, "options", "options are written option=value,option=value")
    return _read_pass(Tree("item", [Token("WORD", name), *options.children]), text)


def levels_in(text: str) -> tuple[str, ...]:
    """The -O items of a pipeline's text, in order; errors as `parse_pipeline` raises them."""
    heads = (cast("Token", cast("Tree[Token]", item).children[0]) for item in _items(text))
    return tuple(head.value for head in heads if head.value in NAMED_PIPELINES)


def print_pipeline(passes: Iterable[Pass]) -> str:
    """The text that parses to those passes; options at their default are left out."""
    return ",".join(print_pass(each) for each in passes)


def print_pass(each: Pass) -> str:
    """One pass as pipeline text."""
    defaults = option_defaults(type(each))
    given = [
        f"{name}={write_option(getattr(each, name))}"
        for name in option_types(type(each))
        if name not in defaults or defaults[name] != getattr(each, name)
    ]
    return each.name + ("{" + ",".join(given) + "}" if given else "")


def _items(text: str) -> list[Token | Tree[Token]]:
    """What stands between the commas of a pipeline's text."""
    return _parsed(text, "pipeline", "a pipeline is written pass,pass{option=value,…}").children


def _parsed(text: str, start: str, form: str) -> Tree[Token]:
    """The tree of a rule; form: what errors say is expected."""
    from lark import UnexpectedInput

    try:
        return cast("Tree[Token]", cast("Any", _parser()).parse(text, start))
    except UnexpectedInput as error:
        column = error.column if error.column > 0 else len(text) + 1
        line = error.line if error.line > 0 else 1
        raise _error("pipeline-syntax", form, text, line, column) from None


@cache
def _parser() -> Lark:
    from lark import Lark

    return Lark(_GRAMMAR, start=["pipeline", "options"], parser="lalr", maybe_placeholders=False)


def _read_pass(item: Tree[Token], text: str) -> Pass:
    head = cast("Token", item.children[0])
    pass_class = find_pass(head.value)
    if pass_class is None:
        near = difflib.get_close_matches(head.value, [*pass_names(), *NAMED_PIPELINES], 1)
        hint = f"did you mean {near[0]}?" if near else "`rtcc passes` lists them"
        raise _error_at(head, "unknown-pass", f"no pass is named {head.value!r}", text, hint)
    options: dict[str, Any] = {}
    kinds = option_types(pass_class)
    for child in item.children[1:]:
        key, written = cast("Tree[Token]", child).children
        key = cast("Token", key)
        if key.value not in kinds:
            raise _unknown_option(key, pass_class, text)
        if key.value in options:
            raise _error_at(key, "repeated-option", f"{head.value}: {key.value} is given twice", text)
        try:
            options[key.value] = read_option(kinds[key.value], _written(written))
        except BadOption as error:
            raise _error_at(key, "bad-option", f"{head.value}: {key.value}: {error}", text) from None
    _require_all(head, pass_class, options, text)
    return pass_class(**options)


def _require_all(head: Token, pass_class: type[Pass], options: dict[str, Any], text: str) -> None:
    """Every option without a default must be given."""
    for field in fields(cast("Any", pass_class)):
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if not optional and field.name not in options:
            kind = describe_type(option_types(pass_class)[field.name])
            message = f"{head.value} needs {field.name}={{{kind}}}"
            raise _error_at(head, "missing-option", message, text)


def _unknown_option(key: Token, pass_class: type[Pass], text: str) -> ParseError:
    known = option_types(pass_class)
    near = difflib.get_close_matches(str(key), list(known), 1)
    hint = f"did you mean {near[0]}?" if near else f"its options: {', '.join(known) or 'none'}"
    return _error_at(key, "unknown-option", f"{pass_class.name} has no option {key.value!r}", text, hint)


def _written(node: Token | Tree[Token]) -> Any:
    """A value as written: str, or a list of such."""
    if not isinstance(node, str):
        return [_written(child) for child in node.children]
    if not node.startswith('"'):
        return str(node)
    escapes = {"\\n": "\n", "\\t": "\t"}
    parts: list[str] = []
    body, index = node[1:-1], 0
    while index < len(body):
        step = 2 if body[index] == "\\" else 1
        piece = body[index : index + step]
        parts.append(escapes.get(piece, piece[-1]))
        index += step
    return "".join(parts)


def _error_at(token: Token, code: str, message: str, text: str, hint: str | None = None) -> ParseError:
    return _error(code, message, text, token.line or 1, token.column or 1, hint)


def _error(code: str, message: str, text: str, line: int, column: int, hint: str | None = None) -> ParseError:
    """The error, with the text's line and a caret under the place."""
    shown = (text.split("\n") or [""])[line - 1]
    drawing = f"\n    {shown}\n    {' ' * (column - 1)}^"
    return ParseError(code, message + drawing, where=f"pipeline:{line}:{column}", hint=hint)
