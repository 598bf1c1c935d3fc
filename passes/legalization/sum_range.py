"""How large the integer sums of quantised operators may become; actual weights tell, where they are known."""

from __future__ import annotations

from math import prod

import numpy as np

from rtcc.ir import Constant, DType, Value
from rtcc.ir.ops import quant
from rtcc.ir.ops.sum_range import (
    FARTHEST,
    LARGEST,
    LIMIT,
    columns_of,
    may_overflow,
    terms_may_overflow,
)


def convolution_exceeds(op: quant.QLinearConv | quant.ConvInteger) -> bool:
    """Whether some data make a sum, or one with its bias, leave int32."""
    weight, zero = op.weight, op.weight_zero_point
    bias = op.bias if isinstance(op, quant.QLinearConv) else None
    if isinstance(weight, Constant) and (zero is None or isinstance(zero, Constant)):
        spread = None if zero is None else quant.per_output(zero.array, weight.type.rank)
        filters = quant.centred(weight.array, spread)
        return may_overflow(filters, _offset(bias, len(filters)), is_centred=True)
    furthest = int(np.abs(_offset(bias, 1)).max(initial=0))
    return terms_may_overflow(prod(weight.type.sizes[1:]), _farthest(weight, zero), furthest)


def product_exceeds(op: quant.QLinearMatMul | quant.MatMulInteger) -> bool:
    """Whether some data make a sum leave int32."""
    right, zero = op.right, op.right_zero_point
    if isinstance(right, Constant) and (zero is None or isinstance(zero, Constant)):
        matrix = quant.centred(right.array, None if zero is None else zero.array)
        return may_overflow(columns_of(matrix), is_centred=True)
    return terms_may_overflow(op.left.type.sizes[-1], _farthest(right, zero))


def _farthest(weight: Value, zero: Value | None) -> int:
    """How far from its zero point an 8-bit weight may be that is not known."""
    return FARTHEST if zero is None and weight.type.dtype is DType.I8 else LARGEST


def _offset(bias: Value | None, count: int) -> quant.Array:
    """What is added to the sum of each filter; where it is not known, the least and the largest i32."""
    if bias is None:
        return np.zeros((count, 1), np.int64)
    if isinstance(bias, Constant):
        return bias.array.astype(np.int64)
    return np.tile(np.array([-LIMIT, LIMIT - 1], np.int64), (count, 1))
