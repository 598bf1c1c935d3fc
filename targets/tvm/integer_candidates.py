"""The ways in which integer sums of bytes can be computed: legality, tile, layouts, cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from math import prod

from rtcc.ir import DType, Layout, Value
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.target import Candidate, Halos, Illegal
from rtcc.targets.tvm.candidate_basis import (
    Price,
    Vectors,
    border_of,
    depthwise_candidates,
    generic_candidate,
)
from rtcc.targets.tvm.demand import Demand
from rtcc.targets.tvm.kernels.blocked import NO_HALO
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import (
    direct_illegal,
)
from rtcc.targets.tvm.kernels.integer.integer_tiles import (
    GROUP,
    MATRIX_DEPTH,
    evicts_itself,
    has_four_products,
    has_matrix_products,
    integer_conv_demand,
    integer_conv_tile,
    integer_depthwise_demand,
    integer_depthwise_tiles,
    integer_grouped_demand,
    integer_grouped_illegal,
    integer_grouped_tile,
    integer_matmul_demand,
    integer_matmul_tiles,
    integer_plain_demand,
    integer_plain_illegal,
    integer_plain_tiles,
    matrix_conv_illegal,
    matrix_conv_tiles,
    matrix_matmul_illegal,
    matrix_matmul_tiles,
)
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulTile
from rtcc.targets.tvm.problems import (
    GROUPED,
    PLAIN,
    bordered_problem,
    is_column,
    product_problem,
)

ONLY_UNSIGNED = "this CPU has kernels for sums of u8 by s8 alone, the data are s8"


def _has_instruction(data: Value, vectors: Vectors) -> bool:
    """Whether the CPU adds up four products of such data at once."""
    return has_four_products(vectors.features, vectors.lanes, signed=data.type.dtype is DType.I8)


def _cheaper(one: Candidate, other: Candidate) -> Candidate:
    return min((one, other), key=lambda each: each.seconds)


@dataclass(frozen=True)
class ByteConvolution:
    """One convolution of bytes by s8, and how each algorithm would do it."""

    conv: ConvSum
    has_constants: bool
    halos: Halos
    vectors: Vectors
    price: Price

    def candidates(self) -> tuple[Candidate, ...]:
        terms = prod(self.conv.weight.type.sizes[1:])
        generic = generic_candidate(self.conv, terms, self.vectors, self.price)
        return self._direct(), self._plain(), *self._depthwise(), self._grouped(), generic

    def _plain(self) -> Candidate:
        vectors, name = self.vectors, PLAIN
        problem = replace(self._problem, input_halo=NO_HALO)
        reason = self._no_micro_kernel() or integer_plain_illegal(problem)
        if self.conv.type.rank != 4 or is_column(self.conv):
            reason = "the kernel takes pictures"
        if reason is not None:
            return Candidate(name, Illegal(f"{name}: {reason}"))
        tile = integer_plain_tiles(problem, vectors.registers, vectors.threads, 1)[0]
        demand = integer_plain_demand(problem, tile, four_products=self._four_products)
        weights = Layout(((0, tile.blocks * vectors.lanes), (1, 1), (2, 1), (3, GROUP)), (0, 3))
        found = self._blocked(name, tile, weights, demand, problem)
        return replace(found, operand_layouts={**found.operand_layouts, 0: None}, border=())

    def _depthwise(self) -> tuple[Candidate, ...]:
        return depthwise_candidates(self.conv, self._problem, self.halos, self.vectors, self._by_channel)

    def _by_channel(
        self, name: str, problem: ConvProblem, illegal: Callable[[ConvProblem], str | None]
    ) -> Candidate:
        vectors, rank = self.vectors, self.conv.type.rank
        if reason := self._no_micro_kernel():
            return Candidate(name, Illegal(f"{name}: {reason}"))
        if reason := illegal(problem):
            return Candidate(name, Illegal(reason))
        tile = integer_depthwise_tiles(problem, vectors.registers, vectors.threads)[0]
        demand = integer_depthwise_demand(problem, tile, four_products=self._four_products)
        height = ((2, 1),) if rank == 4 else ()
        row = 2 if is_column(self.conv) else rank - 1
        if row == 2 and rank == 4:
            height = ((3, 1),)
        weights = Layout(((0, vectors.lanes), (1, 1), *height, (row, GROUP)), (0, row))
        return self._blocked(name, tile, weights, demand, problem)

    @property
    def _four_products(self) -> bool:
        return _has_instruction(self.conv.data, self.vectors)

    @property
    def _problem(self) -> ConvProblem:
        return bordered_problem(self.conv, self.vectors.lanes, self.halos)

    def _direct(self) -> Candidate:
        vectors = self.vectors
        if reason := self._no_micro_kernel():
            return Candidate("direct", Illegal(f"direct: {reason}"))
        problem = self._problem
        if reason := direct_illegal(problem):
            return Candidate("direct", Illegal(reason))
        cache = vectors.caches.second
        tile = integer_conv_tile(problem, vectors.registers, cache, vectors.threads)
        demand = integer_conv_demand(problem, tile, cache, four_products=self._four_products)
        by_vectors = self._blocked("direct", tile, self._parts_of_channels(tile, GROUP), demand, problem)
        if not has_matrix_products(vectors.features, vectors.lanes) or matrix_conv_illegal(problem):
            return by_vectors
        tile = matrix_conv_tiles(problem, vectors.registers, cache, vectors.threads, 1)[0]
        demand = integer_conv_demand(problem, tile, cache, four_products=True, in_pairs=True)
        weights = self._parts_of_channels(tile, MATRIX_DEPTH)
        return _cheaper(by_vectors, self._blocked("direct", tile, weights, demand, problem))

    def _grouped(self) -> Candidate:
        vectors = self.vectors
        if reason := self._no_micro_kernel():
            return Candidate(GROUPED, Illegal(f"{GROUPED}: {reason}"))
        problem = self._problem
        if reason := integer_grouped_illegal(problem):
            return Candidate(GROUPED, Illegal(reason))
        tile = integer_grouped_tile(problem, vectors.registers, vectors.threads)
        demand = integer_grouped_demand(problem, tile, four_products=self._four_products)
        return self._blocked(GROUPED, tile, self._parts_of_channels(tile, GROUP), demand, problem)

    def _parts_of_channels(self, tile: Tile, depth: int) -> Layout:
        """Weights so many channels deep, in blocks of a tile's filters."""
        taps = tuple((axis, 1) for axis in range(2, self.conv.type.rank))
        return Layout(((0, tile.blocks * self.vectors.lanes), (1, depth), *taps), (0, 1))

    def _blocked(
        self, name: str, tile: Tile, weights: Layout, demand: Demand, problem: ConvProblem
    ) -> Candidate:
        """A candidate that reads and writes channel blocks."""
        conv, lanes = self.conv, self.vectors.lanes
        blocked = Layout.blocked(conv.type.rank, lanes)
        layouts = {0: blocked, 1: weights, 2: Layout.blocked(conv.offset.type.rank, lanes, axis=0)}
        border = border_of(problem, conv)
        if name in ("direct", GROUPED) and evicts_itself(problem):
            border = (*border[:-1], border[-1] + 1)
        return Candidate(name, self.price(demand), 0.0, astuple(tile), layouts, blocked, border)

    def _no_micro_kernel(self) -> str | None:
        """Why no micro-kernel can do the convolution, whatever its algorithm."""
        if self.conv.data.type.rank not in (3, 4):
            return f"micro-kernels take one or two spatial axes, these are {self.conv.data.type.rank - 2}"
        if 0 in self.conv.type.sizes:
            return "the result has no elements"
        if self.conv.data.type.dtype is DType.I8 and not self._four_products:
            return ONLY_UNSIGNED
        return None if self.has_constants else "weights and offset are not constants of this layer's own"


def product_of_bytes(
    op: MatMulSum, has_constant: bool, vectors: Vectors, price: Price
) -> tuple[Candidate, ...]:
    depth = op.left.type.sizes[-1]
    generic = generic_candidate(op, depth, vectors, price)
    reason = None
    if op.left.type.rank < 2 or op.right.type.rank != 2 or not has_constant:
        reason = "the micro-kernel takes rows and a constant matrix of this layer's own"
    elif depth % GROUP or 0 in op.type.sizes or not depth:
        reason = f"rows of {depth} are no whole groups of {GROUP}, or the result has no elements"
    elif op.left.type.dtype is DType.I8 and not _has_instruction(op.left, vectors):
        reason = ONLY_UNSIGNED
    if reason is not None:
        return Candidate("matmul", Illegal(reason)), generic
    problem = product_problem(op, vectors.lanes)

    def candidate(tile: MatmulTile, depth: int) -> Candidate:
        is_one = _has_instruction(op.left, vectors)
        demand = integer_matmul_demand(problem, tile, four_products=is_one, in_pairs=depth == MATRIX_DEPTH)
        layouts = {1: Layout(((1, tile.vectors * vectors.lanes), (0, depth)), (1, 0))}
        return Candidate("matmul", price(demand), 0.0, astuple(tile), layouts)

    found = candidate(integer_matmul_tiles(problem, vectors.registers, vectors.threads)[0], GROUP)
    if has_matrix_products(vectors.features, vectors.lanes) and not matrix_matmul_illegal(problem):
        tile = matrix_matmul_tiles(problem, vectors.threads)[0]
        found = _cheaper(found, candidate(tile, MATRIX_DEPTH))
    return found, generic
