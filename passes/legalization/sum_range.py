"""How large the integer sums of quantised operators may become; actual weights tell, where they are known."""

from __future__ import annotations

from math import prod

import numpy as np

from rtcc.ir import Constant, DType, Value
from rtcc.ir.ops import quant

LIMIT = 2**31
LARGEST = 255
"""Of 8-bit data less their zero point, either way."""


def convolution_exceeds(op: quant.QLinearConv | quant.ConvInteger) -> bool:
    """Whether some data make a sum, or one with its bias, leave int32."""
    weight, zero = op.weight, op.weight_zero_point
    if isinstance(weight, Constant) and (zero is None or isinstance(zero, Constant)):
        spread = None if zero is None else quant.per_output(zero.array, weight.type.rank)
        reach = _largest(quant.centred(weight.array, spread).reshape(len(weight.array), -1), 1)
    else:
        reach = prod(weight.type.sizes[1:]) * _farthest(weight, zero)
    bias = _largest_bias(op.bias) if isinstance(op, quant.QLinearConv) else 0
    return LARGEST * reach + bias >= LIMIT


def product_exceeds(op: quant.QLinearMatMul | quant.MatMulInteger) -> bool:
    """Whether some data make a sum leave int32."""
    right, zero = op.right, op.right_zero_point
    if isinstance(right, Constant) and (zero is None or isinstance(zero, Constant)):
        reach = _largest(quant.centred(right.array, None if zero is None else zero.array), -2)
    else:
        reach = op.left.type.sizes[-1] * _farthest(right, zero)
    return LARGEST * reach >= LIMIT


def _farthest(weight: Value, zero: Value | None) -> int:
    """How far from its zero point an 8-bit weight may be that is not known."""
    return 128 if zero is None and weight.type.dtype is DType.I8 else LARGEST


def _largest(weight: quant.Array, axis: int) -> int:
    """The largest sum of weights of one sign along an axis; times `LARGEST` no data's sum is larger.

    Data of one zero point are at most 255 - z above and z below it: (255 - z)·a + z·b ≤ 255·max(a, b).
    """
    matrix = weight if weight.ndim > 1 else weight.reshape(-1, 1)
    above, below = (np.maximum(each, 0).sum(axis, dtype=np.int64) for each in (matrix, -matrix))
    return max(int(above.max(initial=0)), int(below.max(initial=0)))


def _largest_bias(bias: Value | None) -> int:
    if bias is None:
        return 0
    if not isinstance(bias, Constant):
        return LIMIT - 1
    return int(np.abs(bias.array.astype(np.int64)).max(initial=0))
