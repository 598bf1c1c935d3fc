"""Operators that move whole slabs: transpose, concat, split, slice, pad, tile, blocks to depth and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from rtcc.ir.dimension import LARGEST, Expression, upper_bound
from rtcc.ir.op import (
    Array,
    AttributeSlot,
    Op,
    attribute,
    ints,
    operand,
    optional_operand,
    required_attribute,
    variadic_operand,
)  # fmt: skip
from rtcc.ir.ops.axes import (
    agree,
    at,
    counting,
    fresh_size,
    integers,
    normal_axes,
    normal_axis,
    partial_sizes,
    vector_length,
    whole,
)
from rtcc.ir.roles import Role
from rtcc.ir.types import Shape, TensorType
from rtcc.ir.value import Value


class Transpose(Op):
    """Result axis i is input axis perm[i] (ONNX Transpose); an empty `perm` reverses the axes."""

    name = "tensor.transpose"
    role = Role.MOVEMENT
    data = operand(moved=True)
    perm = ints()

    def infer(self) -> tuple[TensorType, ...]:
        shape = self.data.type.shape
        return (self.data.type.with_shape(shape[axis] for axis in self.permutation(len(shape))),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data = np.asarray(arrays[0])
        return data.transpose(self.permutation(data.ndim))

    def permutation(self, rank: int) -> tuple[int, ...]:
        """`perm`, or the reversal of the axes where it is left out."""
        if not self.perm and rank:
            return tuple(reversed(range(rank)))
        if sorted(self.perm) != list(range(rank)):
            raise self.fail(f"perm {self.perm} is no permutation of the {rank} axes")
        return tuple(self.perm)


class Concat(Op):
    """The inputs one after the other along an axis (ONNX Concat)."""

    name = "tensor.concat"
    role = Role.OPAQUE
    inputs = variadic_operand(moved=True)
    axis = required_attribute(int)

    def infer(self) -> tuple[TensorType, ...]:
        types = [value.type for value in self.inputs]
        if not types:
            raise self.fail("expected at least one input")
        if len({(t.dtype, t.rank) for t in types}) != 1:
            raise self.fail(f"inputs must have one dtype and rank, found {', '.join(map(str, types))}")
        axis = normal_axis(self, self.axis, types[0].rank)
        shape = [self._agreed([t.shape[i] for t in types], i) for i in range(types[0].rank) if i != axis]
        shape.insert(axis, sum((t.shape[axis] for t in types[1:]), types[0].shape[axis]))
        return (types[0].with_shape(shape),)

    def _agreed(self, sizes: list[int | Expression], axis: int) -> int | Expression:
        fixed = sorted({size for size in sizes if isinstance(size, int)})
        if len(fixed) > 1:
            raise self.fail(f"inputs differ in axis {axis}: sizes {fixed}")
        return fixed[0] if fixed else sizes[0]

    def evaluate(self, *arrays: Array | None) -> Array:
        return np.concatenate([a for a in arrays if a is not None], self.axis)


class Split(Op):
    """Consecutive parts along an axis (ONNX Split): sizes by operand `split`, else `num_outputs` equal ones.

    Where the size is no multiple of `num_outputs`, the last part is smaller.
    """

    name = "tensor.split"
    role = Role.COMPOSITE
    data = operand(moved=True)
    split = optional_operand(static=True)
    axis = attribute(0)
    num_outputs: AttributeSlot[int | None] = attribute(None)

    def infer(self) -> tuple[TensorType, ...]:
        shape = self.data.type.shape
        axis = normal_axis(self, self.axis, len(shape))
        if self.split is None:
            parts = self._equal_parts(shape[axis])
        else:
            parts = self._given_parts(self.split, shape[axis], axis)
        return tuple(self.data.type.with_shape((*shape[:axis], p, *shape[axis + 1 :])) for p in parts)

    def inferred_types(self, results: int | None = None) -> tuple[TensorType, ...]:
        types = super().inferred_types(1 << 30)
        if results is not None and results > len(types):
            raise self.fail(f"splits into {len(types)} parts, but {results} results are wanted")
        return types

    def _given_parts(self, split: Value, size: int | Expression, axis: int) -> list[int | Expression]:
        sizes = partial_sizes(self, split, "split")
        parts = [
            fresh_size(self, upper_bound(size), result=i, axis=axis) if part is None else part
            for i, part in enumerate(sizes)
        ]
        total = sum(parts[1:], parts[0]) if parts else 0
        if any(isinstance(p, int) and p < 0 for p in parts) or (
            isinstance(size, int) and isinstance(total, int) and total != size
        ):
            raise self.fail(f"cannot split an axis of size {size} into {parts}")
        return parts

    def _equal_parts(self, size: int | Expression) -> list[int | Expression]:
        count = self.num_outputs
        if count is None or count < 1:
            raise self.fail("expected an operand `split` or a positive `num_outputs`")
        part = (size + (count - 1)) // count
        if isinstance(size, int) and isinstance(part, int):
            starts = [min(i * part, size) for i in range(count + 1)]
            return [b - a for a, b in pairwise(starts)]
        return [*[part] * (count - 1), size - part * (count - 1)]

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        data, split = np.asarray(arrays[0]), at(arrays, 1)
        size = data.shape[self.axis]
        parts = whole(tuple(self._equal_parts(size) if split is None else split.reshape(-1).tolist()))
        if sum(parts) != size or min(parts, default=0) < 0:
            raise self.fail(f"cannot split an axis of size {size} into {parts}")
        return tuple(np.split(data, np.cumsum(np.array(parts, np.int64))[:-1], self.axis))


class Slice(Op):
    """Strided parts along some axes (ONNX Slice), NumPy's start:end:step without its None.

    starts, ends, axes, steps are vectors of one length. Negative starts and ends count from the end;
    both are clamped to the axis, so a slice past the end is empty, never an error. `axes` left out:
    the leading ones. A step of 0 is an error.
    """

    name = "tensor.slice"
    role = Role.MOVEMENT
    data = operand(moved=True)
    starts = operand(static=True)
    ends = operand(static=True)
    axes = optional_operand(static=True)
    steps = optional_operand(static=True)

    def infer(self) -> tuple[TensorType, ...]:
        shape = list(self.data.type.shape)
        starts = partial_sizes(self, self.starts, "starts")
        ends = partial_sizes(self, self.ends, "ends")
        axes = self._axes(None if self.axes is None else integers(self, self.axes, "axes"), len(starts))
        steps = [1] * len(starts) if self.steps is None else partial_sizes(self, self.steps, "steps")
        if not len(starts) == len(ends) == len(axes) == len(steps):
            raise self.fail("starts, ends, axes and steps must have one length")
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            length = _sliced(shape[axis], start, end, step)
            upper = upper_bound(shape[axis])
            shape[axis] = fresh_size(self, upper, axis=axis) if length is None else length
        return (self.data.type.with_shape(shape),)

    def _axes(self, axes: Sequence[int] | None, count: int) -> tuple[int, ...]:
        return normal_axes(self, range(count) if axes is None else axes, self.data.type.rank)

    def evaluate(self, *arrays: Array | None) -> Array:
        data = np.asarray(arrays[0])
        starts, ends = ([int(n) for n in np.asarray(a).reshape(-1)] for a in arrays[1:3])
        axes, steps = at(arrays, 3), at(arrays, 4)
        named = range(len(starts)) if axes is None else axes.reshape(-1).tolist()
        places = normal_axes(self, named, data.ndim)
        strides = [1] * len(starts) if steps is None else [int(n) for n in steps.reshape(-1)]
        cut = [slice(None)] * data.ndim
        for axis, start, end, step in zip(places, starts, ends, strides, strict=True):
            if step == 0:
                raise self.fail("a step must not be 0")
            cut[axis] = clamped_slice(start, end, step, data.shape[axis])
        return data[tuple(cut)]


def clamped_slice(start: int, end: int, step: int, size: int) -> slice:
    """The NumPy slice for ONNX's numbers; unlike NumPy's, a start before the first element is the first."""
    high = size if step > 0 else size - 1
    first = min(max(start + size if start < 0 else start, 0), high)
    last = min(max(end + size if end < 0 else end, 0 if step > 0 else -1), high)
    return slice(first, None if last < 0 else last, step)


ENDLESS = 10**9
"""Exporters write an end of this or more for "to the end"; an axis that nobody bounded is shorter."""


def _sliced(
    size: int | Expression, start: Any, end: Any, step: int | Expression | None
) -> int | Expression | None:
    """Length of a slice, None where only the data tell. The bounds of sizes decide symbolic comparisons."""
    if isinstance(step, Expression) or step is None or start is None or end is None:
        return None
    if step == 0:
        raise ValueError("a step must not be 0")
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(size)[clamped_slice(start, end, step, size)])
    if isinstance(end, int) and abs(end) >= ENDLESS:
        end = 2 * LARGEST if end > 0 else -2 * LARGEST
    high = size if step > 0 else size - 1
    first, last = _clamped(start, size, 0, high), _clamped(end, size, 0 if step > 0 else -1, high)
    if first is None or last is None:
        return None
    span = last - first if step > 0 else first - last
    if isinstance(span, int):
        return max(-(-span // abs(step)), 0)
    if span.bounds[0] < 0:
        return 0 if span.bounds[1] <= 0 else None
    return (span + (abs(step) - 1)) // abs(step)


def _clamped(number: Any, size: Any, low: int, high: int | Expression) -> int | Expression | None:
    """A start or end counted from the front and clamped to [low, high], None where that is open."""
    least, most = _bounds(number)
    if least < 0:
        if most >= 0:
            return None
        number = size + number
    if _bounds(number - high)[0] >= 0:
        return high
    if _bounds(number - low)[1] <= 0:
        return low
    decided = _bounds(number - high)[1] <= 0 and _bounds(number - low)[0] >= 0
    return number if decided else None


def _bounds(number: int | Expression) -> tuple[int, int]:
    return (number, number) if isinstance(number, int) else number.bounds


class Pad(Op):
    """The tensor with margins added, or cut where a pad is negative (ONNX Pad).

    `pads` holds the margins before, then after, of each of `axes` (all axes where left out). Modes:
    constant (`constant_value`, else 0), reflect (not repeating the edge), edge, wrap (a torus).
    """

    name = "tensor.pad"
    role = Role.MOVEMENT
    data = operand()
    pads = operand(static=True)
    constant_value = optional_operand()
    axes = optional_operand(static=True)
    mode = attribute("constant")

    def infer(self) -> tuple[TensorType, ...]:
        shape = list(self.data.type.shape)
        axes = self._axes(None if self.axes is None else integers(self, self.axes, "axes"), len(shape))
        if vector_length(self, self.pads, "pads") != 2 * len(axes):
            raise self.fail(f"expected {2 * len(axes)} pads, found {self.pads.type}")
        pads = partial_sizes(self, self.pads, "pads")
        for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
            if before is None or after is None:
                size = fresh_size(self, axis=axis)
            else:
                size = shape[axis] + before + after
                if self.mode != "constant" and shape[axis] == 0 and size != 0:
                    raise self.fail(f"mode {self.mode} cannot pad the empty axis {axis}")
            shape[axis] = size
            if isinstance(size, int) and size < 0:
                raise self.fail(f"negative pads remove more than axis {axis} has")
        return (self.data.type.with_shape(shape),)

    def _axes(self, axes: Sequence[int] | None, rank: int) -> tuple[int, ...]:
        if self.mode not in ("constant", "reflect", "edge", "wrap"):
            raise self.fail(f"unknown mode {self.mode!r}: expected constant, reflect, edge or wrap")
        return tuple(range(rank)) if axes is None else normal_axes(self, axes, rank)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, pads = np.asarray(arrays[0]), np.asarray(arrays[1]).reshape(-1)
        value, axes = at(arrays, 2), at(arrays, 3)
        places = self._axes(None if axes is None else axes.reshape(-1).tolist(), data.ndim)
        for axis, before, after in zip(places, pads[: len(places)], pads[len(places) :], strict=True):
            data = self._padded(data, axis, int(before), int(after), value)
        return data

    def _padded(self, data: Array, axis: int, before: int, after: int, value: Array | None) -> Array:
        """One axis: positions in the padded axis map to positions of the input."""
        size = data.shape[axis]
        positions = counting(size + after, -before)
        if self.mode == "constant":
            inside = (positions >= 0) & (positions < size)
            fill = data.dtype.type() if value is None else value.reshape(-1)[0]
            shape = list(data.shape)
            shape[axis] = len(positions)
            padded = np.full(shape, fill, data.dtype)
            index = (slice(None),) * axis
            padded[(*index, inside)] = data[(*index, positions[inside])]
            return padded
        if size == 0 and len(positions):
            raise self.fail(f"mode {self.mode} cannot pad the empty axis {axis}")
        return data.take(_source_positions(self.mode, positions, size), axis)


def _source_positions(mode: str, positions: Array, size: int) -> Array:
    if mode == "edge":
        return positions.clip(0, size - 1)
    if mode == "wrap":
        return positions % max(size, 1)
    period = max(2 * (size - 1), 1)
    folded = positions % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(positions)


class Tile(Op):
    """The tensor repeated repeats[i] times along axis i (ONNX Tile)."""

    name = "tensor.tile"
    role = Role.MOVEMENT
    data = operand(moved=True)
    repeats = operand(static=True)

    def infer(self) -> tuple[TensorType, ...]:
        shape, repeats = self.data.type.shape, partial_sizes(self, self.repeats, "repeats")
        if len(shape) != len(repeats):
            raise self.fail(f"expected {len(shape)} repeats, found {len(repeats)}")
        sizes = [
            fresh_size(self, axis=axis) if count is None else size * count
            for axis, (size, count) in enumerate(zip(shape, repeats, strict=True))
        ]
        return (self.data.type.with_shape(sizes),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, repeats = np.asarray(arrays[0]), np.asarray(arrays[1]).reshape(-1)
        if len(repeats) != data.ndim or (repeats < 0).any():
            raise self.fail(f"expected {data.ndim} non-negative repeats, found {repeats.tolist()}")
        return np.tile(data, repeats.tolist())


class DepthToSpace(Op):
    """Channels of NCHW become blocksize x blocksize pixels (ONNX DepthToSpace).

    mode DCR: the block is the slower part of the channel index; CRD: the faster.
    """

    name = "tensor.depth_to_space"
    role = Role.MOVEMENT
    data = operand(moved=True)
    blocksize = required_attribute(int)
    mode = attribute("DCR")

    def infer(self) -> tuple[TensorType, ...]:
        n, c, h, w = _image(self, self.data.type.shape, self.mode)
        area = self.blocksize**2
        if isinstance(c, int) and c % area:
            raise self.fail(f"{c} channels are no multiple of blocksize² = {area}")
        return (self.data.type.with_shape((n, c // area, h * self.blocksize, w * self.blocksize)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, b = np.asarray(arrays[0]), self.blocksize
        n, c, h, w = whole(_image(self, data.shape, self.mode))
        if self.mode == "DCR":
            blocks = data.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
        else:
            blocks = data.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, c // b**2, h * b, w * b)


class SpaceToDepth(Op):
    """blocksize x blocksize pixels of NCHW become channels (ONNX SpaceToDepth), undoing DepthToSpace."""

    name = "tensor.space_to_depth"
    role = Role.MOVEMENT
    data = operand(moved=True)
    blocksize = required_attribute(int)
    mode = attribute("DCR")

    def infer(self) -> tuple[TensorType, ...]:
        n, c, h, w = _image(self, self.data.type.shape, self.mode)
        b = self.blocksize
        if any(isinstance(d, int) and d % b for d in (h, w)):
            raise self.fail(f"height {h} and width {w} must be multiples of blocksize {b}")
        return (self.data.type.with_shape((n, c * b**2, h // b, w // b)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, b = np.asarray(arrays[0]), self.blocksize
        n, c, h, w = whole(_image(self, data.shape, self.mode))
        blocks = data.reshape(n, c, h // b, b, w // b, b)
        order = (0, 3, 5, 1, 2, 4) if self.mode == "DCR" else (0, 1, 3, 5, 2, 4)
        return blocks.transpose(order).reshape(n, c * b**2, h // b, w // b)


def _image(op: DepthToSpace | SpaceToDepth, shape: Shape, mode: str) -> Shape:
    if len(shape) != 4 or mode not in ("DCR", "CRD") or op.blocksize < 1:
        raise op.fail(f"expected NCHW, mode DCR or CRD, blocksize ≥ 1; found {shape}, {mode}, {op.blocksize}")
    return shape


class Trilu(Op):
    """The upper (else lower) triangle of the last two axes, zeros elsewhere (ONNX Trilu).

    `k` moves the diagonal: positive to the upper right.
    """

    name = "tensor.trilu"
    role = Role.MOVEMENT
    data = operand()
    k = optional_operand(static=True)
    upper = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        if self.data.type.rank < 2:
            raise self.fail(f"expected at least two axes, found {self.data.type}")
        return (self.data.type.with_layout(None),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, k = np.asarray(arrays[0]), at(arrays, 1)
        diagonal = 0 if k is None else int(k.reshape(-1)[0])
        rows, columns = counting(data.shape[-2])[:, None], counting(data.shape[-1])
        kept = columns - rows >= diagonal if self.upper else columns - rows <= diagonal
        return np.where(kept, data, data.dtype.type())


class ReverseSequence(Op):
    """The first sequence_lens[b] steps of each batch entry reversed, the rest kept (ONNX ReverseSequence)."""

    name = "tensor.reverse_sequence"
    role = Role.MOVEMENT
    data = operand(moved=True)
    sequence_lens = operand()
    batch_axis = attribute(1)
    time_axis = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        if {self.batch_axis, self.time_axis} != {0, 1} or self.data.type.rank < 2:
            raise self.fail("batch_axis and time_axis must be 0 and 1, of a tensor with at least two axes")
        if not agree(self.sequence_lens.type.shape, (self.data.type.shape[self.batch_axis],)):
            raise self.fail(f"needs a length for each sequence of {self.data.type}")
        return (self.data.type.with_layout(None),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, lengths = np.asarray(arrays[0]), np.asarray(arrays[1])
        times = counting(data.shape[self.time_axis])[None, :]
        if lengths.size and not 0 <= lengths.min() <= lengths.max() <= times.size:
            raise self.fail(f"sequence lengths must be in [0, {times.size}], found {lengths.tolist()}")
        source = np.where(times < lengths[:, None], lengths[:, None] - 1 - times, times)
        batches = counting(data.shape[self.batch_axis])[:, None]
        if self.time_axis == 1:
            return data[batches, source]
        return data[source, batches].swapaxes(0, 1)


class CenterCropPad(Op):
    """The middle of the tensor cut, or zeros added around it, to the sizes given (ONNX CenterCropPad).

    An odd surplus is cut, and an odd lack filled, at the end.
    """

    name = "tensor.center_crop_pad"
    role = Role.COMPOSITE
    data = operand()
    shape = operand(static=True)
    axes = ints()

    def infer(self) -> tuple[TensorType, ...]:
        sizes = list(self.data.type.shape)
        wanted = partial_sizes(self, self.shape, "shape")
        for axis, size in zip(self._axes(len(sizes)), wanted, strict=True):
            sizes[axis] = fresh_size(self, axis=axis) if size is None else size
        return (self.data.type.with_shape(sizes),)

    def _axes(self, rank: int) -> tuple[int, ...]:
        return normal_axes(self, self.axes, rank) if self.axes else tuple(range(rank))

    def evaluate(self, *arrays: Array | None) -> Array:
        data, shape = np.asarray(arrays[0]), np.asarray(arrays[1])
        for axis, wanted in zip(self._axes(data.ndim), shape.reshape(-1).tolist(), strict=True):
            data = _centered(data, axis, wanted)
        return data


def _centered(data: Array, axis: int, wanted: int) -> Array:
    size = data.shape[axis]
    before = (size - wanted) // 2 if size >= wanted else 0
    cut = (slice(None),) * axis
    kept = data[(*cut, slice(before, before + wanted))]
    margin = (wanted - size) // 2 if size < wanted else 0
    shape = list(data.shape)
    shape[axis] = wanted
    result = np.zeros(shape, data.dtype)
    result[(*cut, slice(margin, margin + kept.shape[axis]))] = kept
    return result
