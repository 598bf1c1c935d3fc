"""simplify: algebra that keeps every bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, DType, Module, Op, Value, constants
from rtcc.ir.dtype import Kind
from rtcc.ir.op import Array
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.math import (
    Abs,
    Add,
    And,
    Clip,
    Div,
    Identity,
    Max,
    Mean,
    Min,
    Mul,
    Neg,
    Not,
    Or,
    Pow,
    Reciprocal,
    Sub,
    Sum,
    Where,
    Xor,
)  # fmt: skip
from rtcc.ir.ops.nn import Dropout, Gemm, MatMul
from rtcc.pipeline import Pass, Rewriter, apply, exact, rewrite
from rtcc.pipeline.constants import is_filled_with, uniform_value


@dataclass(frozen=True)
class Simplify(Pass):
    """Remove and join ops by algebra that keeps every bit, NaN, -0 and infinities included.

    clip(relu(x), 0, 6)  →  clip(x, 0, 6)      mul(x, 1)  →  x      add(mat_mul(x, w), #b)  →  gemm(x, w, #b)
    """

    exactness = exact

    def run(self, module: Module) -> bool:
        return apply(module, RULES, self.name)


# ---- ops that do nothing


@rewrite(Identity)
def drop_identity(op: Identity, rw: Rewriter) -> None:
    """identity(x)  →  x"""
    rw.replace(op, op.data)


@rewrite(Dropout)
def drop_dropout(op: Dropout, rw: Rewriter) -> None:
    """dropout(x) at inference  →  x"""
    training = op.training_mode
    if training is not None and not is_filled_with(training, 0):
        return
    masks = op.results[1:]
    if any(mask.use_count and not mask.type.is_static for mask in masks):
        return
    kept = [
        rw.constant(np.array(True), mask.type, name=mask.name or "mask") for mask in masks if mask.use_count
    ]
    rw.replace(op, op.data, *(kept or [None for _ in masks]))


@rewrite(Cast)
def drop_same_cast(op: Cast, rw: Rewriter) -> None:
    """cast(x) to the type of x  →  x"""
    if op.type == op.data.type:
        rw.replace(op, op.data)


@rewrite(Cast)
def join_casts(op: Cast, rw: Rewriter) -> None:
    """cast(cast(x : A) : B) : C  →  cast(x) : C, where B holds every value of A"""
    inner = op.data.producer
    if not isinstance(inner, Cast) or not holds_all(inner.type.dtype, inner.data.type.dtype):
        return
    first, target = inner.data.type.dtype, op.type.dtype
    if first is target:
        rw.replace(op, inner.data)
    elif first.is_integer == inner.type.dtype.is_integer:
        rw.replace(op, Cast(inner.data, like=op))


def holds_all(wide: DType, narrow: DType) -> bool:
    """Whether every value of one type is a value of the other, and comes back from it unchanged."""
    exact_integers = {DType.F16: 11, DType.BF16: 8, DType.F32: 24, DType.F64: 53}
    if wide is narrow:
        return True
    match narrow.kind, wide.kind:
        case (Kind.SIGNED, Kind.SIGNED) | (Kind.UNSIGNED, Kind.UNSIGNED):
            return wide.bits > narrow.bits
        case (Kind.UNSIGNED, Kind.SIGNED):
            return wide.bits > narrow.bits
        case (Kind.SIGNED | Kind.UNSIGNED, Kind.FLOAT):
            return narrow.bits <= exact_integers.get(wide, 0)
        case (Kind.FLOAT, Kind.FLOAT):
            return (narrow, wide) in {
                (DType.F16, DType.F32), (DType.F16, DType.F64), (DType.BF16, DType.F32),
                (DType.BF16, DType.F64), (DType.F32, DType.F64),
            }  # fmt: skip
        case (Kind.BOOL, Kind.SIGNED | Kind.UNSIGNED):
            return wide.bits >= 8
        case (Kind.BOOL, Kind.FLOAT):
            return wide in exact_integers
        case _:
            return False


# ---- neutral and absorbing constants


@rewrite(Add, Sub, Mul, Div, Pow, And, Or, Xor)
def drop_neutral(op: Add | Sub | Mul | Div | Pow | And | Or | Xor, rw: Rewriter) -> None:
    """x + -0.0, x - 0, x · 1, x / 1, x ^ 1, x and true, x or false, x xor false  →  x

    A float keeps its sign of zero: -0.0 + 0.0 is 0.0, so adding 0.0 is not neutral; adding -0.0 is.
    """
    is_float = op.type.dtype.is_float
    neutral, commutes = {
        Add: (-0.0 if is_float else 0, True),
        Sub: (0, False),
        Mul: (1, True),
        Div: (1, False),
        Pow: (1, False),
        And: (1, True),
        Or: (0, True),
        Xor: (0, True),
    }[type(op)]
    for kept, other in ((op.left, op.right), (op.right, op.left))[: 1 + commutes]:
        if is_filled_with(other, neutral) and kept.type == op.type:
            rw.replace(op, kept)
            return


@rewrite(Mul, And, Or)
def absorb(op: Mul | And | Or, rw: Rewriter) -> None:
    """integer x · 0, x and false  →  0;  x or true  →  true"""
    if op.type.dtype.is_float or not op.type.is_static:
        return
    absorbing = 1 if isinstance(op, Or) else 0
    for value in (op.left, op.right):
        if is_filled_with(value, absorbing):
            filled = uniform_value(value)
            assert filled is not None
            rw.replace(op, rw.constant(filled, op.type, name=op.result.name or "filled"))
            return


@rewrite(Div)
def divide_by_power_of_two(op: Div, rw: Rewriter) -> None:
    """x / 2^k  →  x · 2^-k: both are rounded once from the same number"""
    if not isinstance(op.right, Constant) or op.type.dtype not in (DType.F32, DType.F64):
        return
    data = op.right.data
    fractions, exponents = np.frexp(np.where(np.isfinite(data), data, 0))
    limit = np.finfo(data.dtype).maxexp - 4
    if (np.abs(fractions) != 0.5).any() or (np.abs(exponents) > limit).any():
        return
    inverse = rw.constant(1 / data, op.right.type, name=f"{rw.stem(op.right)}.inverse")
    rw.replace(op, Mul(op.left, inverse, location=op.location))


@rewrite(Mul)
def multiply_by_minus_one(op: Mul, rw: Rewriter) -> None:
    """x · -1  →  neg(x)"""
    for kept, other in ((op.left, op.right), (op.right, op.left)):
        if op.type.dtype.is_float and is_filled_with(other, -1) and kept.type == op.type:
            rw.replace(op, Neg(kept, location=op.location))
            return


@rewrite(Div)
def divide_one(op: Div, rw: Rewriter) -> None:
    """1 / x  →  reciprocal(x)"""
    if op.type.dtype.is_float and is_filled_with(op.left, 1) and op.right.type == op.type:
        rw.replace(op, Reciprocal(op.right, location=op.location))


# ---- ops that undo or repeat each other


@rewrite(Neg, Not)
def undo_twice(op: Neg | Not, rw: Rewriter) -> None:
    """neg(neg(x)), not(not(x))  →  x"""
    inner = op.data.producer
    if type(inner) is type(op):
        assert isinstance(inner, Neg | Not)
        rw.replace(op, inner.data)


@rewrite(Abs, Relu)
def once_is_enough(op: Abs | Relu, rw: Rewriter) -> None:
    """abs(abs(x)), abs(neg(x))  →  abs(x);  relu(relu(x))  →  relu(x)"""
    inner = op.data.producer
    if type(inner) is type(op):
        rw.replace(op, op.data)
    elif isinstance(op, Abs) and isinstance(inner, Neg):
        rw.replace(op, Abs(inner.data, like=op))


@rewrite(Where)
def known_choice(op: Where, rw: Rewriter) -> None:
    """where(true, x, y)  →  x;  where(c, x, x)  →  x"""
    condition = uniform_value(op.condition)
    if op.chosen is op.other:
        chosen = op.chosen
    elif condition is not None:
        chosen = op.chosen if bool(condition) else op.other
    else:
        return
    if chosen.type == op.type:
        rw.replace(op, chosen)


@rewrite(Sum, Max, Min, Mean)
def few_operands(op: Sum | Max | Min | Mean, rw: Rewriter) -> None:
    """sum(x), max(x), min(x), mean(x)  →  x;  sum(x, y)  →  add(x, y)"""
    if len(op.values) == 1:
        rw.replace(op, op.values[0])
    elif len(op.values) == 2 and isinstance(op, Sum):
        rw.replace(op, Add(*op.values, location=op.location))


# ---- limits


@dataclass(frozen=True)
class Limits:
    """min(max(x, lowest), highest); None where there is no such bound."""

    data: Value
    lowest: Array | None
    highest: Array | None


@rewrite(Clip, Relu, Max, Min)
def join_limits(op: Clip | Relu | Max | Min, rw: Rewriter) -> None:
    """clip(relu(x), -1, 6)  →  clip(x, 0, 6);  min(max(x, 0), 6)  →  clip(x, 0, 6)

    Bounds are uniform constants, not NaN, and not -0.0, whose order with 0.0 is undefined.
    """
    outer = _limits(op)
    if outer is None or outer.data.type != op.type:
        return
    producer = outer.data.producer
    inner = None if producer is None else _limits(producer)
    if inner is None or inner.data.type != op.type:
        return
    lowest = _largest(inner.lowest, outer.lowest)
    highest = inner.highest
    if highest is not None and outer.lowest is not None:
        highest = np.maximum(highest, outer.lowest)
    if outer.highest is not None:
        highest = outer.highest if highest is None else np.minimum(highest, outer.highest)
    _replace_limits(op, Limits(inner.data, lowest, highest), rw)


@rewrite(Clip, Max)
def canonical_limits(op: Clip | Max, rw: Rewriter) -> None:
    """clip(x)  →  x;  clip(x, 0), max(x, 0)  →  relu(x);  clip(x, -inf, 6)  →  clip(x, _, 6)"""
    if isinstance(op, Clip) and op.lowest is None and op.highest is None:
        rw.replace(op, op.data)
        return
    found = _limits(op)
    if found is None or found.data.type != op.type:
        return
    lowest, highest = found.lowest, found.highest
    if op.type.dtype.is_float:
        lowest = None if lowest is not None and np.isneginf(lowest) else lowest
        highest = None if highest is not None and np.isposinf(highest) else highest
    is_relu = lowest is not None and highest is None and lowest == 0
    if is_relu or lowest is not found.lowest or highest is not found.highest:
        _replace_limits(op, Limits(found.data, lowest, highest), rw)


def _largest(left: Array | None, right: Array | None) -> Array | None:
    if left is None or right is None:
        return right if left is None else left
    return np.maximum(left, right)


def _limits(op: Op) -> Limits | None:
    """An op as limits of one value; None where its bounds are not known."""
    match op:
        case Relu():
            found = Limits(op.data, np.zeros((), op.type.dtype.numpy), None)
        case Clip():
            bounds = [None if v is None else uniform_value(v) for v in (op.lowest, op.highest)]
            if (op.lowest is not None and bounds[0] is None) or (
                op.highest is not None and bounds[1] is None
            ):
                return None
            found = Limits(op.data, bounds[0], bounds[1])
        case Max() | Min() if len(op.values) == 2 and uniform_value(op.values[1]) is not None:
            bound = uniform_value(op.values[1])
            found = Limits(op.values[0], *((bound, None) if isinstance(op, Max) else (None, bound)))
        case _:
            return None
    usable = all(bound is None or _is_usable(bound) for bound in (found.lowest, found.highest))
    return found if usable else None


def _is_usable(bound: Array) -> bool:
    if DType.of(bound.dtype).is_integer:
        return True
    wide = float(bound)
    return not np.isnan(wide) and not (wide == 0 and np.signbit(wide))


def _replace_limits(op: Op, limits: Limits, rw: Rewriter) -> None:
    if limits.lowest is None and limits.highest is None:
        rw.replace(op, limits.data)
    elif limits.highest is None and limits.lowest == 0:
        rw.replace(op, Relu(limits.data, location=op.location))
    else:
        stem, dtype = op.result.name or "clip", op.type.dtype.numpy
        lowest, highest = (
            None if bound is None else rw.constant(np.array(bound, dtype), name=f"{stem}.{which}")
            for which, bound in (("lowest", limits.lowest), ("highest", limits.highest))
        )
        rw.replace(op, Clip(limits.data, lowest, highest, location=op.location))


# ---- matrix products


@rewrite(Add)
def mat_mul_with_bias(op: Add, rw: Rewriter) -> None:
    """add(mat_mul(x, w), #bias)  →  gemm(x, w, #bias), where each rounds once (f32, f64)"""
    for product, bias in ((op.left, op.right), (op.right, op.left)):
        mat_mul = product.producer
        if not isinstance(mat_mul, MatMul) or not product.has_one_use or constants(bias) is None:
            continue
        if mat_mul.left.type.rank != 2 or mat_mul.right.type.rank != 2 or product.type != op.type:
            continue
        if op.type.dtype not in (DType.F32, DType.F64) or bias.type.rank > 2:
            continue
        rw.replace(op, Gemm(mat_mul.left, mat_mul.right, bias, location=mat_mul.location))
        return


RULES = (
    drop_identity,
    drop_dropout,
    drop_same_cast,
    join_casts,
    drop_neutral,
    absorb,
    divide_by_power_of_two,
    multiply_by_minus_one,
    divide_one,
    undo_twice,
    once_is_enough,
    known_choice,
    few_operands,
    join_limits,
    canonical_limits,
    mat_mul_with_bias,
)
