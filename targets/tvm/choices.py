"""Which kernel and layouts an anchor gets on a CPU with vector registers, and what it is told."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import astuple, dataclass, replace
from math import prod

from rtcc.ir import DType, Graph, Layout, Op
from rtcc.ir.ops import nn, pooling
from rtcc.target import Choice, Halos
from rtcc.targets.tvm.kernels import matmul_tiles
from rtcc.targets.tvm.kernels.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.conv_tiles import depthwise_tile, direct_tile, nchw_tile
from rtcc.targets.tvm.kernels.matmul_tiles import MatmulProblem, MatmulTile, Right
from rtcc.targets.tvm.kernels.pool_problem import PoolProblem, Reduction

Quad = tuple[int, int, int, int]

GENERIC = Choice("")

_WALKED_IN_BLOCKS = frozenset(
    f"tensor.{name}" for name in ("convert_layout", "concat", "slice", "pad", "resample")
)

_POOLS = (pooling.MaxPool, pooling.AveragePool, pooling.GlobalAveragePool, pooling.GlobalMaxPool)


@dataclass(frozen=True)
class Vectors:
    """What tiles depend on: float32 lanes, vector registers, bytes of the second cache, threads."""

    lanes: int
    registers: int
    cache: int
    threads: int


def choose_kernel(anchor: Op, constants: Container[int], halos: Halos, vectors: Vectors) -> Choice:
    """The kernel for an anchor: a micro-kernel where one fits, else general loops over plain tensors.

    constants: which of the anchor's operands are constants, so that they can be packed at compile time.
    """
    match anchor:
        case nn.Conv() if 1 in constants:
            return _choose_conv(anchor, halos, vectors)
        case nn.Gemm() | nn.MatMul():
            return _choose_matmul(anchor, constants, vectors)
        case _:
            return GENERIC


def is_agnostic(op: Op) -> bool:
    """Whether a kernel exists that walks this op's operands and result in channel blocks."""
    return is_blocked_pool(op) or op.name in _WALKED_IN_BLOCKS


def is_blocked_pool(op: Op) -> bool:
    """Whether the pooling micro-kernel can do the op."""
    return (
        isinstance(op, _POOLS)
        and len(op.results) == 1
        and op.type.dtype is DType.F32
        and op.type.rank in (3, 4)
    )


def scratch_bytes(kernel: Graph, lanes: int) -> int:
    """Bytes of scratch that each task of a kernel needs."""
    if kernel.attributes.get("algorithm") != "matmul":
        return 0
    for op in kernel.ops:
        if isinstance(op, nn.MatMul):
            problem = matmul_problem(op, lanes, packed=op.right.type.layout is not None)
            return matmul_tiles.scratch_bytes(problem, MatmulTile(*kernel.attributes["tile"]))
    return 0


# -------------------------------------------------------------------------------------------- convolution


def conv_problem(conv: nn.Conv, lanes: int, halos: Halos) -> ConvProblem:
    """A convolution as its micro-kernel takes it; a column (width 1) is turned into a row."""
    data, weight, result = conv.data.type, conv.weight.type, conv.type
    pads, strides, dilations = conv.geometry()
    height, width = _spatial(data.sizes)
    problem = ConvProblem(
        batch=data.sizes[0], channels=data.sizes[1], height=height, width=width,
        filters=result.sizes[1], kernel=_spatial(weight.sizes), strides=_pair(strides),
        dilations=_pair(dilations), pads=_quad(pads), groups=conv.group, lanes=lanes,
        input_halo=_quad(halos.operand), output_halo=_quad(halos.result),
    )  # fmt: skip
    return turned(problem) if is_column(conv) else problem


def is_column(conv: nn.Conv) -> bool:
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


def _choose_conv(conv: nn.Conv, halos: Halos, vectors: Vectors) -> Choice:
    lanes = vectors.lanes
    data, weight = conv.data.type, conv.weight.type
    rank = data.rank
    if data.dtype is not DType.F32 or rank not in (3, 4) or 0 in conv.type.sizes:
        return GENERIC
    blocked, bias = Layout.blocked(rank, lanes), Layout(((0, lanes),), (0,))
    problem = conv_problem(conv, lanes, halos)
    taps = tuple((axis, 1) for axis in range(2, rank))
    needed = problem.needed_halo
    border = _halo((needed[1], needed[0], needed[3], needed[2]) if is_column(conv) else needed, rank)
    if conv.group == 1 and weight.sizes[1] <= lanes // 4:
        tile = nchw_tile(problem, vectors.registers)
        weights = Layout(((0, tile.blocks * lanes), (1, 1), *taps), (0,))
        return Choice("nchw", astuple(tile), {0: None, 1: weights, 2: bias}, blocked)
    if conv.group == weight.sizes[0] == data.sizes[1]:
        tile = depthwise_tile(problem, vectors.registers)
        weights = Layout(((0, lanes), (1, 1), *taps), (0,))
        return Choice("depthwise", astuple(tile), {0: blocked, 1: weights, 2: bias}, blocked, border)
    grouped = (data.sizes[1] // conv.group) % lanes == (conv.type.sizes[1] // conv.group) % lanes == 0
    if conv.group == 1 or grouped:
        tile = direct_tile(problem, vectors.registers, vectors.cache, vectors.threads)
        weights = Layout(((0, tile.blocks * lanes), (1, lanes), *taps), (1, 0))
        return Choice("direct", astuple(tile), {0: blocked, 1: weights, 2: bias}, blocked, border)
    return GENERIC


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
        case pooling.AveragePool() if pool.count_include_pad:
            return Reduction.PADDED_AVERAGE
        case _:
            return Reduction.AVERAGE


# ------------------------------------------------------------------------------------------ matrix product


def matmul_problem(op: nn.Gemm | nn.MatMul, lanes: int, *, packed: bool) -> MatmulProblem:
    """A product as its micro-kernel takes it; packed: the right-hand matrix is a packed constant."""
    left, right = op.left.type.sizes, op.right.type.sizes
    if isinstance(op, nn.Gemm):
        return MatmulProblem(op.type.sizes[0], op.type.sizes[1], left[1], lanes=lanes)
    if packed:
        return MatmulProblem(prod(left[:-1]), right[-1], left[-1], lanes=lanes)
    batch = prod(op.type.sizes[:-2])
    return MatmulProblem(
        left[-2], right[-1], left[-1], batch, shares_left=prod(left[:-2]) < batch,
        shares_right=prod(right[:-2]) < batch, right=Right.PLAIN, lanes=lanes,
    )  # fmt: skip


def _choose_matmul(op: nn.Gemm | nn.MatMul, constants: Container[int], vectors: Vectors) -> Choice:
    lanes = vectors.lanes
    left, right = op.left.type, op.right.type
    if left.dtype is not DType.F32 or left.rank < 2 or right.rank < 2 or 0 in (*left.sizes, *right.sizes):
        return GENERIC
    if isinstance(op, nn.Gemm) and (op.transA or op.alpha != 1 or op.beta != 1 or 1 not in constants):
        return GENERIC
    packed = 1 in constants and right.rank == 2
    if not packed and not _plain_batches(op):
        return GENERIC
    problem = matmul_problem(op, lanes, packed=packed)
    tile = matmul_tiles.choose_tile(problem, vectors.registers, vectors.cache, vectors.threads)
    if not packed:
        return Choice("matmul", astuple(tile))
    columns = 0 if isinstance(op, nn.Gemm) and op.transB else 1
    weights = Layout(((columns, tile.vectors * lanes), (1 - columns, 1)), (columns,))
    return Choice("matmul", astuple(tile), {1: weights})


def _plain_batches(op: Op) -> bool:
    """Whether the leading axes of both operands are the result's, or all 1."""
    lead = op.type.sizes[:-2]
    return all(
        value is not None and (value.type.sizes[:-2] == lead or prod(value.type.sizes[:-2]) == 1)
        for value in op.operands[:2]
    )


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


def _halo(border: Quad, rank: int) -> tuple[int, ...]:
    return border if rank == 4 else (border[1], border[3])
