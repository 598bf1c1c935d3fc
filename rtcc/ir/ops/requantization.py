"""How scaled numbers become elements of a quantised type, as `evaluate()` of all quantised operators has it.

`targets/tvm/lower/quantized.py` computes the same to the bit; `legalize` writes it as `quant.requantize`.
"""

from __future__ import annotations

import numpy as np

from rtcc.ir.dtype import DType
from rtcc.ir.op import Array
from rtcc.ir.ops.cast import converted
from rtcc.ir.ops.computed import integer_limits

FAR = 2.0**30
"""Beyond the range of every quantised type, yet adding a zero point does not overflow."""


def quantized(
    scaled: Array,
    zero: Array | int | None,
    dtype: DType,
    *,
    saturate: bool = True,
    nan_is_least: bool = False,
) -> Array:
    """x / scale made an element of a quantised type: rounded half to even, zero point added, saturated.

    NaN becomes the zero point, as in ONNX, where it comes from data that are floats. nan_is_least: the type's
    least element, for integer sums, in which NaN can only come from a factor that is infinite or NaN: a
    maximum of machine code gives that for nothing. 8-bit floats follow Cast's `saturate`.
    """
    if dtype.is_float:
        return converted(scaled, dtype, saturate=saturate)
    low, high = integer_limits(dtype.numpy)
    offset = 0 if zero is None else np.asarray(zero).astype(np.int32)
    whole = np.rint(np.where(np.isnan(scaled), -FAR if nan_is_least else 0, scaled))
    whole = np.clip(whole, -FAR, FAR).astype(np.int64) + offset
    return np.clip(whole, low, high).astype(dtype.numpy)


def requantized(total: Array, factor: Array, zero: Array | None, dtype: DType) -> Array:
    """An integer sum quantised: float32(total) · factor, rounded half to even, offset, saturated."""
    scaled = total.astype(np.result_type(factor.dtype, np.float32)) * factor
    return quantized(scaled, zero, dtype)


F32, FIXED25 = "f32", "fixed25"
MODES = (F32, FIXED25)
"""How integer sums are scaled: by a product of floats, or of integers, which needs no float unit."""

SIGNIFICANT = 23
"""Bits of a float32's significand that are stored; the multiplier has one more, and a sign."""

BIASED = 127 + SIGNIFICANT
"""A biased exponent less this is that of the significand's last bit."""

LEAST_SHIFT, MOST_SHIFT = 1, 62
"""At the least shift a product other than 0 is beyond every type of 16 bits, at the most it rounds to 0."""


def multiplier_and_shift(factor: Array) -> tuple[Array, Array]:
    """A float32 as m · 2⁻ˢ: m in i64, of 25 bits with its sign and never 0, and s in i64, from 1 to 62.

    Exact where s needs not be limited, which is for magnitudes from 2⁻³⁹ up to below 2²³. A smaller factor
    (0 too) makes every product round to 0, a larger one (infinity and NaN too) saturates by the signs.
    """
    raw = factor.astype(np.float32).view(np.int32).astype(np.int64)
    magnitude = (raw & (2**SIGNIFICANT - 1)) | 2**SIGNIFICANT
    shift = BIASED - ((raw >> SIGNIFICANT) & 255)
    return np.where(raw < 0, -magnitude, magnitude), np.clip(shift, LEAST_SHIFT, MOST_SHIFT)


def scaled_exactly(total: Array, factor: Array, zero: Array, dtype: DType) -> Array:
    """An i32 sum quantised in integers: total · m / 2ˢ is exact, rounded half to even, offset, saturated."""
    multiplier, shift = multiplier_and_shift(factor)
    product = total.astype(np.int64) * multiplier
    is_odd = (product >> shift) & 1
    whole = (product + ((np.int64(1) << (shift - 1)) - 1) + is_odd) >> shift
    return np.clip(whole + zero.astype(np.int64), *integer_limits(dtype.numpy)).astype(dtype.numpy)
