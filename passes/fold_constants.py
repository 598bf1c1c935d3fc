"""fold-constants: compute at compile time what depends on constants and static shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rtcc.errors import RtccError
from rtcc.ir import Constant, DType, Module, Op, RegionOp, Return, TensorType, Value
from rtcc.ir.op import Array
from rtcc.ir.ops.math import Identity
from rtcc.ir.ops.quant import DequantizeLinear
from rtcc.ir.ops.shapes import ConstantOfShape
from rtcc.ir.shape_value import known_integers
from rtcc.pipeline import Pass, Rewriter, Size, apply, exact, rewrite
from rtcc.pipeline.constants import uniform_value
from rtcc.pipeline.rewriter import Rule


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute what depends on constants and static shapes alone.

    mul(#a, #b)  →  #ab             shape(%x : f32[2,3])  →  #shape = [2, 3]

    Constants filled with one value stay so: no memory for elementwise ops and movements of them. Other
    folding may take `budget` bytes more than the constants it replaces, in all, counted before anything is
    allocated; what would not fit stays in the graph. An op that fails on its constants (an index out
    of range) stays too, and fails when it runs. dequantize: also fold the dequantisation of constants.
    """

    exactness = exact

    budget: Size = Size(64 << 20)
    dequantize: bool = True

    def run(self, module: Module) -> bool:
        return apply(module, (_Folding(self.budget, self.dequantize).rule(),), self.name)


class _Folding:
    """One run of the pass: the bytes that are left to spend."""

    def __init__(self, budget: int, dequantize: bool) -> None:
        self.left = budget
        self.dequantize = dequantize

    def rule(self) -> Rule:
        """The rewrite, rooted at every op."""

        @rewrite(Op)
        def fold(op: Op, rw: Rewriter) -> None:
            """op(constants)  →  constants"""
            if isinstance(op, RegionOp | Return) or op.has_effects or not op.deterministic:
                return
            if isinstance(op, DequantizeLinear) and not self.dequantize:
                return
            self._fold(op, rw)

        return fold

    def _fold(self, op: Op, rw: Rewriter) -> None:
        if isinstance(op, Identity):
            if isinstance(op.data, Constant):
                rw.replace(op, op.data)
            return
        if any(r.type.dtype is DType.STRING or r.type.layout for r in op.results):
            return
        if self._from_types(op, rw) or self._as_splat(op, rw):
            return
        self._by_evaluation(op, rw)

    def _from_types(self, op: Op, rw: Rewriter) -> bool:
        """Shape arithmetic whose result the types alone tell."""
        if not op.type.dtype.is_integer or len(op.results) != 1 or not op.operands:
            return False
        known = known_integers(op.result)
        if known is None:
            return False
        array = np.array(known, op.type.dtype.numpy).reshape(op.type.sizes)
        rw.replace(op, rw.constant(array, name=_name(op.result, op)))
        return True

    def _as_splat(self, op: Op, rw: Rewriter) -> bool:
        """One value everywhere in, one value everywhere out: nothing is allocated."""
        if len(op.results) != 1 or not op.type.is_static or not op.type.elements:
            return False
        value = _uniform_result(op)
        if value is None:
            return False
        rw.replace(op, rw.constant(*_uniform(value, op.type), name=_name(op.result, op)))
        return True

    def _by_evaluation(self, op: Op, rw: Rewriter) -> None:
        operands = [value for value in op.present_operands if isinstance(value, Constant)]
        if not operands or len(operands) != sum(1 for _ in op.present_operands):
            return
        growth = sum(r.type.storage_bytes for r in op.results) - _freed_bytes(op, operands)
        if growth > self.left:
            return
        arrays = [v.array if isinstance(v, Constant) else None for v in op.operands]
        results = _evaluated(op, arrays)
        if results is None or not _refined(op, results, rw):
            return
        self.left -= growth
        new = [_stored(array, result.type) for array, result in zip(results, op.results, strict=True)]
        names = [_name(result, op) for result in op.results]
        rw.replace(op, *(rw.constant(array, name=name) for array, name in zip(new, names, strict=True)))


def _uniform_result(op: Op) -> Array | None:
    """The one value (shape ()) of all of a result's elements, where the constants tell."""
    if isinstance(op, ConstantOfShape):
        return np.zeros((), np.float32) if op.value is None else uniform_value(op.value)
    moved = [value for index, value in enumerate(op.operands) if op.is_moved_operand(index)]
    if moved:
        return None if _may_fail(op) else _common_value(moved)
    if not op.elementwise:
        return None
    arrays = [None if value is None else uniform_value(value) for value in op.operands]
    if any(array is None and value is not None for array, value in zip(arrays, op.operands, strict=True)):
        return None
    found = _evaluated(op, arrays)
    return None if found is None else found[0].reshape(())


def _may_fail(op: Op) -> bool:
    """Whether the op fails where its indices are out of range."""
    return any(op.index_limit(index) is not None for index in range(len(op.operands)))


def _common_value(values: Sequence[Value | None]) -> Array | None:
    """The one value (shape ()) of all elements of several tensors."""
    found = [uniform_value(value) for value in values]
    first = found[0]
    if first is None or any(other is None or other.tobytes() != first.tobytes() for other in found):
        return None
    return first


def _uniform(value: Array, type: TensorType) -> tuple[Array, TensorType]:
    """What to store for a tensor filled with one value: a splat, or the one element itself."""
    value = np.array(value, type.dtype.numpy)
    return (value.reshape(type.sizes) if type.elements == 1 else value), type


def _evaluated(op: Op, arrays: Sequence[Array | None]) -> tuple[Array, ...] | None:
    """The results, None where the op refuses these operands."""
    try:
        found = op.evaluate(*arrays)
    except RtccError:
        return None
    results = found if isinstance(found, tuple) else (found,)
    return results[: len(op.results)]


def _refined(op: Op, results: Sequence[Array], rw: Rewriter) -> bool:
    """Make sizes known that only the data decided; False where that cannot be done."""
    return all(
        rw.refine(result, result.type.with_shape(array.shape))
        for array, result in zip(results, op.results, strict=True)
        if not result.type.is_static
    )


def _stored(array: Array, type: TensorType) -> Array:
    """A result as a constant holds it: of the declared type, in row-major order, on its own."""
    assert array.shape == type.sizes, f"evaluate() gave shape {array.shape} for {type}"
    return np.array(array, type.dtype.numpy, order="C")


def _freed_bytes(op: Op, operands: Sequence[Constant]) -> int:
    """Bytes of the constants that only this op reads."""
    return sum(c.data.nbytes for c in set(operands) if all(use.op is op for use in c.uses))


def _name(result: Value, op: Op) -> str:
    """The symbol of a folded result: its own name, else the operator's."""
    return result.name or op.name.rpartition(".")[2]
