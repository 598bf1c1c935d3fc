"""Elementwise arithmetic, comparison and logic (ONNX names and semantics).

docs/arithmetic.md has the corner cases.
"""

from __future__ import annotations

from math import erf
from typing import Any

import numpy as np

from rtcc.ir import size_arithmetic as sizes
from rtcc.ir.dimension import Expression
from rtcc.ir.dtype import DType, Kind
from rtcc.ir.op import Array, attribute, operand, optional_operand, required_attribute
from rtcc.ir.ops.computed import BOOLEANS, FLOATS, INTEGERS, NUMBERS, saturated
from rtcc.ir.ops.elementwise import Binary, Elementwise, FloatUnary, Unary, Variadic
from rtcc.ir.size_arithmetic import Number
from rtcc.ir.types import TensorType, broadcast_shapes

# ---- arithmetic


class Identity(Unary):
    """The operand itself (ONNX Identity)."""

    name = "math.identity"
    on_sizes = staticmethod(sizes.same)
    data = operand(moved=True)

    def operations(self) -> int:
        return 0

    @staticmethod
    def function(x: Array) -> Array:
        return x


class Add(Binary):
    """left + right (ONNX Add)."""

    name = "math.add"
    on_sizes = staticmethod(sizes.add)
    kinds = NUMBERS
    function = staticmethod(np.add)


class Sub(Binary):
    """left - right (ONNX Sub)."""

    name = "math.sub"
    on_sizes = staticmethod(sizes.subtract)
    kinds = NUMBERS
    function = staticmethod(np.subtract)


class Mul(Binary):
    """left · right (ONNX Mul)."""

    name = "math.mul"
    on_sizes = staticmethod(sizes.multiply)
    kinds = NUMBERS
    function = staticmethod(np.multiply)


class Div(Binary):
    """left / right; integers are truncated towards zero, x / 0 is 0 (ONNX Div)."""

    name = "math.div"
    kinds = NUMBERS

    @staticmethod
    def function(left: Array, right: Array) -> Array:
        if left.dtype.kind == "f":
            return left / right
        floor = left // right
        inexact = (left - floor * right != 0) & (right != 0)
        return floor + (inexact & ((left < 0) != (right < 0))).astype(left.dtype)

    def known_element(self, *operands: Number | None) -> Number | None:
        left, right = operands
        if left is None or right is None:
            return None
        quotient = sizes.divide(left, right)
        if quotient is None or self.type.dtype.is_integer:
            return quotient
        return quotient if sizes.multiply(quotient, right) == left else None


class Mod(Binary):
    """The remainder; sign of the divisor, or of the dividend with fmod; integer x mod 0 is 0 (ONNX Mod)."""

    name = "math.mod"
    on_sizes = staticmethod(sizes.modulo)
    kinds = NUMBERS
    fmod = attribute(0)

    def compute(self, left: Array, right: Array) -> Array:
        return np.fmod(left, right) if self.fmod else np.mod(left, right)


class Pow(Binary):
    """left to the power of right, in left's type (ONNX Pow).

    Integers wrap; to a negative power they give the truncated reciprocal: 1, -1 or 0.
    """

    name = "math.pow"
    kinds = NUMBERS

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.left, NUMBERS, "the base")
        self.require(self.right, NUMBERS, "the exponent")
        left = self.left.type
        return (left.with_shape(broadcast_shapes(left.shape, self.right.type.shape)),)

    def compute(self, left: Array, right: Array) -> Array:
        if left.dtype.kind == "f":
            return np.power(left, right).astype(left.dtype)
        if right.dtype.kind == "f":
            return saturated(np.power(left.astype(np.float64), right), left.dtype)
        power = np.power(
            left, np.maximum(right, 0).astype(np.uint8 if right.dtype.itemsize == 1 else np.int64)
        )
        odd = right % 2 != 0
        unit = np.where(
            left == 1, 1, np.where((left == -1) if left.dtype.kind == "i" else False, 1 - 2 * odd, 0)
        )
        return np.where(right < 0, unit, power).astype(left.dtype)


class Neg(Unary):
    """-x (ONNX Neg)."""

    name = "math.neg"
    on_sizes = staticmethod(sizes.negative)
    kinds = frozenset({Kind.SIGNED, Kind.FLOAT})
    function = staticmethod(np.negative)


class Abs(Unary):
    """|x|; the smallest signed integer stays itself (ONNX Abs)."""

    name = "math.abs"
    on_sizes = staticmethod(sizes.absolute)
    kinds = NUMBERS
    function = staticmethod(np.abs)


class Sign(Unary):
    """-1, 0 or 1; NaN for NaN (ONNX Sign)."""

    name = "math.sign"
    kinds = NUMBERS
    function = staticmethod(np.sign)


class Reciprocal(FloatUnary):
    """1 / x (ONNX Reciprocal)."""

    name = "math.reciprocal"

    @staticmethod
    def function(x: Array) -> Array:
        return 1 / x


class Floor(FloatUnary):
    """The largest integer not above x (ONNX Floor)."""

    name = "math.floor"
    on_sizes = staticmethod(sizes.whole)
    function = staticmethod(np.floor)


class Ceil(FloatUnary):
    """The smallest integer not below x (ONNX Ceil)."""

    name = "math.ceil"
    on_sizes = staticmethod(sizes.whole)
    function = staticmethod(np.ceil)


class Round(FloatUnary):
    """The nearest integer, halves to even (ONNX Round)."""

    name = "math.round"
    on_sizes = staticmethod(sizes.whole)
    function = staticmethod(np.rint)


class Max(Variadic):
    """The largest of the operands; NaN where any is NaN (ONNX Max)."""

    name = "math.max"
    on_sizes = staticmethod(sizes.maximum)
    function = staticmethod(np.maximum)


class Min(Variadic):
    """The smallest of the operands; NaN where any is NaN (ONNX Min)."""

    name = "math.min"
    on_sizes = staticmethod(sizes.minimum)
    function = staticmethod(np.minimum)


class Sum(Variadic):
    """The sum of the operands, first to last (ONNX Sum)."""

    name = "math.sum"
    kinds = FLOATS
    function = staticmethod(np.add)


class Mean(Variadic):
    """The sum of the operands divided by their number (ONNX Mean)."""

    name = "math.mean"
    kinds = FLOATS
    function = staticmethod(np.add)

    def compute(self, *arrays: Any, **named: Any) -> Any:
        return super().compute(*arrays) / len(arrays)


class Clip(Elementwise):
    """min(max(x, lowest), highest): highest wins where they cross; NaN stays (ONNX Clip)."""

    name = "math.clip"
    kinds = NUMBERS
    data = operand()
    lowest = optional_operand()
    highest = optional_operand()

    def is_static_operand(self, index: int) -> bool:
        """Bounds of one float decide code: compared with a known number, NaN needs no care."""
        bound = self.operands[index] if 0 < index < len(self.operands) else None
        return bound is not None and bound.type.elements == 1 and bound.type.dtype.is_float

    def compute(self, x: Array, lowest: Array | None = None, highest: Array | None = None) -> Array:
        x = x if lowest is None else np.maximum(x, lowest)
        return x if highest is None else np.minimum(x, highest)


# ---- functions of analysis


class Sqrt(FloatUnary):
    """The square root; NaN below zero, -0 for -0 (ONNX Sqrt)."""

    name = "math.sqrt"
    function = staticmethod(np.sqrt)


class Exp(FloatUnary):
    """e to the x (ONNX Exp)."""

    name = "math.exp"
    function = staticmethod(np.exp)


class Log(FloatUnary):
    """The natural logarithm; -inf at zero, NaN below (ONNX Log)."""

    name = "math.log"
    function = staticmethod(np.log)


class Sin(FloatUnary):
    """The sine of radians (ONNX Sin)."""

    name = "math.sin"
    function = staticmethod(np.sin)


class Cos(FloatUnary):
    """The cosine of radians (ONNX Cos)."""

    name = "math.cos"
    function = staticmethod(np.cos)


class Tan(FloatUnary):
    """The tangent of radians (ONNX Tan)."""

    name = "math.tan"
    function = staticmethod(np.tan)


class Asin(FloatUnary):
    """The arc sine; NaN outside [-1, 1] (ONNX Asin)."""

    name = "math.asin"
    function = staticmethod(np.arcsin)


class Acos(FloatUnary):
    """The arc cosine; NaN outside [-1, 1] (ONNX Acos)."""

    name = "math.acos"
    function = staticmethod(np.arccos)


class Atan(FloatUnary):
    """The arc tangent (ONNX Atan)."""

    name = "math.atan"
    function = staticmethod(np.arctan)


class Sinh(FloatUnary):
    """The hyperbolic sine (ONNX Sinh)."""

    name = "math.sinh"
    function = staticmethod(np.sinh)


class Cosh(FloatUnary):
    """The hyperbolic cosine (ONNX Cosh)."""

    name = "math.cosh"
    function = staticmethod(np.cosh)


class Tanh(FloatUnary):
    """The hyperbolic tangent (ONNX Tanh)."""

    name = "math.tanh"
    function = staticmethod(np.tanh)


class Asinh(FloatUnary):
    """The inverse hyperbolic sine (ONNX Asinh)."""

    name = "math.asinh"
    function = staticmethod(np.arcsinh)


class Acosh(FloatUnary):
    """The inverse hyperbolic cosine; NaN below 1 (ONNX Acosh)."""

    name = "math.acosh"
    function = staticmethod(np.arccosh)


class Atanh(FloatUnary):
    """The inverse hyperbolic tangent; infinite at ±1, NaN outside (ONNX Atanh)."""

    name = "math.atanh"
    function = staticmethod(np.arctanh)


_erf = np.frompyfunc(erf, 1, 1)


def error_function(x: Array) -> Array:
    """The Gauss error function of every element, in the array's precision."""
    return np.asarray(_erf(x.astype(np.float64))).astype(x.dtype)


class Erf(Unary):
    """The Gauss error function (ONNX Erf)."""

    name = "math.erf"
    kinds = NUMBERS
    function = staticmethod(error_function)


# ---- comparison


class Comparison(Binary):
    """A Binary whose result is boolean; comparing with NaN is false."""

    kinds = NUMBERS
    result_dtype = DType.BOOL


class Equal(Comparison):
    """left = right (ONNX Equal)."""

    name = "math.equal"
    on_sizes = staticmethod(sizes.equal)
    kinds = NUMBERS | {Kind.BOOL, Kind.STRING}
    function = staticmethod(np.equal)


class Less(Comparison):
    """left < right (ONNX Less)."""

    name = "math.less"
    on_sizes = staticmethod(sizes.less)
    function = staticmethod(np.less)


class LessOrEqual(Comparison):
    """left ≤ right (ONNX LessOrEqual)."""

    name = "math.less_or_equal"
    on_sizes = staticmethod(sizes.less_or_equal)
    function = staticmethod(np.less_equal)


class Greater(Comparison):
    """left > right (ONNX Greater)."""

    name = "math.greater"
    on_sizes = staticmethod(sizes.greater)
    function = staticmethod(np.greater)


class GreaterOrEqual(Comparison):
    """left ≥ right (ONNX GreaterOrEqual)."""

    name = "math.greater_or_equal"
    on_sizes = staticmethod(sizes.greater_or_equal)
    function = staticmethod(np.greater_equal)


class IsNaN(FloatUnary):
    """Whether x is NaN (ONNX IsNaN)."""

    name = "math.is_nan"
    result_dtype = DType.BOOL
    function = staticmethod(np.isnan)


class IsInf(FloatUnary):
    """Whether x is infinite, with a sign that is asked for (ONNX IsInf)."""

    name = "math.is_inf"
    result_dtype = DType.BOOL
    detect_negative = attribute(1)
    detect_positive = attribute(1)

    def compute(self, x: Array) -> Array:
        wanted = np.where(x > 0, bool(self.detect_positive), bool(self.detect_negative))
        return np.isinf(x) & wanted


class Where(Elementwise):
    """chosen where the condition holds, else the other (ONNX Where)."""

    name = "math.where"
    condition = operand()
    chosen = operand(moved=True)
    other = operand(moved=True)

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.condition, BOOLEANS, "the condition")
        chosen, other = self.chosen.type, self.other.type
        if chosen.dtype is not other.dtype:
            raise self.fail(
                f"both branches must have one dtype, found {chosen.dtype.value}, {other.dtype.value}"
            )
        shape = broadcast_shapes(self.condition.type.shape, chosen.shape, other.shape)
        return (TensorType(chosen.dtype, shape),)

    def compute(self, condition: Array, chosen: Array, other: Array) -> Array:
        return np.where(condition, chosen, other)

    def known_element(self, *operands: Number | None) -> Number | None:
        """Either branch may be unknown if it is not taken."""
        condition, chosen, other = operands
        if condition is None or isinstance(condition, Expression):
            return None
        return chosen if condition else other


# ---- logic and bits


class And(Binary):
    """Logical and (ONNX And)."""

    name = "math.and"
    kinds = BOOLEANS
    function = staticmethod(np.logical_and)


class Or(Binary):
    """Logical or (ONNX Or)."""

    name = "math.or"
    kinds = BOOLEANS
    function = staticmethod(np.logical_or)


class Xor(Binary):
    """Logical exclusive or (ONNX Xor)."""

    name = "math.xor"
    kinds = BOOLEANS
    function = staticmethod(np.logical_xor)


class Not(Unary):
    """Logical not (ONNX Not)."""

    name = "math.not"
    kinds = BOOLEANS
    function = staticmethod(np.logical_not)


class BitwiseAnd(Binary):
    """And of every bit (ONNX BitwiseAnd)."""

    name = "math.bitwise_and"
    kinds = INTEGERS
    function = staticmethod(np.bitwise_and)


class BitwiseOr(Binary):
    """Or of every bit (ONNX BitwiseOr)."""

    name = "math.bitwise_or"
    kinds = INTEGERS
    function = staticmethod(np.bitwise_or)


class BitwiseXor(Binary):
    """Exclusive or of every bit (ONNX BitwiseXor)."""

    name = "math.bitwise_xor"
    kinds = INTEGERS
    function = staticmethod(np.bitwise_xor)


class BitwiseNot(Unary):
    """The complement of every bit (ONNX BitwiseNot)."""

    name = "math.bitwise_not"
    kinds = INTEGERS
    function = staticmethod(np.bitwise_not)


class BitShift(Binary):
    """left shifted by right bits, LEFT or RIGHT (arithmetic where signed) (ONNX BitShift).

    A shift by the width or more, or by a negative number, leaves only copies of the sign to the RIGHT: 0, or
    -1 for a negative left.
    """

    name = "math.bit_shift"
    kinds = INTEGERS
    direction = required_attribute(str)

    def compute(self, left: Array, right: Array) -> Array:
        is_left = self.direction == "LEFT"
        fits = (right >= 0) & (right < 8 * left.dtype.itemsize)
        amount = np.where(fits, right, 0).astype(left.dtype)
        shifted = np.left_shift(left, amount) if is_left else np.right_shift(left, amount)
        lost = np.zeros_like(left) if is_left else (-(left < 0).astype(np.int8)).astype(left.dtype)
        return np.where(fits, shifted, lost)
