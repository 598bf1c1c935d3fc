# pyright: basic
"""Activation functions as expressions; the rules of scalar.py go on here."""

from __future__ import annotations

from tvm import tirx

from rtcc.ir import DType, Op
from rtcc.ir.ops import activation
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.conversion import convert
from rtcc.targets.tvm.lower.rules import scalar_rule


def _c(value: float, like: Expr) -> Expr:
    return vm.constant(value, like)


@scalar_rule(activation.Relu)
def _relu(op: Op, x: Expr) -> Expr:
    return vm.relu(x) if op.type.dtype.is_float else tirx.max(_c(0, x), x)


@scalar_rule(activation.LeakyRelu)
def _leaky_relu(op: activation.LeakyRelu, x: Expr) -> Expr:
    return tirx.Select(x < _c(0, x), x * _c(op.alpha, x), x)


@scalar_rule(activation.PRelu)
def _prelu(op: Op, x: Expr, slope: Expr) -> Expr:
    return tirx.Select(x < _c(0, x), slope * x, x)


@scalar_rule(activation.ThresholdedRelu)
def _thresholded_relu(op: activation.ThresholdedRelu, x: Expr) -> Expr:
    return tirx.Select(x > _c(op.alpha, x), x, _c(0, x))


@scalar_rule(activation.Elu)
def _elu(op: activation.Elu, x: Expr) -> Expr:
    return tirx.Select(x < _c(0, x), _c(op.alpha, x) * vm.expm1(x), x)


@scalar_rule(activation.Celu)
def _celu(op: activation.Celu, x: Expr) -> Expr:
    alpha, zero = _c(op.alpha, x), _c(0, x)
    return vm.maximum(x, zero) + vm.minimum(alpha * vm.expm1(tirx.div(x, alpha)), zero)


@scalar_rule(activation.Selu)
def _selu(op: activation.Selu, x: Expr) -> Expr:
    negative = _c(op.alpha, x) * vm.expm1(x)
    return _c(op.gamma, x) * tirx.Select(x > _c(0, x), x, negative)


@scalar_rule(activation.Sigmoid)
def _sigmoid(op: Op, x: Expr) -> Expr:
    return vm.sigmoid(x)


@scalar_rule(activation.HardSigmoid)
def _hard_sigmoid(op: activation.HardSigmoid, x: Expr) -> Expr:
    return _unit(x * _c(op.alpha, x) + _c(op.beta, x))


def _unit(x: Expr) -> Expr:
    """x clipped to [0, 1]; NaN stays."""
    return vm.minimum(vm.maximum(x, _c(0, x)), _c(1, x))


@scalar_rule(activation.HardSwish)
def _hard_swish(op: Op, x: Expr) -> Expr:
    sixth = tirx.div(x, _c(6, x)) if op.type.dtype is DType.F64 else x * _c(1 / 6, x)
    return x * _unit(sixth + _c(0.5, x))


@scalar_rule(activation.Swish)
def _swish(op: activation.Swish, x: Expr) -> Expr:
    return x * vm.sigmoid(x if op.alpha == 1 else _c(op.alpha, x) * x)


@scalar_rule(activation.Mish)
def _mish(op: Op, x: Expr) -> Expr:
    return x * vm.tanh(vm.softplus(x))


@scalar_rule(activation.Gelu)
def _gelu(op: activation.Gelu, x: Expr) -> Expr:
    return vm.gelu_tanh(x) if op.approximate == "tanh" else vm.gelu(x)


@scalar_rule(activation.Softplus)
def _softplus(op: Op, x: Expr) -> Expr:
    return vm.softplus(x)


@scalar_rule(activation.Softsign)
def _softsign(op: Op, x: Expr) -> Expr:
    return tirx.div(x, _c(1, x) + vm.absolute(x))


@scalar_rule(activation.Shrink)
def _shrink(op: activation.Shrink, x: Expr) -> Expr:
    dtype = op.type.dtype
    if not dtype.is_float:
        return convert(_shrunk(op, x.astype(vm.typed(x, "float64"))), DType.F64, dtype)
    return _shrunk(op, x)


def _shrunk(op: activation.Shrink, x: Expr) -> Expr:
    above = tirx.Select(x > _c(op.lambd, x), x - _c(op.bias, x), _c(0, x))
    return tirx.Select(x < _c(-op.lambd, x), x + _c(op.bias, x), above)


@scalar_rule(activation.SwiGLU)
def _swi_glu(op: activation.SwiGLU, gate: Expr, value: Expr) -> Expr:
    return gate * vm.sigmoid(gate if op.alpha == 1 else _c(op.alpha, gate) * gate) * value
