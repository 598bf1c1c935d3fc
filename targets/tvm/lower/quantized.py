# pyright: basic
"""Elementwise arithmetic of quantised tensors as expressions, to the bit as `rtcc/ir/ops/integer.py`."""

from __future__ import annotations

from functools import partial

from tvm import tirx

from rtcc.ir import DType
from rtcc.ir.ops.computed import integer_limits
from rtcc.ir.ops.integer import FACTOR_BITS, AddToSum, QuantizedAdd, Requantize
from rtcc.ir.ops.requantization import BIASED, FIXED25, LEAST_SHIFT, MOST_SHIFT, SIGNIFICANT
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.lower.rules import scalar_rule
from rtcc.targets.tvm.outlined import outlined


@scalar_rule(Requantize)
def _requantize(op: Requantize, data: Expr, factor: Expr, zero: Expr) -> Expr:
    def scaled(data: Expr, factor: Expr, zero: Expr) -> Expr:
        if op.mode == FIXED25:
            return _scaled_exactly(op, data, factor, zero)
        return _finished(_scaled(op, data, factor), zero, op.type.dtype)

    name = f"requantize_{op.mode}_{op.type.dtype.value}_of_{op.data.type.dtype.value}"
    return outlined(name, scaled, data, factor, zero)


def _scaled_exactly(op: Requantize, data: Expr, factor: Expr, zero: Expr) -> Expr:
    """The product with 25 bits of the factor, shifted and rounded half to even, all in integers."""
    raw = vm.bits(factor, "int32")
    wide = _long(data) * _long(vm.named(raw, _multiplier))
    exponent = (raw >> vm.constant(SIGNIFICANT, raw)) & vm.constant(255, raw)
    shift = vm.constant(BIASED, raw) - exponent
    shift = tirx.Max(tirx.Min(shift, vm.constant(MOST_SHIFT, raw)), vm.constant(LEAST_SHIFT, raw))

    def rounded(product: Expr, by: Expr) -> Expr:
        one = vm.constant(1, product)
        below_half = (one << (by - one)) - one
        return (product + below_half + ((product >> by) & one)) >> by

    whole = vm.named(_long(shift), lambda by: vm.named(wide, lambda product: rounded(product, by)))
    low, high = (vm.constant(limit, whole) for limit in integer_limits(op.type.dtype.numpy))
    found = tirx.Min(tirx.Max(whole + _long(zero), low), high)
    return found.astype(vm.typed(found, str(op.type.dtype.numpy)))


def _multiplier(raw: Expr) -> Expr:
    """The significand of a float32's bits, with its sign."""
    hidden = vm.constant(2**SIGNIFICANT, raw)
    magnitude = (raw & (hidden - vm.constant(1, raw))) | hidden
    return tirx.Select(raw < vm.constant(0, raw), vm.constant(0, raw) - magnitude, magnitude)


def _scaled(op: Requantize, data: Expr, factor: Expr) -> Expr:
    """What is to be rounded; floats may be NaN, which stands for 0."""
    scaled = _float(data) * factor
    if op.data.type.dtype is DType.I32:
        return scaled
    return vm.named(scaled, lambda x: tirx.Select(vm.is_nan(x), vm.constant(0.0, x), x))


@scalar_rule(QuantizedAdd)
def _add(op: QuantizedAdd, *operands: Expr) -> Expr:
    return outlined(f"add_{_types(op)}", partial(_added, op), *operands)


def _types(op: QuantizedAdd | AddToSum) -> str:
    return "_".join(value.type.dtype.value for value in (*op.operands, *op.results) if value is not None)


def _added(op: QuantizedAdd, *operands: Expr) -> Expr:
    left, left_factor, left_zero, right, right_factor, right_zero, zero = operands
    return add_differences(
        op, (difference(left, left_zero), left_factor), (difference(right, right_zero), right_factor), zero
    )


@scalar_rule(AddToSum)
def _add_to_sum(op: AddToSum, *operands: Expr) -> Expr:
    return outlined(f"add_to_sum_{_types(op)}", partial(_added_to_sum, op), *operands)


def _added_to_sum(op: AddToSum, *operands: Expr) -> Expr:
    data, factor, right, right_factor, right_zero, zero = operands
    scaled = vm.fenced(_float(data) * factor)  # a fused multiply-add would not round it
    return _finished(scaled + difference(right, right_zero) * _masked(right_factor), zero, op.type.dtype)


def add_differences(
    op: QuantizedAdd, left: tuple[Expr, Expr], right: tuple[Expr, Expr], zero: Expr
) -> Expr:
    """`quant.add` of tensors less their zero points, as floats, each with its factor."""
    total = left[0] * _masked(left[1]) + right[0] * _masked(right[1])
    return _finished(total, zero, op.type.dtype)


def difference(data: Expr, zero: Expr) -> Expr:
    """A quantised element less the zero point, as a float."""
    return _float(_wide(data) - _wide(zero))


def requantized_difference(op: Requantize, data: Expr, factor: Expr, zero: Expr) -> Expr:
    """The result of `quant.requantize` less its zero point, as a float that never was a byte."""
    raised = _raised(_scaled(op, data, factor), zero, op.type.dtype)
    return vm.exact(raised) - vm.constant(vm.ROUND_F32, raised)


def _finished(scaled: Expr, zero: Expr, dtype: DType) -> Expr:
    """A float rounded half to even, the zero point added, saturated; NaN, which `Max` drops, is lowest."""
    whole = vm.bits(_raised(scaled, zero, dtype), "int32")
    return whole.astype(vm.typed(whole, str(dtype.numpy))) + zero


def _raised(scaled: Expr, zero: Expr, dtype: DType) -> Expr:
    """A float between what the limits are less the zero point, plus `ROUND_F32`.

    Adding that leaves the rounded number in the low bits of the mantissa.
    """
    low, high = integer_limits(dtype.numpy)
    offset = _float(_wide(zero))
    inside = tirx.Max(scaled, vm.constant(float(low), offset) - offset)
    inside = tirx.Min(inside, vm.constant(float(high), offset) - offset)
    return inside + vm.constant(vm.ROUND_F32, inside)


def _masked(factor: Expr) -> Expr:
    raw = vm.bits(factor, "int32")
    return vm.bits(tirx.bitwise_and(raw, vm.constant(-(2 ** (24 - FACTOR_BITS)), raw)), "float32")


def _long(x: Expr) -> Expr:
    return x.astype(vm.typed(x, "int64"))


def _wide(x: Expr) -> Expr:
    return x.astype(vm.typed(x, "int32"))


def _float(x: Expr) -> Expr:
    return x.astype(vm.typed(x, "float32"))
