"""Operators that select elements, so that the data decide how many: positions and a count, then a gather."""

from __future__ import annotations

import numpy as np

from rtcc.ir import DType, Graph, Value
from rtcc.ir.ops import bounded, element_selection, indexing, math, reduce
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.bounded import symbols_of
from rtcc.ir.ops.control import Scan
from rtcc.ir.types import TensorType
from rtcc.passes.legalization.writer import Writer
from rtcc.pipeline.rewriter import Rewriter, rewrite


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
        data = write.reshape(data, data.type.elements)
    count, others = data.type.sizes[axis], [a for a in range(data.type.rank) if a != axis]
    rows = write.reshape(write.transpose(data, axis, *others), count, data.type.elements // count)
    order = _order_of_rows(write, rows)
    starts = _starts_of_runs(write, write.gather(rows, order, 0), nan_is_equal=op.axis is None)
    found = _Distinct(write, order, starts, is_sorted=bool(op.sorted))
    results = (write.gather(data, found.first, axis), found.first, found.inverse, found.occurrences)
    types = [result.type for result in op.results]
    wanted = zip(results, types, strict=False)
    rw.replace(op, *(truncated(value, type, found.count) for value, type in wanted))


def _sorted_places(write: Writer, keys: Value) -> Value:
    """Where the elements of a vector come from when they ascend; equal ones in the order in which they stand.

    NaN comes behind every number, as in NumPy.
    """
    every = write.integers(keys.type.elements)
    return element_selection.TopK(keys, every, axis=0, largest=0).results[1]


def _order_of_rows(write: Writer, rows: Value) -> Value:
    """Where rows come from when they ascend (i64[n]), compared element by element from the first.

    They are sorted by each column in turn, from the last to the first, which keeps the order of equal ones.
    """
    count, width = rows.type.sizes
    if width == 1:
        return _sorted_places(write, write.reshape(rows, count))
    columns = write.transpose(rows, 1, 0)
    first = write.array(np.arange(count), DType.I64)
    body = Graph("")
    order = body.add_parameter(first.type, "order")
    column = body.add_parameter(columns.type.with_shape((count,)), "column")
    following = write.gather(order, _sorted_places(write, write.gather(column, order, 0)), 0)
    write.place(columns)
    write.place(following, graph=body)
    body.return_(following)
    scan = Scan(first, columns, num_scan_inputs=1, scan_input_directions=(1,), regions=[body], results=1)
    return scan.result


def _starts_of_runs(write: Writer, rows: Value, *, nan_is_equal: bool) -> Value:
    """Which of the sorted rows differ from the one before (bool[n]).

    Elements that are NaN are equal, rows with one differ from all others, as in NumPy.
    """
    count, width = rows.type.sizes
    true = write.filled(True, DType.BOOL, 1)
    if count == 1:
        return true
    after, before = write.part(rows, 0, 1, count), write.part(rows, 0, 0, count - 1)
    differs = math.Not(math.Equal(after, before).result).result
    if nan_is_equal and rows.type.dtype.is_float:
        both = math.And(math.IsNaN(after).result, math.IsNaN(before).result).result
        differs = math.And(differs, math.Not(both).result).result
    if width > 1:
        differs = write.total(reduce.ReduceMax, differs, [1])
    return write.concat(0, true, write.reshape(differs, count - 1))


class _Distinct:
    """The distinct ones of sorted elements. first: where each occurs first; count: how many there are
    (i64[]); inverse: which of them each element is; occurrences: how often each occurs. All i64, zeros or
    other valid positions behind the count.
    """

    def __init__(self, write: Writer, order: Value, starts: Value, *, is_sorted: bool) -> None:
        """order: where the sorted elements come from; starts: which of them differ from the one before."""
        self.write, self.size = write, order.type.elements
        self.numbers = write.array(np.arange(self.size), DType.I64)
        found = bounded.Positions(starts)
        at, self.count = found.results
        self.first = write.gather(order, at, 0)
        self.occurrences = write.sub(self._ends(at), at)
        run = write.sub(reduce.CumSum(write.cast(starts, DType.I64), write.number(0, DType.I64)).result,
                        write.number(1, DType.I64))  # fmt: skip
        self.inverse = self._scattered(order, run)
        if not is_sorted:
            self._by_first_occurrence()

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
        order = _sorted_places(write, write.where(counts, self.first, write.number(self.size, DType.I64)))
        self.first = write.gather(self.first, order, 0)
        self.occurrences = write.gather(self.occurrences, order, 0)
        self.inverse = write.gather(self._scattered(order, self.numbers), self.inverse, 0)


RULES = (non_zero_by_positions, compress_by_positions, suppression_by_kept_boxes, unique_by_sorting)
