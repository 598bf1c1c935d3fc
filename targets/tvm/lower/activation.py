# pyright: basic
"""Activation functions and conversions as expressions; joins the emitters of scalar.py."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from rtcc.errors import Unsupported
from rtcc.ir import DType, Op
from rtcc.ir.dtype import Kind
from rtcc.ir.ops import activation, cast
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, splat
from rtcc.targets.tvm.lower.scalar import emits


def _c(value: float, like: Expr) -> Expr:
    return vm.constant(value, like)


@emits(activation.Relu)
def _relu(op: Op, x: Expr) -> Expr:
    return vm.relu(x) if op.type.dtype.is_float else tirx.max(_c(0, x), x)


@emits(activation.LeakyRelu)
def _leaky_relu(op: activation.LeakyRelu, x: Expr) -> Expr:
    return tirx.Select(x < _c(0, x), x * _c(op.alpha, x), x)


@emits(activation.PRelu)
def _prelu(op: Op, x: Expr, slope: Expr) -> Expr:
    return tirx.Select(x < _c(0, x), slope * x, x)


@emits(activation.ThresholdedRelu)
def _thresholded_relu(op: activation.ThresholdedRelu, x: Expr) -> Expr:
    return tirx.Select(x > _c(op.alpha, x), x, _c(0, x))


@emits(activation.Elu)
def _elu(op: activation.Elu, x: Expr) -> Expr:
    return tirx.Select(x < _c(0, x), _c(op.alpha, x) * vm.expm1(x), x)


@emits(activation.Celu)
def _celu(op: activation.Celu, x: Expr) -> Expr:
    alpha, zero = _c(op.alpha, x), _c(0, x)
    return vm.maximum(x, zero) + vm.minimum(alpha * vm.expm1(tirx.div(x, alpha)), zero)


@emits(activation.Selu)
def _selu(op: activation.Selu, x: Expr) -> Expr:
    negative = _c(op.alpha, x) * vm.expm1(x)
    return _c(op.gamma, x) * tirx.Select(x > _c(0, x), x, negative)


@emits(activation.Sigmoid)
def _sigmoid(op: Op, x: Expr) -> Expr:
    return vm.sigmoid(x)


@emits(activation.HardSigmoid)
def _hard_sigmoid(op: activation.HardSigmoid, x: Expr) -> Expr:
    return _unit(x * _c(op.alpha, x) + _c(op.beta, x))


def _unit(x: Expr) -> Expr:
    """x clipped to [0, 1]; NaN stays."""
    return vm.minimum(vm.maximum(x, _c(0, x)), _c(1, x))


@emits(activation.HardSwish)
def _hard_swish(op: Op, x: Expr) -> Expr:
    return x * _unit(x * _c(1 / 6, x) + _c(0.5, x))


@emits(activation.Swish)
def _swish(op: activation.Swish, x: Expr) -> Expr:
    return x * vm.sigmoid(x if op.alpha == 1 else _c(op.alpha, x) * x)


@emits(activation.Mish)
def _mish(op: Op, x: Expr) -> Expr:
    return x * vm.tanh(vm.softplus(x))


@emits(activation.Gelu)
def _gelu(op: activation.Gelu, x: Expr) -> Expr:
    return vm.gelu_tanh(x) if op.approximate == "tanh" else vm.gelu(x)


@emits(activation.Softplus)
def _softplus(op: Op, x: Expr) -> Expr:
    return vm.softplus(x)


@emits(activation.Softsign)
def _softsign(op: Op, x: Expr) -> Expr:
    return tirx.div(x, _c(1, x) + vm.absolute(x))


@emits(activation.Shrink)
def _shrink(op: activation.Shrink, x: Expr) -> Expr:
    if not op.type.dtype.is_float:
        raise Unsupported("unsupported-operator", "math.shrink on integers has no code generation")
    above = tirx.Select(x > _c(op.lambd, x), x - _c(op.bias, x), _c(0, x))
    return tirx.Select(x < _c(-op.lambd, x), x + _c(op.bias, x), above)


@emits(cast.Cast)
def _cast(op: cast.Cast, x: Expr) -> Expr:
    return convert(x, op.data.type.dtype, op.type.dtype)


def convert(x: Expr, source: DType, target: DType) -> Expr:
    """ONNX Cast: float to integer truncates and saturates, NaN gives 0; to bool is "not zero"."""
    if target is DType.BOOL:
        return x if source is DType.BOOL else x != _c(0, x)
    name = _NAMES.get(target)
    if name is None or (source is not DType.BOOL and source not in _NAMES):
        raise Unsupported("unsupported-dtype", f"no code generation for a cast from {source.value} to {target.value}")
    lanes = vm.lanes_of(x)
    wide = name if lanes == 1 else f"{name}x{lanes}"
    if source.is_float and target.is_integer:
        return _saturated(x, source, target, wide)
    return x.astype(wide)


def _saturated(x: Expr, source: DType, target: DType, wide: str) -> Expr:
    """The integer nearest towards zero, clamped to the type before converting, so that no conversion overflows."""
    limits = np.iinfo(target.numpy)
    if source in (DType.F16, DType.BF16):
        x = x.astype("float32" if vm.lanes_of(x) == 1 else f"float32x{vm.lanes_of(x)}")
    high = _below(limits.max, np.float64 if source is DType.F64 else np.float32)
    low, most = _c(float(limits.min), x), _c(high, x)
    inside = tirx.Select(x >= low, tirx.Select(x <= most, x, most), low)
    clamped = inside.astype(wide)
    result = tirx.Select(x > most, splat(tirx.const(limits.max, _NAMES[target]), vm.lanes_of(x)), clamped)
    return tirx.Select(vm.is_nan(x), _c(0, result), result)


def _below(limit: int, dtype: type[np.floating]) -> float:
    """The largest float of the type that is at most `limit`."""
    found = dtype(limit)
    return float(found if int(found) <= limit else np.nextafter(found, dtype(0)))


_NAMES = {
    dtype: str(dtype.numpy) for dtype in DType
    if dtype.kind in (Kind.SIGNED, Kind.UNSIGNED) and dtype.bits >= 8 or dtype in (DType.F16, DType.F32, DType.F64)
} | {DType.BF16: "bfloat16"}  # fmt: skip
