# pyright: basic
"""Kernels without anchor between plain rows and blocks of channels: squares transposed in registers.

A square is as many neighbouring pixels of a row as a vector has lanes, of one block of channels. The last
square of a row overlaps the one before, so a row needs at least one. Where nothing lies between rows, the
whole picture is one row.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tvm import tirx

from rtcc.ir import DType, Graph, Layout, TensorType, Value
from rtcc.ir.ops.fused import ConvertLayout
from rtcc.targets.tvm.function_builder import Expr, Index, splat, vector
from rtcc.targets.tvm.kernels.blocked import Blocked
from rtcc.targets.tvm.kernels.blocked_access import zero_halo_of_row
from rtcc.targets.tvm.kernels.panel import transposed
from rtcc.targets.tvm.lower import channel_vectors
from rtcc.targets.tvm.lower.channel_vectors import CHANNELS
from rtcc.targets.tvm.lower.kernel import Lowering, integer, storage_type
from rtcc.targets.tvm.lower.movement import split_index

STORED = (DType.F32, DType.F16, DType.U8, DType.I8)
"""Element types that are stored by squares."""


def suits(graph: Graph, lanes: int) -> bool:
    """Whether one side of the kernel is plain and the other in blocks of so many channels."""
    return _to_blocks(graph, lanes) or _from_blocks(graph, lanes)


def map_kernel(graph: Graph, lanes: int) -> tirx.PrimFunc:
    """A kernel that `suits`."""
    if _to_blocks(graph, lanes):
        return _Packing(_joined(graph), lanes).build()
    return _Unpacking(_joined(graph), lanes).build()


def _to_blocks(graph: Graph, lanes: int) -> bool:
    """Whether the kernel does no more than store a plain tensor in blocks."""
    ops, result = list(graph.ops)[:-1], graph.returned[0].type
    if len(ops) != 1 or not isinstance(ops[0], ConvertLayout) or result.dtype not in STORED:
        return False
    is_new = graph.parameters[0].type.layout is None and _is_blocked(result, lanes)
    return is_new and _row(_joined(graph)) >= lanes


def _from_blocks(graph: Graph, lanes: int) -> bool:
    """Whether the kernel computes a plain tensor from like blocks, elementwise or by resampling."""
    result = graph.returned[0].type
    if len(graph.returned) != 1 or result.layout is not None or result.rank not in (3, 4):
        return False
    if not any(_is_blocked(parameter.type, lanes) for parameter in graph.parameters):
        return False
    blocked = result.with_layout(Layout.blocked(result.rank, lanes))
    return channel_vectors.computes(graph, blocked) and _row(_joined(graph)) >= lanes


def _is_blocked(type: TensorType, lanes: int) -> bool:
    """Whether a picture or signal has its channels in blocks, and nothing else moved."""
    if type.layout is None or type.rank not in (3, 4):
        return False
    return type.layout == Layout.blocked(type.rank, lanes, CHANNELS, type.layout.halo)


def _row(graph: Graph) -> int:
    return graph.returned[0].type.sizes[-1]


def _joined(graph: Graph) -> Graph:
    """The kernel over [N, C, 1, pixels] where its operands are signals, borderless pictures or pixels."""
    values = [*graph.parameters, *(result for op in graph.ops for result in op.results)]
    picture = graph.returned[0].type.sizes[2:]
    for value in values:
        sizes = value.type.sizes
        is_whole = len(sizes) == 2 + len(picture) and sizes[2:] in (picture, (1,) * len(picture))
        if not is_whole and prod(sizes) != 1:
            return graph
        if value.type.layout is not None and value.type.layout.halo and len(picture) > 1:
            return graph
    return _with_types(graph, {value: _one_row(value.type) for value in values})


def _one_row(type: TensorType) -> TensorType:
    """The type with its spatial axes joined to one, behind one of size 1; only a signal has a border."""
    if type.rank < 3:
        return type
    shape = (*type.sizes[:2], 1, prod(type.sizes[2:]))
    if type.layout is None:
        return TensorType(type.dtype, shape)
    before, after = type.layout.halo_of(2)
    layout = Layout.blocked(4, max(type.layout.blocks), halo=(0, before, 0, after))
    return TensorType(type.dtype, shape, layout)


def _with_types(graph: Graph, types: dict[Value, TensorType]) -> Graph:
    copy = Graph(graph.name)
    mapping: dict[Value, Value] = {}
    for parameter in graph.parameters:
        mapping[parameter] = copy.add_parameter(types[parameter], parameter.name)
    for op in list(graph.ops)[:-1]:
        operands = [None if v is None else mapping.get(v, v) for v in op.operands]
        new = copy.append(type(op)(*operands, like=op, types=[types[r] for r in op.results]))
        mapping |= dict(zip(op.results, new.results, strict=True))
    copy.return_(*(mapping[v] for v in graph.returned))
    return copy


class _Squares:
    """Loops over the squares of a kernel under construction."""

    def __init__(self, graph: Graph, lanes: int) -> None:
        self.lowering = Lowering(graph)
        self.lanes = lanes
        self.value = self.lowering.root
        self.sizes = self.value.type.sizes
        self.blocks = -(-self.sizes[CHANNELS] // lanes)

    def rows(self, emit: Callable[[Index, Index, tuple[Index, ...]], None]) -> tirx.PrimFunc:
        """The kernel of emit(n, block, row index) for every row of every block, shared out among tasks."""
        builder, rows = self.lowering.builder, self.sizes[2:-1]
        extents = (self.sizes[0], self.blocks, *rows)
        with builder.tasks("step", prod(extents)) as step:
            n, block, *row = (builder.bind("i", index) for index in split_index(step, extents))
            emit(n, block, tuple(row))
        return builder.finish()

    def columns(self, emit: Callable[[Index], None]) -> None:
        """emit(first column) for every square of a row."""
        whole, rest = divmod(self.sizes[-1], self.lanes)
        with self.lowering.builder.serial("square", whole) as square:
            emit(square * integer(self.lanes))
        if rest:
            emit(integer(self.sizes[-1] - self.lanes))

    def by_channels(self, block: Index, emit: Callable[[int], None]) -> None:
        """emit(how many channels the block has)."""
        full, rest = divmod(self.sizes[CHANNELS], self.lanes)
        builder = self.lowering.builder
        if full:
            with builder.when(tirx.LT(block, integer(full)) if rest else None):
                emit(self.lanes)
        if rest:
            with builder.when(tirx.EQ(block, integer(full)) if full else None):
                emit(rest)


class _Packing(_Squares):
    """Plain rows to blocks of channels."""

    def build(self) -> tirx.PrimFunc:
        def row(n: Index, block: Index, place: tuple[Index, ...]) -> None:
            self._zero_halo(n, block, place)
            self.by_channels(
                block, lambda count: self.columns(lambda x: self._square(n, block, place, x, count))
            )

        return self.rows(row)

    def _square(self, n: Index, block: Index, row: tuple[Index, ...], x: Index, count: int) -> None:
        lowering, lanes = self.lowering, self.lanes
        source = lowering.buffers[lowering.graph.parameters[0]]
        first = block * integer(lanes)
        channels: list[Expr] = [source[(n, first + c, *row, vector(x, lanes))] for c in range(count)]
        channels += [splat(0, lanes, storage_type(self.value.type))] * (lanes - count)
        layout = self.value.type.layout
        assert layout is not None
        places = [index + layout.halo_of(2 + axis)[0] for axis, index in enumerate((*row, x))]
        for m, value in enumerate(transposed(lowering.builder, channels, lanes)):
            target = (n, block, *places[:-1], places[-1] + m, vector(0, lanes))
            lowering.store_physical(self.value, target, value)

    def _zero_halo(self, n: Index, block: Index, row: tuple[Index, ...]) -> None:
        layout = self.value.type.layout
        if layout is None or not layout.halo:
            return
        top, left, bottom, right = layout.halo
        batch, channels, height, width = self.sizes
        form = Blocked(batch, channels, height, width, self.lanes, (top, left, bottom, right))
        buffer = self.lowering.buffers[self.value]
        zero_halo_of_row(self.lowering.builder, buffer, form, n, block, row[0])


class _Unpacking(_Squares):
    """Blocks of channels to plain rows, what is computed on the way included."""

    def build(self) -> tirx.PrimFunc:
        return self.rows(
            lambda n, block, row: self.by_channels(
                block, lambda count: self.columns(lambda x: self._square(n, block, row, x, count))
            )
        )

    def _square(self, n: Index, block: Index, row: tuple[Index, ...], x: Index, count: int) -> None:
        lowering, lanes = self.lowering, self.lanes
        x = lowering.builder.bind("x", x)
        pixels: list[Expr] = []
        for m in range(lanes):
            with lowering.vectors(block, lanes) as channel, lowering.scope():
                pixels.append(lowering.spread(lowering.element(self.value, (n, channel, *row, x + m))))
        output, first = lowering.buffers[self.value], block * integer(lanes)
        for c, value in enumerate(transposed(lowering.builder, pixels, lanes)[:count]):
            lowering.builder.store(output, [n, first + c, *row, vector(x, lanes)], value)
