# pyright: basic
"""Kernels whose results have a size that the data decide: compaction, truncation, suppression of boxes."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import tirx

from rtcc.ir import Expression, Graph, Value
from rtcc.ir.dimension import FloorDiv, Symbol
from rtcc.ir.ops import bounded
from rtcc.target import Target
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.kernel import Index, Lowering, integer
from rtcc.targets.tvm.lower.loops import inner_loops, task_loops
from rtcc.targets.tvm.lower.movement import split_index
from rtcc.targets.tvm.lower.rules import kernel_rule
from rtcc.targets.tvm.lower.scalar import maximum, minimum
from rtcc.targets.tvm.lower.scatter import one_task

EDGES = 4


@kernel_rule(bounded.Truncate)
def _truncate(graph: Graph, op: bounded.Truncate, target: Target) -> tirx.PrimFunc:
    """Elements inside the true shape go to where they lie in a tensor of just that shape."""
    lowering = Lowering(graph)
    builder, sizes = lowering.builder, op.data.type.sizes
    counts = {
        symbol.name: builder.bind("count", _between(symbol, lowering.element(op.count, ())))
        for symbol in bounded.symbols_of(op.type)
    }
    true_sizes = [builder.bind("size", _size(size, counts)) for size in op.type.shape]
    stays = all(isinstance(size, int) for size in op.type.shape[1:])

    def place(index: Index) -> Index:
        if stays:
            return index
        offset = integer(0)
        for i, size in zip(index, true_sizes, strict=True):
            offset = offset * size + i
        return tuple(split_index(builder.bind("offset", offset), op.type.largest.sizes))

    def body(index: Index) -> None:
        inside = [i < size for i, size in zip(index, true_sizes, strict=True)]
        with builder.when(tirx.all(*inside)), lowering.scope():
            lowering.store(op.result, place(index), lowering.element(op.data, index))

    task_loops(lowering, sizes, body)
    return builder.finish()


def _between(symbol: Symbol, count: Expr) -> Expr:
    """A count (int64) as int32, within its bounds."""
    lower, upper = (tirx.const(bound, "int64") for bound in (symbol.lower, symbol.upper))
    within: Expr = tirx.max(lower, tirx.min(count, upper))
    return within.astype("int32")


def _size(size: int | Expression, counts: Mapping[str, Expr]) -> Expr:
    """A size as an int32 expression over the counts."""
    if isinstance(size, int):
        return integer(size)
    total = integer(size.constant)
    for monomial, factor in size.terms:
        product = integer(factor)
        for atom in monomial:
            product = product * _atom(atom, counts)
        total = total + product
    return total


def _atom(atom: Symbol | FloorDiv, counts: Mapping[str, Expr]) -> Expr:
    if isinstance(atom, Symbol):
        return counts[atom.name]
    return tirx.floordiv(_size(atom.numerator, counts), integer(atom.divisor))


@kernel_rule(bounded.Positions)
def _positions(graph: Graph, op: bounded.Positions, target: Target) -> tirx.PrimFunc:
    """Every position is written to the next free place, which moves on where the element holds."""
    lowering = Lowering(graph)
    builder, (size,) = lowering.builder, op.data.type.sizes
    positions, count = graph.returned
    with one_task(lowering):
        free = builder.local("free", (1,), "int32")
        builder.store(free, [integer(0)], integer(0))
        with builder.serial("i", size) as i, lowering.scope():
            lowering.store(positions, (free[0],), i.astype("int64"))
            holds = lowering.element(op.data, (i,))
            builder.store(free, [integer(0)], free[0] + tirx.Select(holds, integer(1), integer(0)))
        lowering.store(count, (), free[0].astype("int64"))
        with builder.serial("rest", integer(size) - free[0], free[0]) as rest:
            lowering.store(positions, (rest,), tirx.const(0, "int64"))
    return builder.finish()


@kernel_rule(bounded.KeptBoxes)
def _kept_boxes(graph: Graph, op: bounded.KeptBoxes, target: Target) -> tirx.PrimFunc:
    """Class by class: the best box that is left is kept, and those that overlap it are left no more.

    Scratch: one byte for each box, whether it is left.
    """
    lowering = Lowering(graph)
    builder, kept = lowering.builder, _Kept(lowering, op)
    batch, classes, _ = op.scores.type.sizes
    with one_task(lowering):
        free = builder.local("free", (1,), "int32")
        builder.store(free, [integer(0)], integer(0))
        if op.most:
            inner_loops(lowering, (batch, classes), lambda index: kept.of_class(index, free))
        most = op.results[0].type.sizes[0]
        lowering.store(graph.returned[1], (), free[0].astype("int64"))
        with builder.serial("rest", integer(most) - free[0], free[0]) as rest, builder.serial("j", 3) as j:
            lowering.store(graph.returned[0], (rest, j), tirx.const(0, "int64"))
    return builder.finish()


class _Kept:
    """The search among the boxes of one class."""

    def __init__(self, lowering: Lowering, op: bounded.KeptBoxes) -> None:
        self.lowering, self.op, self.builder = lowering, op, lowering.builder
        self.boxes = op.boxes.type.sizes[1]
        self.is_left = self.builder.buffer("scratch", (max(1, self.boxes),), "uint8")
        self.overlap = self._scalar(op.iou_threshold)

    def of_class(self, index: Index, free: Expr) -> None:
        """Keep boxes of one class until there are enough or none is left."""
        batch, kind = index
        builder = self.builder
        place = builder.local("place", (1,), "int32")
        with builder.serial("i", self.boxes) as i:
            self._enter((batch, kind, i))
        builder.store(place, [integer(0)], integer(0))
        with builder.serial("round", self.op.most), builder.when(place[0] >= integer(0)):
            self._find_best(batch, kind, place)
            with builder.when(place[0] >= integer(0)):
                self._keep(batch, kind, builder.bind("kept", place[0]), free)

    def _enter(self, at: Index) -> None:
        """A box counts where its score is above the threshold."""
        least, left = self.op.score_threshold, tirx.const(1, "uint8")
        if least is not None:
            score = self.lowering.element(self.op.scores, at)
            left = (score > self._scalar(least)).astype("uint8")
        self.builder.store(self.is_left, [at[-1]], left)

    def _find_best(self, batch: Expr, kind: Expr, place: Expr) -> None:
        """The first box of the highest score among those left; -1 where none is. NaN counts as highest."""
        builder = self.builder
        best = builder.local("best", (1,), "float32")
        builder.store(best, [integer(0)], tirx.const(0.0, "float32"))
        builder.store(place, [integer(0)], integer(-1))
        with builder.serial("i", self.boxes) as i, self.lowering.scope():
            score = self.lowering.element(self.op.scores, (batch, kind, i))
            higher = tirx.any(score > best[0], tirx.all(vm.is_nan(score), tirx.Not(vm.is_nan(best[0]))))
            better = tirx.any(place[0] < integer(0), higher)
            with builder.when(tirx.all(tirx.NE(self.is_left[i], tirx.const(0, "uint8")), better)):
                builder.store(best, [integer(0)], score)
                builder.store(place, [integer(0)], i)

    def _keep(self, batch: Expr, kind: Expr, box: Expr, free: Expr) -> None:
        builder, selected = self.builder, self.lowering.graph.returned[0]
        for column, number in enumerate((batch, kind, box)):
            self.lowering.store(selected, (free[0], integer(column)), number.astype("int64"))
        builder.store(free, [integer(0)], free[0] + integer(1))
        builder.store(self.is_left, [box], tirx.const(0, "uint8"))
        with builder.serial("other", self.boxes) as other, self.lowering.scope():
            overlap = self._overlap(self._corners(batch, other), self._corners(batch, box))
            with builder.when(overlap > self.overlap):
                builder.store(self.is_left, [other], tirx.const(0, "uint8"))

    def _corners(self, batch: Expr, box: Expr) -> list[Expr]:
        """(low y, low x, high y, high x)."""
        edges = [self.lowering.element(self.op.boxes, (batch, box, integer(edge))) for edge in range(EDGES)]
        if self.op.center_point_box:
            x, y, half_width, half_height = (*edges[:2], *(e / vm.constant(2, e) for e in edges[2:]))
            return [y - half_height, x - half_width, y + half_height, x + half_width]
        low = [minimum(edges[axis], edges[axis + 2]) for axis in (0, 1)]
        return [*low, *(maximum(edges[axis], edges[axis + 2]) for axis in (0, 1))]

    def _overlap(self, a: list[Expr], b: list[Expr]) -> Expr:
        """Intersection over union; 0 where a box is empty or both are apart."""
        zero = vm.constant(0, a[0])
        sides = [minimum(a[axis + 2], b[axis + 2]) - maximum(a[axis], b[axis]) for axis in (0, 1)]
        areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
        sides, areas = ([self.builder.kept(x) for x in group] for group in (sides, areas))
        common = self.builder.kept(sides[0] * sides[1])
        is_apart = tirx.any(*(x <= zero for x in (*sides, *areas)))
        return self.builder.kept(tirx.Select(is_apart, zero, tirx.div(common, areas[0] + areas[1] - common)))

    def _scalar(self, value: Value) -> Expr:
        return self.lowering.element(value, (integer(0),))
