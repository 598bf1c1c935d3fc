"""legalize: write operators that no target has code for in terms of those that have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Module, Op, Value
from rtcc.ir.ops import math, movement, nn, normalization, shapes
from rtcc.ir.ops.cast import Cast, CastLike
from rtcc.ir.ops.tensor import normal_axis
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import reassociates
from rtcc.pipeline.rewriter import Rewriter, apply, rewrite


@dataclass(frozen=True)
class Legalize(Pass):
    """Rewrite operators that targets do not compile into ones that they do.

    split → slices; batch_normalization → (x - mean)·(scale/√(var + ε)) + shift; group_normalization →
    instance_normalization over groups; cast_like → cast.
    """

    exactness = reassociates(1e-6)

    def run(self, module: Module) -> bool:
        return apply(module, RULES, self.name)


@rewrite(movement.Split)
def split_to_slices(op: movement.Split, rw: Rewriter) -> None:
    """a, b = split(x)  →  a = slice(x), b = slice(x)"""
    if not op.data.type.is_static or not all(r.type.is_static for r in op.results):
        return
    axis = normal_axis(op, op.axis, op.data.type.rank)
    start, parts = 0, list[Op]()
    for result in op.results:
        size = result.type.sizes[axis]
        bounds = [rw.constant(np.array([n], np.int64), name="slice") for n in (start, start + size, axis)]
        parts.append(movement.Slice(op.data, *bounds))
        start += size
    rw.replace(op, *parts)


@rewrite(normalization.BatchNormalization)
def expand_batch_norm(op: normalization.BatchNormalization, rw: Rewriter) -> None:
    """batch_normalization(x)  →  (x - mean) · (scale / sqrt(var + epsilon)) + shift"""
    if len(op.results) != 1 or op.training_mode or any(v.type != op.scale.type for v in (op.shift, op.mean, op.variance)):
        return
    if op.data.type.dtype is not op.scale.type.dtype or not op.scale.type.is_static:
        return
    rank = op.data.type.rank
    shape = rw.constant(np.array([-1] + [1] * (rank - 2), np.int64), name="per_channel")

    def spread(value: Value) -> Value:
        return shapes.Reshape(value, shape).result if rank > 2 else value

    epsilon = rw.constant(np.asarray(op.epsilon, op.scale.type.dtype.numpy), name="epsilon")
    deviation = math.Sqrt(math.Add(op.variance, epsilon).result)
    factor = math.Div(op.scale, deviation.result)
    centred = math.Sub(op.data, spread(op.mean))
    scaled = math.Mul(centred.result, spread(factor.result))
    rw.replace(op, math.Add(scaled.result, spread(op.shift)))


@rewrite(normalization.GroupNormalization)
def expand_group_norm(op: normalization.GroupNormalization, rw: Rewriter) -> None:
    """group_normalization(x)  →  reshape(layer_normalization(reshape(x))) · scale + bias"""
    data = op.data.type
    if not data.is_static or data.dtype is not op.scale.type.dtype:
        return
    batch, channels, *spatial = data.sizes
    inner = channels // op.num_groups
    for size in spatial:
        inner *= size
    grouped_shape = rw.constant(np.array([batch, op.num_groups, inner], np.int64), name="groups")
    whole_shape = rw.constant(np.array(data.sizes, np.int64), name="shape")
    channel_shape = rw.constant(np.array([channels] + [1] * len(spatial), np.int64), name="per_channel")
    one = rw.constant(np.ones((), data.dtype.numpy), name="one", type=data.with_shape((inner,)))
    grouped = shapes.Reshape(op.data, grouped_shape)
    normal = normalization.LayerNormalization(grouped.result, one, epsilon=op.epsilon, axis=-1)
    whole = shapes.Reshape(normal.result, whole_shape)
    scaled = math.Mul(whole.result, shapes.Reshape(op.scale, channel_shape).result)
    rw.replace(op, math.Add(scaled.result, shapes.Reshape(op.bias, channel_shape).result))


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


RULES = (split_to_slices, expand_batch_norm, expand_group_norm, cast_like_to_cast, dropout_to_identity)

