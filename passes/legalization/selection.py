"""Operators that select elements, so that the data decide how many: positions and a count, then a gather."""

from __future__ import annotations

import numpy as np

from rtcc.ir import DType, Value
from rtcc.ir.ops import bounded, element_selection, indexing, math, reduce
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.bounded import symbols_of
from rtcc.ir.types import TensorType
from rtcc.passes.legalization.writer import Writer
from rtcc.pipeline.rewriter import Rewriter, rewrite

MOST_COMPARED = 1 << 24
"""Elements of the table in which each slice is compared with each, where slices are sought that differ."""


def truncated(value: Value, type: TensorType, count: Value) -> Value:
    """The value without what lies behind the count, the symbol of the type; itself where that has none."""
    return bounded.Truncate(value, count, types=[type]).result if symbols_of(type) else value


@rewrite(element_selection.NonZero)
def non_zero_by_positions(op: element_selection.NonZero, rw: Rewriter) -> None:
    """non_zero(x)  →  positions(x ≠ 0), each taken apart into its indices"""
    data = op.data
    if not data.type.is_static or data.type.rank == 0 or data.type.elements == 0:
        return
    write, sizes = Writer(rw, "non_zero"), data.type.sizes
    flat = write.reshape(data, data.type.elements)
    if data.type.dtype is not DType.BOOL:
        flat = math.Not(math.Equal(flat, write.number(0, data.type.dtype)).result).result
    found = bounded.Positions(flat)
    strides = [int(np.prod(sizes[axis + 1 :], dtype=np.int64)) for axis in range(len(sizes))]
    columns = [write.array(np.array(numbers)[:, None], DType.I64) for numbers in (strides, sizes)]
    indices = math.Mod(write.div(write.reshape(found.result, 1, flat.type.elements), columns[0]), columns[1])
    rw.replace(op, truncated(indices.result, op.type, found.results[1]))


@rewrite(element_selection.Compress)
def compress_by_positions(op: element_selection.Compress, rw: Rewriter) -> None:
    """compress(x, condition)  →  gather(x, positions(condition))"""
    data, condition = op.data, op.condition
    if not data.type.is_static or not condition.type.is_static:
        return
    write = Writer(rw, "compress")
    axis = 0 if op.axis is None else normal_axis(op, op.axis, data.type.rank)
    if op.axis is None:
        data = write.reshape(data, data.type.elements)
    if not 0 < condition.type.elements <= data.type.sizes[axis]:
        return
    found = bounded.Positions(condition)
    rw.replace(op, truncated(write.gather(data, found.result, axis), op.type, found.results[1]))


@rewrite(element_selection.NonMaxSuppression)
def suppression_by_kept_boxes(op: element_selection.NonMaxSuppression, rw: Rewriter) -> None:
    """non_max_suppression(boxes, scores)  →  kept_boxes(boxes, scores), truncated"""
    static = all(value.type.is_static for value in op.present_operands)
    most = op.max_output_boxes_per_class
    if not static or most is None or not symbols_of(op.type) or op.boxes.type.dtype is not DType.F32:
        return
    write = Writer(rw, "boxes")
    overlap = op.iou_threshold or write.number(0, DType.F32)
    least = op.score_threshold and write.reshape(op.score_threshold, 1)
    kept = bounded.KeptBoxes(op.boxes, op.scores, most, write.reshape(overlap, 1), least,
                             center_point_box=op.center_point_box)  # fmt: skip
    rw.replace(op, truncated(kept.result, op.type, kept.results[1]))


@rewrite(element_selection.Unique)
def unique_by_sorting(op: element_selection.Unique, rw: Rewriter) -> None:
    """unique(x)  →  the first of each run of equal elements among the sorted ones"""
    data = op.data
    if not data.type.is_static or data.type.elements == 0 or not symbols_of(op.type):
        return
    write = Writer(rw, "unique")
    axis = 0 if op.axis is None else normal_axis(op, op.axis, data.type.rank)
    if op.axis is None:
        data = keys = write.reshape(data, data.type.elements)
        unequal = None
    elif data.type.elements * data.type.sizes[axis] <= MOST_COMPARED:
        keys, unequal = _order_of_slices(write, data, axis)
    else:
        return
    found = _Distinct(write, keys, unequal, is_sorted=bool(op.sorted))
    results = (write.gather(data, found.first, axis), found.first, found.inverse, found.occurrences)
    types = [result.type for result in op.results]
    wanted = zip(results, types, strict=False)
    rw.replace(op, *(truncated(value, type, found.count) for value, type in wanted))


def _order_of_slices(write: Writer, data: Value, axis: int) -> tuple[Value, Value | None]:
    """For each slice along the axis, how many come before it, compared element by element (i64[n]); and which
    equal no other, not even one alike: those with a NaN (bool[n], None where there can be none).

    NaN comes behind every number, as in NumPy.
    """
    rank, count = data.type.rank, data.type.sizes[axis]
    others = [a for a in range(rank) if a != axis]
    rows = write.reshape(write.transpose(data, axis, *others), count, data.type.elements // count)
    width = rows.type.sizes[1]
    one, other = write.reshape(rows, count, 1, width), write.reshape(rows, 1, count, width)
    same, is_less, unequal = math.Equal(one, other).result, math.Less(one, other).result, None
    if data.type.dtype.is_float:
        nan, other_nan = math.IsNaN(one).result, math.IsNaN(other).result
        same = math.Or(same, math.And(nan, other_nan).result).result
        is_less = math.Or(is_less, math.And(math.Not(nan).result, other_nan).result).result
        unequal = write.total(reduce.ReduceMax, math.IsNaN(rows).result, [1], keep=False)
    differs = write.cast(math.Not(same).result, DType.U8)
    first = reduce.ArgMax(differs, axis=2, keepdims=1).result
    decided = indexing.GatherElements(write.cast(is_less, DType.U8), first, axis=2).result
    before = write.total(reduce.ReduceSum, write.cast(decided, DType.I64), [0, 2], keep=False)
    return before, unequal


class _Distinct:
    """The distinct elements of a vector. first: where each occurs first; count: how many there are (i64[]);
    inverse: which of them each element is; occurrences: how often each occurs. All i64, zeros or other valid
    positions behind the count.
    """

    def __init__(self, write: Writer, keys: Value, unequal: Value | None, *, is_sorted: bool) -> None:
        """unequal: elements that are distinct from all others, whatever their keys."""
        self.write, self.size = write, keys.type.elements
        self.numbers = write.array(np.arange(self.size), DType.I64)
        values, order = self._sorted(keys)
        starts = self._starts_of_runs(values)
        if unequal is not None:
            starts = math.Or(starts, write.gather(unequal, order, 0)).result
        found = bounded.Positions(starts)
        at, self.count = found.results
        self.first = write.gather(order, at, 0)
        self.occurrences = write.sub(self._ends(at), at)
        run = write.sub(reduce.CumSum(write.cast(starts, DType.I64), write.number(0, DType.I64)).result,
                        write.number(1, DType.I64))  # fmt: skip
        self.inverse = self._scattered(order, run)
        if not is_sorted:
            self._by_first_occurrence()

    def _sorted(self, keys: Value) -> tuple[Value, Value]:
        """Ascending, and where each came from; equal ones in the order in which they stand."""
        every = self.write.integers(self.size)
        values, order = element_selection.TopK(keys, every, axis=0, largest=0).results
        return values, order

    def _starts_of_runs(self, values: Value) -> Value:
        """Which of the sorted elements differ from the one before; NaNs do not."""
        write = self.write
        true = write.filled(True, DType.BOOL, 1)
        if self.size == 1:
            return true
        after, before = write.part(values, 0, 1, self.size), write.part(values, 0, 0, self.size - 1)
        same = math.Equal(after, before).result
        if values.type.dtype.is_float:
            same = math.Or(same, math.And(math.IsNaN(after).result, math.IsNaN(before).result).result).result
        return write.concat(0, true, math.Not(same).result)

    def _ends(self, at: Value) -> Value:
        """Where the run after each begins; after the last one, the vector's end."""
        write, size = self.write, self.write.integers(self.size)
        following = size if self.size == 1 else write.concat(0, write.part(at, 0, 1, self.size), size)
        is_followed = math.Less(write.add(self.numbers, write.number(1, DType.I64)), self.count).result
        return write.where(is_followed, following, size)

    def _scattered(self, places: Value, values: Value) -> Value:
        zeros = self.write.filled(0, DType.I64, self.size)
        return indexing.ScatterElements(zeros, places, values, axis=0).result

    def _by_first_occurrence(self) -> None:
        write = self.write
        counts = math.Less(self.numbers, self.count).result
        _, order = self._sorted(write.where(counts, self.first, write.number(self.size, DType.I64)))
        self.first = write.gather(self.first, order, 0)
        self.occurrences = write.gather(self.occurrences, order, 0)
        self.inverse = write.gather(self._scattered(order, self.numbers), self.inverse, 0)


RULES = (non_zero_by_positions, compress_by_positions, suppression_by_kept_boxes, unique_by_sorting)
