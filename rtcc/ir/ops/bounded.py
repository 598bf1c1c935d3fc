"""Tensors whose size the data decide, held in buffers of the largest size they can have.

`passes/legalization` writes non_zero, compress, unique, non_max_suppression and stacked results of loops as
operators of fixed size, which come with a count, and a `tensor.truncate` behind them.
"""

from __future__ import annotations

import numpy as np

from rtcc.ir.dimension import Expression, Symbol
from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, Op, attribute, operand, optional_operand
from rtcc.ir.ops.axes import integers
from rtcc.ir.ops.element_selection import kept_boxes
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType

COUNT = TensorType(DType.I64, ())


class Truncate(Op):
    """The first elements along each axis: `data` without what lies behind its true size.

    data is as large as the result can be. Sizes of the result depend on one symbol, and count (i64[]) says
    how large that is; out of the symbol's bounds it counts as the bound. The result's elements lie one after
    the other: a tensor of its true shape at the start of a buffer that is large enough for any.
    """

    name = "tensor.truncate"
    role = Role.OPAQUE
    data = operand()
    count = operand()

    def infer(self) -> tuple[TensorType, ...]:
        return (self.results[0].type if self.results else self.data.type,)

    def check(self) -> None:
        largest, data = self.type.largest, self.data.type
        is_held = largest.dtype is data.dtype and largest.rank == data.rank
        if not is_held or any(a > b for a, b in zip(largest.sizes, data.sizes, strict=True)):
            raise self.fail(f"{data} does not hold {self.type} at its largest")
        if len(symbols_of(self.type)) > 1 or self.count.type != COUNT:
            raise self.fail(f"one count, i64[], cannot tell the sizes of {self.type}: {self.count.type}")

    def evaluate(self, *arrays: Array | None) -> Array:
        data, count = (np.asarray(array) for array in arrays)
        sizes = {s.name: min(max(int(count), s.lower), s.upper) for s in symbols_of(self.type)}
        return data[tuple(slice(0, size) for size in self.type.substitute(sizes).sizes)]


def symbols_of(type: TensorType) -> tuple[Symbol, ...]:
    """The symbols in a shape, sorted by name."""
    sizes = [size for size in type.shape if isinstance(size, Expression)]
    return tuple(sorted({symbol for size in sizes for symbol in size.symbols}))


class Positions(Op):
    """Where a vector of booleans holds, in ascending order, then zeros; and how often it does, as i64[]."""

    name = "tensor.positions"
    role = Role.OPAQUE
    results_required = 2
    data = operand()

    def infer(self) -> tuple[TensorType, ...]:
        type = self.data.type
        if type.dtype is not DType.BOOL or type.rank != 1:
            raise self.fail(f"needs a vector of booleans, found {type}")
        return TensorType(DType.I64, type.shape), COUNT

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        data = np.asarray(arrays[0])
        found = np.flatnonzero(data)
        return np.pad(found, (0, data.size - found.size)), np.asarray(found.size, np.int64)


class KeptBoxes(Op):
    """What `tensor.non_max_suppression` keeps, then zeros: i64[most, 3]; and how many those are, as i64[].

    All floats are f32, thresholds vectors of one element; without `score_threshold` every box counts.
    """

    name = "tensor.kept_boxes"
    role = Role.OPAQUE
    results_required = 2
    boxes = operand()
    scores = operand()
    most_per_class = operand(static=True)
    iou_threshold = operand()
    score_threshold = optional_operand()
    center_point_box = attribute(0)

    @property
    def most(self) -> int:
        """The most boxes that one class may keep."""
        (given,) = integers(self, self.most_per_class, "the most boxes of a class")
        return max(0, min(given, self.boxes.type.sizes[1]))

    def infer(self) -> tuple[TensorType, ...]:
        batch, classes, count = self.scores.type.sizes
        if self.boxes.type.sizes != (batch, count, 4):
            raise self.fail(f"boxes {self.boxes.type} do not fit scores {self.scores.type}")
        return TensorType(DType.I64, (batch * classes * self.most, 3)), COUNT

    def evaluate(self, *arrays: Array | None) -> tuple[Array, ...]:
        kept = kept_boxes(*map(np.asarray, arrays[:2]), is_centered=bool(self.center_point_box),
                          thresholds=arrays[2:])  # fmt: skip
        missing = self.results[0].type.sizes[0] - len(kept)
        return np.pad(kept, ((0, missing), (0, 0))), np.asarray(len(kept), np.int64)
