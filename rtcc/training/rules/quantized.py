"""Rules of quantisation: rounding and saturation forwards, a straight-through estimate backwards.

A gradient passes rounding as if nothing had been rounded, and nothing that saturates (Y. Bengio et al.,
Estimating or propagating gradients through stochastic neurons, 2013).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import torch
from torch import Tensor

from rtcc.ir import DType
from rtcc.ir.ops import quant
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.computed import integer_limits
from rtcc.ir.ops.quant import is_single
from rtcc.training.rules.layers import no_rule
from rtcc.training.rules.table import Rules


def straight_through(exact: Tensor, passed: Tensor) -> Tensor:
    """The value of `exact`, to the bit, with the gradient of `passed`."""
    return exact.detach() + (passed - passed.detach())


def spread(op: quant.Scaled, parameter: Tensor, shape: torch.Size) -> Tensor:
    """A scale or zero point made broadcastable to data of this shape, as `Scaled.spread` does."""
    if is_single(tuple(parameter.shape)):
        return parameter.reshape(())
    axis = normal_axis(op, op.axis, len(shape))
    if op.block_size:
        return parameter.repeat_interleave(op.block_size, axis).narrow(axis, 0, shape[axis])
    return parameter.reshape([-1 if each == axis else 1 for each in range(len(shape))])


def quantized(op: quant.Scaled, data: Tensor, scale: Tensor, zero: Tensor | None, dtype: DType) -> Tensor:
    """saturate(round(data / scale) + zero point), whole numbers in floats."""
    if not dtype.is_integer:
        raise no_rule(str(op.location), f"{op.name} to {dtype.value}")
    lowest, highest = integer_limits(dtype.numpy)
    real = data / spread(op, scale, data.shape)
    if zero is not None:
        shift = spread(op, zero, data.shape).to(data.dtype)
        rounded, real = torch.round(real) + shift, real + shift
    else:
        rounded = torch.round(real)
    return straight_through(rounded.clamp(lowest, highest), real.clamp(lowest, highest))


def restored(op: quant.Scaled, data: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """(data - zero point) · scale."""
    data = data.to(scale.dtype)
    if zero is not None:
        data = data - spread(op, zero, data.shape).to(data.dtype)
    return data * spread(op, scale, data.shape)


def _quantize(op: quant.QuantizeLinear, data: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    return quantized(op, data, scale, zero, op.type.dtype)


RULES: Rules = {quant.QuantizeLinear: _quantize, quant.DequantizeLinear: restored}
