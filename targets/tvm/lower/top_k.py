# pyright: basic
"""Top-k: of each row the k elements that come first, in order, by a heap in the results themselves.

Elements enter a heap whose root is the last of those kept; one that comes before the root takes its place. At
the end roots are taken off one after the other, from the last place to the first. For n elements that takes
n·log k steps, and no memory besides the results.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from rtcc.ir import DType, Graph, TensorType
from rtcc.ir.dtype import Kind
from rtcc.ir.ops import element_selection
from rtcc.ir.ops.axes import normal_axis
from rtcc.target import Target
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.kernel import Index, Lowering, integer, storage_type, widened
from rtcc.targets.tvm.lower.loops import task_loops
from rtcc.targets.tvm.lower.rules import kernel_rule
from rtcc.targets.tvm.lower.scalar import less


@kernel_rule(element_selection.TopK)
def _top_k(graph: Graph, op: element_selection.TopK, target: Target) -> tirx.PrimFunc:
    lowering = Lowering(graph)
    builder, sizes = lowering.builder, op.data.type.sizes
    axis = normal_axis(op, op.axis, len(sizes))
    outer_sizes = [size for a, size in enumerate(sizes) if a != axis]
    k = op.results[0].type.sizes[axis]

    def body(outer: Index) -> None:
        outer = outer[: len(outer_sizes)]
        heap = _Heap(lowering, op, lambda i: (*outer[:axis], i, *outer[axis:]))
        with builder.serial("i", k) as i, lowering.scope():
            heap.put(i, heap.entered(i))
        with builder.serial("step", k // 2) as step, lowering.scope():
            start = builder.bind("start", integer(k // 2 - 1) - step)
            heap.sink(heap.at(start), start, k)
        with builder.serial("i", sizes[axis] - k, k) as i, lowering.scope():
            entered = heap.entered(i)
            with builder.when(heap.precedes(entered, heap.at(integer(0)))), lowering.scope():
                heap.sink(entered, integer(0), k)
        with builder.serial("step", k - 1) as step, lowering.scope():
            end = builder.bind("end", integer(k - 1) - step)
            last, root = heap.at(end), heap.at(integer(0))
            heap.put(end, root)
            heap.sink(last, integer(0), end)

    if 0 not in sizes and k:
        task_loops(lowering, outer_sizes or (1,), body)
    return builder.finish()


@dataclass(frozen=True)
class _Element:
    """An element, an integer that sorts as it does, and its place in the row."""

    value: Expr
    key: Expr
    place: Expr


class _Heap:
    """What is kept of one row: each element comes after its two children, 2·i + 1 and 2·i + 2."""

    def __init__(
        self, lowering: Lowering, op: element_selection.TopK, index: Callable[[Expr], Index]
    ) -> None:
        """index: of a place in the row."""
        self.lowering, self.builder, self.op, self.index = lowering, lowering.builder, op, index
        self.values, self.places = lowering.graph.returned

    def entered(self, i: Expr) -> _Element:
        """An element of the row."""
        return self._element(self.lowering.element(self.op.data, self.index(i)), i)

    def at(self, i: Expr) -> _Element:
        """An element of the heap."""
        place = self.lowering.load(self.places, self.index(i)).astype("int32")
        return self._element(self.lowering.load(self.values, self.index(i)), place)

    def put(self, i: Expr, element: _Element) -> None:
        """Store an element in the heap."""
        self.lowering.store(self.values, self.index(i), element.value)
        self.lowering.store(self.places, self.index(i), element.place.astype("int64"))

    def precedes(self, one: _Element, other: _Element) -> Expr:
        """Whether one comes before the other: the more extreme first, of equals the lower place."""
        ahead = less(other.key, one.key) if self.op.largest else less(one.key, other.key)
        return tirx.any(ahead, tirx.all(tirx.EQ(one.key, other.key), one.place < other.place))

    def sink(self, element: _Element, start: Expr, size: Expr | int) -> None:
        """Put an element in the place of the one at `start`, below all of its children that come after it."""
        builder, limit = self.builder, size if not isinstance(size, int) else integer(size)
        hole, child = (builder.local(name, (1,), "int32") for name in ("hole", "child"))
        last = builder.local("last", (1,), "int32")
        builder.store(hole, [integer(0)], start)
        builder.store(child, [integer(0)], start * integer(2) + integer(1))
        with builder.repeated(child[0] < limit), self.lowering.scope():
            first = builder.bind("first", child[0])
            builder.store(last, [integer(0)], first)
            with builder.when(first + integer(1) < limit), self.lowering.scope():
                second = builder.bind("second", first + integer(1))
                with builder.when(self.precedes(self.at(first), self.at(second))):
                    builder.store(last, [integer(0)], second)
            found = builder.bind("found", last[0])
            below = self.at(found)
            builder.store(child, [integer(0)], limit)
            with builder.when(self.precedes(element, below)):
                self.put(hole[0], below)
                builder.store(hole, [integer(0)], found)
                builder.store(child, [integer(0)], found * integer(2) + integer(1))
        self.put(hole[0], element)

    def _element(self, value: Expr, place: Expr) -> _Element:
        builder = self.builder
        held = builder.kept(value)
        return _Element(held, builder.kept(_key(self.op.data.type, held)), builder.bind("place", place))


def _key_type(type: TensorType) -> str:
    if type.dtype.is_float:
        return "int64" if type.dtype is DType.F64 else "int32"
    return "uint8" if type.dtype.kind is Kind.BOOL else storage_type(type)


def _key(type: TensorType, x: Expr) -> Expr:
    """An integer that sorts as the element does, NaN above every number."""
    if not type.dtype.is_float:
        return x.astype("uint8") if type.dtype.kind is Kind.BOOL else x
    x = widened(x)
    key_type = _key_type(type)
    most = 2 ** (int(key_type[3:]) - 1) - 1
    raw = vm.bits(x, key_type)
    zero = vm.constant(0, raw)
    # negative floats sort backwards as integers; both zeros are one
    folded = tirx.Select(raw < zero, tirx.bitwise_xor(raw, vm.constant(most, raw)), raw)
    number = tirx.Select(tirx.EQ(x, vm.constant(0, x)), zero, folded)
    return tirx.Select(vm.is_nan(x), vm.constant(most, raw), number)
