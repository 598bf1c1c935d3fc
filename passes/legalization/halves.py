"""Convolutions and products of narrow floats in float32, where the target multiplies no such numbers."""

from __future__ import annotations

from rtcc.ir import DType, Op
from rtcc.ir.ops import nn
from rtcc.ir.ops.cast import Cast
from rtcc.passes.legalization.writer import NARROW
from rtcc.pipeline.rewriter import Rewriter, rewrite
from rtcc.target import target_of


@rewrite(nn.Conv, nn.Gemm, nn.MatMul)
def narrow_product_in_f32(op: Op, rw: Rewriter) -> None:
    """conv(x, w) : f16  →  cast(conv(cast(x), cast(w)) : f32) : f16

    Which is how narrow floats are defined to be computed, so nothing changes: widened, and rounded once.
    """
    dtype = op.results[0].type.dtype
    if dtype not in NARROW or not rw.module.target or target_of(rw.module).multiplies(dtype):
        return
    widened = [None if x is None else Cast(x, to=DType.F32.value).result for x in op.operands]
    rw.replace(op, Cast(type(op)(*widened, like=op).result, to=dtype.value))


RULES = (narrow_product_in_f32,)
