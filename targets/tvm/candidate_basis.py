"""What candidates of all kinds share: what tiles depend on, prices, error bounds, borders, plain loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

from rtcc.ir import DType, Layout, Op
from rtcc.ir.ops import nn
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.rounding.bounded import NARROW, SINGLE, sum_error
from rtcc.target import GENERIC, Candidate, Cost, Halos, Illegal
from rtcc.targets.tvm.caches import Caches
from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, multiplies_by_lane
from rtcc.targets.tvm.kernels.convolution.conv_tiles import depthwise_illegal, depthwise_rows_illegal
from rtcc.targets.tvm.kernels.numbers import HALVES, are_multiplied
from rtcc.targets.tvm.problems import DEPTHWISE_ROWS, conv_problem, is_column, rows_bytes
from rtcc.targets.tvm.summation import block_length, roundings

GENERIC_CYCLES = 8.0
"""Of one multiply-add of plain loops times lanes: measured 0.15 to 0.9 with 16 lanes, more in bad cases."""


@dataclass(frozen=True)
class Vectors:
    """What tiles depend on: lanes of the anchor's numbers, vector registers, caches, threads, features.

    saves_memory: as targets have it.
    """

    lanes: int
    registers: int
    caches: Caches
    threads: int
    features: frozenset[str] = frozenset()
    saves_memory: bool = False

    @property
    def by_lane(self) -> bool:
        """As `ConvProblem` has it."""
        return multiplies_by_lane(self.features)


Price = Callable[[Demand], Cost]
"""A target's seconds for a demand."""


def no_arithmetic(dtype: DType, vectors: Vectors) -> str | None:
    """Why no micro-kernel multiplies numbers of that type, or None."""
    if are_multiplied(dtype, vectors.features):
        return None
    also = " and in f16" if are_multiplied(DType.F16, vectors.features) else ""
    return f"micro-kernels compute in f32{also}, this is {dtype.value}"


def error_of_sum(terms: int, dtype: DType = DType.F32) -> float:
    """Bound on the rounding error of a micro-kernel's sum of products, relative to Σ|terms|.

    Products of halves are added up in halves in blocks, these in float32.
    """
    if dtype is not DType.F16:
        return sum_error(roundings(terms, block_length(terms)), SINGLE)
    block = block_length(terms, HALVES)
    return sum_error(block, NARROW[DType.F16]) + sum_error(-(-terms // block), SINGLE)


def border_of(problem: ConvProblem, conv: nn.Conv | ConvSum) -> tuple[int, ...]:
    """The zero border that the padding reads, in the convolution's own order of axes."""
    top, left, bottom, right = problem.needed_halo
    if is_column(conv):
        top, left, bottom, right = left, top, right, bottom
    return (top, left, bottom, right) if conv.data.type.rank == 4 else (left, right)


def _of_fewer_bytes(
    conv: nn.Conv | ConvSum, depthwise: Candidate, rows: Candidate
) -> tuple[Candidate, ...]:
    """Both kernels for a depthwise convolution where memory is saved: the one that takes more is illegal.

    One needs a border around its data and a result of its own, the other rows that it copies aside.
    """
    found = (depthwise, rows)
    if isinstance(depthwise.cost, Illegal) or isinstance(rows.cost, Illegal):
        return found
    blocked = rows.operand_layouts[0]
    assert blocked is not None
    data = conv.data.type.with_layout(blocked)
    bordered = data.with_layout(Layout(blocked.outer, blocked.inner, depthwise.border))
    taken = bordered.storage_bytes - data.storage_bytes
    if conv.type.shape == conv.data.type.shape:
        taken += data.storage_bytes
    saved = taken - rows_bytes(conv, blocked.blocks[1])
    if saved > 0:
        reason = f"depthwise: {rows.algorithm} takes {saved:,} bytes of memory less"
        return replace(depthwise, cost=Illegal(reason)), rows
    reason = f"{rows.algorithm}: its copied rows take more than they save"
    return depthwise, replace(rows, cost=Illegal(reason))


def summed_terms(anchor: Op) -> int | None:
    """How many products a result is the sum of; None where it is no such sum, or sizes are not known."""
    if not all(value.type.is_static for value in (*anchor.present_operands, *anchor.results)):
        return None
    match anchor:
        case nn.Conv() | ConvSum():
            return prod(anchor.weight.type.sizes[1:])
        case nn.Gemm() | nn.MatMul() | MatMulSum():
            return anchor.operations() // max(1, 2 * anchor.type.elements)
        case _:
            return None


ByChannel = Callable[[str, ConvProblem, Callable[[ConvProblem], "str | None"]], Candidate]
"""A depthwise kernel of that name for a problem, illegal where that gives a reason."""


def depthwise_candidates(
    conv: nn.Conv | ConvSum, problem: ConvProblem, halos: Halos, vectors: Vectors, by_channel: ByChannel
) -> tuple[Candidate, ...]:
    """The kernels of one filter per channel; the one of copied rows where memory is saved.

    problem: with the border around its data.
    """
    found = by_channel("depthwise", problem, depthwise_illegal)
    if not vectors.saves_memory:
        return (found,)
    rows = by_channel(DEPTHWISE_ROWS, conv_problem(conv, vectors.lanes, halos), depthwise_rows_illegal)
    return _of_fewer_bytes(conv, found, replace(rows, border=()))


def generic_candidate(op: Op, terms: int, vectors: Vectors, price: Price) -> Candidate:
    """Plain loops: no tile, no blocks; the row of results that is summed at a time is in vectors."""
    work = op.operations()
    data, weights = (0 if v is None else v.type.storage_bytes for v in op.operands[:2])
    streams = (Stream(data), Stream(weights, is_constant=True), Stream(op.type.storage_bytes))
    demand = Demand(GENERIC_CYCLES / vectors.lanes * work / 2, streams, max(1, op.type.elements))
    return Candidate(GENERIC, price(demand), error_of_sum(terms))
