"""raise-patterns: find the operators that exporters wrote out in primitive ones.

Activations are products; they are matched by their factors, however the product is nested:
gelu(x) = ½ · x · (1 + erf(x / √2)).
"""

from __future__ import annotations

import math as numbers
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rtcc.ir import Constant, DType, Module, Op, TensorType, Value
from rtcc.ir.ops import activation, math, normalization, reduce, softmax
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import reassociates
from rtcc.pipeline.rewriter import Rewriter, apply, rewrite

MOST_FACTORS = 6
"""No pattern has more factors, so a longer product is not taken apart."""

CLOSE = 2e-5
"""How near a constant must be, relatively, to the one in the definition; exporters round to some digits."""


@dataclass(frozen=True)
class RaisePatterns(Pass):
    """Rewrite chains of primitive operators to the one operator that they spell out.

    x·sigmoid(x) → swish; x·clip(x+3, 0, 6)/6, x·hard_sigmoid(x) → hard_swish; x·tanh(softplus(x)) → mish;
    x·(1+erf(x/√2))/2 and its tanh form → gelu; (x-mean)/√(var+ε)·scale+bias → layer_normalization;
    x/√(mean(x²)+ε)·scale → rms_normalization; exp(x-max)/sum → softmax. Float32 only.
    """

    exactness = reassociates(1e-5)
    before_quantizing = False  # its operators are newer than what other runtimes read

    def run(self, module: Module) -> bool:
        return apply(module, RULES, self.name)


# ---- products


@dataclass
class _Product:
    """A value as a constant times other values; a cube counts three times."""

    constant: float = 1.0
    factors: list[Value] = field(default_factory=list[Value])

    def only(self, *wanted: Value | None) -> bool:
        """Whether the factors are exactly these values."""
        left = list(self.factors)
        for value in wanted:
            if value is None or value not in left:
                return False
            left.remove(value)
        return not left

    def is_close(self, constant: float) -> bool:
        """Whether the constant is that of a definition."""
        return abs(self.constant - constant) <= CLOSE * abs(constant)


def product_of(value: Value) -> _Product:
    """A value taken apart into factors, through multiplications and divisions by constants."""
    product = _Product()
    waiting = [value]
    while waiting:
        value = waiting.pop()
        op = value.producer
        number = _number(value)
        if number is not None:
            product.constant *= number
        elif len(product.factors) + len(waiting) >= MOST_FACTORS:
            product.factors.append(value)
        elif isinstance(op, math.Mul):
            waiting += [op.right, op.left]
        elif isinstance(op, math.Div) and (divisor := _number(op.right)):
            product.constant /= divisor
            waiting.append(op.left)
        elif isinstance(op, math.Pow) and _number(op.right) in (2.0, 3.0):
            waiting += [op.left] * int(_number(op.right) or 0)
        else:
            product.factors.append(value)
    return product


def _number(value: Value) -> float | None:
    """The one number that a float constant consists of."""
    if not isinstance(value, Constant) or value.data.size != 1 or not value.type.dtype.is_float:
        return None
    return float(value.data.reshape(())[()])


def _plus(value: Value, number: float) -> Value | None:
    """x, where the value is x + number."""
    op = value.producer
    if not isinstance(op, math.Add):
        return None
    for known, other in ((op.right, op.left), (op.left, op.right)):
        found = _number(known)
        if found is not None and abs(found - number) <= CLOSE * number:
            return other
    return None


# ---- activations


@rewrite(math.Mul, math.Div)
def raise_activation(op: math.Mul | math.Div, rw: Rewriter) -> None:
    """x·sigmoid(x)  →  swish(x), and the like"""
    if op.type.dtype is not DType.F32:
        return
    product = product_of(op.result)
    if len(product.factors) != 2:
        return
    for x, gate in (product.factors, product.factors[::-1]):
        new = _activation(product.constant, x, gate)
        if new is not None and x.type == op.type:
            rw.replace(op, new)
            return


def _activation(constant: float, x: Value, gate: Value) -> Op | None:
    """The activation that is constant·x·gate."""
    unit = abs(constant - 1) <= 1e-6
    match gate.producer:
        case activation.Sigmoid() as inner if unit:
            scaled = product_of(inner.data)
            return activation.Swish(x, alpha=scaled.constant) if scaled.only(x) else None
        case activation.HardSigmoid() as inner if unit and inner.data is x:
            is_sixth = abs(inner.alpha - 1 / 6) <= CLOSE / 6 and abs(inner.beta - 0.5) <= CLOSE
            return activation.HardSwish(x) if is_sixth else None
        case math.Clip() as inner if abs(constant - 1 / 6) <= CLOSE / 6:
            return activation.HardSwish(x) if _is_relu6_plus_3(inner, x) else None
        case math.Tanh() as inner if unit:
            soft = inner.data.producer
            return activation.Mish(x) if isinstance(soft, activation.Softplus) and soft.data is x else None
        case math.Add() if abs(constant - 0.5) <= CLOSE / 2:
            return _gelu(x, gate)
        case _:
            return None


def _is_relu6_plus_3(clip: math.Clip, x: Value) -> bool:
    bounds = [None if v is None else _number(v) for v in (clip.lowest, clip.highest)]
    return bounds == [0.0, 6.0] and _plus(clip.data, 3.0) is x


def _gelu(x: Value, gate: Value) -> Op | None:
    """gelu(x), where the gate is 1 + erf(x/√2) or 1 + tanh(√(2/π)·(x + 0.044715·x³))."""
    inner = _plus(gate, 1.0)
    if inner is None:
        return None
    match inner.producer:
        case math.Erf() as erf:
            scaled = product_of(erf.data)
            return activation.Gelu(x) if scaled.only(x) and scaled.is_close(numbers.sqrt(0.5)) else None
        case math.Tanh() as tanh if _is_gelu_cubic(product_of(tanh.data), x):
            return activation.Gelu(x, approximate="tanh")
        case _:
            return None


def _is_gelu_cubic(product: _Product, x: Value) -> bool:
    """√(2/π)·(x + 0.044715·x³), or √(2/π)·x·(1 + 0.044715·x²)."""
    if not product.is_close(numbers.sqrt(2 / numbers.pi)):
        return False
    rest = [value for value in product.factors if value is not x]
    if len(rest) != 1:
        return False
    (polynomial,) = rest
    if len(product.factors) == 2:
        square = _plus(polynomial, 1.0)
        return square is not None and _is_term(product_of(square), x, 2)
    add = polynomial.producer
    if len(product.factors) != 1 or not isinstance(add, math.Add):
        return False
    cubes = [other for known, other in ((add.left, add.right), (add.right, add.left)) if known is x]
    return any(_is_term(product_of(cube), x, 3) for cube in cubes)


def _is_term(product: _Product, x: Value, degree: int) -> bool:
    return product.only(*[x] * degree) and product.is_close(0.044715)


# ---- normalisations


@rewrite(math.Div, math.Mul)
def raise_normalization(op: math.Div | math.Mul, rw: Rewriter) -> None:
    """(x - mean)/√(var + ε)  →  layer_normalization(x, 1);  x/√(mean(x²) + ε)  →  rms_normalization(x, 1)"""
    found = _over_root(op)
    if found is None or op.type.dtype is not DType.F32:
        return
    centred, shifted = found
    epsilon, mean = _constant_addend(shifted)
    if not isinstance(mean, reduce.ReduceMean) or not _is_square(mean.data, centred):
        return
    axis = _leading_axis(mean)
    if axis is None or centred.type != op.type:
        return
    x = _uncentred(centred, axis)
    one = TensorType(DType.F32, op.type.shape[axis:])
    scale = rw.constant(np.ones((), np.float32), one if one.shape else None, name="one")
    kind = normalization.RMSNormalization if x is None else normalization.LayerNormalization
    data = centred if x is None else x
    rw.replace(op, kind(data, scale, axis=axis - op.type.rank, epsilon=epsilon))


@rewrite(math.Mul)
def scale_normalization(op: math.Mul, rw: Rewriter) -> None:
    """layer_normalization(x, 1) · scale  →  layer_normalization(x, scale)"""
    for value, scale in ((op.left, op.right), (op.right, op.left)):
        norm = value.producer
        if not isinstance(norm, normalization.LayerNormalization | normalization.RMSNormalization):
            continue
        is_bare = _number(norm.scale) == 1.0 and len([*norm.present_operands]) == 2
        if is_bare and value.has_one_use and _fits(scale, norm) and op.type == norm.type:
            rw.replace(op, type(norm)(norm.operands[0], scale, like=norm))
            return


@rewrite(math.Add)
def shift_normalization(op: math.Add, rw: Rewriter) -> None:
    """layer_normalization(x, scale) + bias  →  layer_normalization(x, scale, bias)"""
    for value, bias in ((op.left, op.right), (op.right, op.left)):
        norm = value.producer
        if not isinstance(norm, normalization.LayerNormalization) or norm.bias is not None:
            continue
        if value.has_one_use and _fits(bias, norm) and op.type == norm.type:
            rw.replace(op, normalization.LayerNormalization(norm.data, norm.scale, bias, like=norm))
            return


def _over_root(op: math.Div | math.Mul) -> tuple[Value, Value] | None:
    """x and y, where the op is x / √y: a quotient, or a product with a reciprocal."""
    if isinstance(op, math.Div):
        root = op.right.producer
        return (op.left, root.data) if isinstance(root, math.Sqrt) else None
    for x, inverse in ((op.left, op.right), (op.right, op.left)):
        inner = inverse.producer
        root = None
        if isinstance(inner, math.Reciprocal):
            root = inner.data.producer
        elif isinstance(inner, math.Div) and _number(inner.left) == 1.0:
            root = inner.right.producer
        if isinstance(root, math.Sqrt):
            return x, root.data
    return None


def _constant_addend(value: Value) -> tuple[float, Op | None]:
    """ε and the producer of v, where the value is v + ε."""
    op = value.producer
    if isinstance(op, math.Add):
        for known, other in ((op.right, op.left), (op.left, op.right)):
            number = _number(known)
            if number is not None and number >= 0:
                return number, other.producer
    return 0.0, None


def _is_square(value: Value, base: Value) -> bool:
    product = product_of(value)
    return product.constant == 1.0 and product.only(base, base)


def _leading_axis(mean: reduce.ReduceMean) -> int | None:
    """The first of the axes reduced, where these are all the last ones and are kept with size 1."""
    if mean.axes is not None and not isinstance(mean.axes, Constant):
        return None
    axes, rank = mean.reduced_axes(), mean.data.type.rank
    is_tail = bool(axes) and axes == tuple(range(rank - len(axes), rank))
    return axes[0] if is_tail and mean.keepdims else None


def _uncentred(centred: Value, axis: int) -> Value | None:
    """x, where the value is x - mean(x) over the axes from `axis` on."""
    op = centred.producer
    if not isinstance(op, math.Sub):
        return None
    mean = op.right.producer
    is_mean = isinstance(mean, reduce.ReduceMean) and mean.data is op.left and _leading_axis(mean) == axis
    return op.left if is_mean else None


def _fits(value: Value, norm: normalization.LayerNormalization | normalization.RMSNormalization) -> bool:
    """Whether a scale or bias has exactly the shape of the normalised axes."""
    return value.type == norm.scale.type


# ---- softmax


@rewrite(math.Div)
def raise_softmax(op: math.Div, rw: Rewriter) -> None:
    """exp(x - max(x)) / sum(exp(x - max(x)))  →  softmax(x)"""
    total, exp = op.right.producer, op.left.producer
    if not isinstance(total, reduce.ReduceSum) or not isinstance(exp, math.Exp) or total.data is not op.left:
        return
    shift = exp.data.producer
    if not isinstance(shift, math.Sub) or op.type.dtype is not DType.F32:
        return
    most = shift.right.producer
    if not isinstance(most, reduce.ReduceMax) or most.data is not shift.left:
        return
    axes = [_kept_axes(total), _kept_axes(most)]
    if axes[0] is None or axes[0] != axes[1] or len(axes[0]) != 1:
        return
    rw.replace(op, softmax.Softmax(shift.left, axis=axes[0][0]))


def _kept_axes(op: reduce.Reduction) -> Sequence[int] | None:
    if not op.keepdims or (op.axes is not None and not isinstance(op.axes, Constant)):
        return None
    return op.reduced_axes()


RULES = (raise_softmax, raise_normalization, raise_activation, scale_normalization, shift_normalization)
