"""Writing small graphs of ops in place of one: each method appends an op and gives its value."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from rtcc.ir import DType, Graph, Op, Value
from rtcc.ir.ops import indexing, math, movement, nn, reduce, shapes, softmax
from rtcc.ir.ops.cast import Cast
from rtcc.pipeline.rewriter import Rewriter

NARROW = (DType.F16, DType.BF16)


class Writer:
    """Makes ops for a rewrite; the Rewriter places them when their root is replaced."""

    def __init__(self, rw: Rewriter, name: str) -> None:
        """name: what new constants are called."""
        self.rw = rw
        self.name = name

    def place(self, *values: Value | None, graph: Graph | None = None) -> None:
        """Place what makes values now, where it stands nowhere yet: before the root, or at a graph's end.

        The body of a region needs that: what is built for it goes into it, what it uses stands before it.
        """
        for value in values:
            op = None if value is None else value.producer
            if op is None or op.graph is not None:
                continue
            if graph is None:
                self.rw.insert(op)
                continue
            self.place(*op.operands, graph=graph)
            assert self.rw.root is not None
            op.location = self.rw.root.location.by(self.rw.pass_name)
            graph.append(op)

    # ---- constants

    def integers(self, *values: int) -> Value:
        """An i64 vector."""
        return self.rw.constant(np.array(values, np.int64), name=self.name)

    def number(self, value: float | int | bool, dtype: DType) -> Value:
        """A scalar."""
        return self.rw.constant(np.asarray(value, dtype.numpy), name=self.name)

    def array(self, data: Any, dtype: DType) -> Value:
        """A constant tensor."""
        return self.rw.constant(np.ascontiguousarray(data, dtype.numpy), name=self.name)

    # ---- element types

    def cast(self, x: Value, dtype: DType) -> Value:
        """x in another element type."""
        return x if x.type.dtype is dtype else Cast(x, to=dtype.value).result

    def widened(self, x: Value) -> Value:
        """x, as f32 where it is a narrower float."""
        return self.cast(x, DType.F32) if x.type.dtype in NARROW else x

    # ---- arithmetic

    def add(self, a: Value, b: Value) -> Value:
        """a + b."""
        return math.Add(a, b).result

    def sub(self, a: Value, b: Value) -> Value:
        """a - b."""
        return math.Sub(a, b).result

    def mul(self, a: Value, b: Value) -> Value:
        """a · b."""
        return math.Mul(a, b).result

    def div(self, a: Value, b: Value) -> Value:
        """a / b."""
        return math.Div(a, b).result

    def scaled(self, x: Value, factor: float) -> Value:
        """x times a number."""
        return x if factor == 1 else self.mul(x, self.number(factor, x.type.dtype))

    def where(self, condition: Value, chosen: Value, other: Value) -> Value:
        """chosen where the condition holds."""
        return math.Where(condition, chosen, other).result

    def matmul(self, a: Value, b: Value) -> Value:
        """The matrix product."""
        return nn.MatMul(a, b).result

    def softmax(self, x: Value) -> Value:
        """Softmax over the last axis."""
        return softmax.Softmax(x, axis=-1).result

    def total(
        self, reduction: type[reduce.Reduction], x: Value, axes: Sequence[int], *, keep: bool = True
    ) -> Value:
        """A reduction over some axes; over none where the list is empty."""
        if not axes:
            return x
        return reduction(x, self.integers(*axes), keepdims=int(keep)).result

    def mean(self, x: Value, axes: Sequence[int]) -> Value:
        """The mean over some axes, which stay as 1."""
        return self.total(reduce.ReduceMean, x, axes)

    # ---- shapes

    def reshape(self, x: Value, *sizes: int) -> Value:
        """x with another shape."""
        return x if x.type.shape == sizes else shapes.Reshape(x, self.integers(*sizes), allowzero=1).result

    def transpose(self, x: Value, *axes: int) -> Value:
        """x with its axes in another order."""
        return x if axes == tuple(range(len(axes))) else movement.Transpose(x, perm=tuple(axes)).result

    def expand(self, x: Value, *sizes: int) -> Value:
        """x broadcast to a shape."""
        return x if x.type.shape == sizes else shapes.Expand(x, self.integers(*sizes)).result

    def part(self, x: Value, axis: int, start: int, end: int, step: int = 1) -> Value:
        """x[start:end:step] along an axis."""
        if (start, end, step) == (0, x.type.sizes[axis], 1):
            return x
        bounds = [self.integers(n) for n in (start, end, axis, step)]
        return movement.Slice(x, *bounds).result

    def concat(self, axis: int, *parts: Value) -> Value:
        """The parts one after the other."""
        return parts[0] if len(parts) == 1 else movement.Concat(*parts, axis=axis).result

    def pad(self, x: Value, pads: Sequence[int], value: Value | None = None) -> Value:
        """x with margins: all before, then all after."""
        return movement.Pad(x, self.integers(*pads), value).result if any(pads) else x

    def gather(self, x: Value, indices: Value, axis: int) -> Value:
        """Slices of x."""
        return indexing.Gather(x, indices, axis=axis).result

    def filled(self, value: float | int | bool, dtype: DType, *sizes: int) -> Value:
        """A tensor of one value, as a splat constant."""
        from rtcc.ir import TensorType

        return self.rw.constant(np.asarray(value, dtype.numpy), TensorType(dtype, sizes), name=self.name)

    def per_axis(self, vector: Value, rank: int, axis: int = 1) -> Value:
        """A vector shaped so that it broadcasts along an axis; one element: along all."""
        count = prod(vector.type.sizes)
        if count == 1:
            return self.reshape(vector)
        return self.reshape(vector, *(count if a == axis else 1 for a in range(rank)))


def is_static(op: Op) -> bool:
    """Whether all operands and results have known sizes."""
    return all(v.type.is_static for v in (*op.present_operands, *op.results))
