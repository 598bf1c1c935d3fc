"""Numbers, strings and lists: attribute values and the elements of constants, to text and back."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rtcc.ir.dtype import DType, Kind
from rtcc.ir.op import KernelRef
from rtcc.quoting import name_text, quote, unquote

Scalar = bool | int | float | complex | str

_NUMBER = r"-?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|inf)|nan"
_ELEMENT = re.compile(
    rf'\s*(?:(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<word>true|false)'
    rf"|\(\s*(?P<real>{_NUMBER})\s*,\s*(?P<imaginary>{_NUMBER})\s*\)|(?P<number>{_NUMBER}))\s*(?:,|$)"
)


class BadLiteral(ValueError):
    """A literal that cannot be read; `offset` says where in its text."""

    def __init__(self, message: str, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


# ---- attributes


def attribute_text(value: object, *, as_float: bool = False) -> str:
    """An attribute value as text; `as_float` writes integers as floats, as the slot demands."""
    match value:
        case bool() | np.bool_():
            return "true" if value else "false"
        case KernelRef():
            return "@" + name_text(value)
        case str():
            return quote(value)
        case DType():
            return value.value
        case int() | np.integer():
            return float_text(float(cast("int", value))) if as_float else str(int(cast("int", value)))
        case float() | np.floating():
            return float_text(float(cast("float", value)))
        case tuple() | list() | np.ndarray():
            items = list(cast("Sequence[object]", value))
            floats = as_float or any(isinstance(item, float | np.floating) for item in items)
            return "[" + ",".join(attribute_text(item, as_float=floats) for item in items) + "]"
        case dict():
            return pairs_text({k: attribute_text(v) for k, v in cast("dict[str, object]", value).items()})
        case _:
            raise AssertionError(f"an attribute cannot hold {value!r} ({type(value).__name__})")


def pairs_text(texts: Mapping[str, str]) -> str:
    """Attributes in braces, sorted by name; the values are text already."""
    return "{" + ", ".join(f"{name_text(name)} = {texts[name]}" for name in sorted(texts)) + "}"


def float_text(value: float) -> str:
    """The shortest text that reads back as the same float32."""
    with np.errstate(over="ignore"):
        return _single_text(np.float32(value))


@lru_cache(maxsize=4096)
def attribute_list(text: str) -> tuple[Scalar, ...]:
    """The list attribute `[…]`: one kind of element; floats become float32 values."""
    values = elements(text)
    if any(isinstance(value, float) for value in values) and all(type(v) in (int, float) for v in values):
        return tuple(single(float(cast("float", value))) for value in values)
    return values


def attribute_number(text: str) -> int | float:
    """A number attribute: an integer, or a float32 value."""
    number = _number(text)
    return number if isinstance(number, int) else single(number)


def single(value: float) -> float:
    """The float32 value next to a number; BadLiteral when it is too large for one."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        raise BadLiteral(f"{value} does not fit a float32") from None


# ---- lists and elements


def elements(text: str) -> tuple[Scalar, ...]:
    """The elements of `[…]`, in order."""
    body = text[1:-1]
    try:
        return tuple(map(int, body.split(",")))
    except ValueError:
        pass
    values, position = list[Scalar](), 0
    while position < len(body) and (values or not body.isspace()):
        found = _ELEMENT.match(body, position)
        if not found:
            rest = body[position:].strip()
            raise BadLiteral(f"expected a list element, found {rest[:20] or 'nothing'!r}", position + 1)
        values.append(_scalar(found))
        position = found.end()
    return tuple(values)


def scalar(text: str) -> Scalar:
    """One element, written without brackets."""
    found = _ELEMENT.fullmatch(text)
    if not found:
        raise BadLiteral(f"expected a number, string, true or false, found {text!r}")
    return _scalar(found)


def _scalar(found: re.Match[str]) -> Scalar:
    if found["number"]:
        return _number(found["number"])
    if found["string"]:
        return unquote(found["string"])
    if found["word"]:
        return found["word"] == "true"
    return complex(float(found["real"]), float(found["imaginary"]))


def _number(text: str) -> int | float:
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        raise BadLiteral(f"{text} is no number") from None


# ---- constants


def elements_text(array: NDArray[Any], dtype: DType) -> str:
    """The elements of an array in row-major order, without brackets."""
    return ",".join(element_text(item, dtype) for item in array.reshape(-1))


def element_text(item: Any, dtype: DType) -> str:
    """One element as the shortest text that reads back as the same bits (NaN payloads aside)."""
    match dtype.kind:
        case Kind.BOOL:
            return "true" if item else "false"
        case Kind.STRING:
            assert isinstance(item, str), f"a string constant holds {item!r}"
            return quote(item)
        case Kind.COMPLEX:
            part = DType.F32 if dtype is DType.C64 else DType.F64
            return f"({element_text(item.real, part)},{element_text(item.imag, part)})"
        case Kind.FLOAT:
            return _float_element(item, dtype)
        case _:
            return str(int(item))


def _float_element(item: Any, dtype: DType) -> str:
    if dtype is DType.F64:
        return repr(float(item))
    if dtype is DType.F32:
        return _single_text(np.float32(item))
    if dtype is DType.F16:
        return repr(float(str(np.float16(item))))
    value = float(item)
    if value.is_integer() and abs(value) < 1e6:
        return repr(value)
    shorter = (float(f"{value:.{digits}g}") for digits in range(1, 18))
    return repr(next((s for s in shorter if _same(float(np.asarray(s).astype(dtype.numpy)), value)), value))


def _single_text(value: np.float32) -> str:
    shortest = float(str(value))
    with np.errstate(over="ignore"):
        return repr(shortest if _same(float(np.float32(shortest)), float(value)) else float(value))


def _same(left: float, right: float) -> bool:
    return left == right or (left != left and right != right)


def constant_array(values: Sequence[Scalar], dtype: DType) -> NDArray[Any]:
    """A flat array of the elements; BadLiteral when one does not fit the type."""
    for value in values:
        _check_element(value, dtype)
    if dtype is DType.STRING:
        array = np.empty(len(values), object)
        array[:] = values
        return array
    wide = np.float64 if dtype.is_float else np.int64 if dtype in (DType.I4, DType.U4) else dtype.numpy
    with np.errstate(over="ignore"):
        array = np.array(values, wide).astype(dtype.numpy)
    if dtype.is_float:
        finite = [np.isfinite(float(cast("float", value))) for value in values]
        overflow = np.isinf(array.astype(np.float64)) & np.array(finite, bool)
        if overflow.any():
            raise BadLiteral(f"{values[int(overflow.argmax())]} does not fit {dtype.value}")
    return array


def _check_element(value: Scalar, dtype: DType) -> None:
    if dtype.is_integer and type(value) is int:
        low = -(1 << dtype.bits - 1) if dtype.kind is Kind.SIGNED else 0
        if low <= value < low + (1 << dtype.bits):
            return
        raise BadLiteral(f"{value} does not fit {dtype.value}")
    fits = {
        Kind.BOOL: (bool,), Kind.STRING: (str,), Kind.FLOAT: (int, float),
        Kind.COMPLEX: (complex, int, float),
    }.get(dtype.kind, ())  # fmt: skip
    if type(value) not in fits:
        raise BadLiteral(f"{value!r} is no {dtype.value}")
