"""What is trained of a module: weights as parameters, zeros that stay, integers as fake quantisation."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rtcc.ir import Constant, DType, Module, Op, Value
from rtcc.ir.ops import math
from rtcc.ir.ops import nn as layers
from rtcc.ir.ops.activation import PRelu
from rtcc.ir.ops.computed import integer_limits
from rtcc.ir.ops.indexing import Gather
from rtcc.ir.ops.normalization import (
    BatchNormalization,
    GroupNormalization,
    InstanceNormalization,
    LayerNormalization,
    RMSNormalization,
)
from rtcc.ir.ops.quant import DequantizeLinear, is_single
from rtcc.linear.layers import is_named, linear_layers
from rtcc.training.rules.quantized import quantized, restored
from rtcc.training.settings import Zeros

SLOTS: dict[type[Op], tuple[int, ...]] = {
    layers.Conv: (1, 2),
    layers.ConvTranspose: (1, 2),
    layers.Gemm: (0, 1, 2),
    layers.MatMul: (0, 1),
    layers.Einsum: (0, 1),
    BatchNormalization: (1, 2),
    InstanceNormalization: (1, 2),
    GroupNormalization: (1, 2),
    LayerNormalization: (1, 2),
    RMSNormalization: (1,),
    PRelu: (1,),
    Gather: (0,),
}
"""Operands that are weights where they are float32 constants; statistics of batch normalisation are none."""

PER_CHANNEL = (math.Add, math.Sub, math.Mul, math.Div)
"""Of these, vectors along one axis are weights: biases and scales. Single numbers and masks are none."""


USUAL_UNIT = 0.125
"""Of a tensor of zeros."""


@dataclass
class Weight:
    """One parameter. op: what makes real numbers of the integers it is stored as, None of a float.

    unit: what the parameter counts in.
    """

    constant: Constant
    op: DequantizeLinear | None
    key: str
    unit: float = 1.0


class Weights(nn.Module):
    """The weights of a module as parameters; nothing else of it changes.

    A float weight with a mask m is p·u·m of its parameter p: the unit u, a power of two near the root mean
    square that the weight had, makes steps relative to its size, whatever scale its inputs have. One that is
    stored as integers is quantised on each run, and goes back as integers: biases in 32 bits as well.
    """

    def __init__(self, module: Module, zeros: Zeros, freeze: Sequence[str] = ()) -> None:
        super().__init__()
        self._module = module
        self._axes = {layer.weight: layer.channel_axis for layer in linear_layers(module.main)}
        pairs = enumerate(_weights(module, freeze))
        self.found = [Weight(constant, op, str(number)) for number, (constant, op) in pairs]
        self.parameter = nn.ParameterDict()
        for each in self.found:
            array = _stored(each)
            each.unit = _unit(array)
            self.parameter[each.key] = nn.Parameter(torch.from_numpy(array / np.float32(each.unit)))
            mask = _mask(array, zeros, is_integer=each.op is not None)
            self.register_buffer(f"mask_{each.key}", None if mask is None else torch.from_numpy(mask))
            for name, value in _scales(each).items():
                self.register_buffer(f"{name}_{each.key}", value)

    def values(self) -> dict[Value, Tensor]:
        """What the parameters stand for now: float constants, and results of dequantising integer ones."""
        made = [each.constant if each.op is None else each.op.result for each in self.found]
        return dict(zip(made, map(self._value, self.found), strict=True))

    def matrices(self) -> list[Tensor]:
        """The weights of at least two axes, that of output channels first: what a regulariser goes over."""
        large = [each for each in self.found if self.parameter[each.key].dim() > 1]
        return [self._masked(each).movedim(self._output_axis(each), 0) for each in large]

    def _output_axis(self, each: Weight) -> int:
        if each.op is not None and not is_single(each.op.scale.type.shape) and not each.op.block_size:
            return each.op.axis
        return self._axes.get(each.constant) or 0

    @property
    def masked(self) -> int:
        """How many elements stay zero."""
        masks = [getattr(self, f"mask_{each.key}") for each in self.found]
        return sum(int((mask == 0).sum()) for mask in masks if mask is not None)

    @property
    def count(self) -> int:
        """How many elements are trained, those that stay zero not counted."""
        return sum(each.numel() for each in self.parameter.values()) - self.masked

    def write_back(self) -> Module:
        """A copy of the module with the weights as they are now."""
        copy = self._module.clone()
        twins = dict(zip(self._module.main.ops, copy.main.ops, strict=True))
        with torch.no_grad():
            for each in self.found:
                if each.op is None:
                    _replace(copy, each.constant.symbol, self._masked(each).numpy().astype(np.float32))
                else:
                    array = self._integers(each, each.op)
                    new = copy.add_constant(f"{each.constant.symbol}.trained", array)
                    twins[each.op].set_operand(0, new)
        copy.drop_unused_constants()
        return copy

    def _masked(self, each: Weight) -> Tensor:
        mask = getattr(self, f"mask_{each.key}")
        value = self.parameter[each.key] * each.unit
        return value if mask is None else value * mask

    def _value(self, each: Weight) -> Tensor:
        value = self._masked(each)
        if each.op is None:
            return value
        scale, zero = self._scale(each)
        integers = quantized(each.op, value, scale, zero, each.constant.type.dtype)
        return restored(each.op, integers, scale, zero)

    def _scale(self, each: Weight) -> tuple[Tensor, Tensor | None]:
        return getattr(self, f"scale_{each.key}"), getattr(self, f"zero_{each.key}", None)

    def _integers(self, each: Weight, op: DequantizeLinear) -> NDArray[Any]:
        """The integers that go back."""
        scale, zero = self._scale(each)
        dtype = each.constant.type.dtype
        lowest, highest = integer_limits(dtype.numpy)
        found = quantized(op, self._masked(each), scale, zero, dtype).double().numpy()
        return found.clip(lowest, highest).astype(np.int64).astype(dtype.numpy)


def _weights(module: Module, freeze: Sequence[str]) -> Iterator[tuple[Constant, DequantizeLinear | None]]:
    """Each weight once, in the order of the graph; freeze: names of layers that stay as they are."""
    seen: set[Constant] = set()
    for op in module.main.ops:
        if freeze and is_named(op, freeze):
            continue
        if isinstance(op, DequantizeLinear):
            if isinstance(op.data, Constant) and op.data.type.elements > 1 and _is_trained(op, freeze):
                yield op.data, op
            continue
        for slot in _slots(op):
            value = op.operands[slot] if slot < len(op.operands) else None
            is_float = isinstance(value, Constant) and value.type.dtype is DType.F32
            if isinstance(value, Constant) and is_float and value not in seen:
                seen.add(value)
                yield value, None


def _is_trained(op: DequantizeLinear, freeze: Sequence[str]) -> bool:
    """Whether integers are weights that may change: their type is an integer's and no reader is frozen."""
    is_constant = all(isinstance(value, Constant) for value in op.present_operands)
    is_frozen = bool(freeze) and any(is_named(user, freeze) for user in op.result.users)
    return is_constant and op.data.type.dtype.is_integer and op.type.dtype is DType.F32 and not is_frozen


def _slots(op: Op) -> tuple[int, ...]:
    if isinstance(op, PER_CHANNEL):
        return tuple(slot for slot, value in enumerate(op.operands) if _is_vector(value))
    return SLOTS.get(type(op), ())


def _is_vector(value: Value | None) -> bool:
    """Whether a constant has several finite numbers, all along one axis."""
    if not isinstance(value, Constant) or not value.type.dtype.is_float or value.type.elements < 2:
        return False
    return max(value.type.sizes) == value.type.elements and bool(np.isfinite(value.data).all())


def _stored(each: Weight) -> NDArray[Any]:
    """A weight's real numbers as they are stored."""
    array = each.constant.array
    if each.op is None:
        return np.array(array, np.float32)
    others = [value.array for value in each.op.operands[1:] if isinstance(value, Constant)]
    return np.array(each.op.compute(array, *others), np.float32)


def _unit(array: NDArray[Any]) -> float:
    """A power of two near the root mean square of what is not zero; that of usual weights where all is."""
    found = array[array != 0].astype(np.float64)
    if not found.size:
        return USUAL_UNIT
    return 2.0 ** int(np.clip(np.rint(np.log2(np.sqrt(np.mean(found * found)))), -100, 100))


def _scales(each: Weight) -> dict[str, Tensor]:
    """The scale and the zero point that integers are read by."""
    if each.op is None:
        return {}
    found = {"scale": each.op.scale, "zero": each.op.zero_point}
    arrays = {name: value.array for name, value in found.items() if isinstance(value, Constant)}
    return {name: torch.from_numpy(np.array(array, np.float32)) for name, array in arrays.items()}


def _mask(array: NDArray[Any], zeros: Zeros, *, is_integer: bool) -> NDArray[np.float32] | None:
    """0 where a weight of at least two axes is zero and is to stay so, else 1; None where nothing is held."""
    holds = zeros is Zeros.ALL or (zeros is Zeros.KEEP and not is_integer)
    if not holds or array.ndim < 2 or array.all() or not array.any():
        return None
    return (array != 0).astype(np.float32)


def _replace(module: Module, symbol: str, array: NDArray[Any]) -> None:
    """Give a constant other elements under the same symbol."""
    before, new = module.constants[symbol], Constant(symbol, array)
    before.replace_uses(new)
    module.constants[symbol] = new
