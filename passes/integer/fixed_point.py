"""Additions of quantised tensors in integers alone: products by whole multipliers of a common unit."""

from __future__ import annotations

from collections.abc import Sequence
from math import frexp

import numpy as np

from rtcc.ir import Constant, Value
from rtcc.ir.ops.integer import Requantize
from rtcc.ir.ops.math import Add, Clip, Mul
from rtcc.ir.ops.requantization import FIXED25
from rtcc.passes.integer.values import QuantizedTensor, TensorParameters, centred_integers, requantized_sum
from rtcc.pipeline import Rewriter

MULTIPLIER_BITS = 20
"""Of the larger factor: times a difference of bytes, two of them added, it stays within i32."""

LIMIT = 2**30
"""Of a sum in units of 2⁻ᵏ, so that adding a tensor stays within i32."""

SHIFTS = 60
"""Units further from 1 than 2 to the power of this are of no model."""


def added_exactly(terms: Sequence[QuantizedTensor], to: TensorParameters, rw: Rewriter) -> Value | None:
    """add(dequantize(x), dequantize(y))  →  requantize(add(mul(x - zero, #m), mul(y - zero, #n)), 2⁻ᵏ)

    The factors scale / result scale are rounded to whole numbers of 2⁻ᵏ, of which the larger one has 20 bits.
    """
    factors = [float(np.float64(each.scale) / to.scale) for each in terms]
    unit = MULTIPLIER_BITS - frexp(max(factors))[1]
    if not -SHIFTS < unit < SHIFTS:
        return None
    left, right = (_times(each, factor, unit, rw) for each, factor in zip(terms, factors, strict=True))
    return requantized_sum(Add(left, right).result, 2.0**-unit, to, rw)


def added_to_sum_exactly(
    total: tuple[Value, Constant], right: QuantizedTensor, to: TensorParameters, rw: Rewriter
) -> Value | None:
    """add(mul(cast(sum), #scale), dequantize(y))  →  requantize(add(clip(requantize(sum)), mul(y - z, #n)))

    The sum is rounded to units of 2⁻ᵏ of the result's first, the other term's factor too: to 20
    bits, k at most 20. Clipped sums saturate whatever is added: 2³⁰⁻ᵏ less 2²⁸⁻ᵏ units are more than 255.
    """
    factor = float(np.float64(right.scale) / to.scale)
    unit = min(MULTIPLIER_BITS, MULTIPLIER_BITS - frexp(factor)[1])
    if unit < 0:
        return None
    finer = np.asarray(total[1].array / to.scale * np.float32(2**unit), np.float32)
    nothing, low, high = (
        rw.constant(np.array(number, np.int32), name=name)
        for number, name in ((0, "zero_point"), (-LIMIT, "least"), (LIMIT, "most"))
    )
    fine = Requantize(total[0], rw.constant(finer, name="factor"), nothing, mode=FIXED25).result
    whole = Add(Clip(fine, low, high).result, _times(right, factor, unit, rw)).result
    return requantized_sum(whole, 2.0**-unit, to, rw)


def _times(source: QuantizedTensor, factor: float, unit: int, rw: Rewriter) -> Value:
    """Integers less their zero point, times a factor in units of 2⁻ᵘⁿⁱᵗ."""
    whole = np.array(np.rint(np.ldexp(factor, unit)), np.int32)
    return Mul(centred_integers(source, rw), rw.constant(whole, name="multiplier")).result
