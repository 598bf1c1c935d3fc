"""How large the integer sums of quantised operators may become; actual weights tell, where they are known."""

from __future__ import annotations

import numpy as np

from rtcc.ir import Constant, Value
from rtcc.ir.ops import quant

LIMIT = 2**31
LARGEST = 255
"""Of 8-bit data less their zero point, either way."""


def convolution_exceeds(op: quant.QLinearConv) -> bool:
    """Whether some data make a sum, or one with its bias, leave int32."""
    zero = op.weight_zero_point
    if isinstance(op.weight, Constant) and isinstance(zero, Constant):
        weight = quant.centred(op.weight.array, quant.per_output(zero.array, op.weight.type.rank))
        bound = LARGEST * _largest(weight.reshape(len(weight), -1), 1)
    else:
        bound = LARGEST**2 * int(np.prod(op.weight.type.sizes[1:], dtype=np.int64))
    return bound + _largest_bias(op.bias) >= LIMIT


def product_exceeds(op: quant.QLinearMatMul) -> bool:
    """Whether some data make a sum leave int32."""
    zero = op.right_zero_point
    if isinstance(op.right, Constant) and isinstance(zero, Constant):
        return LARGEST * _largest(quant.centred(op.right.array, zero.array), -2) >= LIMIT
    return LARGEST**2 * op.left.type.sizes[-1] >= LIMIT


def _largest(weight: quant.Array, axis: int) -> int:
    """The largest Σ|weight| along an axis, as if those of one sign met the largest data."""
    if weight.ndim < 2:
        return int(np.abs(weight).sum(dtype=np.int64))
    return int(np.abs(weight).sum(axis, dtype=np.int64).max(initial=0))


def _largest_bias(bias: Value | None) -> int:
    if bias is None:
        return 0
    if not isinstance(bias, Constant):
        return LIMIT - 1
    return int(np.abs(bias.array.astype(np.int64)).max(initial=0))
