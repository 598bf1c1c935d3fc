"""Fused regions, kernels' calls and layout changes: the ops that lowering adds to ONNX's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rtcc.ir.graph import Graph
from rtcc.ir.op import (
    Array,
    KernelRef,
    Op,
    RegionOp,
    attribute,
    ints,
    operand,
    optional_operand,
    required_attribute,
    variadic_operand,
)
from rtcc.ir.roles import Indexes, Role
from rtcc.ir.types import TensorType
from rtcc.ir.value import Value


class Fused(RegionOp):
    """A region compiled as one kernel: one anchor with elementwise prologue and epilogue.

    The region's parameters stand for the operands; it reads no other outer value than constants
    that decide shapes or code. `algorithm` and `tile` are the target's choices for this instance; `measured`
    says that they come from measurement, and the seconds that it found (0: they were predicted).
    """

    name = "control.fused"
    inputs = variadic_operand()
    algorithm = attribute("")
    tile = ints()
    measured = attribute(0.0)

    @property
    def body(self) -> Graph:
        """The nested graph."""
        return self.regions[0]

    def add_operand(self, value: Value) -> None:
        """Read one more value; the region gets a parameter for it from the caller."""
        self._append_operand(value)

    def infer(self) -> tuple[TensorType, ...]:
        return tuple(value.type for value in self.body.returned)

    def inferred_types(self, results: int | None = None) -> tuple[TensorType, ...]:
        return self.infer()

    def evaluate_regions(
        self, arrays: Sequence[Array | None], run: Callable[[Graph, Sequence[Array]], tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        return run(self.body, [a for a in arrays if a is not None])


class Call(Op):
    """One run of a kernel of the module; operands and results are the kernel's."""

    name = "control.call"
    inputs = variadic_operand()
    kernel = required_attribute(KernelRef)

    def infer(self) -> tuple[TensorType, ...]:
        return tuple(result.type for result in self.results)


class ConvertLayout(Op):
    """The same tensor stored in another layout; the identity on logical values."""

    name = "tensor.convert_layout"
    role = Role.MOVEMENT
    data = operand(moved=True)

    def infer(self) -> tuple[TensorType, ...]:
        return (self.data.type.with_layout(self.results[0].type.layout if self.results else None),)

    def evaluate(self, *arrays: Array | None) -> Array:
        return np.asarray(arrays[0])


class Resample(Op):
    """One axis of a tensor by a table: result element i is Σ weights[i, t] · data[indices[i, t]].

    indices: i32[size, taps]; weights: the data's type, [size, taps], left out for one tap of weight 1.
    """

    name = "tensor.resample"
    role = Role.MOVEMENT
    data = operand()
    indices = operand(indexes=Indexes.AXIS)
    weights = optional_operand()
    axis = required_attribute(int)

    def infer(self) -> tuple[TensorType, ...]:
        shape = list(self.data.type.shape)
        shape[self.axis] = self.indices.type.shape[0]
        return (self.data.type.with_shape(shape),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, indices = np.asarray(arrays[0]), np.asarray(arrays[1])
        if len(arrays) < 3 or arrays[2] is None:
            return data.take(indices[:, 0], self.axis)
        wide = data if data.dtype.itemsize > 2 else data.astype(np.float32)
        shape = [-1 if axis == self.axis else 1 for axis in range(data.ndim)]
        total = np.zeros((), wide.dtype)
        for tap in range(indices.shape[1]):
            weights = arrays[2][:, tap].astype(wide.dtype).reshape(shape)
            total = total + wide.take(indices[:, tap], self.axis) * weights
        return total.astype(data.dtype)
