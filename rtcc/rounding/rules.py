"""The rounding error of each operator's results.

- What only moves, picks or compares elements is exact: its results are as far off as what was picked.
- What is elementwise is taken as mixed forward-backward stable (Higham, section 1.5): the computed result is
  near the exact one of operands moved by a few roundings. How far that moves it is found by moving them.
- A sum of products has the error sum_error(n)·Σ|terms|; the operator run on magnitudes gives Σ|terms|, and on
  magnitudes and errors together what the operands' errors add.
- The rest is done step by step: `rows.py`, `sampled.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2, prod
from typing import Any

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir import DType, Op
from rtcc.ir.op import Array
from rtcc.ir.ops import (
    activation,
    cast,
    indexing,
    integer,
    math,
    movement,
    nn,
    pooling,
    quant,
    reduce,
    shapes,
    tables,
)
from rtcc.ir.ops.bounded import KeptBoxes, Positions, Truncate
from rtcc.ir.ops.element_selection import TopK
from rtcc.ir.ops.elementwise import Elementwise
from rtcc.ir.ops.fft_conv import ROUNDINGS, FftConv
from rtcc.ir.ops.fused import ConvertLayout, Resample
from rtcc.ir.ops.regions_of_interest import RoiAlign
from rtcc.ir.ops.sampling import DeformConv, GridSample
from rtcc.ir.ops.sparse import SparseConv, SparseMatMul
from rtcc.ir.ops.stored import StoredMatMul
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.rounding import rows, sampled
from rtcc.rounding.bounded import (
    ARITHMETIC,
    FUNCTION,
    HALF_TERMS,
    NARROW,
    Bounded,
    Rule,
    Unit,
    finite,
    known,
    sum_error,
    unit_of,
)
from rtcc.rounding.bounded import movement as moved_by
from rtcc.target import GENERIC

BACKWARD = 2.0
"""Roundings by which an elementwise operator's operands may be thought moved."""

JOINING = 4
"""Roundings to halves of a term besides those of its block: of several sums joined, and stored."""

Errors = Sequence[Array]
Operands = Sequence[Bounded | None]


def errors_of(op: Op, operands: Operands, results: Sequence[Array]) -> Errors:
    """How far each result may be off its value in float64, per element; Unsupported where no rule says."""
    for kind in type(op).__mro__:
        if kind in RULES:
            return RULES[kind](op, operands, results)
    message = f"{op.name} has no bound on its rounding error"
    hint = "add its rule to rtcc.rounding.rules.RULES"
    raise Unsupported("no-error-bound", message, where=str(op.location) or None, hint=hint)


def has_rule(kind: type[Op]) -> bool:
    """Whether an operator's rounding error is bounded."""
    return any(each in RULES for each in kind.__mro__)


def is_exact(op: Op) -> bool:
    """Whether the op's results are its operands' elements, or decided by them, so that nothing is rounded."""
    return any(kind in EXACT for kind in type(op).__mro__)


# ---- nothing is rounded, and elementwise


def exact(op: Op, operands: Operands, results: Sequence[Array]) -> Errors:
    """Results are elements of operands, or decided by them."""
    return moved_by(_evaluation(op), operands)


def elementwise(op: Op, operands: Operands, results: Sequence[Array]) -> Errors:
    """Results near those of operands moved by a few roundings; what is computed in integers is exact."""
    loose = [None if each is None else each.relatively_looser(BACKWARD) for each in operands]
    moved = moved_by(_evaluation(op), loose)
    return _rounded(op, moved, results, FUNCTION)


def arithmetic(op: Op, operands: Operands, results: Sequence[Array]) -> Errors:
    """One operation that is rounded once."""
    return _rounded(op, moved_by(_evaluation(op), operands), results, ARITHMETIC)


def _rounded(op: Op, moved: Errors, results: Sequence[Array], roundings: float) -> Errors:
    """The errors with so many roundings of the results more; integers are not rounded."""
    unit = _unit(op)
    return [
        error + roundings * unit.roundoff * finite(np.abs(value)) + unit.tiny
        if value.dtype.kind == "f"
        else error
        for error, value in zip(moved, results, strict=True)
    ]


def decided_by_rounding(op: Op, operands: Operands, results: Sequence[Array]) -> Errors:
    """Comparisons of rounded numbers decide: results are those of the declared precision, or quite others."""
    return [np.full(value.shape, np.inf) for value in results]


def gelu(op: activation.Gelu, operands: Operands, results: Sequence[Array]) -> Errors:
    """1 + erf cancels far below zero: the error is relative to the operand."""
    data = operands[0]
    assert data is not None
    (error,) = elementwise(op, operands, results)
    return [error + ARITHMETIC * data.unit.roundoff * finite(data.magnitude)]


def converted(op: cast.Cast, operands: Operands, results: Sequence[Array]) -> Errors:
    """A conversion, which rounds once where float64 becomes float32 (narrower ones: `analysis.py`)."""
    (error,) = exact(op, operands, results)
    if (op.data.type.dtype, op.type.dtype) == (DType.F64, DType.F32):
        error = error + _unit(op).roundoff * finite(np.abs(results[0])) + _unit(op).tiny
    return [error]


def arithmetic_sequence(op: shapes.Range, operands: Operands, results: Sequence[Array]) -> Errors:
    """start + i · delta: one product and one sum of what has at most the larger end's magnitude."""
    (value,) = results
    if value.dtype.kind != "f":
        return [np.zeros(value.shape)]
    start = operands[0]
    assert start is not None
    return [ARITHMETIC * _unit(op).roundoff * (np.abs(value) + 2 * start.magnitude)]


# ---- sums of products


def sums(count: Callable[[Any], int]) -> Rule:
    """The rule of operators that are sums of products of their operands; count: roundings per result."""

    def rule(op: Op, operands: Operands, results: Sequence[Array]) -> Errors:
        if all(value.dtype.kind != "f" for value in results):
            return exact(op, operands, results)
        evaluate, roundings = _evaluation(op), count(op)
        terms = evaluate(*(_magnitudes(each) for each in operands))
        loosened = terms
        if not all(each is None or each.is_exact for each in operands):
            loosened = evaluate(*(_largest_magnitudes(each) for each in operands))
        part, tiny = _of_terms(op, roundings)
        with np.errstate(all="ignore"):
            return [known((1 + part) * high - low) + tiny for high, low in zip(loosened, terms, strict=True)]

    return rule


def gemm(op: nn.Gemm, operands: Operands, results: Sequence[Array]) -> Errors:
    """|alpha|·|A|·|B| + |beta|·|C|."""
    parts: list[Array] = []
    for side in (_magnitudes, _largest_magnitudes):
        left, right, addend = (side(each) for each in (*operands, None)[:3])
        assert left is not None
        assert right is not None
        product = np.matmul(left.T if op.transA else left, right.T if op.transB else right)
        with np.errstate(all="ignore"):
            parts.append(abs(op.alpha) * product + (0.0 if addend is None else abs(op.beta) * addend))
    if results[0].dtype.kind != "f":
        return exact(op, operands, results)
    part, tiny = _of_terms(op, 2 * op.left.type.sizes[0 if op.transA else 1] + 4)
    with np.errstate(all="ignore"):
        return [known((1 + part) * parts[1] - parts[0]) + tiny]


def stored_product(op: StoredMatMul, operands: Operands, results: Sequence[Array]) -> Errors:
    """|left|·|matrix|, whose elements are rounded once more than they are stored."""
    left, right, scale = (*operands, None)[:3]
    assert left is not None
    assert right is not None
    matrix = np.abs(op.matrix(right.value, None if scale is None else scale.value).astype(np.float64))
    low, high = (np.matmul(side, matrix) for side in (left.magnitude, left.magnitude + left.error))
    roundings = 2 * op.left.type.sizes[-1] + 2
    with np.errstate(all="ignore"):
        error = known((1 + sum_error(roundings, _unit(op))) * high - low)
        return [error + roundings * _unit(op).tiny]


def winograd(op: WinogradConv, operands: Operands, results: Sequence[Array]) -> Errors:
    """A sum of products whose terms cancel: they are counted one by one, with the constants' own rounding."""
    parts: list[Array] = []
    for side in (_magnitudes, _largest_magnitudes):
        data, weight, bias = (side(each) for each in (*operands, None)[:3])
        assert data is not None
        assert weight is not None
        with np.errstate(all="ignore"):
            parts.append(op.magnitudes(data, weight, bias))
    summed = prod(each.points for each in op.transforms if each.outputs == 1)
    roundings = 2 * op.weight.type.sizes[1] * summed + 6 * sum(each.points for each in op.transforms) + 2
    with np.errstate(all="ignore"):
        error = known((1 + sum_error(roundings, _unit(op))) * parts[1] - parts[0])
        return [error + roundings * _unit(op).tiny]


def fourier(op: FftConv, operands: Operands, results: Sequence[Array]) -> Errors:
    """A tile's results share their errors, which go with the largest Σ|terms| among them."""
    data, weight, bias = (*operands, None)[:3]
    assert data is not None
    assert weight is not None
    ends = [None if bias is None else bias.magnitude, None if bias is None else bias.magnitude + bias.error]
    with np.errstate(all="ignore"):
        low = op.tile_magnitudes(data.magnitude, weight.value, ends[0])
        high = low
        if not all(each is None or each.is_exact for each in operands):
            high = op.tile_magnitudes(data.magnitude + data.error, weight.value, ends[1])
        roundings = 2 * op.weight.type.sizes[1] + int(ROUNDINGS * log2(prod(op.points))) + 4
        error = known((1 + sum_error(roundings, _unit(op))) * high - low)
        return [error + roundings * _unit(op).tiny]


def scattered(op: Any, operands: Operands, results: Sequence[Array]) -> Errors:
    """Updates that are put in place, or added, or multiplied."""
    if op.reduction in ("add", "mul"):
        return sums(lambda each: 2 * each.updates.type.elements)(op, operands, results)
    return exact(op, operands, results)


def determinant(op: nn.Det, operands: Operands, results: Sequence[Array]) -> Errors:
    """Elimination gives the determinant of a matrix moved by sum_error(n)·|L|·|U| (Higham, theorem 9.3).

    That moves a row by n times sum_error(n) of its length, and by Hadamard's inequality the determinant by
    less than n times that part of the product of the rows' lengths.
    """
    data = operands[0]
    assert data is not None
    size = data.value.shape[-1]
    lengths = np.sqrt(np.sum(np.square(data.magnitude + data.error), axis=-1))
    moved = np.max(data.error / np.maximum(lengths[..., None], data.unit.tiny), axis=(-1, -2), initial=0.0)
    part = size * (size * sum_error(2 * size, data.unit) + size * moved)
    return [part * np.prod(lengths, axis=-1) + data.unit.tiny]


def _of_terms(op: Op, roundings: int) -> tuple[float, float]:
    """What part of Σ|terms| a sum may err by, and what besides where terms are denormal.

    Kernels that were chosen for halves add up a few in halves, these in float32.
    """
    part, tiny = sum_error(roundings, _unit(op)), roundings * _unit(op).tiny
    algorithm = op.graph.attributes.get("algorithm", GENERIC) if op.graph is not None else GENERIC
    if op.results[0].type.dtype is not DType.F16 or algorithm == GENERIC:
        return part, tiny
    half = NARROW[DType.F16]
    return part + sum_error(HALF_TERMS + JOINING, half), tiny + roundings * half.tiny


def _magnitudes(each: Bounded | None) -> Array | None:
    if each is None or each.value.dtype.kind != "f":
        return None if each is None else each.value
    return each.magnitude


def _largest_magnitudes(each: Bounded | None) -> Array | None:
    if each is None or each.value.dtype.kind != "f":
        return None if each is None else each.value
    return each.magnitude + each.error


def _evaluation(op: Op) -> Callable[..., Sequence[Array]]:
    """The op on arrays, its results in float64 where they are floats."""

    def evaluate(*arrays: Array | None) -> Sequence[Array]:
        with np.errstate(all="ignore"):
            found = op.evaluate(*arrays)
        several = found if isinstance(found, tuple) else (found,)
        return [
            np.asarray(array, np.float64) if result.type.dtype.is_float else np.asarray(array)
            for array, result in zip(several, op.results, strict=False)
        ]

    return evaluate


def _unit(op: Op) -> Unit:
    return unit_of(op.type.dtype)


# ---- which operator has which rule


def _window(op: pooling.Pool) -> int:
    return prod(op.kernel_shape) + 1


def _spatial(op: pooling.GlobalPool) -> int:
    return prod(op.data.type.sizes[2:]) + 1


def _reduced(op: reduce.Reduction) -> int:
    return 2 * prod(op.data.type.sizes[axis] for axis in op.reduced_axes()) + 1


def _product(op: nn.MatMul | quant.MatMulInteger) -> int:
    return 2 * op.operands[0].type.sizes[-1] if op.operands[0] is not None else 0


def _convolved(op: nn.Conv | quant.ConvInteger) -> int:
    return 2 * prod(op.weight.type.sizes[1:]) + 1


def _sparse(op: SparseConv | SparseMatMul) -> int:
    return 2 * op.values.type.sizes[0] + 1


def _transposed(op: nn.ConvTranspose) -> int:
    channels, _, *kernel = op.weight.type.sizes
    return 2 * channels // op.group * prod(kernel) + 1


def _cumulated(op: reduce.Cumulation) -> int:
    return max(op.data.type.sizes, default=1)


def _columns(op: pooling.Col2Im) -> int:
    return prod(op.static_array(op.block_shape, "the block shape").tolist())


def _operands(op: math.Variadic) -> int:
    return len(op.operands) + 1


def _taps(op: Resample) -> int:
    return 2 * op.indices.type.sizes[1]


EXACT: tuple[type[Op], ...] = (
    math.Identity, math.Neg, math.Abs, math.Sign, math.Floor, math.Ceil, math.Round, math.Max, math.Min,
    math.Clip, math.Comparison, math.IsNaN, math.IsInf, math.Where, math.And, math.Or, math.Xor, math.Not,
    math.BitwiseAnd, math.BitwiseOr, math.BitwiseXor, math.BitwiseNot, math.BitShift,
    activation.Relu, activation.ThresholdedRelu, cast.BitCast,
    movement.Transpose, movement.Concat, movement.Split, movement.Slice, movement.Pad, movement.Tile,
    movement.DepthToSpace, movement.SpaceToDepth, movement.Trilu, movement.ReverseSequence,
    movement.CenterCropPad, indexing.Gather, indexing.GatherElements, indexing.GatherND,
    indexing.TensorScatter, indexing.OneHot, ConvertLayout, shapes.Reshape, shapes.Flatten, shapes.Squeeze,
    shapes.Unsqueeze, shapes.Expand, shapes.ConstantOfShape, shapes.EyeLike, TopK, Truncate, Positions,
    pooling.MaxPool, pooling.GlobalMaxPool, reduce.ReduceMax, reduce.ReduceMin, reduce.ArgReduction,
    integer.ConvSum, integer.MatMulSum, integer.GlobalSum, integer.Requantize, integer.QuantizedAdd,
    integer.AddToSum, integer.WindowSum, tables.Lookup, tables.Curve,
)  # fmt: skip
"""Operators whose results are elements of operands, decided by comparing them, or defined to the bit."""

ARITHMETIC_OPS: tuple[type[Op], ...] = (
    math.Add, math.Sub, math.Mul, math.Div, math.Sqrt, math.Reciprocal,
    activation.LeakyRelu, activation.PRelu,
)  # fmt: skip
"""Elementwise operators that are one correctly rounded operation."""

SUMS: dict[type[Op], Callable[[Any], int]] = {
    math.Sum: _operands,
    math.Mean: _operands,
    nn.Conv: _convolved,
    nn.ConvTranspose: _transposed,
    nn.MatMul: _product,
    SparseConv: _sparse,
    SparseMatMul: _sparse,
    quant.ConvInteger: _convolved,
    quant.MatMulInteger: _product,
    reduce.ReduceSum: _reduced,
    reduce.ReduceMean: _reduced,
    reduce.ReduceProd: _reduced,
    reduce.ReduceL1: _reduced,
    reduce.ReduceSumSquare: _reduced,
    reduce.CumSum: _cumulated,
    reduce.CumProd: _cumulated,
    pooling.AveragePool: _window,
    pooling.GlobalAveragePool: _spatial,
    pooling.Col2Im: _columns,
    Resample: _taps,
}
"""Operators that are sums of products of their operands, with how often one result is rounded at most."""

RULES: dict[type[Any], Rule] = {
    Elementwise: elementwise,
    **dict.fromkeys(EXACT, exact),
    **dict.fromkeys(ARITHMETIC_OPS, arithmetic),
    **{kind: sums(count) for kind, count in SUMS.items()},
    **dict.fromkeys(rows.FORMULAS, rows.by_formula),
    activation.Gelu: gelu,
    cast.Cast: converted,
    shapes.Range: arithmetic_sequence,
    nn.Gemm: gemm,
    StoredMatMul: stored_product,
    WinogradConv: winograd,
    FftConv: fourier,
    nn.Det: determinant,
    indexing.ScatterElements: scattered,
    indexing.ScatterND: scattered,
    GridSample: sampled.grid_sample,
    RoiAlign: sampled.roi_align,
    DeformConv: sampled.deform_conv,
    KeptBoxes: decided_by_rounding,
}
"""The rule of each operator, or of a class of them."""
