"""Operators on pieces of C: what they print, and what is known of the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

from rtcc.targets.tvm.c_source.code import (
    AND,
    ATOM,
    BITS,
    CHOICE,
    OR,
    PRODUCT,
    RELATION,
    SHIFT,
    SHORT,
    SUM,
    TYPES,
    UNARY,
    Code,
    fits,
    integer,
    limits,
    unknown,
)

_SUMS = {"+": SUM, "-": SUM, "*": PRODUCT}
_EXACT: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
}  # fmt: skip


def arithmetic(operator: str, a: Code, b: Code, *, fits_by_contract: bool = False) -> Code:
    """a + b, a - b or a * b of one type, wrapping. fits_by_contract: the result never leaves its type."""
    level = _SUMS[operator]
    plain = f"{_beside(a, b).within(level)} {operator} {_beside(b, a).within(level - 1)}"
    if not a.is_integer:
        return Code(plain, a.type, level)
    ends = [_EXACT[operator](x, y) for x, y in product((a.low, a.high), (b.low, b.high))]
    low, high = min(ends), max(ends)
    if low == high and fits(low, high, a.type):
        return integer(low, a.type)
    if operator in "+-" and b.number == 0:
        return a
    if operator == "+" and a.number == 0:
        return b
    if operator == "*" and 1 in (a.number, b.number):
        return b if a.number == 1 else a
    if fits(low, high, a.type):
        return Code(plain, a.type, level, low, high)
    if a.type in ("uint32", "uint64"):
        return unknown(plain, a.type, level)
    if fits_by_contract and a.type in ("int32", "int64"):
        return unknown(plain, a.type, level)
    return _wrapped(operator, level, a, b)


def _beside(a: Code, other: Code) -> Code:
    """A number as it is written beside an operand whose type C goes by."""
    if a.type == "int64" and a.number is not None and other.number is None and fits(a.low, a.high, "int32"):
        return replace(a, text=str(a.number), level=SUM if a.low < 0 else ATOM)
    return a


def _wrapped(operator: str, level: int, a: Code, b: Code) -> Code:
    """Signed overflow means nothing in C, and narrow types become int: computed in unsigned numbers."""
    wide = "uint64_t" if a.type in ("int64", "uint64") else "uint32_t"
    left, right = f"({wide}){a.within(UNARY)}", f"({wide}){b.within(UNARY)}"
    return unknown(f"({TYPES[a.type]})({left} {operator} {right})", a.type, UNARY)


def quotient(a: Code, b: Code) -> Code:
    """a / b towards zero; of integers only where b is not 0 and the result fits."""
    text = f"{a.within(PRODUCT)} / {b.within(UNARY)}"
    if not a.is_integer:
        return Code(text, a.type, PRODUCT)
    if b.number == 1:
        return a
    if b.low > 0:
        ends = [_truncated(x, y) for x, y in product((a.low, a.high), (b.low, b.high))]
        return _known(text, a.type, PRODUCT, min(ends), max(ends))
    return unknown(_narrowed(text, a.type), a.type, UNARY if a.type in _PROMOTED else PRODUCT)


def remainder(a: Code, b: Code) -> Code:
    """What `quotient` leaves, with the sign of a."""
    if a.low >= 0 and b.low > 0:
        if a.high < b.low:
            return a
        return _known(f"{a.within(PRODUCT)} % {b.within(UNARY)}", a.type, PRODUCT, 0, min(a.high, b.high - 1))
    return unknown(
        _narrowed(f"{a.within(PRODUCT)} % {b.within(UNARY)}", a.type), a.type,
        UNARY if a.type in _PROMOTED else PRODUCT,
    )  # fmt: skip


_PROMOTED = ("int8", "uint8", "int16", "uint16")
"""Types that C computes as int."""


def _narrowed(text: str, type: str) -> str:
    return f"({TYPES[type]})({text})" if type in _PROMOTED else text


def _truncated(a: int, b: int) -> int:
    return a // b if a >= 0 else -(-a // b)


def _known(text: str, type: str, level: int, low: int, high: int) -> Code:
    return integer(low, type) if low == high else Code(text, type, level, low, high)


_RELATIONS: dict[str, Callable[[Code, Code], tuple[bool, bool]]] = {
    "<": lambda a, b: (a.high < b.low, a.low >= b.high),
    "<=": lambda a, b: (a.high <= b.low, a.low > b.high),
    ">": lambda a, b: (a.low > b.high, a.high <= b.low),
    ">=": lambda a, b: (a.low >= b.high, a.high < b.low),
    "==": lambda a, b: (a.low == a.high == b.low == b.high, a.high < b.low or b.high < a.low),
    "!=": lambda a, b: (a.high < b.low or b.high < a.low, a.low == a.high == b.low == b.high),
}
"""Whether a relation surely holds, and whether it surely does not."""


def relation(operator: str, a: Code, b: Code) -> Code:
    """A comparison; of floats as C compares them."""
    if a.is_integer:
        holds, fails = _RELATIONS[operator](a, b)
        if holds or fails:
            return integer(int(holds), "bool")
    left, right = _beside(a, b), _beside(b, a)
    return unknown(f"{left.within(SUM)} {operator} {right.within(SUM)}", "bool", RELATION)


def both(a: Code, b: Code) -> Code:
    """a && b."""
    if a.number is not None or b.number is not None:
        return (b if a.number else a) if a.number is not None else (a if b.number else b)
    return unknown(f"{_operand(a, AND)} && {_operand(b, AND)}", "bool", AND)


def either(a: Code, b: Code) -> Code:
    """a || b."""
    if a.number is not None or b.number is not None:
        return (a if a.number else b) if a.number is not None else (b if b.number else a)
    return unknown(f"{_operand(a, OR)} || {_operand(b, OR)}", "bool", OR)


def _operand(a: Code, level: int) -> str:
    """Without brackets: relations, and chains of the same operator."""
    return a.text if a.level <= RELATION or a.level == level else f"({a.text})"


def negation(a: Code) -> Code:
    """!a"""
    if a.number is not None:
        return integer(1 - a.number, "bool")
    return unknown(f"!{a.within(UNARY)}", "bool", UNARY)


def choice(condition: Code, a: Code, b: Code) -> Code:
    """condition ? a : b"""
    if condition.number is not None:
        return a if condition.number else b
    if a == b:
        return a
    text = f"{condition.within(OR)} ? {a.within(OR)} : {b.within(OR)}"
    return Code(text, a.type, CHOICE, min(a.low, b.low), max(a.high, b.high))


def bitwise(operator: str, a: Code, b: Code) -> Code:
    """a & b, a | b, a ^ b."""
    text = f"{a.within(UNARY)} {operator} {b.within(UNARY)}"
    if operator == "&" and (a.low >= 0 or b.low >= 0):
        tops = [x.high for x in (a, b) if x.low >= 0]
        return Code(text, a.type, BITS, 0, min(tops))
    if a.low >= 0 and b.low >= 0:
        return Code(text, a.type, BITS, 0, (1 << max(a.high, b.high).bit_length()) - 1)
    return unknown(text, a.type, BITS)


def complement(a: Code) -> Code:
    """~a; of narrow types, and of truth values as numbers, which compilers warn of, by exclusive or."""
    if a.type in _PROMOTED or (a.low >= 0 and a.high <= 1):
        return bitwise("^", a, integer(limits(a.type)[1] if a.type.startswith("u") else -1, a.type))
    return unknown(f"~{a.within(UNARY)}", a.type, UNARY)


def shifted_left(a: Code, by: Code) -> Code:
    """a << by, bits that leave the type lost; `by` from 0 to less than the type's width."""
    if a.low >= 0 and by.low >= 0 and by.high < 64 and fits(a.low << by.low, a.high << by.high, a.type):
        return Code(f"{a.within(UNARY)} << {by.within(UNARY)}", a.type, SHIFT, a.low << by.low,
                    a.high << by.high)  # fmt: skip
    if a.type in ("uint32", "uint64"):
        return unknown(f"{a.within(UNARY)} << {by.within(UNARY)}", a.type, SHIFT)
    wide = "uint64_t" if a.type == "int64" else "uint32_t"
    return unknown(f"({TYPES[a.type]})(({wide}){a.within(UNARY)} << {by.within(UNARY)})", a.type, UNARY)


def shifted_right(a: Code, by: Code) -> Code | None:
    """a >> by, where a is not negative; else None: what C does is its compiler's affair."""
    if a.low < 0:
        return None
    high = a.high >> max(0, by.low)
    return Code(f"{a.within(UNARY)} >> {by.within(UNARY)}", a.type, SHIFT, 0, high)


def converted(a: Code, type: str) -> Code:
    """A cast: integers modulo the type, floats towards zero, to bool "not zero"."""
    if type == a.type:
        return a
    if type == "bool":
        return unknown(f"{a.within(SUM)} != 0", "bool", RELATION)
    text = f"({TYPES[type]}){a.within(UNARY)}"
    if a.is_integer and not type.startswith("float") and fits(a.low, a.high, type):
        return _known(text, type, UNARY, a.low, a.high)
    return unknown(text, type, UNARY)


def extremum(name: str, a: Code, b: Code) -> Code:
    """max or min of two integers, by a helper; floats have no interval and take either."""
    if not a.is_integer:
        return Code(f"{name}_{SHORT[a.type]}({a.text}, {b.text})", a.type)
    best = max if name == "max" else min
    low, high = best(a.low, b.low), best(a.high, b.high)
    if (a.low >= b.high) if name == "max" else (a.high <= b.low):
        return a
    if (b.low >= a.high) if name == "max" else (b.high <= a.low):
        return b
    text = f"{name}_{SHORT[a.type]}({_beside(a, b).text}, {_beside(b, a).text})"
    return _known(text, a.type, ATOM, low, high)
