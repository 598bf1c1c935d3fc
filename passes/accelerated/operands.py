"""What the layers of an accelerator are made of: s8 tensors, what clamps them, their results' parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rtcc.ir import DType, Op, Value
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.computed import integer_limits
from rtcc.ir.ops.math import Clip
from rtcc.passes.integer.values import QuantizedTensor, TensorParameters, read_data
from rtcc.pipeline.constants import uniform_value
from rtcc.target import Illegal


@dataclass(frozen=True)
class Wanted:
    """What a layer gives: integers of a scale and zero point, between the limits of what follows it."""

    to: TensorParameters
    low: int
    high: int

    @property
    def attributes(self) -> dict[str, Any]:
        """How the family `accelerator` writes it."""
        return {"zero_point": self.to.zero, "low": self.low, "high": self.high}


def wanted(value: Value, to: TensorParameters) -> tuple[Value, Wanted]:
    """What is computed before the activations that clamp, and what is wanted of it.

    Quantising keeps order, so a clamp of quantised numbers has quantised bounds: of several, the first one
    applied counts within those of the later ones.
    """
    low, high = integer_limits(to.dtype.numpy)
    while value.has_one_use and (op := value.producer) is not None and (found := _bounds(op)) is not None:
        below, above = found
        lowest = low if below is None else min(max(low, to.of(below)), high)
        highest = high if above is None else max(min(high, to.of(above)), low)
        if lowest > highest:
            break
        low, high = lowest, highest
        (value, *_) = op.present_operands
    return value, Wanted(to, low, high)


def _bounds(op: Op) -> tuple[float | None, float | None] | None:
    """The bounds of an activation that clamps by constants; None for any other op."""
    if isinstance(op, Relu):
        return 0.0, None
    if not isinstance(op, Clip):
        return None
    bounds: list[float | None] = []
    for each in (op.lowest, op.highest):
        number = None if each is None else uniform_value(each)
        if each is not None and number is None:
            return None
        bounds.append(None if number is None else float(number))
    return bounds[0], bounds[1]


def s8_data(value: Value) -> QuantizedTensor | Illegal:
    """The s8 integers that a value is dequantised from, or why it is none."""
    found = read_data(value)
    if isinstance(found, QuantizedTensor) and found.value.type.dtype is not DType.I8:
        return Illegal(f"its data are {found.value.type.dtype.value}, and the accelerator takes i8")
    return found


def image_obstacle(value: Value) -> str:
    """Why a value is not a known number of images [N, C, H, W]; "" where it is."""
    if not value.type.is_static:
        return "its sizes are not known when compiling"
    if value.type.rank != 4:
        return f"its data have {value.type.rank} axes, and the accelerator takes images [N, C, H, W]"
    return ""
