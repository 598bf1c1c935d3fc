# pyright: basic, reportAttributeAccessIssue=false
"""Conversions between element types as expressions."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from rtcc.errors import Unsupported
from rtcc.ir import DType
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import Expr, splat

_NAMES = {
    dtype: str(dtype.numpy) for dtype in DType
    if (dtype.is_integer and dtype.bits >= 8) or dtype in (DType.F16, DType.F32, DType.F64)
} | {DType.BF16: "float32"}  # fmt: skip


def convert(x: Expr, source: DType, target: DType) -> Expr:
    """ONNX Cast: float to integer truncates and saturates, NaN gives 0; to bool is "not zero".

    A float narrower than 32 bits may come widened; bf16 comes and goes as float32.
    """
    if target is DType.BOOL:
        return x if source is DType.BOOL else _is_not_zero(x, source)
    name = _NAMES.get(target)
    if name is None or (source is not DType.BOOL and source not in _NAMES):
        raise Unsupported(
            "unsupported-dtype", f"no code generation for a cast from {source.value} to {target.value}"
        )
    if source.is_float and target.is_integer:
        return _saturated(x, source, target, vm.typed(x, name))
    if target in (DType.F16, DType.BF16):
        x = vm.named(x, _to_odd) if source is DType.F64 else tirx.Cast(vm.typed(x, "float32"), x)
    if target is DType.BF16:
        return vm.bfloat16(x)
    return tirx.Cast(vm.typed(x, name), x)


def reinterpreted(x: Expr, source: DType, target: DType) -> Expr:
    """The same bits as another element type of equal width; bool is a byte that is 0 or 1."""
    if source is DType.BF16:
        raw = vm.bits(x, "uint32") >> vm.constant(16, vm.bits(x, "uint32"))
        x = raw.astype(vm.typed(x, "uint16"))
    if target is DType.BF16:
        wide = tirx.reinterpret(vm.typed(x, "uint16"), x).astype(vm.typed(x, "uint32"))
        return vm.bits(wide << vm.constant(16, wide), "float32")
    if source is DType.BOOL:
        x = x.astype(vm.typed(x, "uint8"))
    if target is DType.BOOL:
        byte = tirx.reinterpret(vm.typed(x, "uint8"), x)
        return tirx.NE(byte, vm.constant(0, byte))
    return tirx.reinterpret(vm.typed(x, _NAMES[target]), x)


def _is_not_zero(x: Expr, source: DType) -> Expr:
    """x != 0, which NaN is: TVM's own comparison is the ordered one, false for NaN."""
    unequal = tirx.NE(x, vm.constant(0, x))
    return tirx.Or(unequal, vm.is_nan(x)) if source.is_float else unequal


def _to_odd(x: Expr) -> Expr:
    """A float64 as float32, inexact ones with an odd last bit, so that rounding further rounds only once."""

    def finish(nearest: Expr) -> Expr:
        back = nearest.astype(vm.typed(x, "float64"))
        raw = vm.bits(nearest, "int32")
        above = vm.absolute(back) > vm.absolute(x)
        towards_zero = tirx.Select(above, raw - vm.constant(1, raw), raw)
        odd = vm.bits(tirx.bitwise_or(towards_zero, vm.constant(1, raw)), "float32")
        exact = tirx.any(tirx.EQ(back, x), vm.is_nan(x))
        return tirx.Select(exact, nearest, odd)

    return vm.named(x.astype(vm.typed(x, "float32")), finish)


def _saturated(x: Expr, source: DType, target: DType, wide: str) -> Expr:
    """The integer nearest towards zero, clamped to the type first, so that no conversion overflows."""
    limits = np.iinfo(target.numpy)
    if source is DType.F16:
        x = x.astype(vm.typed(x, "float32"))
    high = _below(limits.max, np.float64 if source is DType.F64 else np.float32)
    low, most = vm.constant(float(limits.min), x), vm.constant(high, x)
    inside = tirx.Select(x >= low, tirx.Select(x <= most, x, most), low)
    clamped = inside.astype(wide)
    largest = splat(tirx.const(limits.max, _NAMES[target]), vm.lanes_of(x))
    result = tirx.Select(x > most, largest, clamped)
    return tirx.Select(vm.is_nan(x), vm.constant(0, result), result)


def _below(limit: int, dtype: type[np.floating]) -> float:
    """The largest float of the type that is at most `limit`."""
    found = dtype(limit)
    return float(found if int(found) <= limit else np.nextafter(found, dtype(0)))
