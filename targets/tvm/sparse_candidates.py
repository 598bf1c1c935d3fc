"""Sparse layers as candidates: what a constant's zeros save, found in the constant itself."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import astuple, dataclass
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, DType, Op, Value
from rtcc.ir.ops import nn
from rtcc.ir.ops.sparse import SparseConv, SparseMatMul, count_blocks, matrix_of
from rtcc.ir.regions import outer_value
from rtcc.rounding.bounded import SINGLE, sum_error
from rtcc.target import Candidate, Illegal, Transformed
from rtcc.targets.tvm.candidate_basis import Price, Vectors
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem, im2col_illegal
from rtcc.targets.tvm.kernels.sparse import sparse_tiles
from rtcc.targets.tvm.kernels.sparse.sparse_tiles import SparseProduct, product_demand, product_tile
from rtcc.targets.tvm.problems import SPARSE, im2col_problem

LEAST_ZEROS = 0.4
"""Of a weight's numbers, below which nothing is counted: leaving out fewer never pays."""


WHOLE_VECTORS = (16, 32)
"""Outputs of a block of products, where they are whole vectors."""


@dataclass(frozen=True)
class Filled:
    """What of a weight is not zero: numbers, the most of one output, and blocks by their outputs."""

    share: float
    longest: int
    blocks: tuple[tuple[int, int], ...]


_known: WeakKeyDictionary[Constant, Filled | None] = WeakKeyDictionary()
"""By constant: candidates are asked for many times."""


def filled_of(anchor: Op, constants: Container[int]) -> Filled | None:
    """What of an anchor's weight is not zero; None where it is no constant, or has few zeros."""
    if not isinstance(anchor, nn.Conv | nn.Gemm | nn.MatMul) or 1 not in constants:
        return None
    value = anchor.operands[1]
    weight = None if value is None else outer_value(value)
    if not isinstance(weight, Constant) or weight.type.dtype is not DType.F32 or weight.type.rank < 2:
        return None
    if weight not in _known:
        _known[weight] = _counted(anchor, weight.array)
    return _known[weight]


def _counted(anchor: nn.Conv | nn.Gemm | nn.MatMul, weight: NDArray[Any]) -> Filled | None:
    share = np.count_nonzero(weight) / max(1, weight.size)
    if not 0 < share <= 1 - LEAST_ZEROS or (not isinstance(anchor, nn.Conv) and weight.ndim != 2):
        return None
    matrix = matrix_of(anchor, weight)
    held = [each for each in (*sparse_tiles.HELD, *WHOLE_VECTORS) if matrix.shape[1] % each == 0]
    blocks = tuple((each, count_blocks(matrix, each)) for each in held)
    return Filled(share, int(np.count_nonzero(matrix, axis=0).max()), blocks)


def sparse_candidate(
    op: nn.Conv | nn.Gemm | nn.MatMul, filled: Filled | None, vectors: Vectors, price: Price
) -> Candidate:
    """The candidate for the operator that the layer would be made into."""
    if filled is None:
        reason = f"fewer than {LEAST_ZEROS:.0%} of its weights are constant zeros in f32"
        return Candidate(SPARSE, Illegal(f"{SPARSE}: {reason}"))
    if not isinstance(op, nn.Conv):
        reason = _no_product(op, vectors.lanes)
        if reason:
            return Candidate(SPARSE, Illegal(f"{SPARSE}: {reason}"))
        return _product(op.left, op.type.sizes[-1], dict(filled.blocks), filled.longest, vectors, price)
    problem = im2col_problem(op, vectors.lanes)
    if reason := _illegal(op, problem):
        return Candidate(SPARSE, Illegal(f"{SPARSE}: {reason}"))
    return _candidate(problem, dict(filled.blocks), filled.longest, vectors, price)


def given_sparse(op: SparseConv | SparseMatMul, vectors: Vectors, price: Price) -> Candidate:
    """The one way to compute an operator whose zeros are left out already."""
    blocks, outputs = op.values.type.sizes
    if isinstance(op, SparseMatMul):
        depth = op.left.type.sizes[-1]
        if outputs % vectors.lanes or 0 in op.type.sizes:
            return Candidate(SPARSE, Illegal(f"{SPARSE}: blocks of {outputs} outputs are no whole vectors"))
        return _product(op.left, op.type.sizes[-1], {outputs: blocks}, depth, vectors, price)
    problem = im2col_problem(op, vectors.lanes)
    if reason := _illegal(op, problem):
        return Candidate(SPARSE, Illegal(f"{SPARSE}: {reason}"))
    return _candidate(problem, {outputs: blocks}, problem.depth, vectors, price)


def _no_product(op: nn.Gemm | nn.MatMul, lanes: int) -> str | None:
    """Why a product cannot leave out zeros, or None."""
    if isinstance(op, nn.Gemm):
        if op.transA or op.alpha != 1 or op.beta != 1:
            return f"there is no transA = {op.transA}, alpha = {op.alpha}, beta = {op.beta}"
        if op.addend is not None and op.addend.type.shape != op.type.shape[-1:]:
            return f"the addend is not one number per output, but {op.addend.type}"
    if op.left.type.rank < 2 or 0 in (*op.left.type.sizes, *op.type.sizes):
        return "the left operand is no matrix with elements"
    if op.type.sizes[-1] % lanes:
        return f"blocks are {lanes} outputs by one input, its {op.type.sizes[-1]} outputs are no multiple"
    return None


def _product(
    left: Value, outputs: int, counts: Mapping[int, int], longest: int, vectors: Vectors, price: Price
) -> Candidate:
    rows, depth = prod(left.type.sizes[:-1]), left.type.sizes[-1]
    found: list[Candidate] = []
    for each, blocks in counts.items():
        if each % vectors.lanes:
            continue
        problem = SparseProduct(rows, depth, outputs, blocks, vectors.lanes)
        tile = product_tile(problem, each, vectors.registers)
        found.append(
            Candidate(
                SPARSE, price(product_demand(problem, tile)), sum_error(longest, SINGLE), astuple(tile),
                transformed=Transformed(SparseMatMul.name, (each,)), of_content=True,
            )
        )  # fmt: skip
    return min(found, key=lambda each: each.seconds)


def _illegal(conv: nn.Conv | SparseConv, problem: Im2colProblem) -> str | None:
    if conv.data.type.rank > 5 or 0 in conv.type.sizes:
        return f"panels are of one to three spatial axes with elements, the data are {conv.data.type}"
    return "it has groups" if conv.group != 1 else im2col_illegal(problem)


def _candidate(
    problem: Im2colProblem, counts: Mapping[int, int], longest: int, vectors: Vectors, price: Price
) -> Candidate:
    caches = vectors.caches
    counts = {outputs: blocks for outputs, blocks in counts.items() if outputs in sparse_tiles.HELD}
    tile = sparse_tiles.choose(
        problem, counts, vectors.registers, caches.first, caches.second, vectors.threads
    )
    demand = sparse_tiles.sparse_demand(problem, tile, counts[tile.filters], caches.first)
    return Candidate(
        SPARSE, price(demand), sum_error(longest, SINGLE), astuple(tile), {0: None, 1: None},
        transformed=Transformed(SparseConv.name, (tile.filters,)), of_content=True,
    )  # fmt: skip
