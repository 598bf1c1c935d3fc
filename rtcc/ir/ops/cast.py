"""Conversions between element types."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from rtcc.ir.dtype import DType, Kind
from rtcc.ir.op import Array, attribute, operand, required_attribute
from rtcc.ir.ops.computed import ComputedOp, saturated
from rtcc.ir.ops.elementwise import Unary
from rtcc.ir.roles import Role
from rtcc.ir.size_arithmetic import same
from rtcc.ir.types import TensorType

_FINITE_ONLY = {DType.F8E4M3FN, DType.F8E4M3FNUZ, DType.F8E5M2FNUZ}


class Cast(Unary):
    """The values in another element type (ONNX Cast); `to` is its name, as in "f16".

    Float to integer truncates and saturates, NaN becomes 0; integer to integer keeps the low bits, and so
    does float to 4-bit integer, by way of i32; to bool is "not zero". `saturate` holds for 8-bit floats:
    beyond the largest value they take it, else infinity (NaN where the type has none). `round_mode` has
    no meaning for the types rtcc has.
    """

    name = "math.cast"
    on_sizes = staticmethod(same)
    to = required_attribute(str)
    saturate = attribute(1)
    round_mode = attribute("up")

    def infer(self) -> tuple[TensorType, ...]:
        return (TensorType(self.element_type(self.to), self.data.type.shape),)

    def compute(self, x: Array) -> Array:
        return _cast(self, x, saturate=bool(self.saturate))


class CastLike(ComputedOp):
    """The values in the element type of the second operand (ONNX CastLike)."""

    name = "math.cast_like"
    role = Role.COMPOSITE
    data = operand()
    target_type = operand(type_only=True)
    saturate = attribute(1)
    round_mode = attribute("up")

    def infer(self) -> tuple[TensorType, ...]:
        return (TensorType(self.target_type.type.dtype, self.data.type.shape),)

    def compute(self, x: Array, target_type: Array) -> Array:
        return _cast(self, x, saturate=bool(self.saturate))


class BitCast(ComputedOp):
    """The same bits read as another element type of the same width (ONNX BitCast)."""

    name = "math.bit_cast"
    role = Role.ELEMENTWISE
    data = operand()
    to = required_attribute(str)

    def infer(self) -> tuple[TensorType, ...]:
        target, source = self.element_type(self.to), self.data.type.dtype
        if target.bits != source.bits or DType.STRING in (target, source):
            raise self.fail(f"the types must have one width, found {source.value} and {target.value}")
        return (TensorType(target, self.data.type.shape),)

    def evaluate(self, *arrays: Array | None) -> Array:
        array = np.asarray(arrays[0])
        source = np.ascontiguousarray(array).astype(self.data.type.dtype.numpy, copy=False)
        return source.view(self.results[0].type.dtype.numpy).reshape(array.shape)


def _cast(op: ComputedOp, x: Array, *, saturate: bool) -> Array:
    """The op's first result; where a float operand is wider than declared, a float result stays wide."""
    data, target = op.operands[0], op.results[0].type.dtype
    assert data is not None
    is_wide = data.type.dtype.is_float and x.dtype.itemsize > max(data.type.dtype.bytes, 4)
    return x if is_wide and target.is_float else converted(x, target, saturate=saturate)


def converted(x: Array, dtype: DType, *, saturate: bool = True) -> Array:
    """The array in another element type, by the rules of Cast."""
    if x.dtype.kind == "O":
        return _from_text(x, dtype, saturate)
    if dtype is DType.STRING:
        return _to_text(x)
    source = DType.of(x.dtype)
    if dtype is DType.BOOL:
        return x != 0
    if source.is_float and dtype.is_integer:
        return _low_bits(saturated(x, np.dtype(np.int32) if dtype.bits < 8 else dtype.numpy), dtype)
    if source.is_integer and dtype.is_integer:
        return _low_bits(x, dtype)
    if dtype.kind is Kind.FLOAT and dtype.bits == 8:
        return _narrow_float(x.astype(np.float32), dtype, saturate)
    return x.astype(dtype.numpy)


def _low_bits(x: Array, dtype: DType) -> Array:
    if dtype.bits >= 8:
        return x.astype(dtype.numpy)
    low = x.astype(np.int64) & (2**dtype.bits - 1)
    wrapped = low - (low >> (dtype.bits - 1) << dtype.bits) if dtype.kind is Kind.SIGNED else low
    return wrapped.astype(dtype.numpy)


def _narrow_float(x: Array, dtype: DType, saturate: bool) -> Array:
    """To an 8-bit float; NumPy's conversion gives infinity or NaN where the rounded value does not fit."""
    found = x.astype(dtype.numpy)
    if saturate:
        import ml_dtypes

        limits = cast("Any", ml_dtypes.finfo(dtype.numpy))
        largest = float(limits.max)
        lost = ~np.isfinite(found.astype(np.float32)) & ~np.isnan(x)
        return np.where(lost, np.copysign(largest, x), found.astype(np.float32)).astype(dtype.numpy)
    if dtype in _FINITE_ONLY:
        return np.where(np.isinf(x), np.float32(np.nan), found.astype(np.float32)).astype(dtype.numpy)
    return found


def _from_text(x: Array, dtype: DType, saturate: bool) -> Array:
    if dtype is DType.STRING:
        return x
    if dtype.is_float:
        parsed = np.array([float(text) for text in x.reshape(-1)], np.float64).reshape(x.shape)
        return converted(parsed.astype(np.float32), dtype, saturate=saturate) if dtype.bits < 32 else parsed
    whole = [int(text) if text.lstrip("+-").isdigit() else int(float(text)) for text in x.reshape(-1)]
    return np.array(whole, np.int64).reshape(x.shape).astype(dtype.numpy)


def _to_text(x: Array) -> Array:
    found = np.empty(x.shape, object)
    for index, item in np.ndenumerate(x):
        found[index] = str(bool(item)) if x.dtype.kind == "b" else str(item)
    return found
