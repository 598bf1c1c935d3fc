"""Operators that address elements by index: the gather and scatter families, one-hot.

Indices count from the end where negative. An index outside its axis raises "index-out-of-range".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rtcc.ir.dimension import Expression, lower_bound, upper_bound
from rtcc.ir.op import Array, Op, attribute, operand, optional_operand
from rtcc.ir.ops.axes import agree, at, counting, fresh_size, normal_axis, wrapped_indices
from rtcc.ir.roles import Indexes, Role
from rtcc.ir.shape_value import known_value
from rtcc.ir.types import TensorType


def _maximum(target: Array, index: Any, updates: Array) -> None:
    with np.errstate(invalid="ignore"):
        np.maximum.at(target, index, updates)


def _minimum(target: Array, index: Any, updates: Array) -> None:
    with np.errstate(invalid="ignore"):
        np.minimum.at(target, index, updates)


def _assign(target: Array, index: Any, updates: Array) -> None:
    target[index] = updates


def _sum(target: Array, index: Any, updates: Array) -> None:
    with np.errstate(all="ignore"):
        np.add.at(target, index, updates)


def _product(target: Array, index: Any, updates: Array) -> None:
    with np.errstate(all="ignore"):
        np.multiply.at(target, index, updates)


SCATTER: dict[str, Callable[[Array, Any, Array], None]] = {
    "none": _assign, "add": _sum, "mul": _product, "max": _maximum, "min": _minimum,
}  # fmt: skip
"""What a scatter does with an update; with "none" and equal indices, the last update stays."""


class Gather(Op):
    """Slices of `data` along `axis`, picked by `indices` of any rank (ONNX Gather)."""

    name = "tensor.gather"
    role = Role.MOVEMENT
    data = operand(moved=True)
    indices = operand(indexes=Indexes.AXIS)
    axis = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        shape = self.data.type.shape
        axis = normal_axis(self, self.axis, len(shape))
        return (self.data.type.with_shape((*shape[:axis], *self.indices.type.shape, *shape[axis + 1 :])),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, indices = np.asarray(arrays[0]), np.asarray(arrays[1])
        return data.take(wrapped_indices(self, indices, data.shape[self.axis]), self.axis)


class GatherElements(Op):
    """result[.., i, ..] = data[.., indices[.., i, ..], ..] along `axis` (ONNX GatherElements)."""

    name = "tensor.gather_elements"
    role = Role.MOVEMENT
    data = operand(moved=True)
    indices = operand(indexes=Indexes.AXIS)
    axis = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        normal_axis(self, self.axis, self.data.type.rank)
        if self.data.type.rank != self.indices.type.rank:
            raise self.fail(f"indices must have rank {self.data.type.rank}, found {self.indices.type}")
        _require_within(self, self.indices.type, self.data.type, self.axis)
        return (self.data.type.with_shape(self.indices.type.shape),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, indices = np.asarray(arrays[0]), np.asarray(arrays[1])
        return data[_along(data.ndim, self.axis, wrapped_indices(self, indices, data.shape[self.axis]))]


def _along(rank: int, axis: int, indices: Array) -> tuple[Array, ...]:
    """Full advanced indices: the position itself on every axis but one."""
    index = list(np.ogrid[tuple(slice(n) for n in indices.shape)]) if rank > 1 else [indices]
    index[axis] = indices
    return tuple(index)


class GatherND(Op):
    """Slices of `data` named by index vectors, the last axis of `indices` (ONNX GatherND).

    The first `batch_dims` axes of both are walked together.
    """

    name = "tensor.gather_nd"
    role = Role.MOVEMENT
    data = operand(moved=True)
    indices = operand(indexes=Indexes.EVERY_AXIS)
    batch_dims = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        data, indices = self.data.type.shape, self.indices.type.shape
        depth = _index_depth(self, indices[-1] if indices else None, len(data) - self.batch_dims)
        if not agree(data[: self.batch_dims], indices[:-1][: self.batch_dims]):
            raise self.fail(f"{self.batch_dims} axes of {self.data.type} and {self.indices.type} must agree")
        return (self.data.type.with_shape((*indices[:-1], *data[self.batch_dims + depth :])),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, indices = np.asarray(arrays[0]), np.asarray(arrays[1])
        batch = self.batch_dims
        index = _vectors(self, indices, data.shape[batch : batch + indices.shape[-1]])
        grid = np.ogrid[tuple(slice(n) for n in indices.shape[:-1])] if batch else ()
        return data[(*grid[:batch], *index)]


def _require_within(op: Op, indices: TensorType, data: TensorType, axis: int) -> None:
    """The op's error unless indices reach no further than the data on the axes that they do not index."""
    pairs = enumerate(zip(indices.shape, data.shape, strict=True))
    if any(lower_bound(i) > upper_bound(n) for a, (i, n) in pairs if a != axis % data.rank):
        raise op.fail(f"indices {indices} reach past data {data} beside axis {axis}")


def _index_depth(op: Op, depth: int | Expression | None, most: int) -> int:
    if not isinstance(depth, int) or depth > most:
        raise op.fail(f"the last axis of indices must be a fixed size of at most {most}, found {depth}")
    return depth


def _vectors(op: Op, indices: Array, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """The components of the index vectors, each checked against its axis."""
    return tuple(wrapped_indices(op, indices[..., i], size) for i, size in enumerate(sizes))


class ScatterElements(Op):
    """A copy of `data` with elements along `axis` replaced or combined (ONNX ScatterElements).

    `reduction`: none, add, mul, max, min; updates with equal indices are applied in row-major order.
    """

    name = "tensor.scatter_elements"
    role = Role.OPAQUE
    data = operand()
    indices = operand(indexes=Indexes.AXIS)
    updates = operand()
    axis = attribute(0)
    reduction = attribute("none")

    def infer(self) -> tuple[TensorType, ...]:
        normal_axis(self, self.axis, self.data.type.rank)
        data, indices, updates = self.data.type, self.indices.type, self.updates.type
        if data.rank != indices.rank or data.rank != updates.rank or data.dtype is not updates.dtype:
            raise self.fail(f"indices {indices} and updates {updates} do not fit data {data}")
        if not agree(indices.shape, updates.shape):
            raise self.fail(f"indices {indices} and updates {updates} must be of one shape")
        _require_within(self, indices, data, self.axis)
        return (_scattered(self, self.data.type, self.reduction),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, indices, updates = (np.asarray(a) for a in arrays)
        result = data.copy()
        where = _along(data.ndim, self.axis, wrapped_indices(self, indices, data.shape[self.axis]))
        SCATTER[self.reduction](result, where, updates.astype(data.dtype, copy=False))
        return result


class ScatterND(Op):
    """A copy of `data` with slices named by index vectors replaced or combined (ONNX ScatterND)."""

    name = "tensor.scatter_nd"
    role = Role.OPAQUE
    data = operand()
    indices = operand(indexes=Indexes.EVERY_AXIS)
    updates = operand()
    reduction = attribute("none")

    def infer(self) -> tuple[TensorType, ...]:
        indices = self.indices.type.shape
        depth = _index_depth(self, indices[-1] if indices else None, self.data.type.rank)
        is_filled = agree(self.updates.type.shape, (*indices[:-1], *self.data.type.shape[depth:]))
        if not is_filled or self.updates.type.dtype is not self.data.type.dtype:
            raise self.fail(
                f"updates {self.updates.type} do not fit data {self.data.type} at indices {self.indices.type}"
            )
        return (_scattered(self, self.data.type, self.reduction),)

    def evaluate(self, *arrays: Array | None) -> Array:
        data, indices, updates = (np.asarray(a) for a in arrays)
        result = data.copy()
        where = _vectors(self, indices, data.shape[: indices.shape[-1]])
        if not where:
            where = (np.zeros(indices.shape[:-1], np.int64),)
            SCATTER[self.reduction](result[None], where, updates.astype(data.dtype, copy=False))
            return result
        SCATTER[self.reduction](result, where, updates.astype(data.dtype, copy=False))
        return result


def _scattered(op: Op, type: TensorType, reduction: str) -> TensorType:
    if reduction not in SCATTER:
        raise op.fail(f"unknown reduction {reduction!r}: expected one of {', '.join(SCATTER)}")
    return type.with_layout(None)


class TensorScatter(Op):
    """A cache with rows written at each batch entry's index along `axis` (ONNX TensorScatter).

    write_indices: i64[batch], 0 where left out. mode: linear (rows past the end are an error) or circular.
    """

    name = "tensor.tensor_scatter"
    role = Role.OPAQUE
    writes_in_place = True
    past_cache = operand()
    update = operand()
    write_indices = optional_operand(indexes=Indexes.AXIS)
    axis = attribute(-2)
    mode = attribute("linear")

    def infer(self) -> tuple[TensorType, ...]:
        axis = normal_axis(self, self.axis, self.past_cache.type.rank)
        if axis == 0 or self.mode not in ("linear", "circular"):
            raise self.fail(f"axis {self.axis} must not be the batch's; mode {self.mode} linear or circular")
        cache, update = self.past_cache.type, self.update.type
        others = [tuple(size for a, size in enumerate(t.shape) if a != axis) for t in (cache, update)]
        starts = None if self.write_indices is None else self.write_indices.type.shape
        if (
            update.rank != cache.rank
            or not agree(others[0], others[1])
            or not (starts is None or agree(starts, cache.shape[:1]))
            or lower_bound(update.shape[axis]) > upper_bound(cache.shape[axis])
        ):
            raise self.fail(f"update {self.update.type} does not fit the cache {self.past_cache.type}")
        return (self.past_cache.type.with_layout(None),)

    def index_limit(self, index: int) -> int | None:
        limit = super().index_limit(index)
        rows = upper_bound(self.update.type.shape[self.axis])
        return limit if limit is None or self.mode == "circular" else max(1, limit - rows + 1)

    def evaluate(self, *arrays: Array | None) -> Array:
        cache, update, starts = np.array(arrays[0]), np.asarray(arrays[1]), at(arrays, 2)
        axis = self.axis % cache.ndim
        size, length = cache.shape[axis], update.shape[axis]
        for batch in range(cache.shape[0]):
            start = 0 if starts is None else int(starts[batch])
            rows = counting(start + length, start)
            rows = rows % size if self.mode == "circular" else wrapped_indices(self, rows, size)
            target = np.moveaxis(cache[batch], axis - 1, 0)
            target[rows] = np.moveaxis(update[batch], axis - 1, 0)
        return cache


class OneHot(Op):
    """values[1] where the new `axis` equals the index, values[0] elsewhere (ONNX OneHot).

    Indices count from the end where negative; one outside [-depth, depth) gives values[0] throughout.
    Fractional indices are truncated.
    """

    name = "tensor.one_hot"
    role = Role.MOVEMENT
    indices = operand()
    depth = operand(static=True)
    values = operand()
    axis = attribute(-1)

    def infer(self) -> tuple[TensorType, ...]:
        shape = self.indices.type.shape
        axis = normal_axis(self, self.axis, len(shape) + 1)
        known = known_value(self.depth)
        depth = None if known is None or known.size != 1 else known.item()
        size = fresh_size(self, axis=axis) if depth is None else depth
        size = int(size) if isinstance(size, float) else size
        return (self.values.type.with_shape((*shape[:axis], size, *shape[axis:])),)

    def evaluate(self, *arrays: Array | None) -> Array:
        indices, depth, values = (np.asarray(a) for a in arrays)
        size = int(depth.reshape(-1)[0])
        axis = normal_axis(self, self.axis, indices.ndim + 1)
        whole = np.trunc(indices).astype(np.int64)
        wanted = np.expand_dims(np.where(whole < 0, whole + size, whole), axis)
        places = counting(size).reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
        return values[np.equal(wanted, places).astype(np.int64)]
