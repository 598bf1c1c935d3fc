"""The ways in which a CPU with vector registers can compute an anchor: legality, tile, layouts, cost.

Legality of a micro-kernel lives beside its tiles (`kernels/conv_tiles.py`); here it is put to the operators.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import astuple, dataclass, field, replace
from math import log2, prod

from rtcc.ir import DType, Layout, Op
from rtcc.ir.ops import nn
from rtcc.ir.ops.attention import TokenAttention
from rtcc.ir.ops.fft_conv import ROUNDINGS, FftConv
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.sparse import SparseConv, SparseMatMul
from rtcc.ir.ops.stored import StoredMatMul
from rtcc.ir.ops.winograd import OUTPUTS, WinogradConv, amplification
from rtcc.rounding.bounded import SINGLE, sum_error
from rtcc.target import GENERIC, Candidate, Halos, Illegal, Transformed
from rtcc.targets.tvm.candidate_basis import (
    Price,
    Vectors,
    border_of,
    depthwise_candidates,
    error_of_sum,
    generic_candidate,
    no_arithmetic,
)
from rtcc.targets.tvm.demand import Demand
from rtcc.targets.tvm.integer_candidates import ByteConvolution, product_of_bytes
from rtcc.targets.tvm.kernels.attention.attention_problem import attention_demand, attention_illegal
from rtcc.targets.tvm.kernels.blocked import NO_HALO
from rtcc.targets.tvm.kernels.convolution import im2col_tiles
from rtcc.targets.tvm.kernels.convolution.conv_demand import depthwise_demand, direct_demand, plain_demand
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import (
    depthwise_tile,
    direct_illegal,
    direct_tile,
    plain_illegal,
    plain_tile,
)
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import im2col_demand, im2col_illegal
from rtcc.targets.tvm.kernels.matrix_product import matmul_tiles
from rtcc.targets.tvm.kernels.matrix_product.matmul_demand import matmul_demand
from rtcc.targets.tvm.kernels.transformed import columns_tiles
from rtcc.targets.tvm.kernels.transformed.columns_tiles import (
    ColumnsProblem,
    columns_demand,
    columns_illegal,
)
from rtcc.targets.tvm.kernels.transformed.fft_tiles import FftProblem, choose_points, fft_illegal
from rtcc.targets.tvm.kernels.transformed.transformed_demand import transformed_demand
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import (
    Blocking,
    TransformedProblem,
    choose_blocking,
)
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import (
    WinogradProblem,
    tile_outputs,
    winograd_illegal,
)
from rtcc.targets.tvm.problems import (
    COLUMNS,
    DEPTHWISE_ROWS,
    GROUPED,
    IM2COL,
    PLAIN,
    SPARSE,
    bordered_problem,
    conv_problem,
    fft_problem,
    im2col_problem,
    is_column,
    matmul_problem,
    stored_problem,
    token_attention_problem,
    turned,
    winograd_problem,
)
from rtcc.targets.tvm.sparse_candidates import Filled, given_sparse, sparse_candidate
from rtcc.targets.tvm.summation import transformed_roundings

ALGORITHMS: dict[str, str] = {
    "direct": "convolution over channel blocks: a tile of pixels and filters stays in registers",
    PLAIN: "convolution of a plain input of few channels, into channel blocks",
    "depthwise": "convolution with one filter per channel, over channel blocks",
    GROUPED: "convolution of bytes in groups of 2, 4 or 8 channels, as many filters, over channel blocks",
    **{
        f"winograd{m}": f"convolution of 2 to {9 - m} taps an axis by transformed tiles of {m} outputs"
        for m in OUTPUTS
    },
    **{
        f"{COLUMNS}{m}": f"convolution of a plain input of few channels by transformed strips of {m} rows"
        for m in OUTPUTS
    },
    "fft": "convolution by Fourier transforms of tiles, dense or depthwise, for large kernels",
    IM2COL: "convolution of plain tensors by gathered panels: narrow groups, dilations, three spatial axes",
    SPARSE: "layers whose constant has many zeros: blocks of it that are not all zero, over gathered panels",
    "matmul": "matrix product: a tile of rows and columns stays in registers; constants are packed",
    "attention": "products and softmax of attention in one kernel, whose scores stay in the first cache",
    GENERIC: "plain loops over plain tensors, as the operator defines them",
}
"""What `candidates_of` can give, and what it is."""

OF_LITTLE_MEMORY: dict[str, str] = {
    DEPTHWISE_ROWS: "depthwise convolution of rows copied aside: no border, results written over the data"
}
"""What it can give besides where memory is saved."""

TRANSFORMED = (*(f"{name}{outputs}" for name in ("winograd", COLUMNS) for outputs in OUTPUTS), "fft")
"""Those that store other weights than the layer's, and more of them."""

_WINOGRAD = tuple(f"{name}{outputs}" for name in ("winograd", COLUMNS) for outputs in OUTPUTS)


def candidates_of(
    anchor: Op, constants: Container[int], halos: Halos, vectors: Vectors, price: Price,
    filled: Filled | None = None,
) -> tuple[Candidate, ...]:  # fmt: skip
    """Every algorithm for an anchor, as `Target.candidates` has it; none where the data decide its sizes.

    filled: of a constant weight that has zeros, what is not zero.
    """
    if not all(value.type.is_static for value in (*anchor.present_operands, *anchor.results)):
        return ()
    match anchor:
        case nn.Conv():
            found = _Convolution(anchor, 1 in constants, halos, vectors, price).candidates()
            return *found[:-1], sparse_candidate(anchor, filled, vectors, price), found[-1]
        case SparseConv() | SparseMatMul():
            return (given_sparse(anchor, vectors, price),)
        case WinogradConv() | FftConv():
            return _given_candidates(anchor, 1 in constants, halos, vectors, price)
        case ConvSum():
            has_constants = 1 in constants and 2 in constants
            return ByteConvolution(anchor, has_constants, halos, vectors, price).candidates()
        case MatMulSum():
            return product_of_bytes(anchor, 1 in constants, vectors, price)
        case nn.Gemm() | nn.MatMul():
            found = _matmul_candidates(anchor, constants, vectors, price)
            return *found[:-1], sparse_candidate(anchor, filled, vectors, price), found[-1]
        case StoredMatMul():
            return (_stored_candidate(anchor, constants, vectors, price),)
        case TokenAttention():
            return (_attention_candidate(anchor, vectors, price),)
        case _:
            return ()


# -------------------------------------------------------------------------------------------- convolution


@dataclass(frozen=True)
class _Convolution:
    """One convolution, and how each algorithm would do it."""

    conv: nn.Conv
    has_constant_weights: bool
    halos: Halos
    vectors: Vectors
    price: Price
    bias: Layout = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bias", Layout(((0, self.vectors.lanes),), (0,)))

    def candidates(self) -> tuple[Candidate, ...]:
        reason = self._no_micro_kernel()
        if reason is not None:
            names = ("direct", "direct_plain", "depthwise", *_WINOGRAD, "fft")
            illegal = (Candidate(name, Illegal(f"{name}: {reason}")) for name in names)
            return *illegal, self._im2col(), self._generic()
        others = (self._direct(), self._plain(), *self._depthwise())
        return *others, *self._transforms(), self._im2col(), self._generic()

    def _transforms(self) -> tuple[Candidate, ...]:
        """Those with transformed weights, which halves are too coarse for."""
        if self.conv.type.dtype is not DType.F32:
            reason = f"transformed tiles are computed in f32, this is {self.conv.type.dtype.value}"
            return tuple(Candidate(name, Illegal(f"{name}: {reason}")) for name in (*_WINOGRAD, "fft"))
        winograd = (self._winograd(outputs) for outputs in OUTPUTS)
        return *winograd, *(self._columns(outputs) for outputs in OUTPUTS), self._fft()

    def _no_micro_kernel(self) -> str | None:
        """Why no micro-kernel can do the convolution, whatever its algorithm."""
        data = self.conv.data.type
        if reason := no_arithmetic(data.dtype, self.vectors):
            return reason
        if data.rank not in (3, 4):
            return f"micro-kernels take one or two spatial axes, these are {data.rank - 2}"
        if 0 in self.conv.type.sizes:
            return "the result has no elements"
        return None if self.has_constant_weights else "the weights are not constants of this layer's own"

    @property
    def _problem(self) -> ConvProblem:
        """The problem as a kernel over blocks has it: with the border that it asks for."""
        vectors = self.vectors
        return bordered_problem(self.conv, vectors.lanes, self.halos, by_lane=vectors.by_lane)

    def _direct(self) -> Candidate:
        problem, vectors = self._problem, self.vectors
        if reason := direct_illegal(problem):
            return Candidate("direct", Illegal(reason))
        tile = direct_tile(problem, vectors.registers, vectors.caches.second, vectors.threads)
        weights = self._weights(tile.blocks * vectors.lanes, vectors.lanes)
        return self._blocked("direct", tile, weights, direct_demand(problem, tile, vectors.caches.second))

    def _plain(self) -> Candidate:
        problem = replace(self._problem, input_halo=NO_HALO)
        if reason := plain_illegal(problem):
            return Candidate("direct_plain", Illegal(reason))
        tile = plain_tile(problem, self.vectors.registers)
        weights = self._weights(tile.blocks * self.vectors.lanes, 1)
        candidate = self._blocked(
            "direct_plain", tile, weights, plain_demand(problem, tile, self.vectors.caches.second)
        )
        return replace(candidate, operand_layouts={0: None, 1: weights, 2: self.bias}, border=())

    def _depthwise(self) -> tuple[Candidate, ...]:
        return depthwise_candidates(self.conv, self._problem, self.halos, self.vectors, self._by_channel)

    def _by_channel(
        self, name: str, problem: ConvProblem, illegal: Callable[[ConvProblem], str | None]
    ) -> Candidate:
        if reason := illegal(problem):
            return Candidate(name, Illegal(reason))
        tile = depthwise_tile(problem, self.vectors.registers, self.vectors.threads)
        weights = self._weights(self.vectors.lanes, 1)
        return self._blocked(name, tile, weights, depthwise_demand(problem, tile))

    def _winograd(self, outputs: int) -> Candidate:
        """The candidate for the operator that the convolution would be made into."""
        vectors, name = self.vectors, f"winograd{outputs}"
        conv = conv_problem(self.conv, vectors.lanes, self.halos, by_lane=vectors.by_lane)
        conv = turned(conv) if is_column(self.conv) else conv
        tile = tile_outputs(conv, outputs)
        if reason := winograd_illegal(conv, tile):
            return Candidate(name, Illegal(f"{name}: {reason}"))
        return _winograd_candidate(WinogradProblem(conv, tile), self.conv, vectors, self.price)

    def _columns(self, outputs: int) -> Candidate:
        """The candidate for the operator that the convolution would be made into."""
        conv, name = conv_problem(self.conv, self.vectors.lanes, self.halos), f"{COLUMNS}{outputs}"
        if reason := columns_illegal(conv, outputs):
            return Candidate(name, Illegal(f"{name}: {reason}"))
        return _columns_candidate(ColumnsProblem(conv, outputs), self.vectors, self.price)

    def _fft(self) -> Candidate:
        """The candidate for the operator that the convolution would be made into."""
        conv, vectors, data = (
            conv_problem(self.conv, self.vectors.lanes, self.halos),
            self.vectors,
            self.conv.data,
        )
        if reason := fft_illegal(conv):
            return Candidate("fft", Illegal(f"fft: {reason}"))
        problem, tile = choose_points(conv, vectors.registers, vectors.caches, vectors.threads)
        points = problem.points[4 - data.type.rank :]
        points = points[::-1] if is_column(self.conv) else points
        return _fft_candidate(problem, tile, self.conv, points, vectors, self.price)

    def _im2col(self) -> Candidate:
        conv, vectors = self.conv, self.vectors
        if reason := self._no_panels():
            return Candidate(IM2COL, Illegal(f"{IM2COL}: {reason}"))
        problem = im2col_problem(conv, vectors.lanes)
        tile = im2col_tiles.choose_tile(problem, vectors.registers, vectors.caches.second, vectors.threads)
        return Candidate(
            IM2COL, self.price(im2col_demand(problem, tile)), self._error(), astuple(tile),
            {0: None, 1: None},
        )  # fmt: skip

    def _no_panels(self) -> str | None:
        """Why no panels can be gathered, or None."""
        data = self.conv.data.type
        if reason := no_arithmetic(data.dtype, self.vectors):
            return reason
        if data.rank > 5:
            return f"panels are of one to three spatial axes, these are {data.rank - 2}"
        if 0 in (*self.conv.type.sizes, *self.conv.weight.type.sizes):
            return "an operand or the result has no elements"
        return im2col_illegal(im2col_problem(self.conv, self.vectors.lanes))

    def _generic(self) -> Candidate:
        return generic_candidate(self.conv, self._terms(), self.vectors, self.price)

    def _blocked(self, algorithm: str, tile: Tile, weights: Layout, demand: Demand) -> Candidate:
        """A candidate that reads and writes channel blocks."""
        rank = self.conv.data.type.rank
        blocked = Layout.blocked(rank, self.vectors.lanes)
        return Candidate(
            algorithm, self.price(demand), self._error(), astuple(tile),
            {0: blocked, 1: weights, 2: self.bias}, blocked, border_of(self._problem, self.conv),
        )  # fmt: skip

    def _weights(self, filters: int, channels: int) -> Layout:
        """Weights with their filters and channels in blocks, filters innermost."""
        taps = tuple((axis, 1) for axis in range(2, self.conv.data.type.rank))
        inner = (1, 0) if channels > 1 else (0,)
        return Layout(((0, filters), (1, channels), *taps), inner)

    def _error(self) -> float:
        """Bound on the rounding error of a direct sum."""
        return error_of_sum(self._terms(), self.conv.type.dtype)

    def _terms(self) -> int:
        return prod(self.conv.weight.type.sizes[1:])


# ------------------------------------------------------------------------------------------ transformed tiles


def _given_candidates(
    op: WinogradConv | FftConv, has_constant_weights: bool, halos: Halos, vectors: Vectors, price: Price
) -> tuple[Candidate, ...]:
    """The ways to compute an operator whose weights are transformed already."""
    names = ["fft"]
    if isinstance(op, WinogradConv):
        names = [f"{name}{max(op.outputs)}" for name in ("winograd", COLUMNS)]
    reason = None
    if op.data.type.dtype is not DType.F32 or op.data.type.rank not in (3, 4) or 0 in op.type.sizes:
        reason = f"micro-kernels compute pictures in f32, this is {op.data.type}"
    elif not has_constant_weights:
        reason = "the weights are not constants of this layer's own"
    if reason is not None:
        return tuple(Candidate(name, Illegal(f"{name}: {reason}")) for name in names)
    if isinstance(op, WinogradConv):
        problem = winograd_problem(op, vectors.lanes, halos, by_lane=vectors.by_lane)
        return _winograd_candidates(op, problem, vectors, price)
    problem = fft_problem(op, vectors.lanes, halos)
    by = choose_blocking(problem, vectors.registers, vectors.caches, vectors.threads)
    return (_fft_candidate(problem, by, op, op.points, vectors, price),)


def _winograd_candidates(
    op: WinogradConv, problem: WinogradProblem, vectors: Vectors, price: Price
) -> tuple[Candidate, ...]:
    """In blocks of channels, by tiles; and from a plain picture, by strips."""
    conv, rows = problem.conv, max(op.outputs)
    if any(outputs == 1 < taps for outputs, taps in zip(problem.outputs, conv.kernel, strict=True)):
        by_tiles = Candidate(
            f"winograd{rows}", Illegal(f"winograd{rows}: its tiles are strips, one column each")
        )
    else:
        by_tiles = _winograd_candidate(problem, op, vectors, price)
    reason = columns_illegal(conv, rows) if problem.outputs == (rows, 1) else "its tiles are no strips"
    if reason is not None:
        return by_tiles, Candidate(f"{COLUMNS}{rows}", Illegal(f"{COLUMNS}{rows}: {reason}"))
    return by_tiles, _columns_candidate(ColumnsProblem(conv, rows), vectors, price)


def _columns_candidate(problem: ColumnsProblem, vectors: Vectors, price: Price) -> Candidate:
    conv, lanes = problem.conv, vectors.lanes
    tile = columns_tiles.choose_tile(problem, vectors.registers)
    blocked, bias = Layout.blocked(4, lanes), Layout(((0, lanes),), (0,))
    weights = Layout(((0, lanes), (2, 1), (1, 1), (3, 1)), (0,))
    products = sum_error(conv.channels * conv.kernel[1] + 4 * problem.points, SINGLE)
    return Candidate(
        f"{COLUMNS}{problem.outputs}", price(columns_demand(problem, tile, vectors.caches.second)),
        amplification((problem.outputs, 1), conv.kernel) * products, astuple(tile),
        {0: None, 1: weights, 2: bias}, blocked, (), Transformed(WinogradConv.name, (problem.outputs, 1)),
    )  # fmt: skip


def _winograd_candidate(problem: WinogradProblem, op: Op, vectors: Vectors, price: Price) -> Candidate:
    """op: what is computed, an `nn.conv` or what it is made into."""
    by = choose_blocking(problem, vectors.registers, vectors.caches, vectors.threads)
    conv, rank = problem.conv, op.type.rank
    points = tuple((axis, 1) for axis in range(2, rank))
    weights = Layout(((0, by.blocks * vectors.lanes), *points, (1, 1)), (0,))
    terms = transformed_roundings(conv.channels, by_lane=conv.reads_lanes)
    each = sum_error(terms + 4 * max(problem.points), SINGLE)
    error = amplification(problem.outputs, conv.kernel) * each  # as docs/arithmetic.md has it
    border = conv.needed_halo if rank == 4 else (conv.needed_halo[1], conv.needed_halo[3])
    form = Transformed(WinogradConv.name, problem.outputs[4 - rank :])
    name = f"winograd{max(problem.outputs)}"
    return replace(_transformed(name, problem, by, weights, form, vectors, price), error=error, border=border)


def _fft_candidate(
    problem: FftProblem, by: Blocking, op: Op, points: tuple[int, ...], vectors: Vectors, price: Price
) -> Candidate:
    """op: what is computed; points: of a tile along each of its spatial axes."""
    conv = problem.conv
    weights = Layout(((0, by.blocks * vectors.lanes), (2, 1), (1, 1), (3, 1)), (0,))
    error = sum_error(conv.channels // conv.groups + int(ROUNDINGS * log2(prod(points))), SINGLE)
    form = Transformed(FftConv.name, points)
    return replace(_transformed("fft", problem, by, weights, form, vectors, price), error=error)


def _transformed(
    name: str, problem: TransformedProblem, by: Blocking, weights: Layout, form: Transformed,
    vectors: Vectors, price: Price,
) -> Candidate:  # fmt: skip
    """A candidate over channel blocks with transformed weights, its error and border left open."""
    rank = 2 + len(form.size)
    blocked, bias = Layout.blocked(rank, vectors.lanes), Layout(((0, vectors.lanes),), (0,))
    return Candidate(
        name, price(transformed_demand(problem, by, vectors.caches)), tile=astuple(by),
        operand_layouts={0: blocked, 1: weights, 2: bias}, result_layout=blocked, transformed=form,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ matrix product


def _matmul_candidates(
    op: nn.Gemm | nn.MatMul, constants: Container[int], vectors: Vectors, price: Price
) -> tuple[Candidate, ...]:
    inner = op.left.type.sizes[0 if isinstance(op, nn.Gemm) and op.transA else -1]
    generic = generic_candidate(op, inner, vectors, price)
    if reason := _matmul_illegal(op, constants, vectors):
        return Candidate("matmul", Illegal(reason)), generic
    packed = 1 in constants and op.right.type.rank == 2
    problem = matmul_problem(op, vectors.lanes, packed=packed)
    tile = matmul_tiles.choose_tile(problem, vectors.registers, vectors.caches.second, vectors.threads)
    cost = price(matmul_demand(problem, tile, vectors.caches.second))
    layouts: Mapping[int, Layout | None] = {}
    if packed:
        columns = 0 if isinstance(op, nn.Gemm) and op.transB else 1
        layouts = {1: Layout(((columns, tile.vectors * vectors.lanes), (1 - columns, 1)), (columns,))}
    return Candidate("matmul", cost, error_of_sum(inner, op.type.dtype), astuple(tile), layouts), generic


def _stored_candidate(
    op: StoredMatMul, constants: Container[int], vectors: Vectors, price: Price
) -> Candidate:
    if 1 not in constants or (op.scale is not None and 2 not in constants):
        return Candidate("matmul", Illegal("matrix and scale are not constants of this layer's own"))
    if 0 in (*op.left.type.sizes, *op.type.sizes):
        return Candidate("matmul", Illegal("an operand has no elements"))
    problem = stored_problem(op, vectors.lanes)
    tile = matmul_tiles.choose_tile(problem, vectors.registers, vectors.caches.second, vectors.threads)
    cost = price(matmul_demand(problem, tile, vectors.caches.second))
    packed = Layout(((1, tile.vectors * vectors.lanes), (0, 1)), (1,))
    layouts: Mapping[int, Layout | None] = {1: packed} if op.scale is None else {1: packed, 2: packed}
    return Candidate("matmul", cost, error_of_sum(problem.depth), astuple(tile), layouts)


def _attention_candidate(op: TokenAttention, vectors: Vectors, price: Price) -> Candidate:
    problem = token_attention_problem(op, vectors.lanes)
    reason = attention_illegal(problem)
    if op.type.dtype is not DType.F32:
        reason = f"the kernel computes in f32, this is {op.type.dtype.value}"
    if reason is not None:
        return Candidate("attention", Illegal(reason))
    error = error_of_sum(problem.size) + error_of_sum(problem.length)
    return Candidate("attention", price(attention_demand(problem)), error, (problem.rows,))


def _matmul_illegal(op: nn.Gemm | nn.MatMul, constants: Container[int], vectors: Vectors) -> str | None:
    """Why the micro-kernel cannot do the product, or None."""
    left, right = op.left.type, op.right.type
    if reason := no_arithmetic(left.dtype, vectors):
        return reason
    if left.rank < 2 or right.rank < 2:
        return "the micro-kernel takes matrices, an operand is a vector"
    if 0 in (*left.sizes, *right.sizes):
        return "an operand has no elements"
    if isinstance(op, nn.Gemm):
        if op.transA or op.alpha != 1 or op.beta != 1:
            return f"the micro-kernel has no transA = {op.transA}, alpha = {op.alpha}, beta = {op.beta}"
        return None if 1 in constants else "the right-hand matrix is not a constant of this layer's own"
    if (1 in constants and right.rank == 2) or _has_plain_batches(op):
        return None
    return "leading axes are broadcast one by one"


def _has_plain_batches(op: Op) -> bool:
    """Whether the leading axes of both operands are the result's, or all 1."""
    lead = op.type.sizes[:-2]
    return all(
        value is not None and (value.type.sizes[:-2] == lead or prod(value.type.sizes[:-2]) == 1)
        for value in op.operands[:2]
    )
