"""Reductions, normalisations and losses along axes."""

from __future__ import annotations

import numpy as np

from rtcc.ir import DType, Value
from rtcc.ir.ops import math, normalization, reduce, shapes, softmax
from rtcc.ir.ops.axes import normal_axis
from rtcc.passes.legalization.writer import NARROW, Writer, is_static
from rtcc.pipeline.rewriter import Rewriter, rewrite


@rewrite(reduce.ReduceLogSumExp)
def log_sum_exp(op: reduce.ReduceLogSumExp, rw: Rewriter) -> None:
    """reduce_log_sum_exp(x)  →  log(sum(exp(x - m))) + m with m = max(x), 0 where that is not finite"""
    if not is_static(op):
        return
    write, axes = Writer(rw, "log_sum_exp"), op.reduced_axes()
    x = write.widened(op.data)
    most = write.total(reduce.ReduceMax, x, axes)
    dtype = x.type.dtype
    infinite = math.Or(math.IsInf(most).result, math.IsNaN(most).result).result
    shift = write.where(infinite, write.number(0, dtype), most)
    total = write.total(reduce.ReduceSum, math.Exp(write.sub(x, shift)).result, axes)
    found = write.add(math.Log(total).result, shift)
    rw.replace(op, write.cast(write.reshape(found, *op.type.sizes), op.type.dtype))


@rewrite(reduce.ReduceL2)
def integer_norm(op: reduce.ReduceL2, rw: Rewriter) -> None:
    """reduce_l2(integers)  →  cast(reduce_l2(cast(x) to f64))"""
    if op.data.type.dtype.is_float:
        return
    write = Writer(rw, "norm")
    wide = reduce.ReduceL2(write.cast(op.data, DType.F64), op.axes, like=op)
    rw.replace(op, write.cast(wide.result, op.type.dtype))


@rewrite(softmax.Hardmax)
def hardmax(op: softmax.Hardmax, rw: Rewriter) -> None:
    """hardmax(x)  →  cast(arg_max(x) = position)"""
    if not op.type.is_static:
        return
    write, rank = Writer(rw, "hardmax"), op.type.rank
    axis = normal_axis(op, op.axis, rank)
    sizes = [op.type.sizes[axis] if a == axis else 1 for a in range(rank)]
    positions = write.array(np.arange(op.type.sizes[axis]).reshape(sizes), DType.I64)
    found = reduce.ArgMax(op.data, axis=axis, keepdims=1)
    rw.replace(op, write.cast(math.Equal(found.result, positions).result, op.type.dtype))


@rewrite(normalization.LpNormalization)
def lp_normalization(op: normalization.LpNormalization, rw: Rewriter) -> None:
    """lp_normalization(x)  →  x / reduce_lp(x), 0 where that is 0"""
    if not op.type.is_static or op.p not in (1, 2):
        return
    write = Writer(rw, "lp_normalization")
    x = write.widened(op.data)
    kind = reduce.ReduceL1 if op.p == 1 else reduce.ReduceL2
    length = write.total(kind, x, [normal_axis(op, op.axis, op.type.rank)])
    zero = write.number(0, x.type.dtype)
    result = write.where(math.Equal(length, zero).result, zero, write.div(x, length))
    rw.replace(op, write.cast(result, op.type.dtype))


@rewrite(normalization.MeanVarianceNormalization)
def mean_variance(op: normalization.MeanVarianceNormalization, rw: Rewriter) -> None:
    """mean_variance_normalization(x)  →  (x - mean) / (√variance + 1e-9)"""
    if not op.type.is_static:
        return
    write = Writer(rw, "mean_variance")
    axes = [normal_axis(op, axis, op.type.rank) for axis in op.axes]
    x = write.widened(op.data)
    centred = write.sub(x, write.mean(x, axes))
    deviation = math.Sqrt(write.mean(write.mul(centred, centred), axes)).result
    result = write.div(centred, write.add(deviation, write.number(1e-9, x.type.dtype)))
    rw.replace(op, write.cast(result, op.type.dtype))


@rewrite(normalization.LayerNormalization)
def layer_normalization_with_statistics(op: normalization.LayerNormalization, rw: Rewriter) -> None:
    """layer_normalization with mean and inverse deviation as results  →  their own arithmetic"""
    if not is_static(op) or len(op.results) < 2:
        return
    write, rank = Writer(rw, "layer_normalization"), op.type.rank
    axes = range(normal_axis(op, op.axis, rank), rank)
    x = write.widened(op.data)
    dtype = x.type.dtype
    mean, inverse, centred = _statistics(write, x, list(axes), op.epsilon)
    result = write.mul(write.mul(centred, inverse), write.cast(op.scale, dtype))
    if op.bias is not None:
        result = write.add(result, write.cast(op.bias, dtype))
    statistics = [write.cast(v, r.type.dtype) for v, r in zip((mean, inverse), op.results[1:], strict=False)]
    rw.replace(op, write.cast(result, op.type.dtype), *statistics)


def _statistics(write: Writer, x: Value, axes: list[int], epsilon: float) -> tuple[Value, Value, Value]:
    """(mean, 1 / √(variance + epsilon), x - mean)."""
    mean = write.mean(x, axes)
    centred = write.sub(x, mean)
    variance = write.mean(write.mul(centred, centred), axes)
    deviation = math.Sqrt(write.add(variance, write.number(epsilon, x.type.dtype))).result
    return mean, math.Reciprocal(deviation).result, centred


@rewrite(normalization.BatchNormalization)
def expand_batch_norm(op: normalization.BatchNormalization, rw: Rewriter) -> None:
    """batch_normalization(x)  →  (x - mean) · (scale / sqrt(var + epsilon)) + shift"""
    if len(op.results) != 1 or op.training_mode or not op.scale.type.is_static:
        return
    write, rank = Writer(rw, "batch_normalization"), op.data.type.rank
    wide = DType.F32 if op.data.type.dtype in NARROW else op.data.type.dtype
    x, scale, shift, mean, variance = (write.cast(v, wide) for v in op.present_operands)
    deviation = math.Sqrt(write.add(variance, write.number(op.epsilon, wide))).result
    factor = write.per_axis(write.div(scale, deviation), rank)
    centred = write.sub(x, write.per_axis(mean, rank))
    result = write.add(write.mul(centred, factor), write.per_axis(shift, rank))
    rw.replace(op, write.cast(result, op.type.dtype))


@rewrite(normalization.GroupNormalization)
def expand_group_norm(op: normalization.GroupNormalization, rw: Rewriter) -> None:
    """group_normalization(x)  →  reshape(layer_normalization(reshape(x))) · scale + bias"""
    if not is_static(op):
        return
    write = Writer(rw, "group_normalization")
    x = write.widened(op.data)
    dtype, sizes = x.type.dtype, op.type.sizes
    inner = op.type.elements // max(1, sizes[0] * op.num_groups)
    one = write.filled(1, dtype, inner)
    grouped = write.reshape(x, sizes[0], op.num_groups, inner)
    normal = normalization.LayerNormalization(grouped, one, epsilon=op.epsilon, axis=-1).result
    whole = write.reshape(normal, *sizes)
    scaled = write.mul(whole, write.per_axis(write.cast(op.scale, dtype), len(sizes)))
    result = write.add(scaled, write.per_axis(write.cast(op.bias, dtype), len(sizes)))
    rw.replace(op, write.cast(result, op.type.dtype))


@rewrite(shapes.Range)
def constant_range(op: shapes.Range, rw: Rewriter) -> None:
    """range(constants)  →  its elements"""
    from rtcc.ir import Constant

    arrays = [v.array for v in op.present_operands if isinstance(v, Constant)]
    if len(arrays) == 3 and op.type.is_static and op.type.elements <= 1 << 16:
        rw.replace(op, rw.constant(np.asarray(op.evaluate(*arrays)), name="range"))


RULES = (
    log_sum_exp, integer_norm, hardmax, lp_normalization, mean_variance, layer_normalization_with_statistics,
    expand_batch_norm, expand_group_norm, constant_range,
)  # fmt: skip
