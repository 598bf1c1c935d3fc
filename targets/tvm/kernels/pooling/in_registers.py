# pyright: basic
"""Pooling finished results that a convolution's kernel holds in registers."""

from __future__ import annotations

from collections.abc import Sequence

from rtcc.targets.tvm import vector_math
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, splat
from rtcc.targets.tvm.kernels.pooling.joined_pool import Pooling
from rtcc.targets.tvm.kernels.pooling.pool_problem import Reduction


def joined(kernel: FunctionBuilder, pooling: Pooling, values: Sequence[Expr]) -> Expr:
    """The largest, or the sum, of vectors of one window or of parts of it."""
    result = values[0]
    for value in values[1:]:
        if pooling.reduction is Reduction.MAXIMUM:
            result = kernel.kept(vector_math.maximum(result, value))
        else:
            result = result + value
    return result


def completed(pooling: Pooling, value: Expr, lanes: int) -> Expr:
    """What a whole window's largest, or sum, becomes: itself, or the mean."""
    if pooling.reduction is Reduction.MAXIMUM:
        return value
    return value / splat(float(pooling.rows * pooling.columns), lanes)
