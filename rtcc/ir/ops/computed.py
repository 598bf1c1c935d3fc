"""The base of operators that are computed by NumPy: one rule for precision, results and warnings."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir.dtype import DType, Kind
from rtcc.ir.op import Array, Op
from rtcc.ir.types import TensorType
from rtcc.ir.value import Value

NUMBERS = frozenset({Kind.SIGNED, Kind.UNSIGNED, Kind.FLOAT})
INTEGERS = frozenset({Kind.SIGNED, Kind.UNSIGNED})
FLOATS = frozenset({Kind.FLOAT})
BOOLEANS = frozenset({Kind.BOOL})


class ComputedOp(Op):
    """An operator whose `compute` takes one NumPy array (or None) per operand.

    Floats narrower than 32 bits are widened to float32 first and every result is rounded once, to its
    declared type. Where a float operand comes in a wider type than declared, float results stay wide.
    """

    def compute(self, *arrays: Any, **named: Any) -> Any:
        """The results, one array or a tuple, in any precision at least as wide as declared."""
        raise self.unsupported("no-evaluation", "no NumPy semantics", hint="give the class a `compute`")

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...] | Array:
        upcast = any(map(_is_upcast, self.operands, arrays))
        with np.errstate(all="ignore"):
            found = self.compute(*(None if a is None else widened(a) for a in arrays))
            several = cast("tuple[Any, ...]", found) if isinstance(found, tuple) else (found,)
            return tuple(
                rounded(np.asarray(array), result.type.dtype, keep_wide=upcast)
                for array, result in zip(several, self.results, strict=False)
            )

    def require(self, value: Value | None, kinds: frozenset[Kind], what: str) -> None:
        """Raise InvalidModel unless the value is absent or its element type is of one of the kinds."""
        if value is not None and value.type.dtype.kind not in kinds:
            expected = " or ".join(sorted(kind.value for kind in kinds))
            raise self.fail(f"{what} must be {expected}, found {value.type.dtype.value}")

    def element_type(self, name: str) -> DType:
        """The element type of that name; InvalidModel when there is none."""
        try:
            return DType(name)
        except ValueError:
            known = ", ".join(dtype.value for dtype in DType)
            raise self.fail(f"unknown element type {name!r}", hint=f"known: {known}") from None

    def unsupported(self, code: str, message: str, *, hint: str) -> Unsupported:
        """An error about a valid form of this op that rtcc lacks, to raise; names its ONNX node."""
        return Unsupported(code, f"{self.name}: {message}", where=str(self.location) or None, hint=hint)


class SameType(ComputedOp):
    """An operator whose first result has the type of its first operand."""

    def infer(self) -> tuple[TensorType, ...]:
        data = self.operands[0]
        assert data is not None
        return (data.type.with_layout(None),)


def widened(array: Array) -> Array:
    """The array, with floats narrower than 32 bits as float32."""
    narrow = array.dtype.itemsize < 4 and array.dtype.kind in "fV"
    return array.astype(np.float32) if narrow and DType.of(array.dtype).is_float else array


def rounded(array: Array, dtype: DType, *, keep_wide: bool = False) -> Array:
    """The array in the element type; a float array stays as it is for a float type with keep_wide."""
    if keep_wide and dtype.is_float and array.dtype.kind == "f":
        return array
    return array.astype(dtype.numpy, copy=False)


def saturated(array: Array, dtype: np.dtype[Any]) -> Array:
    """A float array as integers: truncated, limited to the type's range, NaN as 0."""
    limits = integer_limits(dtype)
    known = np.where(np.isnan(array), 0, array)
    # the largest 64-bit integers are no floats: convert only what lies strictly inside
    inside = np.where((known > limits[0]) & (known < limits[1]), known, 0).astype(np.int64)
    if dtype == np.uint64:
        inside = np.where((known > 0) & (known < limits[1]), known, 0).astype(np.uint64)
    result = np.where(known >= limits[1], np.array(limits[1], dtype), inside.astype(dtype))
    return np.where(known <= limits[0], np.array(limits[0], dtype), result).astype(dtype, copy=False)


def integer_limits(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The smallest and the largest value of an integer element type."""
    kind = DType.of(dtype)
    if kind.kind is Kind.UNSIGNED:
        return 0, 2**kind.bits - 1
    return -(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1


def _is_upcast(value: Value | None, array: Array | None) -> bool:
    return (
        value is not None
        and array is not None
        and value.type.dtype.is_float
        and array.dtype.itemsize > value.type.dtype.bytes
    )
