"""Softmax and its kin: one axis at a time (family `nn`)."""

from __future__ import annotations

import numpy as np

from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, attribute, operand
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.computed import FLOATS, SameType, rounded, widened
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType


class AlongAxis(SameType):
    """An operator on floats that treats the vectors along one axis independently."""

    data = operand()
    axis = attribute(-1)

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, FLOATS, "the data")
        normal_axis(self, self.axis, self.data.type.rank)
        return super().infer()


class Normalised(AlongAxis):
    """Softmax and its logarithm, which ONNX defines as functions of several operators.

    Narrow floats are rounded after each of these: difference, power, sum, logarithm, quotient.
    """

    def stepwise(self, value: Array) -> Array:
        """A step's result, rounded to a narrow element type and widened again."""
        narrow = self.type.dtype in (DType.F16, DType.BF16) and value.dtype == np.float32
        return widened(rounded(value, self.type.dtype)) if narrow else value

    def _shifted(self, data: Array) -> Array:
        return self.stepwise(data - np.max(data, axis=self.axis, keepdims=True, initial=-np.inf))


class Softmax(Normalised):
    """exp(x) over its sum along the axis, shifted by the largest element (ONNX Softmax)."""

    name = "nn.softmax"
    role = Role.ANCHOR

    def compute(self, data: Array) -> Array:
        powers = self.stepwise(np.exp(self._shifted(data)))
        return powers / self.stepwise(np.sum(powers, axis=self.axis, keepdims=True))


class LogSoftmax(Normalised):
    """The logarithm of Softmax, without overflow (ONNX LogSoftmax)."""

    name = "nn.log_softmax"
    role = Role.ANCHOR

    def compute(self, data: Array) -> Array:
        shifted = self._shifted(data)
        total = np.sum(self.stepwise(np.exp(shifted)), axis=self.axis, keepdims=True)
        return shifted - self.stepwise(np.log(self.stepwise(total)))


class Hardmax(AlongAxis):
    """1 at the first largest element along the axis, else 0 (ONNX Hardmax)."""

    name = "nn.hardmax"
    role = Role.COMPOSITE

    def compute(self, data: Array) -> Array:
        result = np.zeros_like(data)
        if data.size:
            np.put_along_axis(result, np.argmax(data, axis=self.axis, keepdims=True), 1, axis=self.axis)
        return result


def softmax(data: Array, axis: int) -> Array:
    """exp(x) over its sum along the axis; NaN for rows of which all elements are -inf."""
    powers = np.exp(data - np.max(data, axis=axis, keepdims=True, initial=-np.inf))
    return powers / np.sum(powers, axis=axis, keepdims=True)
