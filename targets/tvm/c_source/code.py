"""Pieces of C with their type, their precedence, and what is known of their value.

Integers carry an interval. An expression with one possible value becomes that number, so that loops of one
round and windows that never leave a picture are no longer seen; and signed arithmetic that cannot leave its
type is written as it stands, while what may wrap is computed in unsigned numbers, as C demands.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf, isnan

import numpy as np

TYPES = {
    "bool": "bool", "int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "uint16": "uint16_t",
    "int32": "int32_t", "uint32": "uint32_t", "int64": "int64_t", "uint64": "uint64_t",
    "float32": "float", "float64": "double",
}  # fmt: skip
"""C's names of TVM's element types; others have none."""

SHORT = {
    "int8": "i8", "uint8": "u8", "int16": "i16", "uint16": "u16", "int32": "i32", "uint32": "u32",
    "int64": "i64", "uint64": "u64", "float32": "f32", "float64": "f64", "bool": "bool",
}  # fmt: skip
"""What helpers call them."""

ATOM, UNARY, PRODUCT, SUM, SHIFT, RELATION, BITS, AND, OR, CHOICE = range(10)
"""Precedences, tightest first. Operators of `BITS` and `SHIFT` are bracketed in all others."""


@dataclass(frozen=True)
class Code:
    """A C expression. low, high: of its value where it is an integer or a truth value, both included."""

    text: str
    type: str
    level: int = ATOM
    low: int = 0
    high: int = 0

    @property
    def is_integer(self) -> bool:
        """Whether it is an integer, with an interval."""
        return self.type not in ("float32", "float64")

    @property
    def number(self) -> int | None:
        """The only value that it can have."""
        return self.low if self.is_integer and self.low == self.high else None

    def within(self, level: int) -> str:
        """The text, bracketed where it binds less tightly."""
        return self.text if self.level <= level else f"({self.text})"


def limits(type: str) -> tuple[int, int]:
    """The least and the largest integer of a type; of a float, nothing."""
    if type == "bool":
        return 0, 1
    if type.startswith("float"):
        return 0, 0
    found = np.iinfo(type)
    return int(found.min), int(found.max)


def unknown(text: str, type: str, level: int = ATOM) -> Code:
    """A value that may be any of its type."""
    return Code(text, type, level, *limits(type))


def fits(low: int, high: int, type: str) -> bool:
    """Whether a type holds all of an interval."""
    least, most = limits(type)
    return least <= low and high <= most


def integer(value: int, type: str) -> Code:
    """A literal."""
    if type == "bool":
        return Code("true" if value else "false", type, ATOM, value, value)
    text, level = str(value), SUM if value < 0 else ATOM
    if type in ("int32", "int64") and value == limits(type)[0]:
        text, level = f"INT{type[3:]}_MIN", ATOM
    elif type == "int64":
        text, level = (f"-INT64_C({-value})" if value < 0 else f"INT64_C({value})"), UNARY
    elif type == "uint64":
        text = f"UINT64_C({value})"
    elif type == "uint32":
        text = f"{value}u"
    return Code(text, type, level, value, value)


def floating(value: float, type: str) -> Code:
    """A literal of the fewest digits that give back just this float; of the sign of a zero, too."""
    if isnan(value):
        return Code("NAN" if type == "float32" else "(double)NAN", type, UNARY)
    if isinf(value):
        text = "-INFINITY" if value < 0 else "INFINITY"
        return Code(text if type == "float32" else f"(double){text}", type, UNARY)
    text = float_text(value, type)
    return Code(text, type, SUM if text.startswith("-") else ATOM)


def float_text(value: float, type: str) -> str:
    """Digits of a finite float."""
    text = str(np.float32(value)) if type == "float32" else repr(float(value))
    if not set(text) & set(".e"):
        text += ".0"
    return text + ("f" if type == "float32" else "")
