"""Operators whose result depends on comparing elements: top-k, non-zero, unique, compress, suppression.

Where the size of the result is decided by the data, it is a symbol bounded by what could be selected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.ir.dimension import LARGEST, Expression, upper_bound
from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, AttributeSlot, Op, attribute, operand, optional_operand
from rtcc.ir.ops.axes import agree, at, counting, fresh_size, normal_axis, upper_elements
from rtcc.ir.roles import Role
from rtcc.ir.shape_value import known_integers, known_shape_value
from rtcc.ir.types import TensorType


class TopK(Op):
    """The k largest (else smallest) elements along an axis and their i64 indices (ONNX TopK).

    Always sorted. Of equal elements the one with the lower index comes first; NaN counts as larger than
    every number. A k beyond the axis is an error.
    """

    name = "tensor.top_k"
    role = Role.OPAQUE
    positions_result = 1
    results_required = 2
    data = operand()
    k = operand(static=True)
    axis = attribute(-1)
    largest = attribute(1)
    sorted = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        shape = list(self.data.type.shape)
        axis = normal_axis(self, self.axis, len(shape))
        known, size = known_shape_value(self.k), shape[axis]
        k = known[0] if known else fresh_size(self, upper_bound(size), axis=axis)
        if isinstance(k, int) and isinstance(size, int) and not 0 <= k <= size:
            raise self.fail(f"k must be in [0, {size}], found {k}")
        shape[axis] = k
        return self.data.type.with_shape(shape), TensorType(DType.I64, tuple(shape))

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        data, k = np.asarray(arrays[0]), int(np.asarray(arrays[1]).reshape(-1)[0])
        size = data.shape[self.axis]
        if not 0 <= k <= size:
            raise self.fail(f"k must be in [0, {size}], found {k}")
        if self.largest:
            reversed_order = np.flip(data, self.axis).argsort(self.axis, kind="stable")
            order = size - 1 - np.flip(reversed_order, self.axis)
        else:
            order = data.argsort(self.axis, kind="stable")
        first = order.take(counting(k), self.axis)
        return np.take_along_axis(data, first, self.axis), first.astype(np.int64)


class NonZero(Op):
    """Indices of the elements that are not 0, as i64[rank, count] in row-major order (ONNX NonZero).

    NaN is not 0. The count is a symbol in [0, elements].
    """

    name = "tensor.non_zero"
    role = Role.COMPOSITE
    data = operand()

    def infer(self) -> tuple[TensorType, ...]:
        count = fresh_size(self, upper_elements(self.data.type.shape), axis=1)
        return (TensorType(DType.I64, (self.data.type.rank, count)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data = np.asarray(arrays[0])
        if data.ndim == 0:
            return np.zeros((0, int(data.astype(np.bool_))), np.int64)
        return np.array(np.nonzero(data), np.int64).reshape(data.ndim, -1)


class Unique(Op):
    """The distinct elements, or the distinct slices along `axis` (ONNX Unique).

    Results: the distinct ones (ascending, or by first occurrence where not `sorted`), then optionally, as
    i64 vectors: first occurrences, where each input went, how often each occurs. NaNs are equal.
    """

    name = "tensor.unique"
    role = Role.COMPOSITE
    data = operand()
    axis: AttributeSlot[int | None] = attribute(None)
    sorted = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        shape = self.data.type.shape
        axis = None if self.axis is None else normal_axis(self, self.axis, len(shape))
        total = upper_elements(shape) if axis is None else upper_bound(shape[axis])
        count = fresh_size(self, total, axis=axis or 0)
        distinct = (count,) if axis is None else (*shape[:axis], count, *shape[axis + 1 :])
        inverse = _product(shape) if axis is None else shape[axis]
        vectors = (TensorType(DType.I64, (size,)) for size in (count, inverse, count))
        return (self.data.type.with_shape(distinct), *vectors)

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        data = np.asarray(arrays[0])
        distinct, first, inverse, counts = np.unique(data, True, True, True, axis=self.axis)
        inverse = inverse.reshape(-1)
        if not self.sorted:
            order = np.argsort(first, kind="stable")
            distinct = distinct.take(order, 0 if self.axis is None else self.axis)
            first, counts, inverse = first[order], counts[order], np.argsort(order)[inverse]
        results = (distinct, first, inverse, counts)
        return (distinct, *(vector.astype(np.int64) for vector in results[1:]))[: max(len(self.results), 1)]


def _product(shape: tuple[int | Expression, ...]) -> int | Expression:
    total: int | Expression = 1
    for size in shape:
        total = total * size
    return total


class Compress(Op):
    """The slices along `axis` (the elements, where it is left out) whose condition holds (ONNX Compress).

    A condition shorter than the axis drops the rest. The count is a symbol unless the condition is known.
    """

    name = "tensor.compress"
    role = Role.COMPOSITE
    data = operand()
    condition = operand()
    axis: AttributeSlot[int | None] = attribute(None)

    def infer(self) -> tuple[TensorType, ...]:
        shape = self.data.type.shape
        axis = None if self.axis is None else normal_axis(self, self.axis, len(shape))
        length = self.condition.type.shape[0] if self.condition.type.rank == 1 else None
        if length is None:
            raise self.fail(f"the condition must be a vector, found {self.condition.type}")
        known = known_integers(self.condition)
        upper = min(upper_bound(length), upper_elements(shape) if axis is None else upper_bound(shape[axis]))
        count = fresh_size(self, upper, axis=axis or 0) if known is None else sum(map(bool, known))
        kept = (count,) if axis is None else (*shape[:axis], count, *shape[axis + 1 :])
        return (self.data.type.with_shape(kept),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, condition = np.asarray(arrays[0]), np.asarray(arrays[1])
        data, axis = (data.reshape(-1), 0) if self.axis is None else (data, self.axis)
        if condition.size > data.shape[axis]:
            raise self.fail(f"{condition.size} conditions for an axis of size {data.shape[axis]}")
        return data.take(np.flatnonzero(condition), axis)


class NonMaxSuppression(Op):
    """Boxes kept per batch and class, best score first, that overlap no better one (ONNX NonMaxSuppression).

    boxes: [batch, n, 4], two opposite corners (y, x, y, x), or centre and size (x, y, w, h) with
    center_point_box = 1; scores: [batch, class, n]. A box is dropped when its intersection over union with
    a kept one exceeds iou_threshold, or its score is not above score_threshold. Equal scores: lower index
    first. Result: i64[kept, 3] of (batch, class, box).
    """

    name = "tensor.non_max_suppression"
    role = Role.COMPOSITE
    boxes = operand()
    scores = operand()
    max_output_boxes_per_class = optional_operand(static=True)
    iou_threshold = optional_operand()
    score_threshold = optional_operand()
    center_point_box = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        boxes, scores = self.boxes.type.shape, self.scores.type.shape
        if len(boxes) != 3 or len(scores) != 3 or boxes[2] != 4:
            raise self.fail(f"expected boxes [b, n, 4] and scores [b, class, n], found {boxes}, {scores}")
        if not agree(boxes[:2], (scores[0], scores[2])):
            raise self.fail(f"boxes {self.boxes.type} do not fit scores {self.scores.type}")
        most = self.max_output_boxes_per_class
        if most is not None and most.type.dtype.is_float:
            raise self.fail(f"max_output_boxes_per_class must be an integer, found {most.type}")
        limit = (0,) if most is None else known_integers(most)
        per_class = min(upper_bound(boxes[1]), limit[0] if limit else LARGEST)
        upper = min(upper_elements(scores[:2]) * max(per_class, 0), LARGEST)
        return (TensorType(DType.I64, (fresh_size(self, upper), 3)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        return kept_boxes(*map(np.asarray, arrays[:2]), is_centered=bool(self.center_point_box),
                          thresholds=arrays[2:])  # fmt: skip


def kept_boxes(
    boxes: Array, scores: Array, *, is_centered: bool, thresholds: Sequence[Array | None]
) -> Array:
    """i64[kept, 3] as `NonMaxSuppression` gives it.

    thresholds: the most boxes of a class, the overlap, the least score; fewer, or None, where left out.
    """
    limit, overlap, least = (_scalar(at(thresholds, i)) for i in range(3))
    corners = _corners(boxes, is_centered)
    kept: list[tuple[int, int, int]] = []
    for batch, kind in np.ndindex(scores.shape[0], scores.shape[1]):
        chosen = _suppress(corners[batch], scores[batch, kind], int(limit or 0), overlap or 0, least)
        kept += [(batch, kind, box) for box in chosen]
    return np.array(kept, np.int64).reshape(-1, 3)


def _scalar(array: Array | None) -> float | None:
    return None if array is None or not array.size else array.reshape(-1)[0]


def _corners(boxes: Array, is_centered: bool) -> Array:
    """Boxes as (low y, low x, high y, high x)."""
    if is_centered:
        x, y, half_w, half_h = boxes[..., 0], boxes[..., 1], boxes[..., 2] / 2, boxes[..., 3] / 2
        return np.stack([y - half_h, x - half_w, y + half_h, x + half_w], -1)
    first, second = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], -1)


def _suppress(corners: Array, scores: Array, limit: int, overlap: float, least: float | None) -> list[int]:
    """Greedy suppression of one class; the indices kept."""
    order = scores.size - 1 - np.flip(np.flip(scores).argsort(kind="stable"))
    kept: list[int] = []
    for box in order.tolist():
        if len(kept) >= limit:
            break
        if least is not None and not scores[box] > least:
            continue
        if not any(_overlap(corners[box], corners[other]) > overlap for other in kept):
            kept.append(box)
    return kept


def _overlap(a: Array, b: Array) -> float:
    """Intersection over union; 0 where a box is empty."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    if (sides <= 0).any() or any(area <= 0 for area in areas):
        return 0.0
    common = sides[0] * sides[1]
    return common / (areas[0] + areas[1] - common)
