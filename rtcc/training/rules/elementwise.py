"""Rules of the elementwise operators and activation functions."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rtcc.ir.ops import activation, cast, math
from rtcc.training.rules.table import TYPES, Rule, Rules, of_data


def _joined(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """The rule of an operator that joins its operands two by two."""

    def rule(op: Any, *operands: Tensor) -> Tensor:
        return reduce(function, operands)

    return rule


def _divide(op: math.Div, left: Tensor, right: Tensor) -> Tensor:
    """Integers are truncated."""
    if left.is_floating_point():
        return left / right
    return torch.div(left, right, rounding_mode="trunc")


def _power(op: math.Pow, left: Tensor, right: Tensor) -> Tensor:
    return torch.pow(left, right).to(left.dtype)


def _mean(op: math.Mean, *operands: Tensor) -> Tensor:
    return reduce(torch.add, operands) / len(operands)


def _clip(op: math.Clip, data: Tensor, lowest: Tensor | None = None, highest: Tensor | None = None) -> Tensor:
    if lowest is not None:
        data = torch.maximum(data, lowest.to(data.dtype))
    return data if highest is None else torch.minimum(data, highest.to(data.dtype))


def _is_infinite(op: math.IsInf, data: Tensor) -> Tensor:
    found = torch.zeros_like(data, dtype=torch.bool)
    found = torch.isneginf(data) if op.detect_negative else found
    return found | torch.isposinf(data) if op.detect_positive else found


def _cast(op: cast.Cast, data: Tensor) -> Tensor:
    """Floats that are computed wider than declared stay so."""
    wanted = TYPES[op.type.dtype]
    return data if wanted.is_floating_point and data.dtype is torch.float64 else data.to(wanted)


def _cast_like(op: cast.CastLike, data: Tensor, like: Tensor) -> Tensor:
    return data.to(like.dtype)


def _elu(op: activation.Elu, x: Tensor) -> Tensor:
    return functional.elu(x, op.alpha)


def _selu(op: activation.Selu, x: Tensor) -> Tensor:
    return op.gamma * torch.where(x > 0, x, op.alpha * torch.expm1(torch.clamp(x, max=0)))


def _hard_sigmoid(op: activation.HardSigmoid, x: Tensor) -> Tensor:
    return torch.clamp(op.alpha * x + op.beta, 0, 1)


def _swi_glu(op: activation.SwiGLU, gate: Tensor, value: Tensor) -> Tensor:
    return gate * torch.sigmoid(op.alpha * gate) * value


def _shrink(op: activation.Shrink, x: Tensor) -> Tensor:
    outer = torch.where(x > op.lambd, x - op.bias, torch.zeros_like(x))
    return torch.where(x < -op.lambd, x + op.bias, outer)


def _leaky_relu(op: activation.LeakyRelu, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, op.alpha)


def _thresholded_relu(op: activation.ThresholdedRelu, x: Tensor) -> Tensor:
    return torch.where(x > op.alpha, x, torch.zeros_like(x))


def _celu(op: activation.Celu, x: Tensor) -> Tensor:
    return functional.celu(x, op.alpha)


def _swish(op: activation.Swish, x: Tensor) -> Tensor:
    return x * torch.sigmoid(op.alpha * x)


def _gelu(op: activation.Gelu, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=op.approximate)


def _prelu(op: activation.PRelu, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def _identity(op: math.Identity, x: Tensor) -> Tensor:
    return x


RULES: Rules = {
    math.Identity: _identity,
    math.Add: of_data(torch.add),
    math.Sub: of_data(torch.sub),
    math.Mul: of_data(torch.mul),
    math.Div: _divide,
    math.Pow: _power,
    math.Neg: of_data(torch.neg),
    math.Abs: of_data(torch.abs),
    math.Sign: of_data(torch.sign),
    math.Reciprocal: of_data(torch.reciprocal),
    math.Floor: of_data(torch.floor),
    math.Ceil: of_data(torch.ceil),
    math.Round: of_data(torch.round),
    math.Max: _joined(torch.maximum),
    math.Min: _joined(torch.minimum),
    math.Sum: _joined(torch.add),
    math.Mean: _mean,
    math.Clip: _clip,
    math.Sqrt: of_data(torch.sqrt),
    math.Exp: of_data(torch.exp),
    math.Log: of_data(torch.log),
    math.Sin: of_data(torch.sin),
    math.Cos: of_data(torch.cos),
    math.Tan: of_data(torch.tan),
    math.Asin: of_data(torch.asin),
    math.Acos: of_data(torch.acos),
    math.Atan: of_data(torch.atan),
    math.Sinh: of_data(torch.sinh),
    math.Cosh: of_data(torch.cosh),
    math.Tanh: of_data(torch.tanh),
    math.Asinh: of_data(torch.asinh),
    math.Acosh: of_data(torch.acosh),
    math.Atanh: of_data(torch.atanh),
    math.Erf: of_data(torch.erf),
    math.Equal: of_data(torch.eq),
    math.Less: of_data(torch.lt),
    math.LessOrEqual: of_data(torch.le),
    math.Greater: of_data(torch.gt),
    math.GreaterOrEqual: of_data(torch.ge),
    math.IsNaN: of_data(torch.isnan),
    math.IsInf: _is_infinite,
    math.Where: of_data(torch.where),
    math.And: of_data(torch.logical_and),
    math.Or: of_data(torch.logical_or),
    math.Xor: of_data(torch.logical_xor),
    math.Not: of_data(torch.logical_not),
    cast.Cast: _cast,
    cast.CastLike: _cast_like,
    activation.Relu: of_data(torch.relu),
    activation.LeakyRelu: _leaky_relu,
    activation.PRelu: _prelu,
    activation.ThresholdedRelu: _thresholded_relu,
    activation.Elu: _elu,
    activation.Celu: _celu,
    activation.Selu: _selu,
    activation.Sigmoid: of_data(torch.sigmoid),
    activation.HardSigmoid: _hard_sigmoid,
    activation.HardSwish: of_data(functional.hardswish),
    activation.Swish: _swish,
    activation.SwiGLU: _swi_glu,
    activation.Mish: of_data(functional.mish),
    activation.Gelu: _gelu,
    activation.Softplus: of_data(functional.softplus),
    activation.Softsign: of_data(functional.softsign),
    activation.Shrink: _shrink,
}
