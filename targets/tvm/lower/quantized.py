# pyright: basic
"""Elementwise arithmetic of quantised tensors as expressions, to the bit as `rtcc/ir/ops/integer.py`."""

from __future__ import annotations

from tvm import tirx

from rtcc.ir import DType
from rtcc.ir.ops.computed import integer_limits
from rtcc.ir.ops.integer import FACTOR_BITS, QuantizedAdd, Requantize
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.rules import scalar_rule


@scalar_rule(Requantize)
def _requantize(op: Requantize, data: Expr, factor: Expr, zero: Expr) -> Expr:
    return _finished(_float(data) * factor, zero, op.type.dtype)


@scalar_rule(QuantizedAdd)
def _add(op: QuantizedAdd, *operands: Expr) -> Expr:
    left, left_factor, left_zero, right, right_factor, right_zero, zero = operands
    terms = [
        _float(_wide(data) - _wide(offset)) * _masked(factor)
        for data, factor, offset in ((left, left_factor, left_zero), (right, right_factor, right_zero))
    ]
    return _finished(terms[0] + terms[1], zero, op.type.dtype)


def _finished(scaled: Expr, zero: Expr, dtype: DType) -> Expr:
    """A float rounded half to even, the zero point added, saturated; NaN, which `Max` drops, is lowest.

    Between the limits, adding `ROUND_F32` leaves the rounded number in the low bits of the mantissa.
    """
    low, high = integer_limits(dtype.numpy)
    offset = _float(_wide(zero))
    inside = tirx.Max(scaled, vm.constant(float(low), offset) - offset)
    inside = tirx.Min(inside, vm.constant(float(high), offset) - offset)
    name = str(dtype.numpy)
    whole = vm.bits(inside + vm.constant(vm.ROUND_F32, inside), "int32")
    return whole.astype(vm.typed(whole, name)) + zero


def _masked(factor: Expr) -> Expr:
    raw = vm.bits(factor, "int32")
    return vm.bits(tirx.bitwise_and(raw, vm.constant(-(2 ** (24 - FACTOR_BITS)), raw)), "float32")


def _wide(x: Expr) -> Expr:
    return x.astype(vm.typed(x, "int32"))


def _float(x: Expr) -> Expr:
    return x.astype(vm.typed(x, "float32"))
