"""Residual additions as two taps, averages as sums of windows, conversions between scales."""

from __future__ import annotations

from math import frexp, prod

import numpy as np

from rtcc.ir import Op, Value
from rtcc.ir.location import UNKNOWN, Location
from rtcc.ir.ops.accelerator import AcceleratorAdd, AcceleratorAveragePool
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.pooling import AveragePool, GlobalAveragePool
from rtcc.passes.accelerated.operands import Wanted, image_obstacle, s8_data
from rtcc.passes.integer.values import Array, QuantizedTensor
from rtcc.target import Illegal

UNITS = range(1, 61)
"""Of additions: factors are whole numbers of 2 to minus one of these."""


def addition(op: Add, want: Wanted, bits: int) -> Op | Illegal:
    """quantize(clamp(add(dequantize(x), dequantize(y))))  →  accelerator.add(x, y)

    The factors scale / result scale are rounded to whole numbers of 2⁻ᵘ, the larger of so many bits.
    """
    terms = s8_data(op.left), s8_data(op.right)
    left, right = terms
    if isinstance(left, Illegal):
        return left
    if isinstance(right, Illegal):
        return right
    if obstacle := image_obstacle(left.value):
        return Illegal(obstacle)
    if left.value.type.shape != right.value.type.shape:
        return Illegal(f"its terms {left.value.type} and {right.value.type} differ in shape")
    factors = [float(np.float64(each.scale) / want.to.scale) for each in (left, right)]
    unit = bits - frexp(max(factors))[1]
    if round(np.ldexp(max(factors), unit)) >= 1 << bits:
        unit -= 1
    if unit not in UNITS:
        return Illegal(f"its factors {factors[0]:.3g} and {factors[1]:.3g} are of no common unit")
    by = [round(np.ldexp(factor, unit)) for factor in factors]
    return AcceleratorAdd(
        left.value, right.value, left_multiplier=by[0], right_multiplier=by[1],
        bias=-left.zero * by[0] - right.zero * by[1], factor=2.0**-unit, location=op.location,
        **want.attributes,
    )  # fmt: skip


def average(op: AveragePool | GlobalAveragePool, want: Wanted) -> Op | Illegal:
    """quantize(clamp(average_pool(dequantize(x))))  →  accelerator.average_pool(x)"""
    data = s8_data(op.data)
    if isinstance(data, Illegal):
        return data
    if obstacle := image_obstacle(data.value):
        return Illegal(obstacle)
    if isinstance(op, GlobalAveragePool):
        return _sums(data, {"kernel_shape": data.value.type.sizes[2:]}, want, op.location)
    if op.rounds_up:
        return Illegal("its last window may reach over the end (ceil_mode)")
    window = op.window(data.value.type.sizes[2:])
    counts: Array = op.counts(data.value.type.sizes)
    if not (counts == prod(window.kernel)).all():
        return Illegal("its windows differ in how many elements they are means of")
    return _sums(data, {"kernel_shape": window.kernel, "strides": window.strides, "pads": window.pads,
                        "dilations": window.dilations}, want, op.location)  # fmt: skip


def conversion(value: Value, want: Wanted) -> Op | Illegal:
    """quantize(clamp(dequantize(x)))  →  accelerator.average_pool(x) of windows of one element"""
    data = s8_data(value)
    if isinstance(data, Illegal):
        return data
    if obstacle := image_obstacle(data.value):
        return Illegal(obstacle)
    return _sums(data, {"kernel_shape": (1, 1)}, want, UNKNOWN)


def _sums(
    data: QuantizedTensor, geometry: dict[str, tuple[int, ...]], want: Wanted, location: Location
) -> Op:
    count = prod(geometry["kernel_shape"])
    factor = float(np.float32(np.float64(data.scale) / (count * np.float64(want.to.scale))))
    return AcceleratorAveragePool(
        data.value, bias=-data.zero * count, factor=factor, fill=data.zero, location=location, **geometry,
        **want.attributes,
    )  # fmt: skip
