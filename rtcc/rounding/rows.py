"""The rounding errors of operators that take several steps along rows: softmax, normalisations, norms.

Each formula is the operator's own, on numbers that carry their error; the tests hold its values to
`evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rtcc.ir.op import Array
from rtcc.ir.ops import attention, normalization, pooling, reduce, softmax
from rtcc.ir.ops.axes import normal_axis
from rtcc.rounding.bounded import (
    Bounded,
    absolute,
    exponential,
    known,
    largest,
    logarithm,
    root,
    stored,
    sum_error,
    total,
)

Formula = Callable[..., Bounded | tuple[Bounded, ...]]
"""An op and its operands to its first results."""


def softmax_rows(op: softmax.Softmax, data: Bounded) -> Bounded:
    """exp(x - largest) over its sum, each step stored in the element type."""
    axes, dtype = (normal_axis(op, op.axis, data.value.ndim),), op.type.dtype
    powers = stored(exponential(stored(data - largest(data, axes), dtype)), dtype)
    return powers / stored(total(powers, axes), dtype)


def log_softmax_rows(op: softmax.LogSoftmax, data: Bounded) -> Bounded:
    """x - largest - log Σ exp(x - largest), each step stored in the element type."""
    axes, dtype = (normal_axis(op, op.axis, data.value.ndim),), op.type.dtype
    shifted = stored(data - largest(data, axes), dtype)
    powers = stored(exponential(shifted), dtype)
    return shifted - stored(logarithm(stored(total(powers, axes), dtype)), dtype)


def token_attention(
    op: attention.TokenAttention, query: Bounded, key: Bounded, value: Bounded, mask: Bounded | None = None
) -> Bounded:
    """Powers of the masked scores, times the values, over the powers' sums.

    Where elements are of 16 bits kernels round the powers to those before that product.
    """
    query, key, value = (_of_both(each, _heads_first) for each in (query, key, value))
    scores = _product(query, _of_both(key, _transposed) * op.scale)
    scores = scores if mask is None else scores + mask
    powers = exponential(scores - largest(scores, (3,)))
    weighted = _product(stored(powers, op.type.dtype), value)
    return _of_both(weighted * (1 / total(powers, (3,))), _heads_first)


def _heads_first(array: Array) -> Array:
    return array.transpose(0, 2, 1, 3)


def _transposed(array: Array) -> Array:
    return array.swapaxes(2, 3)


def _product(left: Bounded, right: Bounded) -> Bounded:
    """The matrix product: off by sum_error(2·depth) of its terms, and by what its operands are off."""
    roundings = 2 * left.value.shape[-1]
    magnitudes = np.matmul(left.magnitude, right.magnitude)
    loosened = np.matmul(left.magnitude + left.error, right.magnitude + right.error)
    error = known((1 + sum_error(roundings, left.unit)) * loosened - magnitudes) + roundings * left.unit.tiny
    return Bounded(np.matmul(left.value, right.value), error, left.unit)


def mean(data: Bounded, axes: tuple[int, ...]) -> Bounded:
    """The mean over some axes, which are kept."""
    return total(data, axes) / float(np.prod([data.value.shape[axis] for axis in axes]))


def standardized(data: Bounded, axes: tuple[int, ...], epsilon: float) -> tuple[Bounded, Bounded, Bounded]:
    """(data - mean, 1 / √(variance + epsilon), mean), as `normalization.standardized`."""
    middle = mean(data, axes)
    centred = data - middle
    return centred, 1 / root(mean(centred * centred, axes) + epsilon), middle


def layer_normalization(
    op: normalization.LayerNormalization, data: Bounded, scale: Bounded, bias: Bounded | None = None
) -> tuple[Bounded, ...]:
    """(data - mean) / deviation · scale + bias, with mean and 1 / deviation."""
    rank = data.value.ndim
    axes = tuple(range(normal_axis(op, op.axis, rank), rank))
    centred, inverse, middle = standardized(data, axes, op.epsilon)
    normal = centred * inverse * scale
    return normal if bias is None else normal + bias, middle, inverse


def rms_normalization(op: normalization.RMSNormalization, data: Bounded, scale: Bounded) -> Bounded:
    """data / √(mean square + epsilon) · scale."""
    rank = data.value.ndim
    axes = tuple(range(normal_axis(op, op.axis, rank), rank))
    return data * (1 / root(mean(data * data, axes) + op.epsilon)) * scale


def instance_normalization(
    op: normalization.InstanceNormalization, data: Bounded, scale: Bounded, bias: Bounded
) -> Bounded:
    """Each channel less its mean, over its deviation, times scale, plus bias."""
    rank = data.value.ndim
    centred, inverse, _ = standardized(data, tuple(range(2, rank)), op.epsilon)
    lined_up = (-1, *(1,) * (rank - 2))
    return centred * inverse * scale.reshape(*lined_up) + bias.reshape(*lined_up)


def local_response(op: normalization.LRN, data: Bounded) -> Bounded:
    """data / (bias + alpha / size · Σ squares of neighbouring channels) ^ beta."""
    before = (op.size - 1) // 2
    widths = [(0, 0), (before, op.size - 1 - before), *(((0, 0),) * (data.value.ndim - 2))]
    windows = _of_both(data * data, lambda array: np.lib.stride_tricks.sliding_window_view(
        np.pad(array, widths), op.size, axis=1
    ))  # fmt: skip
    squares = total(windows, (windows.value.ndim - 1,)).reshape(*data.value.shape)
    return data / (squares * (op.alpha / op.size) + op.bias) ** op.beta


def pooled_norm(op: pooling.LpPool, data: Bounded) -> Bounded:
    """The p-norm of each window."""
    windows = _of_both(data, lambda array: op.views(array, 0))
    found = norm(windows, op.p, op.kernel_axes(windows.value))
    return found.reshape(*found.value.shape[: data.value.ndim])


def global_norm(op: pooling.GlobalLpPool, data: Bounded) -> Bounded:
    """The p-norm of each channel."""
    return norm(data, op.p, tuple(range(2, data.value.ndim)))


def norm(data: Bounded, p: int, axes: tuple[int, ...]) -> Bounded:
    """(Σ|x|ᵖ)^(1/p) over some axes, which are kept."""
    if p == 1:
        return total(absolute(data), axes)
    if p == 2:
        return root(total(data * data, axes))
    return total(absolute(data) ** p, axes) ** (1 / p)


def reduced_norm(op: reduce.ReduceL2, data: Bounded, *_: Bounded | None) -> Bounded:
    """The square root of the sum of squares."""
    return _reduced(op, norm(data, 2, op.reduced_axes()))


def reduced_log_sum(op: reduce.ReduceLogSum, data: Bounded, *_: Bounded | None) -> Bounded:
    """The logarithm of the sum."""
    return _reduced(op, logarithm(total(data, op.reduced_axes())))


def reduced_log_sum_exp(op: reduce.ReduceLogSumExp, data: Bounded, *_: Bounded | None) -> Bounded:
    """log Σ exp(x - largest) + largest."""
    most = largest(data, op.reduced_axes())
    return _reduced(op, logarithm(total(exponential(data - most), op.reduced_axes())) + most)


FORMULAS: dict[type[Any], Formula] = {
    attention.TokenAttention: token_attention,
    softmax.Softmax: softmax_rows,
    softmax.LogSoftmax: log_softmax_rows,
    normalization.LayerNormalization: layer_normalization,
    normalization.RMSNormalization: rms_normalization,
    normalization.InstanceNormalization: instance_normalization,
    normalization.LRN: local_response,
    pooling.LpPool: pooled_norm,
    pooling.GlobalLpPool: global_norm,
    reduce.ReduceL2: reduced_norm,
    reduce.ReduceLogSum: reduced_log_sum,
    reduce.ReduceLogSumExp: reduced_log_sum_exp,
}
"""The operators that are done step by step."""


def by_formula(op: Any, operands: Sequence[Bounded | None], results: Sequence[Array]) -> Sequence[Array]:
    """The errors that the op's formula finds."""
    with np.errstate(all="ignore"):
        found = FORMULAS[type(op)](op, *operands)
    several = found if isinstance(found, tuple) else (found,)
    return [each.error for each, _ in zip(several, results, strict=False)]


def _reduced(op: reduce.Reduction, kept: Bounded) -> Bounded:
    """The result with its reduced axes kept or not, as the op has it."""
    return kept.reshape(*op.type.sizes)


def _of_both(data: Bounded, view: Callable[[Array], Array]) -> Bounded:
    """A rearrangement of the values, and of the errors with them."""
    return Bounded(view(data.value), view(data.error), data.unit)
