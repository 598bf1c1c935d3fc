# pyright: basic
"""Elementwise operators as expressions: the one place that says what each computes in machine code.

Every emitter takes operand expressions (scalars or vectors alike) and obeys docs/arithmetic.md.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from rtcc.ir import DType, Op
from rtcc.ir.ops import math
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.kernel import Index, Lowering, element_rule, scalar_type

Emitter = Callable[..., Expr]
EMITTERS: dict[type[Op], Emitter] = {}
"""Op class → function (op, *operand expressions or None) → result expression."""


def emits(*classes: type[Op]) -> Callable[[Emitter], Emitter]:
    """Register the emitter of an elementwise operator."""

    def register(emitter: Emitter) -> Emitter:
        for op_class in classes:
            EMITTERS[op_class] = emitter
        return emitter

    return register


def emit(op: Op, *operands: Expr | None) -> Expr:
    """The result of one elementwise op for operand expressions; KeyError where there is no emitter."""
    return EMITTERS[type(op)](op, *operands)


def is_emittable(op: Op) -> bool:
    """Whether an elementwise op has machine code."""
    return type(op) in EMITTERS


def _element(lowering: Lowering, op: Op, index: Index) -> Expr:
    if type(op) not in EMITTERS:
        raise lowering.unsupported(op, "no code generation for this operator yet")
    return emit(op, *(lowering.operand(op, slot, index) for slot in range(len(op.operands))))


element_rule(math.Elementwise)(_element)


def like(op: Op, value: float | int) -> Callable[[Expr], Expr]:
    """A constant of the type of a given expression."""
    return lambda x: vm.constant(value, x)


# ------------------------------------------------------------------------------------------------ arithmetic


@emits(math.Identity)
def _identity(op: Op, x: Expr) -> Expr:
    return x


@emits(math.Add)
def _add(op: Op, a: Expr, b: Expr) -> Expr:
    return a + b


@emits(math.Sub)
def _sub(op: Op, a: Expr, b: Expr) -> Expr:
    return a - b


@emits(math.Mul)
def _mul(op: Op, a: Expr, b: Expr) -> Expr:
    return a * b


def _is_signed(op: Op) -> bool:
    return op.type.dtype.value.startswith("i")


@emits(math.Div)
def _div(op: Op, a: Expr, b: Expr) -> Expr:
    if op.type.dtype.is_float:
        return tirx.div(a, b)
    return _safe_integer(op, a, b, tirx.truncdiv)


def _safe_integer(op: Op, a: Expr, b: Expr, divide: Callable[[Expr, Expr], Expr]) -> Expr:
    """Truncating division or remainder: 0 for a zero divisor, and INT_MIN / -1 wraps."""
    zero, one = vm.constant(0, b), vm.constant(1, b)
    by_zero = b == zero
    result = divide(a, tirx.Select(by_zero, one, b))
    if _is_signed(op):
        minus = b == vm.constant(-1, b)
        safe = divide(a, tirx.Select(tirx.any(by_zero, minus), one, b))
        negated = zero - a if divide is tirx.truncdiv else zero
        result = tirx.Select(minus, negated, safe)
    return tirx.Select(by_zero, zero, result)


@emits(math.Mod)
def _mod(op: math.Mod, a: Expr, b: Expr) -> Expr:
    if op.type.dtype.is_float:
        return vm.libm("fmod", a, b)
    remainder = _safe_integer(op, a, b, tirx.truncmod)
    if op.fmod or not _is_signed(op):
        return remainder
    zero = vm.constant(0, a)
    differ = tirx.all(remainder != zero, (remainder < zero) != (b < zero))
    return tirx.Select(differ, remainder + b, remainder)


@emits(math.Neg)
def _neg(op: Op, x: Expr) -> Expr:
    return tirx.const(-1.0, scalar_type(op.type)) * x if op.type.dtype.is_float else vm.constant(0, x) - x


@emits(math.Abs)
def _abs(op: Op, x: Expr) -> Expr:
    if op.type.dtype.is_float:
        return vm.absolute(x)
    return tirx.Select(x < vm.constant(0, x), vm.constant(0, x) - x, x) if _is_signed(op) else x


@emits(math.Sign)
def _sign(op: Op, x: Expr) -> Expr:
    zero, one = vm.constant(0, x), vm.constant(1, x)
    positive = tirx.Select(x > zero, one, x if op.type.dtype.is_float else zero)
    negative = vm.constant(-1, x) if op.type.dtype.is_float or _is_signed(op) else zero
    return tirx.Select(x < zero, negative, positive)


@emits(math.Reciprocal)
def _reciprocal(op: Op, x: Expr) -> Expr:
    return tirx.div(vm.constant(1, x), x)


@emits(math.Floor)
def _floor(op: Op, x: Expr) -> Expr:
    return tirx.floor(x)


@emits(math.Ceil)
def _ceil(op: Op, x: Expr) -> Expr:
    return tirx.ceil(x)


@emits(math.Round)
def _round(op: Op, x: Expr) -> Expr:
    return tirx.nearbyint(x)


def _extremum(op: Op, choose: Callable[[Expr, Expr], Expr], pick: Callable[[Expr, Expr], Expr], *xs: Expr) -> Expr:
    result = xs[0]
    for x in xs[1:]:
        result = choose(result, x) if op.type.dtype.is_float else pick(result, x)
    return result


@emits(math.Max)
def _max(op: Op, *xs: Expr) -> Expr:
    return _extremum(op, vm.maximum, tirx.max, *xs)


@emits(math.Min)
def _min(op: Op, *xs: Expr) -> Expr:
    return _extremum(op, vm.minimum, tirx.min, *xs)


@emits(math.Sum)
def _sum(op: Op, *xs: Expr) -> Expr:
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    return total


@emits(math.Mean)
def _mean(op: Op, *xs: Expr) -> Expr:
    return tirx.div(_sum(op, *xs), vm.constant(len(xs), xs[0]))


@emits(math.Clip)
def _clip(op: Op, x: Expr, low: Expr | None = None, high: Expr | None = None) -> Expr:
    if low is not None:
        x = _max(op, x, low)
    return x if high is None else _min(op, x, high)


# -------------------------------------------------------------------------------------------- transcendental


def _by(emitter: Callable[[Expr], Expr]) -> Emitter:
    return lambda op, x: emitter(x)


for _op_class, _emitter in {
    math.Sqrt: vm.sqrt, math.Exp: vm.exp, math.Log: vm.log, math.Tanh: vm.tanh, math.Erf: vm.erf,
}.items():  # fmt: skip
    EMITTERS[_op_class] = _by(_emitter)

for _op_class, _name in {
    math.Sin: "sin", math.Cos: "cos", math.Tan: "tan", math.Asin: "asin", math.Acos: "acos", math.Atan: "atan",
    math.Sinh: "sinh", math.Cosh: "cosh", math.Asinh: "asinh", math.Acosh: "acosh", math.Atanh: "atanh",
}.items():  # fmt: skip
    EMITTERS[_op_class] = _by(lambda x, name=_name: vm.libm(name, x))


# -------------------------------------------------------------------------------------- comparison and logic


@emits(math.Equal)
def _equal(op: Op, a: Expr, b: Expr) -> Expr:
    return a == b


@emits(math.Less)
def _less(op: Op, a: Expr, b: Expr) -> Expr:
    return a < b


@emits(math.LessOrEqual)
def _less_or_equal(op: Op, a: Expr, b: Expr) -> Expr:
    return a <= b


@emits(math.Greater)
def _greater(op: Op, a: Expr, b: Expr) -> Expr:
    return a > b


@emits(math.GreaterOrEqual)
def _greater_or_equal(op: Op, a: Expr, b: Expr) -> Expr:
    return a >= b


@emits(math.And)
def _and(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.all(a, b)


@emits(math.Or)
def _or(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.any(a, b)


@emits(math.Xor)
def _xor(op: Op, a: Expr, b: Expr) -> Expr:
    return a != b


@emits(math.Not)
def _not(op: Op, x: Expr) -> Expr:
    return tirx.Not(x)


@emits(math.IsNaN)
def _is_nan(op: Op, x: Expr) -> Expr:
    return vm.is_nan(x)


@emits(math.Where)
def _where(op: Op, condition: Expr, a: Expr, b: Expr) -> Expr:
    return tirx.Select(condition, a, b)


# --------------------------------------------------------------------------------------------------- integer


@emits(math.BitwiseAnd)
def _bitwise_and(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.bitwise_and(a, b)


@emits(math.BitwiseOr)
def _bitwise_or(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.bitwise_or(a, b)


@emits(math.BitwiseXor)
def _bitwise_xor(op: Op, a: Expr, b: Expr) -> Expr:
    return tirx.bitwise_xor(a, b)


@emits(math.BitwiseNot)
def _bitwise_not(op: Op, x: Expr) -> Expr:
    return tirx.bitwise_not(x)


@emits(math.BitShift)
def _bit_shift(op: math.BitShift, a: Expr, b: Expr) -> Expr:
    width = vm.constant(op.type.dtype.bits, b)
    inside = b < width
    amount = tirx.Select(inside, b, vm.constant(0, b))
    shifted = a << amount if op.direction == "LEFT" else a >> amount
    return tirx.Select(inside, shifted, vm.constant(0, a))
