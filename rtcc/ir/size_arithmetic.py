"""What elementwise operators make of sizes: numbers, and expressions over symbols whose bounds may decide.

Every function returns None where its result is not known. An RtccError says that it has no form.
"""

from __future__ import annotations

from rtcc.errors import RtccError
from rtcc.ir.dimension import Expression

Number = int | float | Expression


def _integral(number: Number) -> int | Expression:
    """A float that is a whole number, as an integer; an error where arithmetic would not be exact."""
    if isinstance(number, float):
        if not number.is_integer():
            raise RtccError("inexact-shape", f"{number} is not a whole number")
        return int(number)
    return number


def _bounds(number: int | Expression) -> tuple[int, int]:
    return (number, number) if isinstance(number, int) else number.bounds


def add(a: Number, b: Number) -> Number:
    return _integral(a) + _integral(b)


def subtract(a: Number, b: Number) -> Number:
    return _integral(a) - _integral(b)


def multiply(a: Number, b: Number) -> Number:
    return _integral(a) * _integral(b)


def divide(a: Number, b: Number) -> Number | None:
    """Truncating division, where it is flooring: not of negative numbers."""
    a, b = _integral(a), _integral(b)
    if _bounds(a)[0] < 0 or _bounds(b)[0] < 0 or b == 0:
        return None
    return a // b if isinstance(a, Expression) else None


def modulo(a: Number, b: Number) -> Number | None:
    quotient = divide(a, b)
    return None if quotient is None else subtract(a, multiply(quotient, b))


def minimum(first: Number, *others: Number) -> Number | None:
    """The least, where bounds decide which one that is."""
    least = first
    for other in others:
        below = less(least, other)
        if below is None:
            return None
        least = least if below else other
    return least


def maximum(first: Number, *others: Number) -> Number | None:
    """The largest, where bounds decide which one that is."""
    largest = first
    for other in others:
        below = less(largest, other)
        if below is None:
            return None
        largest = other if below else largest
    return largest


def less(a: Number, b: Number) -> bool | None:
    low, high = _bounds(_integral(a) - _integral(b))
    return True if high < 0 else False if low >= 0 else None


def greater(a: Number, b: Number) -> bool | None:
    return less(b, a)


def less_or_equal(a: Number, b: Number) -> bool | None:
    above = less(b, a)
    return None if above is None else not above


def greater_or_equal(a: Number, b: Number) -> bool | None:
    below = less(a, b)
    return None if below is None else not below


def equal(a: Number, b: Number) -> bool | None:
    low, high = _bounds(_integral(a) - _integral(b))
    return True if low == high == 0 else False if low > 0 or high < 0 else None


def negative(a: Number) -> Number:
    return -_integral(a)


def absolute(a: Number) -> Number | None:
    return a if _bounds(_integral(a))[0] >= 0 else None


def same(a: Number) -> Number:
    return a


def whole(a: Number) -> Number:
    return _integral(a)
