"""Elementwise operators (ONNX names and semantics).

Base classes hold what the operators share: result type by broadcasting, and one NumPy function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from rtcc.ir.op import Array, Op, operand
from rtcc.ir.types import TensorType, broadcast_shapes


class Unary(Op):
    """An elementwise operator of one operand that keeps its type; subclasses give `function`."""

    elementwise = True
    function: ClassVar[Callable[..., Any]]
    data = operand()

    def infer(self) -> tuple[TensorType, ...]:
        return (self.data.type.with_layout(None),)

    def evaluate(self, *arrays: Array | None) -> Array:
        array = np.asarray(arrays[0])
        return np.asarray(type(self).function(array)).astype(array.dtype, copy=False)


class Binary(Op):
    """An elementwise operator of two broadcast operands of one type; subclasses give `function`."""

    elementwise = True
    function: ClassVar[Callable[..., Any]]
    left = operand()
    right = operand()

    def infer(self) -> tuple[TensorType, ...]:
        left, right = self.left.type, self.right.type
        if left.dtype is not right.dtype:
            raise self.fail(f"operands must have one dtype, found {left.dtype.value} and {right.dtype.value}")
        return (TensorType(left.dtype, broadcast_shapes(left.shape, right.shape)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        left, right = np.asarray(arrays[0]), np.asarray(arrays[1])
        return np.asarray(type(self).function(left, right)).astype(left.dtype, copy=False)


class Relu(Unary):
    """max(x, 0); keeps NaN (ONNX Relu)."""

    name = "math.relu"

    @staticmethod
    def function(x: Array) -> Array:
        return np.maximum(x, x.dtype.type(0))


class Add(Binary):
    """left + right (ONNX Add)."""

    name = "math.add"
    function = staticmethod(np.add)
