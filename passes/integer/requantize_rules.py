"""What is quantised again: rounded in the kernel that computes it, or moved as integers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rtcc.ir import Constant, DType, Op, Value
from rtcc.ir.moving import moved_operands
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.computed import integer_limits
from rtcc.ir.ops.integer import AddToSum, QuantizedAdd, Requantize, add_factor
from rtcc.ir.ops.math import Add, Clip, Max, Min, Mul
from rtcc.ir.ops.movement import Concat, Pad, Slice, Split, Transpose
from rtcc.ir.ops.nn import MatMul
from rtcc.ir.ops.quant import QuantizeLinear
from rtcc.ir.ops.requantization import FIXED25
from rtcc.ir.ops.softmax import Softmax
from rtcc.ir.types import broadcast_shapes
from rtcc.passes.integer.fixed_point import added_exactly, added_to_sum_exactly
from rtcc.passes.integer.functions import tabulated
from rtcc.passes.integer.values import (
    QuantizedTensor,
    TensorParameters,
    centred_integers,
    dequantized,
    quantised_to,
    requantized_sum,
    unscaled,
)
from rtcc.pipeline import Rewriter, Rule, rewrite
from rtcc.pipeline.constants import uniform_value


def quantize_by(mode: str) -> Rule:
    """The rule for results; mode: how integer sums are scaled, as `quant.requantize` has it."""

    @rewrite(QuantizeLinear)
    def quantize(op: QuantizeLinear, rw: Rewriter) -> None:
        """quantize_linear(clamp(f(dequantize(x), …)))  →  clamp(integer f(x, …))"""
        to = quantised_to(op)
        if to is None or not op.type.is_static:
            return
        found = _quantized(op.data, replace(to, mode=mode), rw)
        if found is not None:
            rw.replace(op, found)

    return quantize


def _quantized(value: Value, to: TensorParameters, rw: Rewriter) -> Value | None:
    """A value, clamped by constants perhaps, quantised in integers; None where it is not known how."""
    data, clamps = _unclamped(value)
    found = tabulated(data, to, rw) or _integers(data, to, rw)
    if found is None:
        return None
    for clamp in reversed(clamps):
        found = _clamped(found, clamp, to, rw)
    return found


@rewrite(Transpose)
def quantize_later(op: Transpose, rw: Rewriter) -> None:
    """transpose(quantize_linear(mat_mul(softmax(…), v)))  →  quantize_linear(transpose(…)): one attention

    Bytes are moved by a quarter of the traffic; attention, which ends in this transpose, moves none.
    """
    rounded = op.data.producer
    if not isinstance(rounded, QuantizeLinear) or not op.data.has_one_use or quantised_to(rounded) is None:
        return
    product = rounded.data.producer
    if not isinstance(product, MatMul) or not rounded.data.has_one_use:
        return
    if not isinstance(product.left.producer, Softmax):
        return
    moved = Transpose(rounded.data, like=op)
    rw.replace(op, QuantizeLinear(moved.result, *rounded.operands[1:], like=rounded))


def _unclamped(value: Value) -> tuple[Value, list[Op]]:
    """What is clamped by constants, and the ops that do, the last one first."""
    clamps: list[Op] = []
    while value.has_one_use and (op := value.producer) is not None and _is_clamp(op):
        clamps.append(op)
        (value, *_) = op.present_operands
    return value, clamps


def _is_clamp(op: Op) -> bool:
    if isinstance(op, Clip):
        return all(each is None or uniform_value(each) is not None for each in op.operands[1:])
    return isinstance(op, Relu)


def _clamped(found: Value, clamp: Op, to: TensorParameters, rw: Rewriter) -> Value:
    """Quantising keeps order, so a clamp of quantised numbers has quantised bounds."""
    low, high = integer_limits(to.dtype.numpy)
    bounds = _bounds(clamp)
    lowest = low if bounds[0] is None else to.of(bounds[0])
    highest = high if bounds[1] is None else to.of(bounds[1])

    def number(bound: int) -> Value:
        return rw.constant(np.array(bound, to.dtype.numpy), name="bound")

    if lowest > low:
        found = Max(found, number(lowest)).result
    return Min(found, number(highest)).result if highest < high else found


def _bounds(clamp: Op) -> tuple[float | None, float | None]:
    if isinstance(clamp, Relu):
        return 0.0, None
    assert isinstance(clamp, Clip)
    low, high = (uniform_value(each) for each in (clamp.lowest, clamp.highest))
    return None if low is None else float(low), None if high is None else float(high)


def _integers(value: Value, to: TensorParameters, rw: Rewriter) -> Value | None:
    """A value quantised, computed in integers; None where it is not known how."""
    total = unscaled(value)
    if total is not None:
        return requantized_sum(total[0], total[1].array / to.scale, to, rw)
    plain = dequantized(value)
    if plain is not None:
        return _rescaled(plain, to, rw)
    op = value.producer
    if op is None or not value.has_one_use:
        return None
    match op:
        case Add() | Mul():
            return _arithmetic(op, to, rw)
        case Concat():
            parts = [dequantized(each) for each in op.inputs]
            whole = [each for each in parts if each is not None]
            if len(whole) < len(parts):
                return None
            return Concat(*(_rescaled(each, to, rw) for each in whole), axis=op.axis).result
        case Split():
            return _part(op, op.results.index(value), to, rw)
        case _ if len(moved_operands(op)) == 1:
            return _moved(op, to, rw)
        case _:
            return None


def _part(op: Split, number: int, to: TensorParameters, rw: Rewriter) -> Value | None:
    """One part of a split tensor as a slice of integers."""
    source = dequantized(op.data)
    if source is None:
        return None
    axis = normal_axis(op, op.axis, op.data.type.rank)
    sizes = [part.type.sizes[axis] for part in op.results]
    start = sum(sizes[:number])
    starts, ends, axes = (
        rw.constant(np.array([each], np.int64), name="part") for each in (start, start + sizes[number], axis)
    )
    part = Slice(source.value, starts, ends, axes).result
    return _rescaled(QuantizedTensor(part, source.scale, source.zero), to, rw)


def _moved(op: Op, to: TensorParameters, rw: Rewriter) -> Value | None:
    """A moving operator over integers, also those of an integer sum that is read nowhere else."""
    (data,) = moved_operands(op)
    source = dequantized(data)
    if source is not None:
        integers = _rescaled(source, to, rw)
    elif data.has_one_use:
        integers = _quantized(data, to, rw)
    else:
        integers = None
    if integers is None:
        return None
    if isinstance(op, Pad):
        around = _quantized_pad(op, to, rw) if op.mode == "constant" else None
        return Pad(integers, op.pads, around, op.axes, **op.attributes).result
    operands = (integers if value is data else value for value in op.operands)
    return type(op)(*operands, **op.attributes).results[0]


def _quantized_pad(op: Pad, to: TensorParameters, rw: Rewriter) -> Value:
    """What stands around integers for what the op puts around numbers: zero is not 0, but the zero point."""
    known = op.constant_value
    number = float(known.array.reshape(())) if isinstance(known, Constant) else 0.0
    return rw.constant(np.array(to.of(number), to.dtype.numpy), name="padding")


def _arithmetic(op: Add | Mul, to: TensorParameters, rw: Rewriter) -> Value | None:
    left, right = dequantized(op.left), dequantized(op.right)
    if (left is None) != (right is None):
        known, other = left or right, op.left if left is None else op.right
        assert known is not None
        if isinstance(op, Mul):
            return _gated(known, other, to, rw)
        return _added_to_sum(other, known, to, rw)
    if left is None or right is None:
        return None
    if isinstance(op, Mul):
        product = Mul(centred_integers(left, rw), centred_integers(right, rw)).result
        return requantized_sum(product, left.scale * right.scale / to.scale, to, rw)
    if to.mode == FIXED25:
        return added_exactly([left, right], to, rw)
    factors = [add_factor(float(np.float64(each.scale) / to.scale)) for each in (left, right)]
    if not all(np.isfinite(factor) for factor in factors):
        return None
    operands = [
        operand
        for each, factor in zip((left, right), factors, strict=True)
        for operand in (
            each.value,
            rw.constant(np.array(factor, np.float32), name="factor"),
            each.zero_point(rw),
        )
    ]
    return QuantizedAdd(*operands, to.zero_point(rw)).result


def _gated(data: QuantizedTensor, gate: Value, to: TensorParameters, rw: Rewriter) -> Value | None:
    """A quantised tensor times floats, such as one for each channel, which are its factors then.

    They may be NaN or infinite, which only data that are floats have a result for.
    """
    if broadcast_shapes(data.value.type.shape, gate.type.shape) != data.value.type.shape:
        return None
    scale = rw.constant(np.asarray(data.scale / to.scale, np.float32), name="scale")
    data_in_floats = Cast(centred_integers(data, rw), to=DType.F32.value).result
    return Requantize(data_in_floats, Mul(gate, scale).result, to.zero_point(rw)).result


def _added_to_sum(value: Value, right: QuantizedTensor, to: TensorParameters, rw: Rewriter) -> Value | None:
    """A scaled integer sum that is read nowhere else, and a quantised tensor; None where it is no such."""
    total = unscaled(value)
    if total is None or not value.has_one_use:
        return None
    if to.mode == FIXED25:
        return added_to_sum_exactly(total, right, to, rw)
    factor = add_factor(float(np.float64(right.scale) / to.scale))
    if not np.isfinite(factor):
        return None
    scaled = rw.constant(np.asarray(total[1].array / to.scale, np.float32), name="factor")
    known = rw.constant(np.array(factor, np.float32), name="factor")
    operands = (total[0], scaled, right.value, known, right.zero_point(rw), to.zero_point(rw))
    return AddToSum(*operands).result


def _rescaled(source: QuantizedTensor, to: TensorParameters, rw: Rewriter) -> Value:
    """Integers of one scale and zero point as those of another."""
    if source.like(to):
        return source.value
    return requantized_sum(centred_integers(source, rw), source.scale / to.scale, to, rw)
