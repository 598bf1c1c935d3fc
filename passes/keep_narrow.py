"""keep-narrow: weights stored in fewer bits stay so where a matrix product or a gathering reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, DType, Module, Op, Value
from rtcc.ir.op import Array
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.indexing import Gather
from rtcc.ir.ops.math import Add, BitShift, Mul
from rtcc.ir.ops.movement import Concat, Transpose
from rtcc.ir.ops.nn import Gemm, MatMul
from rtcc.ir.ops.quant import DequantizeLinear, centred
from rtcc.ir.ops.shapes import Reshape
from rtcc.ir.ops.stored import StoredMatMul, packed_pairs
from rtcc.pipeline import Pass, Rewriter, apply, exact, rewrite
from rtcc.pipeline.rewriter import Rule
from rtcc.target import Illegal, Target, target_of


@dataclass(frozen=True)
class KeepNarrow(Pass):
    """Keep weights in the bits that they are stored in, where something widens them as it reads them.

    mat_mul(x, dequantize_linear(#q, #s))  →  stored_mat_mul(x, #q, #s)          cast of f16, bf16: likewise
    gather(dequantize_linear(#q, #s), i)   →  mul(cast(gather(#q, i)), gather(#s, i))

    Integers are of 8 or 4 bits once their zero point is subtracted, in blocks along the sum, or with one
    scale for each column, or for all; cast and multiplied by a constant they count as dequantised. A table's
    4 bits lie two in a byte, the second half of a row in the high ones. What is left is folded to float32 by
    `fold-constants`. widen_weights: leave everything to that: artefacts are larger, and products of many rows
    up to 13 % faster. smallest: elements from which a matrix is kept narrow.
    """

    exactness = exact
    before_quantizing = False  # it makes products that ONNX does not have
    told = ("widen_weights",)

    widen_weights: bool = False
    smallest: int = 4096

    def run(self, module: Module) -> bool:
        if self.widen_weights:
            return False
        rules = (scaled_integers, _products(target_of(module), self.smallest), _gathers(self.smallest))
        return apply(module, rules, self.name)


@dataclass(frozen=True)
class Narrow:
    """A matrix in i8 with a scale [⌈rows/block⌉, columns], or in f16 or bf16 with none."""

    elements: Array
    scale: Array | None = None
    block: int = 1

    @property
    def element(self) -> DType:
        """The type in which it can be stored."""
        found = DType.of(self.elements.dtype)
        return DType.I4 if found is DType.I8 and fits(self.elements, 4) else found


@rewrite(Mul)
def scaled_integers(op: Mul, rw: Rewriter) -> None:
    """mul(cast(#q), #s)  →  dequantize_linear(#q, #s)"""
    cast, scale = op.left.producer, op.right
    if not isinstance(cast, Cast) or not isinstance(cast.data, Constant) or not isinstance(scale, Constant):
        return
    matrix = cast.data.type
    if matrix.dtype not in (DType.I8, DType.I4, DType.U4) or op.type.dtype is not DType.F32:
        return
    if matrix.rank != 2 or op.type.shape != matrix.shape or not _is_only_read_narrow(op.result):
        return
    sizes = (1, 1, *scale.type.sizes)[-2:]
    if sizes[0] > 1 and sizes[1] > 1:
        return
    axis = 0 if sizes[0] > 1 else 1
    shape = (-1,) if max(sizes) > 1 else ()
    factor = rw.constant(scale.array.reshape(shape), name=rw.stem(scale))
    rw.replace(op, DequantizeLinear(cast.data, factor, axis=axis))


def _products(target: Target, smallest: int) -> Rule:
    """The rule for matrix products, where the target has a kernel."""

    def is_offered(op: Op) -> bool:
        return any(not isinstance(each.cost, Illegal) for each in target.candidates(op, {1, 2}))

    @rewrite(MatMul, Gemm)
    def product(op: MatMul | Gemm, rw: Rewriter) -> None:
        """mat_mul(x, dequantize_linear(#q, #s))  →  stored_mat_mul(x, #q, #s)"""
        if not _takes_stored(op) or not _is_only_read_narrow(op.right):
            return
        found = _matrix(op.right, flipped=isinstance(op, Gemm) and bool(op.transB))
        if found is None or found.elements.size < smallest:
            return
        new = _stored_product(op.left, found, _stem(op.right, rw), rw)
        if not is_offered(new):
            return
        addend = op.addend if isinstance(op, Gemm) else None
        rw.replace(op, new if addend is None else Add(new.result, addend))

    return product


def _takes_stored(op: MatMul | Gemm) -> bool:
    """Whether the product is one by rows of float32."""
    if op.left.type.dtype is not DType.F32 or op.left.type.rank < 2 or op.right.type.rank != 2:
        return False
    is_plain = isinstance(op, MatMul) or (not op.transA and op.alpha == 1 and op.beta == 1)
    return is_plain and op.type.is_static and op.left.type.is_static


def _is_only_read_narrow(value: Value) -> bool:
    """Whether all that reads the widened matrix can read the narrow one, so that it is not stored twice."""
    if isinstance(value.producer, Transpose):
        return value.has_one_use and _is_only_read_narrow(value.producer.data)
    return all(_reads_narrow(use.op, use.slot) for use in value.uses)


def _reads_narrow(op: Op, slot: int) -> bool:
    match op:
        case MatMul() | Gemm():
            return slot == 1 and _takes_stored(op)
        case Gather():
            return slot == 0 and op.axis in (0, -op.data.type.rank)
        case Transpose():
            return all(_reads_narrow(use.op, use.slot) for use in op.result.uses)
        case _:
            return False


def _stored_product(left: Value, found: Narrow, stem: str, rw: Rewriter) -> StoredMatMul:
    elements = np.ascontiguousarray(found.elements)
    if found.element is DType.I4:
        elements = packed_pairs(elements)
    right = rw.constant(elements, name=stem)
    if found.scale is None:
        return StoredMatMul(left, right, element=found.element.value)
    scale = rw.constant(np.ascontiguousarray(found.scale), name=f"{stem}.scale")
    return StoredMatMul(left, right, scale, element=found.element.value, block_size=found.block)


def _matrix(value: Value, *, flipped: bool) -> Narrow | None:
    """The narrow matrix that a value is widened from; flipped: with its axes exchanged."""
    op = value.producer
    if isinstance(op, Transpose) and op.data.type.rank == 2:
        return _matrix(op.data, flipped=flipped != (tuple(op.perm or (1, 0)) == (1, 0)))
    floats = _narrow_floats(op)
    if floats is not None:
        return Narrow(floats.T if flipped else floats)
    integers = _narrow_integers(op)
    if integers is None or not isinstance(op, DequantizeLinear) or integers.ndim != 2:
        return None
    return _with_scale(op, integers, flipped=flipped)


def _with_scale(op: DequantizeLinear, integers: Array, *, flipped: bool) -> Narrow | None:
    """A matrix with one scale for blocks of its rows, or for each column; None where there are others."""
    assert isinstance(op.scale, Constant)
    scale, axis = op.scale.array, normal_axis(op, op.axis, 2) ^ flipped
    elements = integers.T if flipped else integers
    rows, columns = elements.shape
    if scale.size == 1:
        return Narrow(elements, np.broadcast_to(scale.reshape(1, 1), (1, columns)), rows)
    if op.block_size and axis == 0:
        return Narrow(elements, scale.T if flipped else scale, op.block_size)
    if not op.block_size and axis == 1:
        return Narrow(elements, scale.reshape(1, columns), rows)
    return None


def _gathers(smallest: int) -> Rule:
    """The rule for tables that rows are gathered from."""

    @rewrite(Gather)
    def gather(op: Gather, rw: Rewriter) -> None:
        """gather(dequantize_linear(#q, #s), i)  →  mul(cast(gather(#q, i)), gather(#s, i))"""
        if op.axis not in (0, -op.data.type.rank) or op.data.type.elements < smallest:
            return
        if op.type.dtype is not DType.F32 or not op.type.is_static or not _is_only_read_narrow(op.data):
            return
        source, stem = op.data.producer, _stem(op.data, rw)
        floats = _narrow_floats(source)
        if floats is not None:
            rows = Gather(rw.constant(floats, name=stem), op.indices, axis=0).result
            rw.replace(op, Cast(rows, to=DType.F32.value))
            return
        integers = _narrow_integers(source)
        if integers is None or not isinstance(source, DequantizeLinear) or integers.ndim != 2:
            return
        found = _rows(source, integers, op.indices, stem, rw)
        if found is not None:
            shape = rw.constant(np.array(op.type.sizes, np.int64), name="shape")
            rw.replace(op, Reshape(found, shape))

    return gather


def _rows(source: DequantizeLinear, integers: Array, indices: Value, stem: str, rw: Rewriter) -> Value | None:
    """Rows of a table in blocks [..., blocks, block], widened; None where a row's scales are not its own."""
    assert isinstance(source.scale, Constant)
    count, width = integers.shape
    scale, axis, block = source.scale.array, normal_axis(source, source.axis, 2), source.block_size or width
    if width % block or (source.block_size and axis == 0):
        return None
    factor: Value
    if scale.size > 1 and (axis == 0 or source.block_size):
        each = rw.constant(scale.reshape(count, -1, 1), name=f"{stem}.scale")
        factor = Gather(each, indices, axis=0).result
    else:
        shape = () if scale.size == 1 else (-1,)
        factor = rw.constant(scale.reshape(shape), name=f"{stem}.scale")
    table = integers.reshape(count, width // block, block)
    if block % 2 or not fits(table, 4):
        rows = Gather(rw.constant(table, name=stem), indices, axis=0).result
    else:
        rows = _unpacked(Gather(rw.constant(_halves(table), name=stem), indices, axis=0).result, rw)
    return Mul(Cast(rows, to=DType.F32.value).result, factor).result


def _halves(table: Array) -> Array:
    """The last axis folded in two: its second half in the high bits of the first."""
    low, high = np.split(table, 2, -1)
    return ((low & 15) | (high << 4)).astype(np.int8)


def _unpacked(packed: Value, rw: Rewriter) -> Value:
    """What `_halves` folded, both parts with their signs."""
    four = rw.constant(np.array(4, np.int8), name="four")
    low = BitShift(BitShift(packed, four, direction="LEFT").result, four, direction="RIGHT").result
    high = BitShift(packed, four, direction="RIGHT").result
    return Concat(low, high, axis=-1).result


def _narrow_floats(op: Op | None) -> Array | None:
    """The f16 or bf16 constant that an op casts to f32, if it does."""
    if not isinstance(op, Cast) or not isinstance(op.data, Constant) or op.type.dtype is not DType.F32:
        return None
    return op.data.array if op.data.type.dtype in (DType.F16, DType.BF16) else None


def _narrow_integers(op: Op | None) -> Array | None:
    """What an op multiplies by its scale, where it is constant and fits into 8 bits with a sign: i8."""
    if not isinstance(op, DequantizeLinear) or op.type.dtype is not DType.F32:
        return None
    if not isinstance(op.data, Constant) or not isinstance(op.scale, Constant):
        return None
    if op.zero_point is not None and not isinstance(op.zero_point, Constant):
        return None
    dtype = op.data.type.dtype
    if op.scale.type.dtype is not DType.F32 or not dtype.is_integer or dtype.bits > 8:
        return None
    zero = None if op.zero_point is None else op.zero_point.array
    spread = None if zero is None else op.spread(zero, op.data.type.sizes)
    found = centred(op.data.array, spread)
    return found.astype(np.int8) if fits(found, 8) else None


def fits(integers: Array, bits: int) -> bool:
    """Whether all fit into so many bits with a sign."""
    limit = 1 << (bits - 1)
    return integers.size > 0 and bool(integers.min() >= -limit and integers.max() < limit)


def _stem(value: Value, rw: Rewriter) -> str:
    """What constants made of a widened one are called."""
    op = value.producer
    while op is not None and isinstance(op, Transpose):
        op = op.data.producer
    source = next(op.present_operands) if op is not None else value
    return rw.stem(source) if isinstance(source, Constant) else "weight"
