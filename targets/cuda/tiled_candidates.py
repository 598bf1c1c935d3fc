"""The ways in which threads of a block compute an anchor together: legality, tile, layouts, cost; no TVM."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import astuple, dataclass
from math import prod

from rtcc.ir import DType, Graph, Layout, Op
from rtcc.ir.ops import nn
from rtcc.ir.ops.attention import TokenAttention
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.winograd import OUTPUTS, WinogradConv, amplification
from rtcc.ir.regions import anchor_of
from rtcc.rounding.bounded import NARROW, SINGLE, sum_error
from rtcc.target import NO_HALOS, Candidate, Cost, Illegal, Transformed
from rtcc.targets.cuda.cost import LAUNCH_SECONDS, bytes_per_second, tiled_cost
from rtcc.targets.cuda.gpus import Gpu
from rtcc.targets.cuda.kernels import (
    attention_tiles,
    depthwise_tiles,
    fragment_tiles,
    gemm_tiles,
    winograd_tiles,
)
from rtcc.targets.cuda.kernels.fragment_tiles import FragmentTile, Kind
from rtcc.targets.cuda.kernels.gemm_tiles import GemmShape, GemmTile, Multiprocessors
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem, tile_outputs
from rtcc.targets.tvm.problems import (
    conv_problem,
    im2col_problem,
    matmul_problem,
    product_problem,
    token_attention_problem,
    winograd_problem,
)

IMPLICIT_GEMM, DEPTHWISE, MATMUL, TENSOR_CORES = "implicit_gemm", "depthwise", "matmul", "tensor_cores"
ATTENTION = "attention"

WINOGRAD = {outputs: f"winograd{outputs}" for outputs in OUTPUTS}
"""By the outputs of a tile along each axis that has taps."""

ALGORITHMS: dict[str, str] = {
    IMPLICIT_GEMM: "convolution of plain f32 tensors as a product, its pixels gathered as they are needed",
    DEPTHWISE: "convolution with one filter per channel: plain f32, else blocks of channels",
    WINOGRAD[2]: "convolution in f32 by Winograd's tiles of 2x2 outputs: transform, products, transform back",
    WINOGRAD[3]: "the same by tiles of 3x3 outputs",
    WINOGRAD[4]: "the same by tiles of 4x4 outputs: fewest products, rounding errors grow most",
    MATMUL: "matrix product in f32: slabs of both operands in shared memory; constants are packed",
    TENSOR_CORES: "convolutions and products on tensor cores: f16, bf16, bytes, with tf32=yes f32",
    ATTENTION: "products and softmax of attention in one kernel: f32, f16 and bf16 on tensor cores",
}
"""What `tiled_candidates` can give, and what it is."""

OLDEST = (8, 0)
"""The first compute capability with asynchronous copies, and with the products of `instructions.MMA`."""

TF32_ERROR = 2.0**-9
"""Of a product of two float32 that lose their last 13 bits, relative to it."""


_KINDS = {DType.F16: Kind.F16, DType.BF16: Kind.BF16, DType.I8: Kind.S8, DType.U8: Kind.U8}
"""What is multiplied as it is, wherever."""


@dataclass(frozen=True)
class Allowed:
    """What tiles and their costs depend on.

    tf32: whether float32 may be multiplied with 10 bits. weights: bytes of constants that a run reads.
    """

    gpu: Gpu
    tf32: bool = False
    weights: int = 0

    @property
    def multiprocessors(self) -> Multiprocessors:
        """The GPU as tiles know it."""
        gpu, hertz = self.gpu, self.gpu.gigahertz * 1e9
        cache = gpu.l2 // 2
        near, far = (bytes_per_second(size, gpu) / hertz for size in (cache, cache + 1))
        launch = LAUNCH_SECONDS * hertz
        return Multiprocessors(gpu.multiprocessors, gpu.lanes, gpu.registers, launch, near, far, cache)

    def kind(self, dtype: DType) -> Kind | None:
        """How tensor cores multiply elements of a type, None where they do not."""
        return Kind.TF32 if dtype is DType.F32 and self.tf32 else _KINDS.get(dtype)

    def why_not(self, dtype: DType) -> str:
        """Why tensor cores do not multiply elements of a type."""
        if dtype is DType.F32:
            return f"{TENSOR_CORES}: float32 would lose 13 bits: the target's option tf32=yes allows that"
        return f"{TENSOR_CORES}: they multiply f16, bf16 and bytes, this is {dtype.value}"


def tiled_candidates(anchor: Op, constants: Container[int], allowed: Allowed) -> tuple[Candidate, ...]:
    """The candidates of an anchor whose sizes are known, plain loops not among them."""
    found = _all_candidates(anchor, constants, allowed)
    if allowed.gpu.capability >= OLDEST:
        return found
    reason = f"slabs are copied asynchronously, which sm_80 and newer do, this is {allowed.gpu.name}"
    return tuple(each if each.algorithm == DEPTHWISE else _illegal(each.algorithm, reason) for each in found)


def _all_candidates(anchor: Op, constants: Container[int], allowed: Allowed) -> tuple[Candidate, ...]:
    """The same, for a GPU that has asynchronous copies."""
    if 0 in anchor.results[0].type.sizes or any(0 in v.type.sizes for v in anchor.present_operands):
        return ()
    match anchor:
        case nn.Conv():
            plain = _implicit_gemm(anchor, constants, allowed), _depthwise(anchor, constants, allowed)
            winograd = (_winograd(anchor, outputs, constants, allowed) for outputs in OUTPUTS)
            return *plain, *winograd, _tensor_conv(anchor, constants, allowed)
        case WinogradConv():
            return (_winograd(anchor, max(anchor.outputs), constants, allowed),)
        case ConvSum():
            return _depthwise(anchor, constants, allowed), _tensor_conv(anchor, constants, allowed)
        case nn.Gemm() | nn.MatMul():
            reason = _no_product(anchor, constants)
            if reason is not None:
                return tuple(Candidate(name, Illegal(f"{name}: {reason}")) for name in (MATMUL, TENSOR_CORES))
            return _matmul(anchor, constants, allowed), _tensor_matmul(anchor, constants, allowed)
        case MatMulSum():
            return (_tensor_matmul(anchor, constants, allowed),)
        case TokenAttention():
            return (_attention(anchor, allowed),)
        case _:
            return ()


def tiled_scratch(kernel: Graph, allowed: Allowed) -> int:
    """Bytes of scratch of a kernel: sums of parts of its terms, transformed tiles."""
    anchor, algorithm = anchor_of(kernel), kernel.attributes.get("algorithm")
    tile = kernel.attributes.get("tile", ())
    match anchor:
        case nn.Conv() if algorithm == IMPLICIT_GEMM:
            shape = gemm_tiles.conv_shape(im2col_problem(anchor, 1))
            return shape.scratch_bytes(GemmTile(*tile).parts)
        case WinogradConv():
            return winograd_tiles.scratch_bytes(winograd_problem(anchor, 1))
        case nn.Conv() | ConvSum() if algorithm == TENSOR_CORES:
            kind = allowed.kind(anchor.data.type.dtype)
            shape = kind and fragment_tiles.conv_shape(im2col_problem(anchor, 1), kind)
            return shape.scratch_bytes(FragmentTile(*tile).parts) if shape else 0
        case nn.Gemm() | nn.MatMul() | MatMulSum() if algorithm in (MATMUL, TENSOR_CORES):
            parts = (GemmTile if algorithm == MATMUL else FragmentTile)(*tile).parts
            problem = tensor_product(anchor, packed=anchor.right.type.layout is not None)
            return gemm_tiles.product_shape(problem).scratch_bytes(parts)
        case _:
            return 0


# -------------------------------------------------------------------------------------------- convolution


def _implicit_gemm(conv: nn.Conv, constants: Container[int], allowed: Allowed) -> Candidate:
    if conv.type.dtype is not DType.F32 or conv.data.type.rank > 5:
        return _illegal(IMPLICIT_GEMM, f"it takes one to three spatial axes of f32, this is {conv.data.type}")
    if 1 not in constants:
        return _illegal(IMPLICIT_GEMM, "the weights are no constants of this layer's own")
    problem = im2col_problem(conv, 1)
    shape, gpu = gemm_tiles.conv_shape(problem), allowed.multiprocessors
    tiles = gemm_tiles.best_tiles(
        shape, gpu, left_in_rows=False, illegal=lambda tile: gemm_tiles.group_illegal(problem, tile)
    )
    if not tiles:
        return _illegal(IMPLICIT_GEMM, f"no tile suits groups of {problem.group_filters} filters")
    tile = tiles[0]
    weights = Layout(((0, tile.rows), *((axis, 1) for axis in range(1, conv.data.type.rank))), (0,))
    return Candidate(
        IMPLICIT_GEMM, _cost(conv, gemm_tiles.cycles(shape, tile, gpu), allowed, _stored(conv)),
        sum_error(problem.depth, SINGLE), astuple(tile), {0: None, 1: weights, 2: None},
    )  # fmt: skip


def _winograd(
    conv: nn.Conv | WinogradConv, outputs: int, constants: Container[int], allowed: Allowed
) -> Candidate:
    """conv: what is computed, or what it is made into."""
    name = WINOGRAD[outputs]
    if conv.type.dtype is not DType.F32 or conv.data.type.rank != 4:
        return _illegal(name, f"it takes pictures in f32, this is {conv.data.type}")
    if 1 not in constants:
        return _illegal(name, "the weights are no constants of this layer's own")
    if isinstance(conv, nn.Conv):
        plain = conv_problem(conv, 1, NO_HALOS)
        problem = WinogradProblem(plain, tile_outputs(plain, outputs))
    else:
        problem = winograd_problem(conv, 1)
    if reason := winograd_tiles.problem_illegal(problem):
        return _illegal(name, reason)
    gpu, channels = allowed.multiprocessors, problem.conv.channels
    tile = winograd_tiles.best_tiles(problem, gpu)[0]
    weights = Layout(((0, tile.rows), (2, 1), (3, 1), (1, 1)), (0,))
    each = sum_error(channels + 4 * max(problem.points), SINGLE)
    stored = 4 * problem.products * channels * problem.conv.filters
    return Candidate(
        name, _cost(conv, winograd_tiles.cycles(problem, tile, gpu), allowed, stored),
        amplification(problem.outputs, problem.conv.kernel) * each, astuple(tile),
        {0: None, 1: weights, 2: None}, transformed=Transformed(WinogradConv.name, problem.outputs),
    )  # fmt: skip


def _depthwise(conv: nn.Conv | ConvSum, constants: Container[int], allowed: Allowed) -> Candidate:
    dtype, rank = conv.data.type.dtype, conv.data.type.rank
    block = depthwise_block(dtype)
    if block is None or rank > 5:
        reason = f"it takes one to three spatial axes of f32, f16, bf16 or bytes, this is {conv.data.type}"
        return _illegal(DEPTHWISE, reason)
    problem = im2col_problem(conv, 1)
    if reason := depthwise_tiles.depthwise_illegal(problem, block):
        return _illegal(DEPTHWISE, reason)
    if block > 1 and 1 not in constants:
        return _illegal(DEPTHWISE, "the weights are no constants of this layer's own")
    tile = depthwise_tiles.best_tiles(problem, allowed.multiprocessors)[0]
    cycles = depthwise_tiles.cycles(problem, tile, allowed.multiprocessors)
    blocked = Layout.blocked(rank, block) if block > 1 else None
    weights = Layout.blocked(rank, block, axis=0) if block > 1 else None
    error = 0.0 if isinstance(conv, ConvSum) else sum_error(problem.depth, SINGLE)
    layouts = {0: blocked, 1: weights, 2: None}
    return Candidate(DEPTHWISE, _cost(conv, cycles, allowed), error, astuple(tile), layouts, blocked)


def depthwise_block(dtype: DType) -> int | None:
    """Channels that lie side by side where a depthwise kernel takes such elements: a chunk of 16 bytes.

    None where there is no such kernel.
    """
    kind = _KINDS.get(dtype)
    return 1 if dtype is DType.F32 else kind and kind.chunk


def _tensor_conv(conv: nn.Conv | ConvSum, constants: Container[int], allowed: Allowed) -> Candidate:
    dtype, rank = conv.data.type.dtype, conv.data.type.rank
    kind = allowed.kind(dtype)
    if kind is None:
        return _illegal(TENSOR_CORES, allowed.why_not(dtype))
    if 1 not in constants or rank > 5:
        return _illegal(TENSOR_CORES, "the weights are no constants of this layer's own, or have four axes")
    problem = im2col_problem(conv, 1)
    if reason := fragment_tiles.conv_illegal(problem):
        return _illegal(TENSOR_CORES, reason)
    tile, cost = _fragments(conv, fragment_tiles.conv_shape(problem, kind), kind, allowed, _stored(conv))
    spatial = tuple((axis, 1) for axis in range(2, rank))
    weights = Layout(((0, tile.columns), (1, kind.chunk), *spatial), (0, 1))
    blocked = Layout.blocked(rank, kind.chunk)
    layouts = {0: blocked, 1: weights, 2: None}
    return Candidate(
        TENSOR_CORES, cost, _tensor_error(kind, problem.depth), astuple(tile), layouts, blocked
    )


# ----------------------------------------------------------------------------------------- matrix product


def _no_product(op: nn.Gemm | nn.MatMul, constants: Container[int]) -> str | None:
    """Why there is no product with tiles, or None."""
    left, right = op.left.type, op.right.type
    if left.rank < 2 or right.rank < 2:
        return "an operand is a vector"
    if isinstance(op, nn.Gemm):
        if op.transA or op.alpha != 1 or op.beta != 1:
            return f"there is none with transA = {op.transA}, alpha = {op.alpha}, beta = {op.beta}"
        return None if 1 in constants else "the right-hand matrix is no constant of this layer's own"
    if _is_packed(op, constants):
        return None
    lead = op.type.sizes[:-2]
    if any(each.sizes[:-2] != lead and prod(each.sizes[:-2]) != 1 for each in (left, right)):
        return "leading axes are broadcast one by one"
    return None


def _is_packed(op: nn.Gemm | nn.MatMul, constants: Container[int]) -> bool:
    return 1 in constants and op.right.type.rank == 2


def _matmul(op: nn.Gemm | nn.MatMul, constants: Container[int], allowed: Allowed) -> Candidate:
    if op.type.dtype is not DType.F32:
        return _illegal(MATMUL, f"it multiplies f32, this is {op.type.dtype.value}")
    packed = _is_packed(op, constants)
    problem = matmul_problem(op, 1, packed=packed)
    shape, gpu = gemm_tiles.product_shape(problem), allowed.multiprocessors
    tiles = gemm_tiles.best_tiles(shape, gpu, left_in_rows=True, illegal=lambda _: None)
    if not tiles:
        return _illegal(MATMUL, f"a grid has no room for {problem.batch} products of {problem.rows} rows")
    tile = tiles[0]
    layouts: Mapping[int, Layout | None] = {}
    if packed:
        columns = columns_axis(op)
        layouts = {1: Layout(((columns, tile.columns), (1 - columns, 1)), (columns,))}
    cost = _cost(op, gemm_tiles.cycles(shape, tile, gpu), allowed, _stored(op) if packed else 0)
    return Candidate(MATMUL, cost, sum_error(problem.depth, SINGLE), astuple(tile), layouts)


def _tensor_matmul(
    op: nn.Gemm | nn.MatMul | MatMulSum, constants: Container[int], allowed: Allowed
) -> Candidate:
    kind = allowed.kind(op.left.type.dtype)
    if kind is None:
        return _illegal(TENSOR_CORES, allowed.why_not(op.left.type.dtype))
    packed = 1 in constants and op.right.type.rank == 2
    if isinstance(op, MatMulSum) and (not packed or op.left.type.rank < 2):
        return _illegal(TENSOR_CORES, "the right-hand matrix is no constant of this layer's own")
    problem = tensor_product(op, packed=packed)
    if reason := fragment_tiles.product_illegal(problem, kind):
        return _illegal(TENSOR_CORES, reason)
    stored = _stored(op) if packed else 0
    tile, cost = _fragments(op, gemm_tiles.product_shape(problem), kind, allowed, stored, by_terms=not packed)
    columns, layouts = columns_axis(op), dict[int, Layout | None]()
    if packed:
        layouts[1] = Layout(((columns, tile.columns), (1 - columns, kind.chunk)), (columns, 1 - columns))
    return Candidate(TENSOR_CORES, cost, _tensor_error(kind, problem.depth), astuple(tile), layouts)


def tensor_product(op: nn.Gemm | nn.MatMul | MatMulSum, *, packed: bool) -> MatmulProblem:
    """A product as its kernel takes it; packed: by a constant that is packed."""
    return product_problem(op, 1) if isinstance(op, MatMulSum) else matmul_problem(op, 1, packed=packed)


def columns_axis(op: Op) -> int:
    """The axis of the right-hand matrix along which the results' columns lie."""
    return 0 if isinstance(op, nn.Gemm) and op.transB else 1


# ----------------------------------------------------------------------------------------------- attention


def _attention(op: TokenAttention, allowed: Allowed) -> Candidate:
    if op.type.dtype not in ATTENTION_KINDS:
        return _illegal(ATTENTION, f"it computes in f32, f16 and bf16, this is {op.type.dtype.value}")
    kind, problem = ATTENTION_KINDS[op.type.dtype], token_attention_problem(op, 1)
    if reason := attention_tiles.attention_illegal(problem, kind):
        return _illegal(ATTENTION, reason)
    gpu = allowed.multiprocessors
    tiles = attention_tiles.best_tiles(problem, kind, gpu)
    if not tiles:
        return _illegal(ATTENTION, f"no tile suits heads of {problem.size} and {problem.width} numbers")
    cycles = attention_tiles.cycles(problem, tiles[0], kind, gpu)
    errors = sum_error(problem.size, SINGLE) + sum_error(problem.length, SINGLE)
    error = errors if kind is None else 2 * errors + NARROW[op.type.dtype].roundoff
    return Candidate(ATTENTION, _cost(op, cycles, allowed), error, astuple(tiles[0]))


ATTENTION_KINDS: dict[DType, Kind | None] = {
    DType.F32: None, DType.F16: Kind.F16, DType.BF16: Kind.BF16
}  # fmt: skip
"""How products of attention are computed: on tensor cores, or by threads."""


# --------------------------------------------------------------------------------------------------- costs


def _illegal(name: str, reason: str) -> Candidate:
    return Candidate(name, Illegal(reason if reason.startswith(name) else f"{name}: {reason}"))


def _fragments(
    op: Op, shape: GemmShape, kind: Kind, allowed: Allowed, stored: int, *, by_terms: bool = False
) -> tuple[FragmentTile, Cost]:
    """The best tile on tensor cores, and what it costs."""
    gpu = allowed.multiprocessors
    tile = fragment_tiles.best_tiles(shape, kind, gpu, by_terms=by_terms)[0]
    return tile, _cost(op, fragment_tiles.cycles(shape, tile, kind, gpu), allowed, stored)


def _stored(op: Op) -> int:
    """Bytes of an anchor's weights."""
    weights = op.operands[1]
    assert weights is not None
    return weights.type.storage_bytes


def _cost(op: Op, cycles: float, allowed: Allowed, stored: int = 0) -> Cost:
    """stored: bytes of weights that are read for the second operand; 0 where that is read as it is."""
    others = [value for slot, value in enumerate(op.operands) if value and not (stored and slot == 1)]
    values = (*others, *op.results)
    return tiled_cost(cycles, values, allowed.gpu, constants=stored, of_model=allowed.weights)


def _tensor_error(kind: Kind, terms: int) -> float:
    """Bound on a sum's rounding error relative to Σ|terms|; tensor cores add up by cutting bits off."""
    if kind.bytes == 1:
        return 0.0
    return 2 * sum_error(terms, SINGLE) + (TF32_ERROR if kind is Kind.TF32 else 0.0)

