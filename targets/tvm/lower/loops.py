# pyright: basic
"""Loop templates: how a kernel's results are walked.

Every template divides its outermost loop among tasks, and writes the zeros that a blocked result needs
in its border and padding lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod

from tvm import tirx

from rtcc.ir import Graph, Value
from rtcc.ir.ops import movement
from rtcc.ir.ops.axes import normal_axis
from rtcc.targets.tvm.function_builder import Expr, bounded
from rtcc.targets.tvm.lower.kernel import Index, Lowering, integer, literal
from rtcc.targets.tvm.lower.movement import split_index

FLAT_BLOCK = 2048
"""Elements that one task iteration of a one-dimensional loop does."""
LEADING_ITERATIONS = 64
"""Outer axes are joined into the task loop until it has at least this many iterations."""

TILE = 16
"""Side of the squares that a transpose is done in: one cache line of float32."""
CACHE_LINE, PAGE = 64, 4096
NEAR_CACHE = 16 * 1024
"""Bytes that surely stay in the first-level cache while a row of a transpose is written."""

Body = Callable[[Index], None]


def map_kernel(graph: Graph) -> tirx.PrimFunc:
    """A kernel without anchor: each result element is one expression."""
    graph = collapsed(graph)
    lowering = Lowering(graph)
    if _is_concat(graph):
        _concat_loops(lowering)
    elif not lowering.builder.is_per_element and (axis := _strided_axis(graph)) is not None:
        _tiled_loops(lowering, lowering.root, axis)
    else:
        for result in graph.returned:
            store_elements(lowering, result)
    return lowering.builder.finish()


def store_elements(lowering: Lowering, value: Value) -> None:
    """Loops that store every element of a result."""

    def body(index: Index) -> None:
        with lowering.scope():
            lowering.store(value, index, lowering.element(value, index))

    for_each_element(lowering, value, body)


def _strided_axis(graph: Graph) -> int | None:
    """The result axis along which a transpose reads neighbours, where reading a row would crowd the cache."""
    transposes = [op for op in graph.ops if isinstance(op, movement.Transpose)]
    result = graph.returned[0].type
    if len(transposes) != 1 or len(graph.returned) != 1 or result.layout is not None:
        return None
    (op,) = transposes
    data = op.data.type
    if op.data.producer is not None or data.layout is not None or op.type.shape != result.shape:
        return None
    last = data.rank - 1
    axis = op.permutation(data.rank).index(last) if data.rank else 0
    if axis == last or min(result.sizes[axis], result.sizes[-1]) < TILE:
        return None
    stride = prod(data.sizes[op.permutation(data.rank)[-1] + 1 :]) * data.dtype.bytes
    crowded = result.sizes[-1] * CACHE_LINE > NEAR_CACHE or stride % PAGE == 0
    return axis if crowded else None


def _tiled_loops(lowering: Lowering, value: Value, axis: int) -> None:
    """Squares over the last axis and the one read contiguously: a cache line serves a whole square."""
    builder, sizes = lowering.builder, value.type.sizes
    if 0 in sizes:
        return
    others = [a for a in range(len(sizes)) if a not in (axis, len(sizes) - 1)]
    extents = [*(sizes[a] for a in others), -(-sizes[axis] // TILE), -(-sizes[-1] // TILE)]
    with builder.tasks("task_index", prod(extents)) as position:
        *outer, row, column = (builder.bind("o", i) for i in split_index(position, extents))
        starts = [builder.bind("start", block * integer(TILE)) for block in (row, column)]
        counts = [bounded(TILE, sizes[a], start) for a, start in zip((axis, -1), starts, strict=True)]
        with builder.serial("i", counts[0]) as i, builder.serial("j", counts[1]) as j, lowering.scope():
            places = dict(zip(others, outer, strict=True)) | {
                axis: starts[0] + i,
                len(sizes) - 1: starts[1] + j,
            }
            index = [places[a] for a in range(len(sizes))]
            lowering.store(value, index, lowering.element(value, index))


def for_each_element(lowering: Lowering, value: Value, body: Body) -> None:
    """Call `body` inside loops over the logical elements of a result; zero the border and padding lanes."""
    if value.type.layout is None:
        task_loops(lowering, value.type.sizes or (1,), lambda index: body(index[: value.type.rank]))
    elif lowering.builder.is_per_element and not any(value.type.layout.halo):
        _blocked_elements(lowering, value, body)
    else:
        _blocked_loops(lowering, value, body)


def _blocked_elements(lowering: Lowering, value: Value, body: Body) -> None:
    """Each stored element of a channel-blocked result as a task of its own; padding lanes are zeros."""
    layout, channels = value.type.layout, value.type.sizes[1]
    assert layout is not None
    assert layout.inner == (1,)
    lanes = layout.blocks[1]

    def element(place: Index) -> None:
        *outer, lane = place
        with lowering.lane(outer[1], lane, lanes) as channel:
            inside = tirx.LT(channel, integer(channels)) if channels % lanes else None
            with lowering.builder.when(inside):
                body((outer[0], channel, *outer[2:]))
            if inside is not None:
                with lowering.builder.when(tirx.Not(inside)):
                    lowering.store_physical(value, place, literal(0, value.type))

    task_loops(lowering, value.type.physical_shape, element)


def task_loops(lowering: Lowering, sizes: Sequence[int], body: Body) -> None:
    """Nested loops over an index space, divided among tasks: leading axes joined, or one axis in blocks.

    All axes are joined where each element is a task.
    """
    if 0 in sizes:
        return
    builder = lowering.builder
    if builder.is_per_element:
        lead = len(sizes)
    elif len(sizes) == 1:
        _flat_loop(lowering, sizes[0], body)
        return
    else:
        lead = 1
        while lead < len(sizes) - 1 and prod(sizes[:lead]) < LEADING_ITERATIONS:
            lead += 1
    with builder.tasks("task_index", prod(sizes[:lead])) as position:
        outer = tuple(builder.bind(f"i{n}", i) for n, i in enumerate(split_index(position, sizes[:lead])))
        inner_loops(lowering, sizes[lead:], lambda index: body((*outer, *index)))


def row_loops(lowering: Lowering, sizes: Sequence[int], body: Body) -> None:
    """Loops over an index space within a task, shared by the threads that do it together."""
    width = lowering.builder.width
    if width == 1:
        inner_loops(lowering, sizes, body)
        return
    rounds = -(-prod(sizes) // width)
    with lowering.builder.serial("round", rounds) as number, own_places(lowering, number, sizes) as place:
        body(place)


@contextmanager
def own_places(lowering: Lowering, number: Expr, sizes: Sequence[int]) -> Iterator[Index]:
    """The place that a thread has in a round of those that do a task together, where there is one."""
    builder, count = lowering.builder, prod(sizes)
    flat = builder.bind("flat", number * integer(builder.width) + builder.lane)
    with builder.when(flat < integer(count) if count % builder.width else None):
        yield tuple(builder.bind("place", i) for i in split_index(flat, sizes))


def inner_loops(lowering: Lowering, sizes: Sequence[int], body: Body) -> None:
    """Plain nested loops over an index space."""
    with ExitStack() as stack:
        body(tuple(stack.enter_context(lowering.builder.serial(f"l{n}", s)) for n, s in enumerate(sizes)))


def _flat_loop(lowering: Lowering, size: int, body: Body) -> None:
    builder = lowering.builder
    block = min(size, FLAT_BLOCK)
    whole, rest = divmod(size, block)
    with builder.tasks("block", whole + bool(rest)) as number:
        start = builder.bind("start", number * integer(block))
        count: Expr | int = block if not rest else builder.bind(
            "count", tirx.min(integer(block), integer(size) - start))  # fmt: skip
        with builder.serial("i", count) as i:
            body((start + i,))


def _blocked_loops(lowering: Lowering, value: Value, body: Body) -> None:
    """Loops over a channel-blocked result in storage order: N, C blocks, spatial axes, lanes."""
    builder, layout = lowering.builder, value.type.layout
    assert layout is not None
    lanes, zero = layout.blocks[1], literal(0, value.type)
    full, rest = divmod(value.type.sizes[1], lanes)

    def zeros(outer: Index, first: int) -> None:
        if first < lanes:
            with builder.serial("lane", lanes - first, first) as lane:
                lowering.store_physical(value, [*outer, lane], zero)

    def elements(outer: Index, index: Index, count: int) -> None:
        """The first `count` lanes of one place, and zeros in the others."""
        with builder.serial("lane", count) as lane, lowering.lane(outer[1], lane, lanes) as channel:
            body((index[0], channel, *index[1:]))
        zeros(outer, count)

    def place(outer: Index, index: Index | None) -> None:
        if index is None:
            zeros(outer, 0)
            return
        if full:
            with builder.when(tirx.LT(outer[1], integer(full)) if rest else None):
                elements(outer, index, lanes)
        if rest:
            with builder.when(tirx.EQ(outer[1], integer(full)) if full else None):
                elements(outer, index, rest)

    for_each_place(lowering, value, place)


Place = Callable[[Index, "Index | None"], None]
"""Stores all lanes at an index in storage order; then the logical index but for the channel, None: border."""


def for_each_place(lowering: Lowering, value: Value, store: Place) -> None:
    """Call `store` inside loops over a channel-blocked result in storage order, but for the lanes."""
    type, builder = value.type, lowering.builder
    layout = type.layout
    assert layout is not None
    assert layout.inner == (1,)
    assert [axis for axis, _ in layout.outer] == list(range(type.rank))
    sizes, physical = type.sizes, type.physical_shape

    def border(outer: Index, rest: Index) -> None:
        store((*outer, *rest), None)

    def spatial_loops(outer: Index, index: Index) -> None:
        axis = len(outer)
        if axis == type.rank:
            store(outer, index)
            return
        before, after = layout.halo_of(axis)
        ranges = [(0, before, False), (before, sizes[axis], True), (before + sizes[axis], after, False)]
        for start, count, inside in ranges:
            if count == 0:
                continue
            with builder.serial(f"s{axis}", count) as i:
                position = (*outer, i + integer(start) if start else i)
                if inside:
                    spatial_loops(position, (*index, i))
                else:
                    inner_loops(lowering, physical[axis + 1 : -1], functools.partial(border, position))

    if 0 in physical:
        return
    with builder.tasks("task_index", physical[0] * physical[1]) as position:
        n, c = (
            builder.bind(name, i) for name, i in zip("nc", split_index(position, physical[:2]), strict=True)
        )
        spatial_loops((n, c), (n,))


def collapsed(graph: Graph) -> Graph:
    """The same elementwise kernel over fewer axes: neighbours that all operands treat alike become one."""
    ops = list(graph.ops)[:-1]
    values = [*graph.parameters, *(r for op in ops for r in op.results)]
    if not all(op.elementwise for op in ops) or any(v.type.layout for v in values):
        return graph
    sizes = graph.returned[0].type.sizes
    shapes = [(1,) * (len(sizes) - v.type.rank) + v.type.sizes for v in values]
    groups: list[list[int]] = []
    for axis in range(len(sizes)):
        if groups and all(_alike(shape, [*groups[-1], axis], sizes) for shape in shapes):
            groups[-1].append(axis)
        else:
            groups.append([axis])
    if len(groups) >= len(sizes):
        return graph
    merged = {
        v: tuple(prod(s[a] for a in group) for group in groups) for v, s in zip(values, shapes, strict=True)
    }
    return _with_shapes(graph, merged)


def _alike(shape: tuple[int, ...], axes: Sequence[int], sizes: tuple[int, ...]) -> bool:
    """Whether an operand is whole on all of the axes, or broadcast on all; axes of size 1 are both."""
    return len({shape[axis] == sizes[axis] for axis in axes if sizes[axis] != 1}) <= 1


def _with_shapes(graph: Graph, shapes: dict[Value, tuple[int, ...]]) -> Graph:
    copy = Graph(graph.name)
    mapping: dict[Value, Value] = {}
    for parameter in graph.parameters:
        mapping[parameter] = copy.add_parameter(parameter.type.with_shape(shapes[parameter]), parameter.name)
    for op in list(graph.ops)[:-1]:
        operands = [None if v is None else mapping.get(v, v) for v in op.operands]
        types = [r.type.with_shape(shapes[r]) for r in op.results]
        new = copy.append(type(op)(*operands, like=op, types=types))
        mapping |= dict(zip(op.results, new.results, strict=True))
    copy.return_(*(mapping[v] for v in graph.returned))
    return copy


def _is_concat(graph: Graph) -> bool:
    ops = list(graph.ops)[:-1]
    return len(ops) == 1 and isinstance(ops[0], movement.Concat) and graph.returned[0].type.layout is None


def _concat_loops(lowering: Lowering) -> None:
    """One copy loop per input, each to its own part of the result."""
    op = lowering.root.producer
    assert isinstance(op, movement.Concat)
    axis = normal_axis(op, op.axis, op.type.rank)
    start = 0
    for value in op.inputs:
        offset = integer(start)

        def body(index: Index, value: Value = value, offset: Expr = offset) -> None:
            target = [*index[:axis], index[axis] + offset, *index[axis + 1 :]]
            with lowering.scope():
                lowering.store(lowering.root, target, lowering.element(value, index))

        task_loops(lowering, value.type.sizes, body)
        start += value.type.sizes[axis]
