"""What candidates of all kinds share: what tiles depend on, prices, error bounds, borders, plain loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rtcc.ir.ops import nn
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.rounding.bounded import SINGLE, sum_error
from rtcc.target import GENERIC, Candidate, Cost
from rtcc.targets.tvm.caches import Caches
from rtcc.targets.tvm.demand import Demand, Stream
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.problems import is_column
from rtcc.targets.tvm.summation import block_length, roundings

GENERIC_CYCLES = 8.0
"""Of one multiply-add of plain loops times lanes: measured 0.15 to 0.9 with 16 lanes, more in bad cases."""


@dataclass(frozen=True)
class Vectors:
    """What tiles depend on: float32 lanes, vector registers, caches of a core, threads, instructions."""

    lanes: int
    registers: int
    caches: Caches
    threads: int
    features: frozenset[str] = frozenset()


Price = Callable[[Demand], Cost]
"""A target's seconds for a demand."""


def error_of_sum(terms: int) -> float:
    """Bound on the rounding error of a float32 sum of products, relative to Σ|terms|."""
    return sum_error(roundings(terms, block_length(terms)), SINGLE)


def border_of(problem: ConvProblem, conv: nn.Conv | ConvSum) -> tuple[int, ...]:
    """The zero border that the padding reads, in the convolution's own order of axes."""
    top, left, bottom, right = problem.needed_halo
    if is_column(conv):
        top, left, bottom, right = left, top, right, bottom
    return (top, left, bottom, right) if conv.data.type.rank == 4 else (left, right)


def generic_candidate(
    op: nn.Conv | ConvSum | MatMulSum | nn.Gemm | nn.MatMul, terms: int, vectors: Vectors, price: Price
) -> Candidate:
    """Plain loops: no tile, no blocks; the row of results that is summed at a time is in vectors."""
    work = op.operations()
    data, weights = (0 if v is None else v.type.storage_bytes for v in op.operands[:2])
    streams = (Stream(data), Stream(weights, is_constant=True), Stream(op.type.storage_bytes))
    demand = Demand(GENERIC_CYCLES / vectors.lanes * work / 2, streams, max(1, op.type.elements))
    return Candidate(GENERIC, price(demand), error_of_sum(terms))
