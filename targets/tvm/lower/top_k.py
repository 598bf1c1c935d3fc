# pyright: basic, reportArgumentType=false
"""Top-k: of each row the k elements that come first, in order.

Few are kept sorted in vector registers: an element that comes before the last of them moves those after it
one place on, without a branch. Many are a heap in the results themselves, whose root is the last of those
kept; one that comes before the root takes its place, and at the end roots are taken off one after the other,
from the last place to the first: n·log k steps, and no memory besides the results.

Most elements of a long row come after all that are kept: they are compared a vector at a time.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from rtcc.ir import DType, Graph, TensorType
from rtcc.ir.dtype import Kind
from rtcc.ir.ops import element_selection
from rtcc.ir.ops.axes import normal_axis
from rtcc.target import Target
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, splat, vector
from rtcc.targets.tvm.lower.kernel import Index, Lowering, integer, storage_type, widened
from rtcc.targets.tvm.lower.loops import task_loops
from rtcc.targets.tvm.lower.rules import kernel_rule

REGISTERS = 8
"""Vectors of keys that are kept sorted."""
BLOCK = 16
"""Elements that are compared at once."""
PLACE_BITS = 32
LAST_PLACE = 2**31 - 1


@kernel_rule(element_selection.TopK)
def _top_k(graph: Graph, op: element_selection.TopK, target: Target) -> tirx.PrimFunc:
    lowering = Lowering(graph)
    sizes = op.data.type.sizes
    axis = normal_axis(op, op.axis, len(sizes))
    outer_sizes = [size for a, size in enumerate(sizes) if a != axis]
    k = op.results[0].type.sizes[axis]

    def body(outer: Index) -> None:
        outer = outer[: len(outer_sizes)]
        row = _Row(lowering, op, lambda i: (*outer[:axis], i, *outer[axis:]))
        lanes = target.lanes(DType.I64 if row.key_bits > PLACE_BITS else DType.I32)
        has_vectors = lanes > 1
        kept = _Sorted(row, k) if has_vectors and k <= REGISTERS * lanes else _Heap(row, k)
        kept.start()
        _offer_rest(row, kept, sizes[axis], k, is_dense=has_vectors and axis == len(sizes) - 1)
        kept.finish()

    if 0 not in sizes and k:
        task_loops(lowering, outer_sizes or (1,), body)
    return lowering.builder.finish()


def _offer_rest(row: _Row, kept: _Sorted | _Heap, size: int, k: int, *, is_dense: bool) -> None:
    """Take in what comes before the last of those kept, of the elements behind the first k.

    is_dense: whether neighbours in the row are neighbours in memory, and there are vectors to read them by.
    """
    builder, scope = row.lowering.builder, row.lowering.scope
    blocks = (size - k) // BLOCK if is_dense and row.is_in_memory else 0

    def offer(i: Expr) -> None:
        key = builder.kept(row.key(row.value(i)))
        with builder.when(kept.last_key() < key), scope():
            kept.take(key, i)

    if blocks:
        with builder.serial("block", blocks) as block, scope():
            start = builder.bind("start", block * integer(BLOCK) + integer(k))
            keys = row.key(row.value(vector(start, BLOCK)))
            ahead = splat(kept.last_key(), BLOCK) < keys
            is_any = tirx.call_llvm_pure_intrin("bool", "llvm.vector.reduce.or", ahead)
            with builder.when(is_any), builder.serial("lane", BLOCK) as lane, scope():
                offer(builder.bind("i", start + lane))
    first = k + blocks * BLOCK
    with builder.serial("i", size - first, first) as i, scope():
        offer(i)


class _Row:
    """The row's elements, and integers that say which of them comes first."""

    def __init__(
        self, lowering: Lowering, op: element_selection.TopK, index: Callable[[Expr], Index]
    ) -> None:
        """index: of a place in the row."""
        self.lowering, self.op, self.index, self.type = lowering, op, index, op.data.type
        self.is_in_memory = op.data in lowering.buffers and op.data.type.dtype not in (DType.BF16, DType.BOOL)

    def value(self, i: Expr) -> Expr:
        """An element, or those at a vector of places."""
        return self.lowering.element(self.op.data, self.index(i))

    def key(self, value: Expr) -> Expr:
        """An integer that is the greater, the sooner the element comes; NaN counts as above every number."""
        ascending = _ascending(self.type, value)
        return ascending if self.op.largest else tirx.bitwise_not(ascending)

    @property
    def key_type(self) -> str:
        """TVM's name of the keys' type."""
        return _key_type(self.type)

    @property
    def key_bits(self) -> int:
        """Bits of a key."""
        return int(self.key_type.lstrip("uint"))

    @property
    def key_bounds(self) -> tuple[int, int]:
        """The least and the greatest key."""
        least = 0 if self.key_type.startswith("u") else -(2 ** (self.key_bits - 1))
        return least, least + 2**self.key_bits - 1

    def store(self, i: Expr, value: Expr, place: Expr) -> None:
        """One of the results."""
        values, places = self.lowering.graph.returned
        self.lowering.store(values, self.index(i), value)
        self.lowering.store(places, self.index(i), place.astype("int64"))


class _Sorted:
    """Keys and places of what is kept, the first in the first lane.

    Lanes from k on hold what fell off, or the least key.
    """

    def __init__(self, row: _Row, k: int) -> None:
        self.row, self.builder, self.k = row, row.lowering.builder, k
        self.lanes = max(BLOCK, 1 << (k - 1).bit_length())
        self.keys = self.builder.local("keys", (self.lanes,), row.key_type)
        self.places = self.builder.local("places", (self.lanes,), "int32")
        self.last = self.builder.local("last", (1,), row.key_type)

    def start(self) -> None:
        """Keep the first k elements."""
        whole = [vector(0, self.lanes)]
        least, _ = self.row.key_bounds
        self.builder.store(self.keys, whole, splat(least, self.lanes, self.row.key_type))
        self.builder.store(self.places, whole, splat(0, self.lanes, "int32"))
        with self.builder.serial("i", self.k) as i, self.row.lowering.scope():
            self._insert(self.builder.kept(self.row.key(self.row.value(i))), i, held=i)

    def last_key(self) -> Expr:
        """The key that another one must exceed."""
        return self.last[0]

    def take(self, key: Expr, place: Expr) -> None:
        """Keep an element in the stead of the last."""
        self._insert(key, place)

    def finish(self) -> None:
        """Store what is kept."""
        order = self.builder.local("order", (self.lanes,), "int32")
        whole = [vector(0, self.lanes)]
        self.builder.store(order, whole, self.places[whole[0]])
        with self.builder.serial("i", self.k) as i, self.row.lowering.scope():
            place = self.builder.bind("place", order[i])
            self.row.store(i, self.row.value(place), place)

    def _insert(self, key: Expr, place: Expr, held: Expr | None = None) -> None:
        """Behind all that are not less. held: how many there are, if fewer than k."""
        lanes, whole = self.lanes, vector(0, self.lanes)
        _, greatest = self.row.key_bounds
        keys, places = self.builder.kept(self.keys[whole]), self.builder.kept(self.places[whole])
        moved = self.builder.kept(_moved(keys, greatest))
        stays, is_behind = splat(key, lanes) <= keys, splat(key, lanes) <= moved
        if held is not None:
            stays = tirx.And(stays, whole < splat(held, lanes))
            is_behind = tirx.And(is_behind, whole <= splat(held, lanes))
        for kept, old, before, new in (
            (self.keys, keys, moved, key), (self.places, places, _moved(places, 0), place),
        ):  # fmt: skip
            following = tirx.Select(stays, old, tirx.Select(is_behind, splat(new, lanes), before))
            self.builder.store(kept, [whole], following)
        self.builder.store(self.last, [integer(0)], tirx.Shuffle([self.keys[whole]], [self.k - 1]))


def _moved(vector: Expr, first: int) -> Expr:
    """The vector moved one lane on, behind a constant."""
    lanes = vm.lanes_of(vector)
    return tirx.Shuffle([vm.constant(first, vector), vector], list(range(lanes - 1, 2 * lanes - 1)))


class _Heap:
    """What is kept of one row, where its positions will be.

    Each entry comes after its two children, 2·i + 1 and 2·i + 2. An entry is a key before the complement of
    its place, so that the greater entry comes first; of keys of 64 bits the place alone.
    """

    def __init__(self, row: _Row, k: int) -> None:
        self.row, self.lowering, self.builder, self.k = row, row.lowering, row.lowering.builder, k
        self.entries = row.lowering.graph.returned[1]
        self.is_packed = row.key_bits <= PLACE_BITS

    def start(self) -> None:
        """Keep the first k elements."""
        builder, k = self.builder, self.k
        with builder.serial("i", k) as i, self.lowering.scope():
            self._put(i, self._entry(self.row.key(self.row.value(i)), i))
        with builder.serial("step", k // 2) as step, self.lowering.scope():
            start = builder.bind("start", integer(k // 2 - 1) - step)
            self._sink(self._at(start), start, integer(k))

    def last_key(self) -> Expr:
        """The key that another one must exceed."""
        return self.builder.kept(self._key(self._at(integer(0))))

    def take(self, key: Expr, place: Expr) -> None:
        """Keep an element in the stead of the last."""
        self._sink(self.builder.kept(self._entry(key, place)), integer(0), integer(self.k))

    def finish(self) -> None:
        """Take the roots off, the last of all first, and store what they stand for."""
        builder, k = self.builder, self.k
        with builder.serial("step", k - 1) as step, self.lowering.scope():
            end = builder.bind("end", integer(k - 1) - step)
            last, root = self._at(end), self._at(integer(0))
            self._put(end, root)
            self._sink(last, integer(0), end)
        with builder.serial("i", k) as i, self.lowering.scope():
            place = builder.bind("place", self._place(self._at(i)))
            self.row.store(i, self.row.value(place), place)

    def _entry(self, key: Expr, place: Expr) -> Expr:
        wide = place.astype("int64")
        if not self.is_packed:
            return wide
        high = key.astype("int64") << tirx.const(PLACE_BITS, "int64")
        return high + (tirx.const(LAST_PLACE, "int64") - wide)

    def _place(self, entry: Expr) -> Expr:
        if not self.is_packed:
            return entry.astype("int32")
        last = tirx.const(LAST_PLACE, "int64")
        return (last - tirx.bitwise_and(entry, last)).astype("int32")

    def _key(self, entry: Expr) -> Expr:
        if not self.is_packed:
            return self.row.key(self.row.value(self._place(entry)))
        return (entry >> tirx.const(PLACE_BITS, "int64")).astype(self.row.key_type)

    def _precedes(self, one: Expr, other: Expr) -> Expr:
        """Whether one entry comes before another: of equal elements that of the lower place."""
        if self.is_packed:
            return other < one
        first, second = self.builder.kept(self._key(one)), self.builder.kept(self._key(other))
        return tirx.any(second < first, tirx.all(tirx.EQ(first, second), one < other))

    def _at(self, i: Expr) -> Expr:
        return self.builder.kept(self.lowering.load(self.entries, self.row.index(i)))

    def _put(self, i: Expr, entry: Expr) -> None:
        self.lowering.store(self.entries, self.row.index(i), entry)

    def _sink(self, entry: Expr, start: Expr, size: Expr) -> None:
        """Put an entry in the place of the one at `start`, below all of its children that come after it."""
        builder = self.builder
        hole, child = (builder.local(name, (1,), "int32") for name in ("hole", "child"))
        builder.store(hole, [integer(0)], start)
        builder.store(child, [integer(0)], start * integer(2) + integer(1))
        with builder.repeated(child[0] < size), self.lowering.scope():
            first = builder.bind("first", child[0])
            second = builder.bind("second", tirx.min(first + integer(1), size - integer(1)))
            is_second = self._precedes(self._at(first), self._at(second))
            last = builder.bind("last", tirx.Select(is_second, second, first))
            below = self._at(last)
            builder.store(child, [integer(0)], size)
            with builder.when(self._precedes(entry, below)):
                self._put(hole[0], below)
                builder.store(hole, [integer(0)], last)
                builder.store(child, [integer(0)], last * integer(2) + integer(1))
        self._put(hole[0], entry)


def _key_type(type: TensorType) -> str:
    if type.dtype.is_float:
        return "int64" if type.dtype is DType.F64 else "int32"
    if type.dtype in (DType.U32, DType.U64):
        return storage_type(type).lstrip("u")
    return "uint8" if type.dtype.kind is Kind.BOOL else storage_type(type)


def _ascending(type: TensorType, x: Expr) -> Expr:
    """An integer that sorts as the element does, NaN above every number."""
    if type.dtype in (DType.U32, DType.U64):
        signed = vm.bits(x, _key_type(type))
        return tirx.bitwise_xor(signed, vm.constant(-(2 ** (8 * type.dtype.bytes - 1)), signed))
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
