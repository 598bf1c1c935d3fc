"""convert-signedness: quantised activations as u8, which x86's integer kernels take, or as s8."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rtcc.errors import InvalidInput
from rtcc.ir import Constant, DType, Module, Value
from rtcc.ir.ops.quant import DequantizeLinear, QuantizeLinear
from rtcc.passes.integer.values import SIGN
from rtcc.pipeline import Pass, Rewriter, apply, exact, rewrite

OTHERS = {DType.U8: DType.I8, DType.I8: DType.U8}


@dataclass(frozen=True)
class ConvertSignedness(Pass):
    """Quantise to u8 (to=i8: to s8) where everything that reads a tensor of the other kind dequantises it.

    dequantize_linear(quantize_linear(x, s, z: s8), s, z)  →  the same with z + 128: u8
    dequantize_linear(quantize_linear(x, s, z: u8), s, z)  →  the same with z - 128: s8

    Integers and zero point move by 128 together, so what they stand for stays, in either direction.

    Errors (InvalidInput): unknown-kind.
    """

    exactness = exact
    before_quantizing = False  # it converts what is quantised already

    to: str = DType.U8.value

    def run(self, module: Module) -> bool:
        kinds = {each.value: each for each in OTHERS}
        if self.to not in kinds:
            raise InvalidInput("unknown-kind", f"8-bit activations are not converted to {self.to!r}",
                               hint=f"known: {', '.join(kinds)}")  # fmt: skip
        conversion = _Conversion(kinds[self.to])
        return apply(module, (rewrite(QuantizeLinear)(conversion.quantize),), self.name)


@dataclass(frozen=True)
class _Conversion:
    """moved: the zero points that are converted already, by those of the model."""

    to: DType
    moved: dict[Value, Constant] = field(default_factory=dict[Value, Constant])

    def quantize(self, op: QuantizeLinear, rw: Rewriter) -> None:
        """quantize_linear to the one kind  →  to the other, for its readers too"""
        readers = [use.op for use in op.result.uses]
        if op.type.dtype is not OTHERS[self.to] or not readers or op.block_size:
            return
        if not all(isinstance(each, DequantizeLinear) and each.data is op.result for each in readers):
            return
        zeros = [op.zero_point, *(each.zero_point for each in readers if isinstance(each, DequantizeLinear))]
        if not all(each is None or isinstance(each, Constant) for each in zeros):
            return
        converted = QuantizeLinear(
            op.data, op.scale, self._zero(op.zero_point, op.scale, rw), axis=op.axis, saturate=op.saturate
        )
        for each in readers:
            assert isinstance(each, DequantizeLinear)
            zero = self._zero(each.zero_point, each.scale, rw)
            found = DequantizeLinear(
                converted.result, each.scale, zero, axis=each.axis, output_dtype=each.output_dtype
            )
            rw.replace(each, found)

    def _zero(self, zero: Value | None, scale: Value, rw: Rewriter) -> Constant:
        """A zero point as one of the other kind, the same constant wherever it is the same."""
        offset, dtype = (SIGN if self.to is DType.U8 else -SIGN), self.to.numpy
        if zero is None:
            return rw.constant(np.full(scale.type.sizes, offset, dtype), name="zero_point")
        assert isinstance(zero, Constant)
        if zero not in self.moved:
            array = (zero.array.astype(np.int32) + offset).astype(dtype)
            self.moved[zero] = rw.constant(array, name=rw.stem(zero))
        return self.moved[zero]
