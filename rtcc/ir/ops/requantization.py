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
