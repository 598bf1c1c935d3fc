"""Options of a pass: from pipeline text to typed dataclass fields, and back."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from enum import Enum
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, Union, cast

import numpy as np

from rtcc.errors import InvalidInput
from rtcc.pipeline.base import Size

Text = "str | list[Text]"
"""An option's value as written: a word or string, or a list of those."""


class BadOption(ValueError):
    """A value that does not fit its option's type; the message says what would."""


@cache
def option_types(pass_class: type[Any]) -> dict[str, Any]:
    """The type of each option of a pass, or field of such settings, in order of declaration."""
    hints = typing.get_type_hints(pass_class)
    return {field.name: hints[field.name] for field in fields(cast("Any", pass_class)) if field.init}


def option_defaults(pass_class: type[Any]) -> dict[str, Any]:
    """The default of each option that has one."""
    found: dict[str, Any] = {}
    for field in cast("Sequence[Field[Any]]", fields(cast("Any", pass_class))):
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return found


def read_option(kind: Any, written: Any) -> Any:
    """The value of type `kind` that `written` stands for; BadOption where it stands for none."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, written)
    if origin is tuple:
        return _read_tuple(arguments, written)
    if not isinstance(written, str):
        raise BadOption(f"expected {describe_type(kind)}, found a list")
    if origin is Literal:
        return _choose({str(choice): choice for choice in arguments}, written)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _choose({str(member.value): member for member in kind}, written)
    return _read_word(kind, written)


def take_option(kind: Any, given: Any) -> Any:
    """The value of type `kind` that Python gives: one of that type, or words as `read_option` takes them.

    Nothing is rounded or guessed: BadOption for 2.9 where a whole number is wanted.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if given is None and type(None) in arguments:
            return None
        (kind,) = (each for each in arguments if each is not type(None))
        return take_option(kind, given)
    if origin is tuple and isinstance(given, list | tuple | str):
        items: Sequence[Any] = [given] if isinstance(given, str) else cast("Sequence[Any]", given)
        return tuple(take_option(arguments[0], item) for item in items)
    if isinstance(given, str) and kind is not str:
        return read_option(kind, given)
    wanted = _GIVEN_AS.get(kind, kind) if isinstance(kind, type) else ()
    if not isinstance(given, wanted) or (kind is not bool and isinstance(given, bool)):
        raise BadOption(f"expected {describe_type(kind)}, found {given!r}")
    return kind(given)


_GIVEN_AS: dict[Any, Any] = {bool: (bool, np.bool_), int: Integral, float: Real}
"""What else counts as such a number."""


def given_options(settings: type[Any], options: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Fields of settings by name, as `take_option` has them; InvalidInput `COMMAND-option`."""
    kinds = option_types(settings)
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name not in kinds:
            message, hint = f"there is no option {name!r}", f"the options are {', '.join(kinds)}"
            raise InvalidInput(f"{command}-option", message, hint=hint)
        try:
            found[name] = take_option(kinds[name], value)
        except BadOption as error:
            hint = f"give {name} as `rtcc {command} -h` has it"
            raise InvalidInput(f"{command}-option", f"{name}: {error}", hint=hint) from error
    return found


def write_option(value: Any) -> str:
    """The pipeline text of an option's value."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case Enum():
            return _quoted(str(value.value))
        case float():
            return repr(value)
        case tuple():
            return "[" + ",".join(write_option(item) for item in cast("tuple[Any, ...]", value)) + "]"
        case _:
            return _quoted(str(value))


def describe_type(kind: Any) -> str:
    """A type as `rtcc passes` shows it: "a size such as 64M", "one of int8, int16"."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if a is type(None) else describe_type(a) for a in arguments)
    if origin is tuple:
        return f"a list [a,b,…], each {describe_type(arguments[0])}" if arguments else "a list"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(member.value) for member in kind)}"
    if kind is Size:
        return "a size such as 64M"
    return _PLAIN_TYPES.get(cast("Any", kind), str(cast("Any", kind)))


_PLAIN_TYPES: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: 'a word or "string"',
}


def _read_union(arguments: tuple[Any, ...], written: Any) -> Any:
    if type(None) in arguments and written == "none":
        return None
    errors: list[str] = []
    for kind in (a for a in arguments if a is not type(None)):
        try:
            return read_option(kind, written)
        except BadOption as error:
            errors.append(str(error))
    raise BadOption("; ".join(errors))


def _read_tuple(arguments: tuple[Any, ...], written: Any) -> tuple[Any, ...]:
    items = cast("list[Any]", written) if isinstance(written, list) else [written]
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(read_option(arguments[0], item) for item in items)
    if len(items) != len(arguments):
        raise BadOption(f"expected a list of {len(arguments)}, found {len(items)}")
    return tuple(read_option(kind, item) for kind, item in zip(arguments, items, strict=True))


def _read_word(kind: Any, written: str) -> Any:
    if kind is bool:
        return _choose({"true": True, "false": False}, written)
    if kind is str:
        return written
    assert kind in (int, float, Size), f"an option of type {kind} cannot be written in pipeline text"
    try:
        return Size.parse(written) if kind is Size else kind(written)
    except ValueError:
        raise BadOption(f"expected {describe_type(kind)}, found {written!r}") from None


def _choose(choices: dict[str, Any], written: str) -> Any:
    if written in choices:
        return choices[written]
    near = difflib.get_close_matches(written, choices, 1)
    suggestion = f"; did you mean {near[0]}?" if near else ""
    raise BadOption(f"expected one of {', '.join(choices)}, found {written!r}{suggestion}")


def _quoted(text: str) -> str:
    if text and not set(text) & set(' \t\n,{}[]="\\') and text != "none":
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
