"""Element types of tensors, their text names and their NumPy counterparts."""

from __future__ import annotations

from enum import Enum
from functools import cache
from typing import Any

import numpy as np


class Kind(Enum):
    """The arithmetic family of an element type."""

    BOOL = "bool"
    SIGNED = "signed"
    UNSIGNED = "unsigned"
    FLOAT = "float"
    COMPLEX = "complex"
    STRING = "string"


class DType(Enum):
    """An element type; the value is its name in the text IR."""

    BOOL = "bool"
    I4 = "i4"
    U4 = "u4"
    I8 = "i8"
    U8 = "u8"
    I16 = "i16"
    U16 = "u16"
    I32 = "i32"
    U32 = "u32"
    I64 = "i64"
    U64 = "u64"
    F8E4M3FN = "f8e4m3fn"
    F8E4M3FNUZ = "f8e4m3fnuz"
    F8E5M2 = "f8e5m2"
    F8E5M2FNUZ = "f8e5m2fnuz"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    F64 = "f64"
    C64 = "c64"
    C128 = "c128"
    STRING = "str"

    def __hash__(self) -> int:
        return hash(self.value)

    @property
    def kind(self) -> Kind:
        """The arithmetic family."""
        return _KINDS[self]

    @property
    def bits(self) -> int:
        """Width of one element in bits; strings have no fixed width and report 0."""
        return _BITS[self]

    @property
    def bytes(self) -> int:
        """Bytes one element takes in memory; sub-byte types are stored one to a byte."""
        return max(1, _BITS[self] // 8)

    @property
    def is_float(self) -> bool:
        """Whether the type is a real floating-point type."""
        return _KINDS[self] is Kind.FLOAT

    @property
    def is_integer(self) -> bool:
        """Whether the type is a signed or unsigned integer (bool is not)."""
        return _KINDS[self] in (Kind.SIGNED, Kind.UNSIGNED)

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy element type; the narrow float and 4-bit ones come from ml_dtypes."""
        return _numpy_dtype(self)

    @staticmethod
    def of(dtype: np.dtype[Any] | type) -> DType:
        """The element type of a NumPy dtype; KeyError when rtcc has none."""
        return _from_numpy()[np.dtype(dtype)]


_KINDS: dict[DType, Kind] = {}
_BITS: dict[DType, int] = {}
for _dtype in DType:
    _digits = "".join(c for c in _dtype.value[1:].split("e")[0] if c.isdigit())
    match _dtype.value[0], _dtype.value:
        case _, "bool":
            _KINDS[_dtype], _BITS[_dtype] = Kind.BOOL, 8
        case _, "str":
            _KINDS[_dtype], _BITS[_dtype] = Kind.STRING, 0
        case _, "bf16":
            _KINDS[_dtype], _BITS[_dtype] = Kind.FLOAT, 16
        case letter, _:
            _KINDS[_dtype] = {"i": Kind.SIGNED, "u": Kind.UNSIGNED, "f": Kind.FLOAT, "c": Kind.COMPLEX}[
                letter
            ]
            _BITS[_dtype] = int(_digits)

_NUMPY_NAMES = {
    DType.BOOL: "bool", DType.I8: "int8", DType.U8: "uint8", DType.I16: "int16", DType.U16: "uint16",
    DType.I32: "int32", DType.U32: "uint32", DType.I64: "int64", DType.U64: "uint64",
    DType.F16: "float16", DType.F32: "float32", DType.F64: "float64",
    DType.C64: "complex64", DType.C128: "complex128", DType.STRING: "object",
}  # fmt: skip
_ML_DTYPES_NAMES = {
    DType.BF16: "bfloat16", DType.I4: "int4", DType.U4: "uint4",
    DType.F8E4M3FN: "float8_e4m3fn", DType.F8E4M3FNUZ: "float8_e4m3fnuz",
    DType.F8E5M2: "float8_e5m2", DType.F8E5M2FNUZ: "float8_e5m2fnuz",
}  # fmt: skip


@cache
def _numpy_dtype(dtype: DType) -> np.dtype[Any]:
    if dtype in _NUMPY_NAMES:
        return np.dtype(_NUMPY_NAMES[dtype])
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, _ML_DTYPES_NAMES[dtype]))


@cache
def _from_numpy() -> dict[np.dtype[Any], DType]:
    table = {_numpy_dtype(dtype): dtype for dtype in _NUMPY_NAMES}
    try:
        table |= {_numpy_dtype(dtype): dtype for dtype in _ML_DTYPES_NAMES}
    except ImportError:
        return table
    return table
