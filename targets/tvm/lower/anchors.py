# pyright: basic, reportAttributeAccessIssue=false
"""Anchors that our own micro-kernels compute: which problem a kernel is, and its epilogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from math import prod
from typing import TYPE_CHECKING

from tvm import tirx

from rtcc.errors import InvalidInput
from rtcc.ir import Constant, DType, Graph, Layout, Op, TensorType, Value
from rtcc.ir.ops import nn, pooling
from rtcc.ir.ops.attention import TokenAttention
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.fft_conv import FftConv
from rtcc.ir.ops.integer import ConvSum, GlobalSum, MatMulSum, WindowSum
from rtcc.ir.ops.softmax import Softmax
from rtcc.ir.ops.sparse import SparseConv, SparseMatMul
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.ir.regions import joined_pool
from rtcc.target import GENERIC, Halos, Target
from rtcc.targets.tvm.function_builder import Expr, splat, vector
from rtcc.targets.tvm.kernels.attention import attention, softmax
from rtcc.targets.tvm.kernels.attention.attention_problem import attention_illegal
from rtcc.targets.tvm.kernels.convolution import depthwise_conv, direct_conv, im2col_conv, plain_conv
from rtcc.targets.tvm.kernels.convolution.conv_problem import Tile, multiplies_by_lane
from rtcc.targets.tvm.kernels.convolution.conv_tiles import tile_illegal
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colTile
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Position
from rtcc.targets.tvm.kernels.matrix_product import matmul, matmul_tiles
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulTile
from rtcc.targets.tvm.kernels.pooling import pool
from rtcc.targets.tvm.kernels.sparse import sparse_conv, sparse_matmul
from rtcc.targets.tvm.kernels.sparse.sparse_tiles import ProductTile, SparseProduct
from rtcc.targets.tvm.kernels.transformed import columns_conv, fft_conv, winograd_conv
from rtcc.targets.tvm.kernels.transformed.columns_tiles import ColumnsTile
from rtcc.targets.tvm.kernels.transformed.columns_tiles import tile_illegal as columns_tile_illegal
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import Blocking, blocking_illegal
from rtcc.targets.tvm.lower import reduction, rows, windows
from rtcc.targets.tvm.lower.channel_vectors import CHANNELS
from rtcc.targets.tvm.lower.kernel import (
    emit,
    integer,
    is_per_element,
    literal,
    loaded,
    narrowed,
    storage_type,
    stored,
    widened,
)
from rtcc.targets.tvm.lower.movement import split_index
from rtcc.targets.tvm.lower.rules import kernel_rule
from rtcc.targets.tvm.problems import (
    DEPTHWISE_ROWS,
    IM2COL,
    columns_problem,
    conv_problem,
    fft_problem,
    im2col_problem,
    is_column,
    is_columns,
    is_turned,
    matmul_problem,
    pool_problem,
    token_attention_problem,
    winograd_problem,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_CONVOLUTIONS = {
    "direct": direct_conv.make, "depthwise": depthwise_conv.make, "direct_plain": plain_conv.make,
    DEPTHWISE_ROWS: depthwise_conv.make_of_rows,
}  # fmt: skip


class RegionEpilogue:
    """The ops after the anchor, as the epilogue of a micro-kernel: vectors in, vectors out.

    A pool that joined the region is the micro-kernel's own; the epilogue is what comes before it.

    own: the anchor's operands that the micro-kernel reads itself. logical: from the micro-kernel's
    coordinates to those of the anchor's result, where the two differ.
    """

    def __init__(
        self,
        graph: Graph,
        anchor: Op,
        own: Sequence[Value],
        logical: Callable[[Position], Position],
    ) -> None:
        self.graph = graph
        self.anchor = anchor
        self.own = list(own)
        self.logical = logical
        self.operands: list[Value] = [p for p in graph.parameters if p not in self.own]
        self.parameters: Sequence[BufferSpec] = [
            BufferSpec(f"e{n}", value.type.physical_shape or (1,), storage_type(value.type))
            for n, value in enumerate(self.operands)
        ]

    def emit(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        """What the region makes of one vector of the anchor's result, its addend not yet added."""
        return self._rest(self._with_addend(value, self.logical(at), buffers), self.logical(at), buffers)

    def start(self, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr | None:
        """A convolution's bias in f32; None where there is none."""
        addend = self._addend
        if addend is None or self.anchor.type.dtype is not DType.F32:
            return None
        return self._load(addend, self.anchor.type, self.logical(at), buffers, (CHANNELS,))

    def emit_rest(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        """What the region makes of one vector of the anchor's result."""
        return self._rest(value, self.logical(at), buffers)

    def _rest(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        known: dict[Value, Expr] = {self.anchor.result: value}
        pool = joined_pool(self.graph)
        for op in list(self.graph.ops)[:-1]:
            if op is not self.anchor and op is not pool:
                operands = [
                    buffers[self.operands.index(value)]
                    if value is not None and op.is_table_operand(slot)
                    else self._operand(value, op, known, at, buffers)
                    for slot, value in enumerate(op.operands)
                ]
                known[op.result] = self._emitted(op, operands)
        last = self.graph.returned[0] if pool is None else pool.operands[0]
        assert last is not None
        return stored(known[last], last.type)

    @property
    def _addend(self) -> Value | None:
        """The anchor's own last operand, which is behind what it multiplies."""
        slot = 4 if isinstance(self.anchor, SparseConv | SparseMatMul) else 2
        return self.anchor.operands[slot] if len(self.anchor.operands) > slot else None

    def _emitted(self, op: Op, operands: Sequence[Expr | None]) -> Expr:
        """What one op makes of its operands."""
        return emit(op, *operands)

    def _with_addend(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        """The anchor's own addend added: a convolution's bias per channel, a gemm's addend.

        Halves are added in float32 and rounded once.
        """
        addend = self._addend
        if addend is None:
            return narrowed(value, self.anchor.type)
        per_channel = nn.Conv | WinogradConv | FftConv | SparseConv
        axes = (CHANNELS,) if isinstance(self.anchor, per_channel) else None
        added = self._load(addend, self.anchor.type, at, buffers, axes)
        return narrowed(widened(value) + widened(added), self.anchor.type)

    def _operand(
        self,
        value: Value | None,
        op: Op,
        known: dict[Value, Expr],
        at: Position,
        buffers: Sequence[tirx.Buffer],
    ) -> Expr | None:
        if value is None or value in known:
            return None if value is None else known[value]
        return self._load(value, op.type, at, buffers)

    def _load(
        self,
        value: Value,
        result: TensorType,
        at: Position,
        buffers: Sequence[tirx.Buffer],
        axes: tuple[int, ...] | None = None,
    ) -> Expr:
        """An operand's vector at a position; axes: which of the result's axes are its own (or the last)."""
        if isinstance(value, Constant):
            return splat(literal(value.array.reshape(())[()], value.type), at.lanes)
        buffer = buffers[self.operands.index(value)]
        type = value.type
        axes = axes or tuple(range(result.rank - type.rank, result.rank))
        whole = [size != 1 for size in type.sizes]
        spread = any(axis == at.axis and whole[n] for n, axis in enumerate(axes))
        index = [at.vector_index(axis) if whole[n] else integer(0) for n, axis in enumerate(axes)]
        place = _blocked_place(type, index, at, axes) if type.layout else index or [integer(0)]
        element = loaded(buffer[place], type)
        return element if spread else splat(element, at.lanes, storage_type(type))


def _blocked_place(type: TensorType, index: Sequence[Expr], at: Position, axes: Sequence[int]) -> list[Expr]:
    """Storage index of an operand in the same channel blocks as the result."""
    layout = type.layout
    assert layout is not None
    assert len(layout.inner) == 1
    blocked = layout.inner[0]
    lanes = layout.blocks[blocked]
    outer: list[Expr] = []
    for axis, block in layout.outer:
        before = layout.halo_of(axis)[0]
        if block == 1:
            outer.append(index[axis] + integer(before) if before else index[axis])
        else:
            channel = at.index[axes[axis]] if type.sizes[axis] != 1 else integer(0)
            outer.append(tirx.floordiv(channel, integer(lanes)))
    if type.sizes[blocked] == 1:
        return [*outer, integer(0)]
    is_along = at.axis == axes[blocked]
    return [*outer, vector(0, lanes) if is_along else tirx.floormod(at.index[axes[blocked]], integer(lanes))]


def finished(func: tirx.PrimFunc, graph: Graph, epilogue: RegionEpilogue) -> tirx.PrimFunc:
    """The function with its buffers in the kernel's order; micro-kernels put their own operands first."""
    count = len(graph.parameters)
    head, buffers, tail = func.params[:2], func.params[2 : 2 + count], func.params[2 + count :]
    given = dict(zip([*epilogue.own, *epilogue.operands], buffers, strict=True))
    ordered = [*head, *(given[p] for p in graph.parameters), *tail]
    return tirx.PrimFunc(ordered, func.body, func.ret_type, func.attrs, func.span)


def conv_coordinates(op: nn.Conv | ConvSum) -> Callable[[Position], Position]:
    """From a convolution kernel's (n, c, y, x) to the coordinates of the result."""
    if op.type.rank == 3:
        return _without_height
    return _turned if is_column(op) else _same


def product_coordinates(
    op: nn.MatMul | nn.Gemm | MatMulSum, *, packed: bool
) -> Callable[[Position], Position]:
    """From a product kernel's (image, row, column) to the result's; packed: all rows are of one image."""
    lead = op.type.sizes[:-1] if packed else op.type.sizes[:-2]

    def logical(at: Position) -> Position:
        image, row, column = at.index
        outer = split_index(row, lead) if packed else (*split_index(image, lead), row)
        return Position((*outer, column), op.type.rank - 1, at.lanes)

    return logical


def _same(at: Position) -> Position:
    return at


def _turned(at: Position) -> Position:
    n, c, y, x = at.index
    return Position((n, c, x, y), at.axis, at.lanes)


def _without_height(at: Position) -> Position:
    """(n, c, 0, x) as (n, c, x): one spatial axis is computed as a picture of height 1."""
    return Position((at.index[0], at.index[1], at.index[3]), at.axis, at.lanes)


def result_layout(graph: Graph) -> Layout | None:
    """How a kernel's result is stored."""
    return graph.returned[0].type.layout


def require_tile(
    op: Op,
    tile: DataclassInstance,
    weights: TensorType,
    axis: int,
    block: int,
    reason: str | None = None,
) -> None:
    """Refuse a tile, edited by hand say, that cannot be, or that reads packed weights wrongly.

    block: the tile's blocks of the weights' axis. reason: why the tile cannot be, None where it can.
    """
    found = weights.layout.blocks[axis] if weights.layout else 1
    if min(astuple(tile)) < 1:
        reason = "its numbers must be at least 1"
    elif found != block:
        reason = f"it reads the weights in blocks of {block}, they are stored in blocks of {found}"
    if reason is not None:
        hint = "select-layout chooses tile and layout together: run it again"
        raise InvalidInput("bad-tile", f"{tile}: {reason}", where=str(op.location) or None, hint=hint)


@kernel_rule(nn.Conv)
def _conv(graph: Graph, op: nn.Conv, target: Target) -> tirx.PrimFunc:
    layout = result_layout(graph)
    if graph.attributes.get("algorithm", GENERIC) == GENERIC:
        return reduction.general_conv(graph, op, target)
    if graph.attributes["algorithm"] == IM2COL:
        return _im2col(graph, op, target)
    assert layout is not None
    epilogue = RegionEpilogue(graph, op, [op.data, op.weight], conv_coordinates(op))
    halos = Halos(op.data.type.layout.halo if op.data.type.layout else (), layout.halo)
    algorithm, tile = graph.attributes["algorithm"], Tile(*graph.attributes["tile"])
    vectors = 1 if algorithm == "depthwise" else tile.blocks
    by_lane = multiplies_by_lane(target.machine.features)
    problem = conv_problem(op, layout.blocks[1], halos, by_lane=by_lane)
    require_tile(
        op, replace(tile, depth=tile.depth or 1), op.weight.type, 0, vectors * layout.blocks[1],
        tile_illegal(problem, tile),
    )  # fmt: skip
    func = _CONVOLUTIONS[algorithm](problem, epilogue, tile)
    return finished(func, graph, epilogue)


def _im2col(graph: Graph, op: nn.Conv, target: Target) -> tirx.PrimFunc:
    epilogue = RegionEpilogue(graph, op, [op.data, op.weight], _same)
    tile = Im2colTile(*graph.attributes["tile"])
    held = tile.filters * tile.vectors
    reason = f"it keeps {held} vectors, expected at most 32" if held > 32 else None
    require_tile(op, tile, op.weight.type, 0, 1, reason)
    problem = im2col_problem(op, target.lanes(op.type.dtype))
    return finished(im2col_conv.make(problem, epilogue, tile), graph, epilogue)


@kernel_rule(SparseConv)
def _sparse_conv(graph: Graph, op: SparseConv, target: Target) -> tirx.PrimFunc:
    if result_layout(graph) is not None or op.data.type.layout is not None or "tile" not in graph.attributes:
        raise _without_layouts(op)
    epilogue = RegionEpilogue(graph, op, [op.data, op.values, op.terms, op.starts], _same)
    tile, (blocks, outputs) = Im2colTile(*graph.attributes["tile"]), op.values.type.sizes
    if min(astuple(tile)) < 1 or tile.filters != outputs or tile.filters * tile.vectors > 32:
        message = f"{tile}: it takes blocks of {tile.filters} filters, they are stored in {outputs}"
        raise InvalidInput("bad-tile", message, where=str(op.location) or None, hint="run select-conv again")
    problem = im2col_problem(op, target.lanes(op.type.dtype))
    return finished(sparse_conv.make(problem, epilogue, tile, blocks), graph, epilogue)


@kernel_rule(SparseMatMul)
def _sparse_product(graph: Graph, op: SparseMatMul, target: Target) -> tirx.PrimFunc:
    if "tile" not in graph.attributes:
        raise _without_layouts(op)
    lanes, lead = target.lanes(op.type.dtype), op.type.sizes[:-1]
    tile, (blocks, outputs) = ProductTile(*graph.attributes["tile"]), op.values.type.sizes
    if min(astuple(tile)) < 1 or tile.outputs != outputs or outputs % lanes:
        message = f"{tile}: it takes blocks of {tile.outputs} outputs, they are stored in {outputs}"
        raise InvalidInput("bad-tile", message, where=str(op.location) or None, hint="run select-conv again")

    def logical(at: Position) -> Position:
        _, row, column = at.index
        return Position((*split_index(row, lead), column), op.type.rank - 1, at.lanes)

    epilogue = RegionEpilogue(graph, op, [op.left, op.values, op.terms, op.starts], logical)
    problem = SparseProduct(prod(lead), op.left.type.sizes[-1], op.type.sizes[-1], blocks, lanes)
    return finished(sparse_matmul.make(problem, epilogue, tile), graph, epilogue)


def _without_layouts(op: Op) -> InvalidInput:
    message = f"{op.name} has code for plain tensors and a tile alone"
    return InvalidInput("bad-layout", message, where=str(op.location) or None, hint="run select-layout again")


@kernel_rule(WinogradConv)
def _winograd(graph: Graph, op: WinogradConv, target: Target) -> tirx.PrimFunc:
    if is_columns(graph.attributes.get("algorithm", "")):
        return _columns(graph, op)
    lanes, halos = _blocks_of(graph, op)
    logical = _without_height if op.type.rank == 3 else _same
    epilogue = RegionEpilogue(graph, op, [op.data, op.weight], logical)
    by = Blocking(*graph.attributes["tile"])
    by_lane = multiplies_by_lane(target.machine.features)
    problem = winograd_problem(op, lanes, halos, joined_pool(graph), by_lane=by_lane)
    reason = blocking_illegal(replace(problem, pooling=None), by)  # chosen before a pool joined
    require_tile(op, by, op.weight.type, 0, by.blocks * lanes, reason)
    return finished(winograd_conv.make(problem, epilogue, by), graph, epilogue)


def _columns(graph: Graph, op: WinogradConv) -> tirx.PrimFunc:
    layout = result_layout(graph)
    if layout is None or op.data.type.layout is not None:
        raise InvalidInput(
            "bad-layout",
            f"{graph.attributes['algorithm']} reads a plain picture and writes blocks of channels",
            where=str(op.location) or None,
            hint="select-layout chooses layouts: run it again",
        )
    lanes = layout.blocks[1]
    epilogue = RegionEpilogue(graph, op, [op.data, op.weight], _same)
    problem = columns_problem(op, lanes, Halos((), layout.halo), joined_pool(graph))
    tile = ColumnsTile(*graph.attributes["tile"])
    require_tile(op, tile, op.weight.type, 0, tile.blocks * lanes, columns_tile_illegal(problem, tile))
    return finished(columns_conv.make(problem, epilogue, tile), graph, epilogue)


@kernel_rule(FftConv)
def _fft(graph: Graph, op: FftConv, target: Target) -> tirx.PrimFunc:
    lanes, halos = _blocks_of(graph, op)
    logical = _turned if is_turned(op) else _same
    logical = _without_height if op.type.rank == 3 else logical
    epilogue = RegionEpilogue(graph, op, [op.data, op.weight], logical)
    by, problem = Blocking(*graph.attributes["tile"]), fft_problem(op, lanes, halos)
    require_tile(op, by, op.weight.type, 0, by.blocks * lanes, blocking_illegal(problem, by))
    return finished(fft_conv.make(problem, epilogue, by), graph, epilogue)


def _blocks_of(graph: Graph, op: WinogradConv | FftConv) -> tuple[int, Halos]:
    """Channels of a block, and the halos, of data and result; InvalidInput where they are plain."""
    layout = result_layout(graph)
    if layout is None or op.data.type.layout is None:
        raise InvalidInput(
            "bad-layout",
            f"{op.name} has code for blocks of channels alone, its data or result are plain",
            where=str(op.location) or None,
            hint="select-layout chooses layouts: run it again, with constant weights",
        )
    return layout.blocks[1], Halos(op.data.type.layout.halo, layout.halo)


@kernel_rule(nn.MatMul, nn.Gemm)
def _product(graph: Graph, op: nn.MatMul | nn.Gemm, target: Target) -> tirx.PrimFunc:
    if graph.attributes.get("algorithm", GENERIC) == GENERIC:
        if isinstance(op, nn.Gemm):
            return reduction.general_gemm(graph, op, target)
        return reduction.general_matmul(graph, op, target)
    packed = op.right.type.layout is not None
    problem = matmul_problem(op, target.lanes(op.type.dtype), packed=packed)
    epilogue = RegionEpilogue(graph, op, [op.left, op.right], product_coordinates(op, packed=packed))
    tile = MatmulTile(*graph.attributes["tile"])
    columns = 0 if isinstance(op, nn.Gemm) and op.transB else op.right.type.rank - 1
    block = tile.vectors * problem.lanes if packed else 1
    require_tile(op, tile, op.right.type, columns, block, matmul_tiles.tile_illegal(tile))
    func = matmul.make(problem, epilogue, tile)
    return finished(func, graph, epilogue)


@kernel_rule(pooling.MaxPool, pooling.AveragePool, pooling.LpPool)
def _pool(graph: Graph, op: pooling.Pool, target: Target) -> tirx.PrimFunc:
    if _is_blocked(graph, op):
        return _blocked_pool(graph, op)
    return windows.general_pool(graph, op, target)


@kernel_rule(GlobalSum)
def _global_sum(graph: Graph, op: GlobalSum, target: Target) -> tirx.PrimFunc:
    if _is_blocked(graph, op):
        return _blocked_pool(graph, op)
    return windows.general_global_sum(graph, op, target)


@kernel_rule(WindowSum)
def _window_sum(graph: Graph, op: WindowSum, target: Target) -> tirx.PrimFunc:
    if _is_blocked(graph, op):
        return _blocked_pool(graph, op)
    return windows.general_window_sum(graph, op, target)


@kernel_rule(pooling.GlobalAveragePool, pooling.GlobalMaxPool, pooling.GlobalLpPool)
def _global_pool(graph: Graph, op: pooling.GlobalPool, target: Target) -> tirx.PrimFunc:
    if _is_blocked(graph, op):
        return _blocked_pool(graph, op)
    return windows.general_global_pool(graph, op, target)


def _is_blocked(graph: Graph, op: Op) -> bool:
    """Whether the micro-kernel does it, block by block, rather than loops over elements in any layout."""
    data = op.operands[0]
    in_blocks = data in graph.parameters and data.type.layout is not None and result_layout(graph) is not None
    return in_blocks and not is_per_element()


def _blocked_pool(graph: Graph, op: Op) -> tirx.PrimFunc:
    layout, data = result_layout(graph), op.operands[0]
    assert layout is not None
    assert data is not None
    logical = _without_height if op.type.rank == 3 else _same
    epilogue = RegionEpilogue(graph, op, [data], logical)
    output = storage_type(graph.returned[0].type)
    return finished(pool.make(pool_problem(op, layout), epilogue, output), graph, epilogue)


@kernel_rule(Softmax)
def _softmax(graph: Graph, op: Softmax, target: Target) -> tirx.PrimFunc:
    lanes, sizes = target.lanes(DType.F32), op.type.sizes
    if is_per_element() or not _is_vector_softmax(graph, op, lanes):
        return rows.general_softmax(graph, op, target)

    def logical(at: Position) -> Position:
        row, column = at.index
        return Position((*split_index(row, sizes[:-1]), column), len(sizes) - 1, at.lanes)

    epilogue = RegionEpilogue(graph, op, [op.data], logical)
    return finished(softmax.make(prod(sizes[:-1]), sizes[-1], lanes, epilogue), graph, epilogue)


def _is_vector_softmax(graph: Graph, op: Softmax, lanes: int) -> bool:
    """Whether the region is plain rows of f32 with elementwise ops after it alone."""
    result = graph.returned[0].type
    return (
        op.data in graph.parameters
        and op.data.type.layout is result.layout is None
        and op.type.dtype is result.dtype is DType.F32
        and normal_axis(op, op.axis, op.type.rank) == op.type.rank - 1
        and op.type.elements > 0
        and softmax.suits(op.type.sizes[-1], lanes)
        and all(each is op or each.elementwise for each in list(graph.ops)[:-1])
    )


@kernel_rule(TokenAttention)
def _token_attention(graph: Graph, op: TokenAttention, target: Target) -> tirx.PrimFunc:
    tile = graph.attributes.get("tile", (0,))
    problem = token_attention_problem(op, target.lanes(DType.F32), *tile)
    if reason := attention_illegal(problem):
        hint = "fuse-attention asks first whether there is a kernel: write the products out"
        raise InvalidInput("bad-tile", f"{op.name}: {reason}", where=str(op.location) or None, hint=hint)
    func, own = attention.make(problem), [value for value in op.operands if value is not None]
    return finished(func, graph, RegionEpilogue(graph, op, own, _same))
