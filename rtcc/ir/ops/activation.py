"""Activation functions: elementwise, mostly with attributes (family `math`)."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np

from rtcc.ir.op import Array, attribute
from rtcc.ir.ops.computed import FLOATS, NUMBERS
from rtcc.ir.ops.elementwise import Binary, FloatUnary, Unary
from rtcc.ir.ops.math import error_function
from rtcc.ir.types import TensorType


class Relu(Unary):
    """max(x, 0); keeps NaN (ONNX Relu)."""

    name = "math.relu"
    kinds = NUMBERS

    @staticmethod
    def function(x: Array) -> Array:
        return np.maximum(x, x.dtype.type(0))


class LeakyRelu(FloatUnary):
    """x, times alpha below 0 (ONNX LeakyRelu)."""

    name = "math.leaky_relu"
    alpha = attribute(0.01)

    def compute(self, x: Array) -> Array:
        return np.where(x < 0, self.alpha * x, x)


class PRelu(Binary):
    """left, times right below 0; right broadcasts to left (ONNX PRelu)."""

    name = "math.prelu"
    kinds = NUMBERS

    def infer(self) -> tuple[TensorType, ...]:
        (joined,) = super().infer()
        left = self.left.type.shape
        if joined.rank != len(left) or any(a == 1 != b for a, b in zip(left, joined.shape, strict=True)):
            raise self.fail(f"the slope {self.right.type} does not broadcast to {self.left.type}")
        return (joined,)

    @staticmethod
    def function(x: Array, slope: Array) -> Array:
        return np.where(x < 0, slope * x, x)


class ThresholdedRelu(FloatUnary):
    """x above alpha, else 0; NaN becomes 0 (ONNX ThresholdedRelu)."""

    name = "math.thresholded_relu"
    alpha = attribute(1.0)

    def compute(self, x: Array) -> Array:
        return np.where(x > self.alpha, x, x.dtype.type(0))


class Elu(FloatUnary):
    """x, below 0 alpha·(e^x - 1) (ONNX Elu)."""

    name = "math.elu"
    alpha = attribute(1.0)

    def compute(self, x: Array) -> Array:
        return np.where(x < 0, self.alpha * np.expm1(x), x)


class Celu(FloatUnary):
    """max(0, x) + min(0, alpha·(e^(x/alpha) - 1)) (ONNX Celu)."""

    name = "math.celu"
    alpha = attribute(1.0)

    def compute(self, x: Array) -> Array:
        return np.maximum(x, 0) + np.minimum(0, self.alpha * np.expm1(x / self.alpha))


class Selu(FloatUnary):
    """gamma·x, below 0 gamma·alpha·(e^x - 1) (ONNX Selu)."""

    name = "math.selu"
    alpha = attribute(1.67326319217681884765625)
    gamma = attribute(1.05070102214813232421875)

    def compute(self, x: Array) -> Array:
        return self.gamma * np.where(x > 0, x, self.alpha * np.expm1(x))


class Sigmoid(FloatUnary):
    """1 / (1 + e^-x) (ONNX Sigmoid)."""

    name = "math.sigmoid"

    @staticmethod
    def function(x: Array) -> Array:
        return sigmoid(x)


class HardSigmoid(FloatUnary):
    """alpha·x + beta limited to [0, 1] (ONNX HardSigmoid)."""

    name = "math.hard_sigmoid"
    alpha = attribute(0.2)
    beta = attribute(0.5)

    def compute(self, x: Array) -> Array:
        return np.minimum(np.maximum(self.alpha * x + self.beta, 0), 1)


class HardSwish(FloatUnary):
    """x times x/6 + 1/2 limited to [0, 1] (ONNX HardSwish)."""

    name = "math.hard_swish"

    @staticmethod
    def function(x: Array) -> Array:
        return x * np.minimum(np.maximum(x / 6 + 0.5, 0), 1)


class Swish(FloatUnary):
    """x · sigmoid(alpha·x) (ONNX Swish)."""

    name = "math.swish"
    alpha = attribute(1.0)

    def compute(self, x: Array) -> Array:
        return x * sigmoid(self.alpha * x)


class SwiGLU(Binary):
    """Swish of left (the gate) times right (ONNX SwiGLU)."""

    name = "math.swi_glu"
    kinds = FLOATS
    alpha = attribute(1.0)

    def compute(self, gate: Array, value: Array) -> Array:
        return gate * sigmoid(self.alpha * gate) * value


class Mish(FloatUnary):
    """x · tanh(softplus(x)) (ONNX Mish)."""

    name = "math.mish"

    @staticmethod
    def function(x: Array) -> Array:
        return x * np.tanh(softplus(x))


class Gelu(FloatUnary):
    """x · Φ(x), with erf or (approximate = "tanh") with tanh (ONNX Gelu)."""

    name = "math.gelu"
    approximate = attribute("none")

    def check(self) -> None:
        if self.approximate not in ("none", "tanh"):
            raise self.fail(f'approximate must be "none" or "tanh", found {self.approximate!r}')

    def compute(self, x: Array) -> Array:
        if self.approximate == "tanh":
            return 0.5 * x * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + error_function(x * sqrt(0.5)))


class Softplus(FloatUnary):
    """log(1 + e^x) (ONNX Softplus)."""

    name = "math.softplus"

    @staticmethod
    def function(x: Array) -> Array:
        return softplus(x)


class Softsign(FloatUnary):
    """x / (1 + |x|) (ONNX Softsign)."""

    name = "math.softsign"

    @staticmethod
    def function(x: Array) -> Array:
        return x / (1 + np.abs(x))


class Shrink(Unary):
    """x + bias below -lambd, x - bias above lambd, 0 between (ONNX Shrink)."""

    name = "math.shrink"
    kinds = NUMBERS
    bias = attribute(0.0)
    lambd = attribute(0.5)

    def compute(self, x: Array) -> Array:
        return np.where(x < -self.lambd, x + self.bias, np.where(x > self.lambd, x - self.bias, 0))


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x) without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def softplus(x: Array) -> Array:
    """log(1 + e^x) without overflow."""
    return np.logaddexp(x, x.dtype.type(0))
