"""reduce-strength: cheaper arithmetic that may differ in the last bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, DType, Module, Value
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.indexing import Gather
from rtcc.ir.ops.math import Add, Clip, Div, Equal, Mul, Pow, Reciprocal
from rtcc.ir.ops.movement import Transpose
from rtcc.ir.ops.nn import Gemm, MatMul
from rtcc.ir.ops.shapes import Reshape
from rtcc.pipeline import Pass, Rewriter, apply, reassociates, rewrite
from rtcc.pipeline.constants import is_filled_with, is_zero


@dataclass(frozen=True)
class ReduceStrength(Pass):
    """Replace arithmetic by cheaper forms: powers by products, divisions by constants by products.

    pow(x, 2)  →  mul(x, x)          div(x, #c)  →  mul(x, #1/c)          add(add(x, #a), #b)  →  add(x, #a+b)

    A product with one-hot rows becomes a gather. Differs by roundings and the sign of zero; NaN and
    infinities stay what they were.
    """

    exactness = reassociates(1e-6)

    def run(self, module: Module) -> bool:
        return apply(module, RULES, self.name)


@rewrite(Add)
def drop_zero(op: Add, rw: Rewriter) -> None:
    """add(x, 0.0)  →  x, which may turn 0.0 into -0.0"""
    for kept, other in ((op.left, op.right), (op.right, op.left)):
        if is_zero(other) and kept.type == op.type:
            rw.replace(op, kept)
            return


@rewrite(Pow)
def small_power(op: Pow, rw: Rewriter) -> None:
    """pow(x, 2)  →  x·x;  pow(x, 3)  →  x·x·x;  pow(x, -1)  →  reciprocal(x)"""
    if not op.type.dtype.is_float or op.type != op.left.type:
        return
    if is_filled_with(op.right, 2):
        rw.replace(op, Mul(op.left, op.left, location=op.location))
    elif is_filled_with(op.right, 3):
        square = Mul(op.left, op.left, location=op.location)
        rw.replace(op, Mul(square.result, op.left, location=op.location))
    elif is_filled_with(op.right, -1):
        rw.replace(op, Reciprocal(op.left, location=op.location))


@rewrite(Div)
def divide_by_constant(op: Div, rw: Rewriter) -> None:
    """div(x, #c)  →  mul(x, #1/c), where every 1/c is a normal number"""
    divisor = op.right
    if not isinstance(divisor, Constant) or not op.type.dtype.is_float or op.type.dtype.bits < 32:
        return
    with np.errstate(all="ignore"):
        inverse = (1 / divisor.data.astype(np.float64)).astype(divisor.data.dtype)
    magnitude = np.abs(inverse)
    if not (np.isfinite(inverse) & (magnitude >= np.finfo(inverse.dtype).tiny)).all():
        return
    constant = rw.constant(inverse, divisor.type, name=f"{rw.stem(divisor)}.inverse")
    rw.replace(op, Mul(op.left, constant, location=op.location))


@rewrite(Add, Mul)
def join_constants(op: Add | Mul, rw: Rewriter) -> None:
    """add(add(x, #a), #b)  →  add(x, #a+b);  mul(mul(x, #a), #b)  →  mul(x, #a·b)"""
    split = _constant_side(op)
    if split is None or not op.type.dtype.is_float:
        return
    value, outer = split
    inner = value.producer
    if not isinstance(inner, Add | Mul) or type(inner) is not type(op) or not value.has_one_use:
        return
    inner_split = _constant_side(inner)
    if inner_split is None or inner_split[0].type != op.type:
        return
    data, other = inner_split
    joined = _combined(op, other, outer, rw)
    if joined is not None:
        rw.replace(op, type(op)(data, joined, location=op.location.merge(inner.location)))


def _constant_side(op: Add | Mul) -> tuple[Value, Constant] | None:
    """The operand that is no constant, and the one that is."""
    if isinstance(op.right, Constant) and not isinstance(op.left, Constant):
        return op.left, op.right
    if isinstance(op.left, Constant) and not isinstance(op.right, Constant):
        return op.right, op.left
    return None


def _combined(op: Add | Mul, left: Constant, right: Constant, rw: Rewriter) -> Constant | None:
    """The two constants in one; None where that overflows or would take more elements than they have."""
    with np.errstate(all="ignore"):
        wide = [c.data.astype(np.float64) for c in (left, right)]
        both = wide[0] + wide[1] if isinstance(op, Add) else wide[0] * wide[1]
        joined = both.astype(left.data.dtype)
    if not np.isfinite(joined).all() or joined.size > max(left.data.size, right.data.size):
        return None
    if isinstance(op, Mul) and (np.abs(joined) < np.finfo(joined.dtype).tiny).any():
        return None
    largest = left if left.type.elements >= right.type.elements else right
    type = largest.type if joined.shape == () else left.type.with_shape(joined.shape)
    return rw.constant(joined, type, name=left.symbol)


@rewrite(MatMul)
def one_hot_product(op: MatMul, rw: Rewriter) -> None:
    """mat_mul(cast(equal(x, #0…n-1)), #w)  →  gather(#0,w,0, clip(x, -1, n) + 1): rows of w, or of zeros"""
    weight, picked = op.right, _picked_numbers(op.left)
    if picked is None or not isinstance(weight, Constant) or weight.type.rank != 2:
        return
    table = weight.array
    if not op.type.dtype.is_float or not np.isfinite(table).all() or not op.type.is_static:
        return
    rows, dtype = len(table), picked.type.dtype
    edge = np.zeros((1, table.shape[1]), table.dtype)
    data = rw.constant(np.concatenate([edge, table, edge]), name=f"{weight.symbol}.rows")
    low, high, one, sizes = (
        rw.constant(np.array(array, kind), name=name)
        for array, kind, name in (
            (-1, dtype.numpy, "before"), (rows, dtype.numpy, "after"), (1, dtype.numpy, "one"),
            (op.type.sizes[:-1], np.int64, "positions"),
        )
    )  # fmt: skip
    numbers = Reshape(picked, sizes, location=op.location)
    inside = Clip(numbers.result, low, high, location=op.location)
    index = Add(inside.result, one, location=op.location)
    rw.replace(op, Gather(data, index.result, location=op.location))


def _picked_numbers(value: Value) -> Value | None:
    """x of [..., 1], where the value is 1 where x is the place on the last axis, and 0 elsewhere."""
    cast = value.producer
    equal = cast.data.producer if isinstance(cast, Cast) else None
    if not isinstance(equal, Equal):
        return None
    for places, x in ((equal.left, equal.right), (equal.right, equal.left)):
        if not isinstance(places, Constant) or x.type.dtype not in (DType.I32, DType.I64):
            continue
        count = places.type.sizes[-1] if places.type.rank else 0
        is_counting = places.type.elements == count and np.array_equal(places.array.ravel(), np.arange(count))
        if is_counting and x.type.rank == value.type.rank and x.type.shape[-1] == 1:
            return x if value.type.shape == (*x.type.shape[:-1], count) else None
    return None


@rewrite(Gemm)
def gemm_of_transposed(op: Gemm, rw: Rewriter) -> None:
    """gemm(transpose(a), b)  →  gemm(a, b) {transA = 1}, and likewise for b"""
    left, right = _untransposed(op.left), _untransposed(op.right)
    if left is None and right is None:
        return
    new = Gemm(
        left or op.left, right or op.right, op.addend,
        like=op, transA=op.transA ^ int(left is not None), transB=op.transB ^ int(right is not None),
    )  # fmt: skip
    rw.replace(op, new)


@rewrite(MatMul)
def mat_mul_of_transposed(op: MatMul, rw: Rewriter) -> None:
    """mat_mul(a, transpose(b)) of matrices  →  gemm(a, b) {transB = 1}"""
    if op.left.type.rank != 2 or op.right.type.rank != 2 or not op.type.dtype.is_float:
        return
    left, right = _untransposed(op.left), _untransposed(op.right)
    if left is None and right is None:
        return
    new = Gemm(
        left or op.left, right or op.right,
        location=op.location, transA=int(left is not None), transB=int(right is not None),
    )  # fmt: skip
    rw.replace(op, new)


def _untransposed(value: Value) -> Value | None:
    """What a matrix is the transpose of."""
    op = value.producer
    if isinstance(op, Transpose) and op.permutation(op.type.rank) == (1, 0):
        return op.data
    return None


RULES = (
    drop_zero,
    small_power,
    divide_by_constant,
    join_constants,
    gemm_of_transposed,
    one_hot_product,
    mat_mul_of_transposed,
)
