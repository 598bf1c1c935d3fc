"""convert-signedness: quantised activations as u8, which the integer kernels take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, DType, Module, Value
from rtcc.ir.ops.quant import DequantizeLinear, QuantizeLinear
from rtcc.passes.integer.values import SIGN
from rtcc.pipeline import Pass, Rewriter, apply, exact, rewrite


@dataclass(frozen=True)
class ConvertSignedness(Pass):
    """Quantise to u8 where everything that reads an s8 tensor dequantises it.

    dequantize_linear(quantize_linear(x, s, z: s8), s, z)  →  the same with z + 128: u8

    Integers and zero point move by 128 together, so what they stand for stays.
    """

    exactness = exact

    def run(self, module: Module) -> bool:
        moved: dict[Value, Constant] = {}

        @rewrite(QuantizeLinear)
        def quantize_unsigned(op: QuantizeLinear, rw: Rewriter) -> None:
            """quantize_linear to s8  →  to u8, for its readers too"""
            _quantize_unsigned(op, rw, moved)

        return apply(module, (quantize_unsigned,), self.name)


def _quantize_unsigned(op: QuantizeLinear, rw: Rewriter, moved: dict[Value, Constant]) -> None:
    """moved: the zero points that are moved already, by those of the model."""
    readers = [use.op for use in op.result.uses]
    if op.type.dtype is not DType.I8 or not readers or op.block_size:
        return
    if not all(isinstance(each, DequantizeLinear) and each.data is op.result for each in readers):
        return
    zeros = [op.zero_point, *(each.zero_point for each in readers if isinstance(each, DequantizeLinear))]
    if not all(each is None or isinstance(each, Constant) for each in zeros):
        return
    unsigned = QuantizeLinear(
        op.data, op.scale, _moved(op.zero_point, op.scale, rw, moved), axis=op.axis, saturate=op.saturate
    )
    for each in readers:
        assert isinstance(each, DequantizeLinear)
        zero = _moved(each.zero_point, each.scale, rw, moved)
        found = DequantizeLinear(
            unsigned.result, each.scale, zero, axis=each.axis, output_dtype=each.output_dtype
        )
        rw.replace(each, found)


def _moved(zero: Value | None, scale: Value, rw: Rewriter, moved: dict[Value, Constant]) -> Constant:
    """A zero point of s8 as one of u8, the same constant wherever it is the same."""
    if zero is None:
        return rw.constant(np.full(scale.type.sizes, SIGN, np.uint8), name="zero_point")
    assert isinstance(zero, Constant)
    if zero not in moved:
        array = (zero.array.astype(np.int32) + SIGN).astype(np.uint8)
        moved[zero] = rw.constant(array, name=rw.stem(zero))
    return moved[zero]
