"""What a graph says of quantised tensors: which integers, scale and zero point a value is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, DType, Value
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.cast import BitCast, Cast
from rtcc.ir.ops.integer import QUANTIZED, Requantize
from rtcc.ir.ops.math import BitwiseXor, Mul, Sub
from rtcc.ir.ops.movement import Transpose
from rtcc.ir.ops.quant import DequantizeLinear, QuantizeLinear, Scaled
from rtcc.ir.ops.requantization import F32, quantized
from rtcc.pipeline import Rewriter
from rtcc.target import Illegal

Array = NDArray[Any]

SIGN = 128
"""u8 = s8 + 128, zero points likewise: the sign bit turned over."""


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor of integers that stand for (value - zero) · scale, one scale for all."""

    value: Value
    scale: np.float32
    zero: int
    zero_value: Value | None = None

    def zero_point(self, rw: Rewriter) -> Value:
        """The zero point as a constant of the tensor's type; the model's own where it is a scalar."""
        return TensorParameters(self.scale, self.zero, self.value.type.dtype, self.zero_value).zero_point(rw)

    def like(self, other: TensorParameters) -> bool:
        """Whether equal integers stand for equal numbers."""
        return (self.scale, self.zero, self.value.type.dtype) == (other.scale, other.zero, other.dtype)

    def of_kind(self, dtype: DType, rw: Rewriter) -> QuantizedTensor:
        """The same numbers as u8 or as s8."""
        if self.value.type.dtype is dtype:
            return self
        raw, flip = self.value, rw.constant(np.array(SIGN, np.uint8), name="sign")
        if dtype is DType.U8:
            raw = BitCast(raw, to=DType.U8.value).result
        turned = BitwiseXor(raw, flip).result
        if dtype is DType.I8:
            turned = BitCast(turned, to=DType.I8.value).result
        return QuantizedTensor(turned, self.scale, self.zero + (SIGN if dtype is DType.U8 else -SIGN))


@dataclass(frozen=True)
class TensorParameters:
    """What a tensor is quantised to; mode: how integer sums are scaled for it (`quant.requantize`)."""

    scale: np.float32
    zero: int
    dtype: DType
    zero_value: Value | None = None
    mode: str = F32

    def zero_point(self, rw: Rewriter) -> Value:
        """The zero point as a constant of the tensor's type; the model's own where it is a scalar."""
        known = self.zero_value
        if known is not None and known.type.shape == ():
            return known
        return rw.constant(np.array(self.zero, self.dtype.numpy), name="zero_point")

    def of(self, number: float) -> int:
        """A number quantised so."""
        return int(quantized(np.asarray(np.float32(number) / self.scale), np.array(self.zero), self.dtype))


@dataclass(frozen=True)
class Weights:
    """A constant of s8 whose zero point is 0; scale: one for all, or one per entry of the axis asked for."""

    array: Array
    scale: Array
    source: Value

    def constant(self, rw: Rewriter, array: Array | None = None) -> Constant:
        """The weights, or another form of them, as a constant; the model's own where nothing differs."""
        if array is None and isinstance(self.source, Constant) and self.source.type.dtype is DType.I8:
            return self.source
        array = self.array if array is None else array
        return rw.constant(np.ascontiguousarray(array), name=self.name(rw))

    def name(self, rw: Rewriter) -> str:
        """What constants made of the weights are called."""
        return rw.stem(self.source) if isinstance(self.source, Constant) else "weight"


def dequantized(value: Value) -> QuantizedTensor | None:
    """The 8-bit integers that a value is dequantised from, with one known scale for all of them."""
    found = read_data(value)
    return None if isinstance(found, Illegal) else found


def read_data(value: Value) -> QuantizedTensor | Illegal:
    """The same, or why a layer's data are no such integers."""
    op = value.producer
    if not isinstance(op, DequantizeLinear):
        return Illegal("its data are not quantised")
    if op.type.dtype is not DType.F32:
        return Illegal(f"its data are dequantised to {op.type.dtype.value}")
    known = _parameters(op, op.data.type.dtype)
    if isinstance(known, Illegal):
        return Illegal(f"its data: {known.reason}")
    return QuantizedTensor(op.data, known.scale, known.zero, known.zero_value)


def quantised_to(op: QuantizeLinear) -> TensorParameters | None:
    """What an op quantises to, with one known scale; None for other types than 8-bit integers."""
    found = _parameters(op, op.type.dtype)
    return None if isinstance(found, Illegal) or op.data.type.dtype is not DType.F32 else found


def read_weights(value: Value, axis: int) -> Weights | Illegal:
    """The same, or why a layer's weights are no such constant."""
    op = value.producer
    if isinstance(op, Transpose) and op.data.type.rank == 2 and op.permutation(2) == (1, 0):
        found = read_weights(op.data, 1 - axis)
        return found if isinstance(found, Illegal) else Weights(found.array.T, found.scale, value)
    if not isinstance(op, DequantizeLinear):
        return Illegal("its weights are not quantised")
    if op.type.dtype is not DType.F32:
        return Illegal(f"its weights are dequantised to {op.type.dtype.value}")
    if op.data.type.dtype not in QUANTIZED:
        return Illegal(f"its weights are {op.data.type.dtype.value}, integer sums take 8 bits")
    data, scale = _integers(op.data), op.scale
    if data is None:
        return Illegal("its weights are not constant")
    return _scaled_weights(op, data, scale, axis)


def _scaled_weights(op: DequantizeLinear, data: Array, scale: Value, axis: int) -> Weights | Illegal:
    if not isinstance(scale, Constant) or scale.type.dtype is not DType.F32:
        return Illegal("its weights: the scale is no float32 constant")
    if op.block_size or (scale.data.size > 1 and normal_axis(op, op.axis, data.ndim) != axis):
        return Illegal("its weights have several scales within one sum")
    zero = _zeros(op)
    if zero is None:
        return Illegal("its weights: the zero point is not constant")
    if not _is_usable(scale.array):
        return Illegal("its weights: a scale is no normal positive number")
    expected = SIGN if data.dtype == np.uint8 else 0
    if (zero != expected).any():
        return Illegal(f"its weights have a zero point other than {expected}")
    return Weights((data.astype(np.int32) - expected).astype(np.int8), scale.array.reshape(-1), op.data)


def constant_numbers(value: Value) -> Array | None:
    """A constant's numbers in float64, also where it is a dequantised one; None where it is none."""
    if isinstance(value, Constant):
        return value.array.astype(np.float64)
    op = value.producer
    if not isinstance(op, DequantizeLinear) or not isinstance(op.data, Constant):
        return None
    if op.block_size or not isinstance(op.scale, Constant):
        return None
    zero = _zeros(op)
    if zero is None:
        return None
    shape = op.data.type.sizes
    scale = op.spread(op.scale.array, shape).astype(np.float64)
    return (op.data.array.astype(np.float64) - op.spread(zero, shape)) * scale


def scaled(total: Value, scale: Array, rw: Rewriter) -> Value:
    """An integer sum as the numbers that it stands for."""
    factor = rw.constant(scale.astype(np.float32), name="scale")
    return Mul(Cast(total, to=DType.F32.value).result, factor).result


def unscaled(value: Value) -> tuple[Value, Constant] | None:
    """The integer sum and its scale, where a value is what `scaled` makes."""
    op = value.producer
    if not isinstance(op, Mul) or not isinstance(op.right, Constant):
        return None
    cast = op.left.producer
    if not isinstance(cast, Cast) or cast.data.type.dtype is not DType.I32:
        return None
    return cast.data, op.right


def centred_integers(source: QuantizedTensor, rw: Rewriter) -> Value:
    """Integers less their zero point, in i32."""
    wide = Cast(source.value, to=DType.I32.value).result
    if source.zero == 0:
        return wide
    return Sub(wide, rw.constant(np.array(source.zero, np.int32), name="zero_point")).result


def requantized_sum(total: Value, factor: object, to: TensorParameters, rw: Rewriter) -> Value:
    """An i32 sum times a factor, quantised."""
    known = rw.constant(np.asarray(factor, np.float32), name="factor")
    return Requantize(total, known, to.zero_point(rw), mode=to.mode).result


def _integers(value: Value) -> Array | None:
    """8-bit integers: a constant's, or what quantising a constant gives."""
    op = value.producer
    if value.type.dtype not in QUANTIZED:
        return None
    if isinstance(value, Constant):
        return value.array
    if isinstance(op, QuantizeLinear) and all(isinstance(each, Constant) for each in op.present_operands):
        found = op.evaluate(*(each.array if isinstance(each, Constant) else None for each in op.operands))
        return found[0] if isinstance(found, tuple) else found
    return None


def _zeros(op: Scaled) -> Array | None:
    """The zero points of an op; zeros where it has none, None where they are not known."""
    if op.zero_point is None:
        return np.zeros(op.scale.type.sizes, np.int32)
    return op.zero_point.array.astype(np.int32) if isinstance(op.zero_point, Constant) else None


def _parameters(op: Scaled, dtype: DType) -> TensorParameters | Illegal:
    """One scale and zero point for all of a tensor of that type, or why it has none."""
    if dtype not in QUANTIZED:
        return Illegal(f"{dtype.value}, and integer sums take 8 bits")
    if not isinstance(op.scale, Constant) or op.scale.type.dtype is not DType.F32:
        return Illegal("the scale is no float32 constant")
    if op.scale.data.size != 1:
        return Illegal("there are several scales")
    zero = _zeros(op)
    if zero is None:
        return Illegal("the zero point is not constant")
    if not _is_usable(op.scale.array):
        return Illegal("the scale is no normal positive number")
    scale = np.float32(op.scale.array.reshape(()))
    return TensorParameters(scale, int(zero.reshape(())), dtype, op.zero_point)


def _is_usable(scale: Array) -> bool:
    """Whether all scales are normal positive numbers."""
    return bool((np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)).all())
