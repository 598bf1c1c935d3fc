"""Operators as their micro-kernels are told of them: shapes, pads, borders; needs no TVM."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from rtcc.errors import InvalidInput
from rtcc.ir import DType, Graph, Layout, Op
from rtcc.ir.ops import nn, pooling
from rtcc.ir.ops.attention import TokenAttention
from rtcc.ir.ops.bounded import KeptBoxes
from rtcc.ir.ops.fft_conv import FftConv
from rtcc.ir.ops.integer import QUANTIZED, ConvSum, GlobalSum, MatMulSum, WindowSum
from rtcc.ir.ops.sparse import SparseConv
from rtcc.ir.ops.stored import StoredMatMul
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.ir.regions import joined_pool
from rtcc.target import NO_HALOS, Halos
from rtcc.targets.tvm.kernels.attention import attention_problem
from rtcc.targets.tvm.kernels.attention.attention_problem import AttentionProblem
from rtcc.targets.tvm.kernels.convolution import im2col_tiles
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import ring_shape
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem, Im2colTile
from rtcc.targets.tvm.kernels.integer import integer_tiles
from rtcc.targets.tvm.kernels.matrix_product import matmul_tiles
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import (
    MatmulProblem,
    MatmulTile,
    Right,
    Stored,
)
from rtcc.targets.tvm.kernels.numbers import numbers_of
from rtcc.targets.tvm.kernels.pooling.joined_pool import Pooling
from rtcc.targets.tvm.kernels.pooling.pool_problem import PoolProblem, Reduction
from rtcc.targets.tvm.kernels.transformed import columns_tiles, transformed_tiles, winograd_tiles
from rtcc.targets.tvm.kernels.transformed.columns_tiles import ColumnsProblem, ColumnsTile
from rtcc.targets.tvm.kernels.transformed.fft_tiles import FftProblem
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import Blocking
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem
from rtcc.targets.tvm.kernels.window import Window

Quad = tuple[int, int, int, int]

IM2COL = "im2col"
"""The algorithm that computes `nn.conv` on plain tensors, by panels."""

SPARSE = "sparse"
"""The algorithm that computes layers with constants that have zeros, of which it leaves out blocks."""

PLAIN = "direct_plain"
"""The algorithm that computes `nn.conv` and `quant.conv_sum` from a plain picture of few channels."""

DEPTHWISE_ROWS = "depthwise_rows"
"""The algorithm that computes depthwise convolutions from rows that are copied aside."""

GROUPED = "grouped"
"""The algorithm that computes `quant.conv_sum` in groups that are parts of a block of channels."""

COLUMNS = "columns"
"""What algorithms are called that are Winograd's along the columns alone; the rows of a strip follow."""

_WALKED_IN_BLOCKS = frozenset(
    f"tensor.{name}" for name in ("convert_layout", "concat", "slice", "pad", "resample")
)

_SUMS = (GlobalSum, WindowSum)
"""Pools that add up bytes."""

_POOLS = (pooling.MaxPool, pooling.AveragePool, pooling.GlobalAveragePool, pooling.GlobalMaxPool, *_SUMS)


def is_agnostic(op: Op) -> bool:
    """Whether a kernel exists that walks this op's operands and result in channel blocks."""
    return is_blocked_pool(op) or op.name in _WALKED_IN_BLOCKS


def is_blocked_pool(op: Op) -> bool:
    """Whether the pooling micro-kernel can do the op."""
    if not isinstance(op, _POOLS) or len(op.results) != 1 or op.type.rank not in (3, 4):
        return False
    has_bytes = isinstance(op, pooling.MaxPool) and op.type.dtype in QUANTIZED
    return op.type.dtype in (DType.F32, DType.F16) or has_bytes or isinstance(op, _SUMS)


def scratch_bytes(kernel: Graph, lanes: int) -> int:
    """Bytes of scratch that each task of a kernel needs."""
    suppression = next((op for op in kernel.ops if isinstance(op, KeptBoxes)), None)
    if suppression is not None:
        return suppression.boxes.type.sizes[1]
    if "tile" not in kernel.attributes:
        return 0
    tile = kernel.attributes["tile"]
    for op in kernel.ops:
        match op:
            case nn.MatMul():
                problem = matmul_problem(op, lanes, packed=op.right.type.layout is not None)
                return matmul_tiles.scratch_bytes(problem, MatmulTile(*tile))
            case StoredMatMul():
                return matmul_tiles.scratch_bytes(stored_problem(op, lanes), MatmulTile(*tile))
            case TokenAttention():
                return attention_problem.scratch_bytes(token_attention_problem(op, lanes, *tile))
            case WinogradConv() if is_columns(kernel.attributes.get("algorithm", "")):
                columns = columns_problem(op, lanes, pool=joined_pool(kernel))
                return columns_tiles.scratch_bytes(columns, ColumnsTile(*tile))
            case WinogradConv():
                return transformed_tiles.scratch_bytes(winograd_problem(op, lanes), Blocking(*tile))
            case nn.Conv() | ConvSum() if kernel.attributes.get("algorithm") == DEPTHWISE_ROWS:
                return rows_bytes(op, lanes)
            case nn.Conv() | SparseConv() if kernel.attributes.get("algorithm") in (IM2COL, SPARSE):
                return im2col_tiles.scratch_bytes(im2col_problem(op, lanes), Im2colTile(*tile))
            case ConvSum() if kernel.attributes.get("algorithm") == PLAIN:
                return prod(integer_tiles.band_shape(conv_problem(op, lanes, NO_HALOS), Tile(*tile)))
            case FftConv():
                return transformed_tiles.scratch_bytes(fft_problem(op, lanes), Blocking(*tile))
            case _:
                pass
    return 0


def rows_bytes(conv: nn.Conv | ConvSum, lanes: int) -> int:
    """Bytes of the rows that a depthwise convolution copies aside."""
    return prod(ring_shape(conv_problem(conv, lanes, NO_HALOS))) * conv.data.type.dtype.bytes


# -------------------------------------------------------------------------------------------- convolution


def conv_problem(
    conv: nn.Conv | ConvSum, lanes: int, halos: Halos, *, by_lane: bool = False
) -> ConvProblem:
    """A convolution as its micro-kernel takes it; a column (width 1) is turned into a row."""
    data, weight, result = conv.data.type, conv.weight.type, conv.type
    pads, strides, dilations = conv.geometry()
    height, width = _spatial(data.sizes)
    problem = ConvProblem(
        batch=data.sizes[0], channels=data.sizes[1], height=height, width=width,
        filters=result.sizes[1], kernel=_spatial(weight.sizes), strides=_pair(strides),
        dilations=_pair(dilations), pads=_quad(pads), groups=conv.group, lanes=lanes,
        input_halo=_quad(halos.operand), output_halo=_quad(halos.result),
        numbers=numbers_of(conv.type.dtype), by_lane=by_lane and conv.type.dtype is DType.F32,
    )  # fmt: skip
    return turned(problem) if is_column(conv) else problem


def bordered_problem(
    conv: nn.Conv | ConvSum, lanes: int, halos: Halos, *, by_lane: bool = False
) -> ConvProblem:
    """As a kernel over blocks has it: with the border that its padding asks for."""
    problem = conv_problem(conv, lanes, halos, by_lane=by_lane)
    widest = tuple(map(max, problem.input_halo, problem.needed_halo))
    return replace(problem, input_halo=(widest[0], widest[1], widest[2], widest[3]))


def winograd_problem(
    op: WinogradConv, lanes: int, halos: Halos = NO_HALOS, pool: Op | None = None, *, by_lane: bool = False
) -> WinogradProblem:
    """A convolution by Winograd's algorithm as its micro-kernel takes it, with a pool of its results."""
    data, result, window = op.data.type, op.type, op.window
    height, width = _spatial(data.sizes)
    problem = ConvProblem(
        batch=data.sizes[0], channels=data.sizes[1], height=height, width=width, filters=result.sizes[1],
        kernel=_pair(window.kernel), pads=_quad(window.pads), lanes=lanes,
        input_halo=_quad(halos.operand), output_halo=_quad(halos.result), by_lane=by_lane,
    )  # fmt: skip
    return WinogradProblem(problem, _pair(op.outputs), None if pool is None else _pooling(pool))


def columns_problem(
    op: WinogradConv, lanes: int, halos: Halos = NO_HALOS, pool: Op | None = None
) -> ColumnsProblem:
    """A convolution by Winograd's algorithm along the columns; pool: what its results go through."""
    conv = winograd_problem(op, lanes, halos).conv
    return ColumnsProblem(conv, op.outputs[0], None if pool is None else _pooling(pool))


def is_columns(algorithm: str) -> bool:
    """Whether an algorithm is one of Winograd's along the columns."""
    return algorithm.startswith(COLUMNS)


def joins_pool(anchor: Op, algorithm: str, pool: Op, lanes: int) -> bool:
    """Whether the micro-kernel of an anchor can pool what it has finished."""
    if not (isinstance(anchor, WinogradConv) and is_blocked_pool(pool)):
        return False
    found, problem = _pooling(pool), winograd_problem(anchor, lanes)
    if found is None:
        return False
    if is_columns(algorithm):
        return columns_tiles.pools(problem.conv, anchor.outputs[0], found)
    return winograd_tiles.pools(problem, found)


def _pooling(pool: Op) -> Pooling | None:
    """A pool over windows that do not overlap and lie inside the data, as micro-kernels join it."""
    if not isinstance(pool, pooling.MaxPool | pooling.AveragePool) or len(pool.kernel_shape) != 2:
        return None
    pads, strides, dilations = pool.geometry()
    rows, columns = pool.kernel_shape
    sizes = pool.data.type.sizes[2:]
    is_cut = pool.rounds_up and (sizes[0] % rows or sizes[1] % columns)
    if any(pads) or strides != (rows, columns) or set(dilations) != {1} or is_cut:
        return None
    return Pooling(_pool_reduction(pool), rows, columns)


def fft_problem(op: FftConv, lanes: int, halos: Halos = NO_HALOS) -> FftProblem:
    """A convolution by Fourier transforms as its micro-kernel takes it; a column is turned into a row."""
    data, result, window = op.data.type, op.type, op.window
    height, width = _spatial(data.sizes)
    problem = ConvProblem(
        batch=data.sizes[0], channels=data.sizes[1], height=height, width=width, filters=result.sizes[1],
        kernel=_pair(window.kernel), pads=_quad(window.pads), groups=op.group, lanes=lanes,
        input_halo=_quad(halos.operand), output_halo=_quad(halos.result),
    )  # fmt: skip
    rows, columns = _pair(op.points)
    if columns > 1:
        return FftProblem(problem, (rows, columns))
    if not is_turned(op):
        raise InvalidInput(
            "bad-tile", f"a tile of {rows}x1 points is for pictures of width 1, this one's is {width}",
            where=str(op.location) or None, hint="give the tile two points along the width",
        )  # fmt: skip
    return FftProblem(turned(problem), (1, rows))


def im2col_problem(conv: nn.Conv | ConvSum | SparseConv, lanes: int) -> Im2colProblem:
    """A convolution of plain tensors as its micro-kernel takes it."""
    data = conv.data.type.sizes
    kernel = conv.kernel_shape if isinstance(conv, SparseConv) else conv.weight.type.sizes[2:]
    pads, strides, dilations = conv.geometry()
    count = len(kernel)
    axes = [
        Window(data[2 + n], kernel[n], strides[n], dilations[n], pads[n], pads[count + n])
        for n in range(count)
    ]
    a, b, c = [Window(1, 1)] * (3 - count) + axes
    return Im2colProblem(
        data[0], conv.group, data[1], conv.type.sizes[1], len(data), (a, b, c), lanes,
        numbers_of(conv.type.dtype),
    )  # fmt: skip


def is_turned(op: FftConv) -> bool:
    """Whether data and result have width 1 and so do tiles."""
    return op.type.rank == 4 and op.points[1] == op.data.type.sizes[3] == op.type.sizes[3] == 1


def is_column(conv: nn.Conv | ConvSum) -> bool:
    """Whether data, kernel and result have width 1, so that rows and columns may change places."""
    if conv.data.type.rank != 4:
        return False
    pads, _, _ = conv.geometry()
    widths = (conv.data.type.sizes[3], conv.weight.type.sizes[3], conv.type.sizes[3])
    return widths == (1, 1, 1) and pads[1] == pads[3] == 0


def turned(problem: ConvProblem) -> ConvProblem:
    """The problem with rows and columns exchanged; in memory nothing moves where one of them is 1."""

    def swap(pair: tuple[int, int]) -> tuple[int, int]:
        return pair[1], pair[0]

    def swap_sides(sides: Quad) -> Quad:
        top, left, bottom, right = sides
        return left, top, right, bottom

    return replace(
        problem, height=problem.width, width=problem.height, kernel=swap(problem.kernel),
        strides=swap(problem.strides), dilations=swap(problem.dilations), pads=swap_sides(problem.pads),
        input_halo=swap_sides(problem.input_halo), output_halo=swap_sides(problem.output_halo),
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------- pooling


def pool_problem(pool: Op, layout: Layout) -> PoolProblem:
    """A pool over channel blocks as its micro-kernel takes it; layout: the result's."""
    data = pool.operands[0]
    assert data is not None
    height, width = _spatial(data.type.sizes)
    problem = PoolProblem(
        _pool_reduction(pool), batch=data.type.sizes[0], channels=data.type.sizes[1],
        height=height, width=width,
        kernel=(height, width), lanes=layout.blocks[1],
        input_halo=_quad(data.type.layout.halo if data.type.layout else ()), output_halo=_quad(layout.halo),
        dtype=str(data.type.dtype.numpy),
    )  # fmt: skip
    if not isinstance(pool, pooling.Pool):
        return problem
    pads, strides, dilations = pool.geometry()
    return replace(
        problem, kernel=_pair(tuple(pool.kernel_shape)), strides=_pair(strides), dilations=_pair(dilations),
        pads=_quad(pads), ceil_mode=pool.rounds_up,
    )  # fmt: skip


def _pool_reduction(pool: Op) -> Reduction:
    match pool:
        case pooling.MaxPool() | pooling.GlobalMaxPool():
            return Reduction.MAXIMUM
        case GlobalSum() | WindowSum():
            return Reduction.SUM
        case pooling.AveragePool() if pool.count_include_pad:
            return Reduction.PADDED_AVERAGE
        case _:
            return Reduction.AVERAGE


# ------------------------------------------------------------------------------------------ matrix product


def matmul_problem(op: nn.Gemm | nn.MatMul, lanes: int, *, packed: bool) -> MatmulProblem:
    """A product as its micro-kernel takes it; packed: the right-hand matrix is a packed constant."""
    left, right, numbers = op.left.type.sizes, op.right.type.sizes, numbers_of(op.type.dtype)
    if isinstance(op, nn.Gemm):
        return MatmulProblem(op.type.sizes[0], op.type.sizes[1], left[1], lanes=lanes, numbers=numbers)
    if packed:
        return MatmulProblem(prod(left[:-1]), right[-1], left[-1], lanes=lanes, numbers=numbers)
    batch = prod(op.type.sizes[:-2])
    return MatmulProblem(
        left[-2], right[-1], left[-1], batch, shares_left=prod(left[:-2]) < batch,
        shares_right=prod(right[:-2]) < batch, right=Right.PLAIN, lanes=lanes, numbers=numbers,
    )  # fmt: skip


def stored_problem(op: StoredMatMul, lanes: int) -> MatmulProblem:
    """A product by a stored matrix as its micro-kernel takes it."""
    left, columns = op.left.type.sizes, op.type.sizes[-1]
    stored = Stored(op.stored, 0 if op.scale is None else op.block_size)
    return MatmulProblem(prod(left[:-1]), columns, left[-1], lanes=lanes, stored=stored)


def product_problem(op: MatMulSum, lanes: int) -> MatmulProblem:
    """A product of bytes as its micro-kernel takes it."""
    left, right = op.left.type.sizes, op.right.type.sizes
    return MatmulProblem(prod(left[:-1]), right[-1], left[-1], lanes=lanes)


def token_attention_problem(op: TokenAttention, lanes: int, tile: int = 0) -> AttentionProblem:
    """Attention as its kernel takes it; tile: rows of a block."""
    batch, steps, heads, size = op.query.type.sizes
    _, length, _, width = op.value.type.sizes
    mask = None if op.mask is None else op.mask.type.sizes
    return AttentionProblem(batch, heads, steps, length, size, width, op.scale, mask, lanes, tile)


# ---------------------------------------------------------------------------------- one or two spatial axes


def _spatial(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of [N, C, W] or [N, C, H, W]."""
    return _pair(sizes[2:])


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def _quad(values: tuple[int, ...]) -> Quad:
    """ONNX pads of one or two axes as top, left, bottom, right."""
    match values:
        case (left, right):
            return 0, left, 0, right
        case (top, left, bottom, right):
            return top, left, bottom, right
        case _:
            return 0, 0, 0, 0
