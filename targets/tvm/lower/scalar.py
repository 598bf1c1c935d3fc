# pyright: basic
"""Elementwise operators as expressions: the one place that says what each computes in machine code.

Every rule takes operand expressions (scalars or vectors alike) and obeys docs/arithmetic.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from tvm import tirx

from rtcc.ir import DType, Op
from rtcc.ir.dtype import Kind
from rtcc.ir.ops import cast, math
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm import vector_power
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.conversion import convert, reinterpreted
from rtcc.targets.tvm.lower.rules import Function, scalar_rule


def opaque(x: Expr) -> Expr:
    """An integer that TVM's simplifier cannot see into: it reasons as if sums and products never wrapped."""
    kind = vm.scalar_type(x)
    if kind not in _OTHER_SIGN:
        return x
    return tirx.reinterpret(vm.typed(x, kind), tirx.reinterpret(vm.typed(x, _OTHER_SIGN[kind]), x))


_OTHER_SIGN = {"int32": "uint32", "int64": "uint64", "uint32": "int32", "uint64": "int64"}


def _ordered(x: Expr) -> Expr:
    """A number that compares alike: wide unsigned integers as signed ones, since TVM subtracts to compare."""
    kind = vm.scalar_type(x)
    if kind not in ("uint32", "uint64"):
        return opaque(x)
    signed = tirx.reinterpret(vm.typed(x, _OTHER_SIGN[kind]), x)
    return tirx.bitwise_xor(signed, vm.constant(-(2 ** (int(kind[4:]) - 1)), signed))


def _compared(compare: Callable[[Expr, Expr], Expr]) -> Callable[[Expr, Expr], Expr]:
    return lambda a, b: compare(_ordered(a), _ordered(b))


less, less_or_equal = _compared(tirx.LT), _compared(tirx.LE)
equal = _compared(tirx.EQ)


def _differ(a: Expr, b: Expr) -> Expr:
    """Exclusive or of booleans; TVM compares booleans as if they were floats, which LLVM refuses."""
    return tirx.NE(a.astype(vm.typed(a, "uint8")), b.astype(vm.typed(b, "uint8")))


# ------------------------------------------------------------------------------------------------ arithmetic


@scalar_rule(math.Identity)
def _identity(op: Op, x: Expr) -> Expr:
    return x


@scalar_rule(math.Add)
def _add(op: Op, a: Expr, b: Expr) -> Expr:
    return a + b


@scalar_rule(math.Sub)
def _sub(op: Op, a: Expr, b: Expr) -> Expr:
    return a - b


@scalar_rule(math.Mul)
def _mul(op: Op, a: Expr, b: Expr) -> Expr:
    return a * b


def _is_signed(op: Op) -> bool:
    return op.type.dtype.kind is Kind.SIGNED


@scalar_rule(math.Div)
def _div(op: Op, a: Expr, b: Expr) -> Expr:
    if op.type.dtype.is_float:
        return tirx.div(a, b)
    return _safe_integer(op, opaque(a), opaque(b), tirx.truncdiv)


def _safe_integer(op: Op, a: Expr, b: Expr, divide: Callable[[Expr, Expr], Expr]) -> Expr:
    """Truncating division or remainder: 0 for a zero divisor, and INT_MIN / -1 wraps."""
    zero, one = vm.constant(0, b), vm.constant(1, b)
    by_zero = tirx.EQ(b, zero)
    result = divide(a, tirx.Select(by_zero, one, b))
    if _is_signed(op):
        minus = tirx.EQ(b, vm.constant(-1, b))
        safe = divide(a, tirx.Select(tirx.any(by_zero, minus), one, b))
        negated = zero - a if divide is tirx.truncdiv else zero
        result = tirx.Select(minus, negated, safe)
    return tirx.Select(by_zero, zero, result)


@scalar_rule(math.Mod)
def _mod(op: math.Mod, a: Expr, b: Expr) -> Expr:
    if op.type.dtype.is_float:
        remainder = vm.libm("fmod", a, b)
        return (
            remainder
            if op.fmod
            else vm.named(remainder, lambda r: vm.named(b, lambda d: _with_sign_of(r, d)))
        )
    remainder = _safe_integer(op, opaque(a), opaque(b), tirx.truncmod)
    if op.fmod or not _is_signed(op):
        return remainder
    zero = vm.constant(0, a)
    differ = tirx.all(tirx.NE(remainder, zero), _differ(remainder < zero, b < zero))
    return tirx.Select(differ, remainder + b, remainder)


def _with_sign_of(remainder: Expr, divisor: Expr) -> Expr:
    """numpy.mod of floats from C's fmod: the divisor's sign, also on a zero."""
    zero = vm.constant(0, divisor)
    negative = tirx.LT(divisor, zero)
    differ = _differ(tirx.LT(remainder, zero), negative)
    signed_zero = tirx.Select(negative, vm.constant(-0.0, divisor), zero)
    return tirx.Select(
        tirx.EQ(remainder, zero), signed_zero, tirx.Select(differ, remainder + divisor, remainder)
    )


@scalar_rule(math.Pow)
def _pow(op: math.Pow, a: Expr, b: Expr) -> Expr:
    base, exponent = op.left.type.dtype, op.right.type.dtype
    if base.is_float and exponent.is_float and vm.scalar_type(a) == vm.scalar_type(b):
        return vector_power.power(a, b)
    if base.is_integer and exponent.is_integer:
        return vm.named(a, lambda x: vm.named(b, lambda n: _integer_power(op, x, n)))
    wide = vector_power.power(a.astype(vm.typed(a, "float64")), b.astype(vm.typed(b, "float64")))
    return convert(wide, DType.F64, base) if base.is_integer else wide.astype(vm.typed(a, vm.scalar_type(a)))


def _integer_power(op: math.Pow, base: Expr, exponent: Expr) -> Expr:
    """Repeated squaring over the exponent's bits, wrapping; a negative exponent gives 1, -1 or 0."""
    is_signed = op.right.type.dtype.kind is Kind.SIGNED
    bits = op.right.type.dtype.bits - is_signed

    def step(bit: int, result: Expr, square: Expr) -> Expr:
        mask = vm.constant(1 << bit, exponent)
        odd = tirx.NE(tirx.bitwise_and(exponent, mask), vm.constant(0, exponent))
        taken = tirx.Select(odd, result * square, result)
        if bit + 1 == bits:
            return taken
        return vm.named(taken, lambda r: vm.named(square * square, lambda s: step(bit + 1, r, s)))

    power = step(0, vm.constant(1, base), base)
    return (
        tirx.Select(exponent < vm.constant(0, exponent), _unit_power(op, base, exponent), power)
        if is_signed
        else power
    )


def _unit_power(op: math.Pow, base: Expr, exponent: Expr) -> Expr:
    """1 and -1 to a power; 0 for any other base."""
    one = vm.constant(1, base)
    unit = tirx.Select(tirx.EQ(base, one), base, vm.constant(0, base))
    if op.left.type.dtype.kind is not Kind.SIGNED:
        return unit
    odd = tirx.NE(tirx.bitwise_and(exponent, vm.constant(1, exponent)), vm.constant(0, exponent))
    return tirx.Select(tirx.EQ(base, vm.constant(-1, base)), tirx.Select(odd, base, one), unit)


@scalar_rule(math.Neg)
def _neg(op: Op, x: Expr) -> Expr:
    return vm.constant(-1, x) * x if op.type.dtype.is_float else vm.constant(0, x) - x


@scalar_rule(math.Abs)
def _abs(op: Op, x: Expr) -> Expr:
    if op.type.dtype.is_float:
        return vm.absolute(x)
    return tirx.Select(x < vm.constant(0, x), vm.constant(0, x) - x, x) if _is_signed(op) else x


@scalar_rule(math.Sign)
def _sign(op: Op, x: Expr) -> Expr:
    zero, one = vm.constant(0, x), vm.constant(1, x)
    positive = tirx.Select(x > zero, one, x if op.type.dtype.is_float else zero)
    negative = vm.constant(-1, x) if op.type.dtype.is_float or _is_signed(op) else zero
    return tirx.Select(x < zero, negative, positive)


@scalar_rule(math.Reciprocal)
def _reciprocal(op: Op, x: Expr) -> Expr:
    return tirx.div(vm.constant(1, x), x)


@scalar_rule(math.Floor)
def _floor(op: Op, x: Expr) -> Expr:
    return tirx.floor(x)


@scalar_rule(math.Ceil)
def _ceil(op: Op, x: Expr) -> Expr:
    return tirx.ceil(x)


@scalar_rule(math.Round)
def _round(op: Op, x: Expr) -> Expr:
    return tirx.nearbyint(x)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger; NaN where either is."""
    return vm.maximum(a, b) if "float" in vm.scalar_type(a) else tirx.Select(less(a, b), b, a)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller; NaN where either is."""
    return vm.minimum(a, b) if "float" in vm.scalar_type(a) else tirx.Select(less(b, a), b, a)


@scalar_rule(math.Max)
def _max(op: Op, *xs: Expr) -> Expr:
    return functools.reduce(maximum, xs)


@scalar_rule(math.Min)
def _min(op: Op, *xs: Expr) -> Expr:
    return functools.reduce(minimum, xs)


@scalar_rule(math.Sum)
def _sum(op: Op, *xs: Expr) -> Expr:
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


@scalar_rule(math.Mean)
def _mean(op: Op, *xs: Expr) -> Expr:
    return tirx.div(_sum(op, *xs), vm.constant(len(xs), xs[0]))


@scalar_rule(math.Clip)
def _clip(op: Op, x: Expr, low: Expr | None = None, high: Expr | None = None) -> Expr:
    if low is not None:
        x = maximum(x, low)
    return x if high is None else minimum(x, high)


# -------------------------------------------------------------------------------------------- transcendental


def _by(function: Callable[[Expr], Expr]) -> Function:
    return lambda op, x: function(x)


for _op_class, _function in {
    math.Sqrt: vm.sqrt, math.Exp: vm.exp, math.Log: vm.log, math.Tanh: vm.tanh, math.Sin: vm.sin,
    math.Cos: vm.cos, math.Tan: vm.tan, math.Asin: vm.asin, math.Acos: vm.acos, math.Atan: vm.atan,
    math.Sinh: vm.sinh, math.Cosh: vm.cosh, math.Asinh: vm.asinh, math.Acosh: vm.acosh,
    math.Atanh: vm.atanh,
}.items():  # fmt: skip
    scalar_rule(_op_class)(_by(_function))


@scalar_rule(math.Erf)
def _erf(op: Op, x: Expr) -> Expr:
    if op.type.dtype.is_float:
        return vm.erf(x)
    return convert(vm.erf(x.astype(vm.typed(x, "float64"))), DType.F64, op.type.dtype)


# -------------------------------------------------------------------------------------- comparison and logic


@scalar_rule(math.Equal)
def _equal(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.Not(_differ(a, b)) if vm.scalar_type(a) == "bool" else equal(a, b)


@scalar_rule(math.Less)
def _less(op: Op, a: Expr, b: Expr) -> Expr:
    return less(a, b)


@scalar_rule(math.LessOrEqual)
def _less_or_equal(op: Op, a: Expr, b: Expr) -> Expr:
    return less_or_equal(a, b)


@scalar_rule(math.Greater)
def _greater(op: Op, a: Expr, b: Expr) -> Expr:
    return less(b, a)


@scalar_rule(math.GreaterOrEqual)
def _greater_or_equal(op: Op, a: Expr, b: Expr) -> Expr:
    return less_or_equal(b, a)


@scalar_rule(math.And)
def _and(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.all(a, b)


@scalar_rule(math.Or)
def _or(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.any(a, b)


@scalar_rule(math.Xor)
def _xor(op: Op, a: Expr, b: Expr) -> Expr:
    return _differ(a, b)


@scalar_rule(math.Not)
def _not(op: Op, x: Expr) -> Expr:
    return tirx.Not(x)


@scalar_rule(math.IsNaN)
def _is_nan(op: Op, x: Expr) -> Expr:
    return vm.is_nan(x)


@scalar_rule(math.IsInf)
def _is_inf(op: math.IsInf, x: Expr) -> Expr:
    found = [tirx.EQ(x, vm.constant(float("inf"), x))] if op.detect_positive else []
    found += [tirx.EQ(x, vm.constant(float("-inf"), x))] if op.detect_negative else []
    return tirx.any(*found) if found else vm.constant(False, tirx.EQ(x, x))


@scalar_rule(math.Where)
def _where(op: Op, condition: Expr, a: Expr, b: Expr) -> Expr:
    return tirx.Select(condition, a, b)


# --------------------------------------------------------------------------------------------------- integer


@scalar_rule(math.BitwiseAnd)
def _bitwise_and(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.bitwise_and(a, b)


@scalar_rule(math.BitwiseOr)
def _bitwise_or(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.bitwise_or(a, b)


@scalar_rule(math.BitwiseXor)
def _bitwise_xor(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.bitwise_xor(a, b)


@scalar_rule(math.BitwiseNot)
def _bitwise_not(op: Op, x: Expr) -> Expr:
    return tirx.bitwise_not(x)


@scalar_rule(math.BitShift)
def _bit_shift(op: math.BitShift, a: Expr, b: Expr) -> Expr:
    zero = vm.constant(0, b)
    inside = less(b, vm.constant(op.type.dtype.bits, b))
    lost = vm.constant(0, a)
    if _is_signed(op):
        inside = tirx.all(inside, tirx.GE(b, zero))
        lost = lost if op.direction == "LEFT" else tirx.Select(tirx.LT(a, lost), vm.constant(-1, a), lost)
    amount = tirx.Select(inside, b, zero)
    return tirx.Select(inside, a << amount if op.direction == "LEFT" else a >> amount, lost)


# ----------------------------------------------------------------------------------------------- conversions


@scalar_rule(cast.Cast)
def _cast(op: cast.Cast, x: Expr) -> Expr:
    return convert(x, op.data.type.dtype, op.type.dtype)


@scalar_rule(cast.BitCast, keeps_bits=True)
def _bit_cast(op: cast.BitCast, x: Expr) -> Expr:
    return reinterpreted(x, op.data.type.dtype, op.type.dtype)
