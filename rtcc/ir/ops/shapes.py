"""Operators about shapes themselves: reshape and its kin, shape, size, filled and counted tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rtcc.errors import RtccError
from rtcc.ir.dimension import LARGEST, Expression
from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, AttributeSlot, Op, attribute, operand, optional_operand
from rtcc.ir.ops.axes import (
    PartialShape,
    at,
    counting,
    fresh_size,
    integers,
    normal_axes,
    partial_sizes,
    upper_elements,
    whole,
)
from rtcc.ir.roles import Role
from rtcc.ir.shape_value import known_value
from rtcc.ir.types import Shape as Sizes
from rtcc.ir.types import TensorType, broadcast_shapes


class Shape(Op):
    """The dimensions start … end of a tensor as i64[n] (ONNX Shape); negative: from the last."""

    name = "tensor.shape"
    data = operand(type_only=True)
    start = attribute(0)
    end: AttributeSlot[int | None] = attribute(None)

    def infer(self) -> tuple[TensorType, ...]:
        return (TensorType(DType.I64, (len(self.data.type.shape[self.start : self.end]),)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        return np.array(np.asarray(arrays[0]).shape[self.start : self.end], np.int64)

    def known_result(self, *known: Array | None) -> Array | None:
        return np.array([*self.data.type.shape[self.start : self.end], None], object)[:-1]

    def operations(self) -> int:
        return 0


class Size(Op):
    """The number of elements as i64[] (ONNX Size)."""

    name = "tensor.size"
    data = operand(type_only=True)

    def infer(self) -> tuple[TensorType, ...]:
        return (TensorType(DType.I64, ()),)

    def evaluate(self, *arrays: Array | None) -> Array:
        return np.array(np.size(np.asarray(arrays[0])), np.int64)

    def known_result(self, *known: Array | None) -> Array | None:
        return np.array(math.prod(self.data.type.shape), object)

    def operations(self) -> int:
        return 0


class View(Op):
    """The first operand's elements in their order, under another shape: no code need run."""

    role = Role.MOVEMENT
    reshapes = True

    def operations(self) -> int:
        return 0


class Reshape(View):
    """The same elements under another shape (ONNX Reshape).

    In `shape`, -1 stands for what is left over and, unless `allowzero`, 0 for the input's size there.
    A size that the data decide becomes a fresh symbol, bounded by the number of elements if there are any.
    """

    name = "tensor.reshape"
    data = operand(moved=True)
    shape = operand(static=True)
    allowzero = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        target = partial_sizes(self, self.shape, "shape")
        return (self.data.type.with_shape(self._target(self.data.type.shape, target)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, shape = np.asarray(arrays[0]), np.asarray(arrays[1])
        sizes = self._target(data.shape, list(shape.reshape(-1).tolist()))
        return data.reshape(whole(sizes))

    def _target(self, shape: Sizes, target: PartialShape) -> Sizes:
        """The result's shape for known and unknown (None) elements of the `shape` operand."""
        if not self.allowzero:
            target = [self._copied(shape, axis) if size == 0 else size for axis, size in enumerate(target)]
        elif 0 in target and -1 in target:
            raise self.fail("with allowzero, the shape cannot hold both 0 and -1")
        if target.count(-1) > 1 or any(isinstance(size, int) and size < -1 for size in target):
            raise self.fail(f"cannot reshape to {target}: at most one -1 and no other negative size")
        left_over = self._left_over(shape, [size for size in target if size != -1]) if -1 in target else None
        upper = upper_elements(shape) or LARGEST
        sizes = [left_over if size == -1 else size for size in target]
        result = tuple(
            fresh_size(self, upper, axis=axis) if size is None else size for axis, size in enumerate(sizes)
        )
        found, wanted = math.prod(shape), math.prod(result)
        if isinstance(found, int) and isinstance(wanted, int) and found != wanted:
            raise self.fail(f"cannot reshape {list(shape)} with {found} elements to {target} with {wanted}")
        return result

    def _copied(self, shape: Sizes, axis: int) -> int | Expression:
        if axis >= len(shape):
            raise self.fail(f"0 at position {axis} copies an axis that the rank-{len(shape)} input lacks")
        return shape[axis]

    def _left_over(self, shape: Sizes, others: PartialShape) -> int | Expression | None:
        """What -1 stands for, None where only the data tell; equal sizes cancel, so 0/0 does not arise."""
        if None in others:
            return None
        rest = [size for size in others if size is not None]
        top: list[int | Expression] = []
        for size in shape:
            if size in rest:
                rest.remove(size)
            else:
                top.append(size)
        numerator, denominator = math.prod(top), math.prod(rest)
        if denominator == 0 or (
            isinstance(numerator, int) and isinstance(denominator, int) and numerator % denominator
        ):
            raise self.fail(f"-1 has no whole size: cannot divide {list(shape)} among {list(others)}")
        try:
            exact = isinstance(denominator, int)
            return numerator // denominator if exact else _exact(numerator, denominator)
        except RtccError:
            return None


def _exact(numerator: int | Expression, denominator: Expression) -> int | Expression | None:
    return numerator // denominator if isinstance(numerator, Expression) else 0 if numerator == 0 else None


class Flatten(View):
    """A matrix: axes before `axis` become the rows, the others the columns (ONNX Flatten)."""

    name = "tensor.flatten"
    data = operand(moved=True)
    axis = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        shape, axis = self.data.type.shape, self._split_at(self.data.type.rank)
        return (self.data.type.with_shape((math.prod(shape[:axis]), math.prod(shape[axis:]))),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data = np.asarray(arrays[0])
        axis = self._split_at(data.ndim)
        return data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))

    def _split_at(self, rank: int) -> int:
        if not -rank <= self.axis <= rank:
            raise self.fail(f"axis {self.axis} is out of range for rank {rank}")
        return self.axis + rank if self.axis < 0 else self.axis


class Squeeze(View):
    """The tensor without the axes named, each of size 1; without `axes`, all of size 1 (ONNX Squeeze)."""

    name = "tensor.squeeze"
    data = operand(moved=True)
    axes = optional_operand(static=True)

    def infer(self) -> tuple[TensorType, ...]:
        shape = self.data.type.shape
        axes = None if self.axes is None else integers(self, self.axes, "axes")
        dropped = self._dropped(shape, axes)
        return (self.data.type.with_shape(d for i, d in enumerate(shape) if i not in dropped),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, axes = np.asarray(arrays[0]), at(arrays, 1)
        dropped = self._dropped(data.shape, None if axes is None else axes.reshape(-1).tolist())
        return data.reshape([d for i, d in enumerate(data.shape) if i not in dropped])

    def _dropped(self, shape: Sizes, axes: Sequence[int] | None) -> tuple[int, ...]:
        if axes is None:
            doubtful = [d for d in shape if isinstance(d, Expression) and d.bounds[0] <= 1 <= d.bounds[1]]
            if doubtful:
                raise self.fail(
                    f"without axes, it is open whether the symbolic size {doubtful[0]} is squeezed",
                    hint="bind symbolic dimensions with --shape, or give the axes",
                )
            return tuple(i for i, d in enumerate(shape) if d == 1)
        dropped = normal_axes(self, axes, len(shape))
        for axis in dropped:
            size = shape[axis]
            if isinstance(size, int) and size != 1:
                raise self.fail(f"axis {axis} of {list(shape)} has size {size}, expected 1")
        return dropped


class Unsqueeze(View):
    """The tensor with new axes of size 1, whose positions count in the result (ONNX Unsqueeze)."""

    name = "tensor.unsqueeze"
    data = operand(moved=True)
    axes = operand(static=True)

    def infer(self) -> tuple[TensorType, ...]:
        axes = integers(self, self.axes, "axes")
        return (self.data.type.with_shape(self._widened(self.data.type.shape, axes)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, axes = np.asarray(arrays[0]), np.asarray(arrays[1])
        return data.reshape(whole(self._widened(data.shape, axes.reshape(-1).tolist())))

    def _widened(self, shape: Sizes, axes: Sequence[int]) -> Sizes:
        rank = len(shape) + len(axes)
        added = normal_axes(self, axes, rank)
        kept = iter(shape)
        return tuple(1 if axis in added else next(kept) for axis in range(rank))


class Expand(Op):
    """The tensor broadcast with `shape`, both ways (ONNX Expand): a 1 in `shape` keeps the input's size."""

    name = "tensor.expand"
    role = Role.MOVEMENT
    data = operand(moved=True)
    shape = operand(static=True)

    def infer(self) -> tuple[TensorType, ...]:
        shape, target = self.data.type.shape, partial_sizes(self, self.shape, "shape")
        rank = max(len(shape), len(target))
        padded = (1,) * (rank - len(shape)) + shape
        wanted: list[int | Expression | None] = [1] * (rank - len(target))
        wanted += target
        sizes = tuple(
            (old if old != 1 else fresh_size(self, axis=axis)) if new is None else new
            for axis, (old, new) in enumerate(zip(padded, wanted, strict=True))
        )
        return (self.data.type.with_shape(broadcast_shapes(padded, sizes)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, shape = np.asarray(arrays[0]), np.asarray(arrays[1])
        sizes = np.broadcast_shapes(data.shape, tuple(shape.reshape(-1).tolist()))
        return np.broadcast_to(data, sizes).copy()


class ConstantOfShape(Op):
    """A tensor of the shape given, filled with the one element of `value`, else f32 zeros.

    ONNX ConstantOfShape, whose tensor attribute `value` is an operand here.
    """

    name = "tensor.constant_of_shape"
    role = Role.MOVEMENT
    shape = operand(static=True)
    value = optional_operand()

    def infer(self) -> tuple[TensorType, ...]:
        sizes = partial_sizes(self, self.shape, "shape")
        shape = tuple(fresh_size(self, axis=i) if size is None else size for i, size in enumerate(sizes))
        return (TensorType(DType.F32 if self.value is None else self.value.type.dtype, shape),)

    def evaluate(self, *arrays: Array | None) -> Array:
        shape, value = np.asarray(arrays[0]), at(arrays, 1)
        fill = np.zeros(1, np.float32) if value is None else value.reshape(-1)[:1]
        if (shape < 0).any():
            raise self.fail(f"sizes must not be negative, found {shape.tolist()}")
        return np.broadcast_to(fill, (*shape.reshape(-1).tolist(), 1))[..., 0].copy()


class Range(Op):
    """start, start + delta, … before limit, as a vector (ONNX Range); i · delta is added, not accumulated.

    The length is max(ceil((limit - start) / delta), 0). f16 and bf16 are computed in f32 when
    `stash_type` is 1. A delta of 0 is an error.
    """

    name = "tensor.range"
    role = Role.MOVEMENT
    start = operand(static=True)
    limit = operand(static=True)
    delta = operand(static=True)
    stash_type = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        if {v.type.dtype for v in self.present_operands} != {self.start.type.dtype}:
            raise self.fail("start, limit and delta must have one dtype")
        return (TensorType(self.start.type.dtype, (self._inferred_length(),)),)

    def _inferred_length(self) -> int | Expression:
        known = [known_value(v) for v in (self.start, self.limit, self.delta)]
        numbers = [None if k is None or k.size != 1 else k.item() for k in known]
        start, limit, delta = numbers
        if start is None or limit is None or delta is None:
            return fresh_size(self)
        if not any(isinstance(n, Expression) for n in numbers):
            return self._length(*(np.array(n, self.start.type.dtype.numpy) for n in numbers))
        if not all(_is_whole(n) for n in numbers):
            return fresh_size(self)
        start, limit, delta = _whole(start), _whole(limit), _whole(delta)
        span = limit - start
        if isinstance(delta, Expression) or delta <= 0 or isinstance(span, int | float) or span.bounds[0] < 0:
            return fresh_size(self)
        return (span + (delta - 1)) // delta

    def evaluate(self, *arrays: Array | None) -> Array:
        given = [np.asarray(a).reshape(()) for a in arrays]
        dtype = given[0].dtype
        narrow = dtype.itemsize == 2 and DType.of(dtype).is_float and self.stash_type == 1
        start, limit, delta = (a.astype(np.float32) if narrow else a for a in given)
        counts = counting(self._length(start, limit, delta)).astype(start.dtype)
        with np.errstate(all="ignore"):
            return (start + counts * delta).astype(dtype)

    def _length(self, start: Array, limit: Array, delta: Array) -> int:
        if delta.item() == 0:
            raise self.fail("delta must not be 0")
        if start.dtype.kind in "iu":
            return max(-((start.item() - limit.item()) // delta.item()), 0)
        return max(math.ceil(float(limit - start) / float(delta)), 0)


def _is_whole(number: object) -> bool:
    return number.is_integer() if isinstance(number, float) else True


def _whole(number: float | int | Expression) -> int | Expression:
    """A number that has no fraction, as an integer."""
    return int(number) if isinstance(number, float) else number


class EyeLike(Op):
    """Ones on diagonal `k` of a matrix of the input's shape (ONNX EyeLike); `dtype` "" keeps the input's."""

    name = "tensor.eye_like"
    role = Role.MOVEMENT
    data = operand(type_only=True)
    dtype = attribute("")
    k = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        if self.data.type.rank != 2:
            raise self.fail(f"expected a matrix, found {self.data.type}")
        dtype = DType(self.dtype) if self.dtype else self.data.type.dtype
        return (TensorType(dtype, self.data.type.shape),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data = np.asarray(arrays[0])
        return np.eye(*data.shape, k=self.k).astype(DType(self.dtype).numpy if self.dtype else data.dtype)

