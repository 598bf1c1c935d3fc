"""Average pools of quantised tensors as integer sums times a scale."""

from __future__ import annotations

from math import prod

import numpy as np

from rtcc.ir import DType
from rtcc.ir.ops.integer import GlobalSum, WindowSum
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.pooling import AveragePool, GlobalAveragePool
from rtcc.ir.ops.sum_range import LARGEST, LIMIT
from rtcc.passes.integer.values import Array, dequantized, scaled
from rtcc.pipeline import Rewriter, rewrite


@rewrite(GlobalAveragePool)
def global_average(op: GlobalAveragePool, rw: Rewriter) -> None:
    """global_average_pool(dequantize(x))  →  mul(cast(add(global_sum(x), #offset)), #scale)"""
    data = dequantized(op.data)
    if data is None or not op.data.type.is_static or op.data.type.rank < 3:
        return
    count = prod(op.data.type.sizes[2:])
    if not 0 < count * LARGEST < LIMIT:
        return
    data = data.of_kind(DType.U8, rw)
    offset = rw.constant(np.array(-count * data.zero, np.int32), name="offset")
    total = Add(GlobalSum(data.value).result, offset)
    rw.replace(op, scaled(total.result, np.asarray(data.scale / np.float32(count)), rw))


@rewrite(AveragePool)
def average(op: AveragePool, rw: Rewriter) -> None:
    """average_pool(dequantize(x))  →  mul(cast(add(window_sum(x), #offset)), #scale)"""
    data = dequantized(op.data)
    if data is None or not op.data.type.is_static or prod(op.kernel_shape) * LARGEST >= LIMIT:
        return
    sizes, counts = op.data.type.sizes, op.counts(op.data.type.sizes)
    if not counts.all():
        return
    inside = op.reached(sizes, padding=False)
    data = data.of_kind(DType.U8, rw)
    offset = rw.constant(_map(-data.zero * inside).astype(np.int32), name="offset")
    windows = {name: value for name, value in op.attributes.items() if name != "count_include_pad"}
    total = Add(WindowSum(data.value, **windows).result, offset)
    rw.replace(op, scaled(total.result, _map(np.float32(data.scale) / counts.astype(np.float32)), rw))


def _map(array: Array) -> Array:
    """One number where all are the same."""
    return array.reshape(-1)[0].reshape(()) if (array == array.flat[0]).all() else array
