"""legalize: write operators that no target has code for in terms of those that have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Module, Op
from rtcc.ir.ops import movement, nn, shapes
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.cast import Cast, CastLike
from rtcc.passes.legalization import (
    attention,
    dft,
    einsum,
    halves,
    quantization,
    recurrent,
    reductions,
    resampling,
    selection,
    truncation,
)
from rtcc.passes.legalization.transposed import conv_transpose_to_conv
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import reassociates
from rtcc.pipeline.rewriter import Rewriter, apply, rewrite


@dataclass(frozen=True)
class Legalize(Pass):
    """Rewrite operators that targets do not compile into ones that they do.

    split → slices; batch_normalization → (x - mean)·(scale/√(var + ε)) + shift; attention → matrix products
    and softmax; quantised operators → integer sums and elementwise arithmetic; non_zero → positions,
    truncated to how many they are behind all that reads them; convolutions and products of f16 → in f32
    where the target has no kernels of halves; … (passes/legalization).
    """

    exactness = reassociates(1e-6)

    def run(self, module: Module) -> bool:
        return apply(module, RULES, self.name)


@rewrite(movement.Split)
def split_to_slices(op: movement.Split, rw: Rewriter) -> None:
    """a, b = split(x)  →  a = slice(x), b = slice(x)"""
    axis = normal_axis(op, op.axis, op.data.type.rank)
    start, parts = 0, list[Op]()
    sizes = [size for result in op.results if isinstance(size := result.type.shape[axis], int)]
    if len(sizes) < len(op.results):
        return
    for size in sizes:
        bounds = [rw.constant(np.array([n], np.int64), name="slice") for n in (start, start + size, axis)]
        parts.append(movement.Slice(op.data, *bounds))
        start += size
    rw.replace(op, *parts)


@rewrite(CastLike)
def cast_like_to_cast(op: CastLike, rw: Rewriter) -> None:
    """cast_like(x, y)  →  cast(x) {to = y's type}"""
    rw.replace(op, Cast(op.data, to=op.type.dtype.value, saturate=op.saturate))


@rewrite(nn.Dropout)
def dropout_to_identity(op: nn.Dropout, rw: Rewriter) -> None:
    """dropout(x) at inference  →  x, and a mask of trues"""
    if len(op.results) == 1:
        rw.replace(op, op.data)
    elif op.data.type.is_static:
        shape = rw.constant(np.array(op.data.type.sizes, np.int64), name="shape")
        true = rw.constant(np.array([True]), name="true")
        rw.replace(op, op.data, shapes.ConstantOfShape(shape, true))


RULES = (
    split_to_slices, cast_like_to_cast, dropout_to_identity, conv_transpose_to_conv,
    *attention.RULES, *einsum.RULES, *quantization.RULES, *recurrent.RULES, *reductions.RULES,
    *resampling.RULES, *halves.RULES,
    *dft.RULES, *selection.RULES, *truncation.RULES,
)  # fmt: skip
