"""Rules of convolutions, matrix products, pools, normalisations, softmax and attention's parts."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from rtcc.errors import Unsupported
from rtcc.ir.ops import nn, normalization, pooling, softmax
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.nn import static_sizes
from rtcc.training.rules.table import Rules

CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSE = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
LARGEST = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
"""By the number of spatial axes."""


def _padded(data: Tensor, before: Sequence[int], after: Sequence[int], fill: float = 0.0) -> Tensor:
    """Spatial axes with margins, or cut where they are negative."""
    widths = [n for pair in reversed(list(zip(before, after, strict=True))) for n in pair]
    return functional.pad(data, widths, value=fill) if any(widths) else data


def _spatial(op: nn.Convolution | pooling.Pool, data: Tensor) -> int:
    count = data.dim() - 2
    if count not in CONVOLVE:
        message = f"windows over {count} axes are not trained"
        raise op.unsupported("no-training-rule", message, hint="one to three spatial axes are")
    return count


def _conv(op: nn.Conv, data: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    count = _spatial(op, data)
    pads, strides, dilations = op.geometry()
    before, after = pads[:count], pads[count:]
    if before != after or min(before) < 0:
        data, before = _padded(data, before, after), (0,) * count
    return CONVOLVE[count](data, weight, bias, strides, before, dilations, op.group)


def _conv_transpose(op: nn.ConvTranspose, data: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """All that the kernel reaches, of which the pads cut the margins."""
    count = _spatial(op, data)
    window, sizes = op.transposed(op.data.type.shape[2:], op.weight.type.shape)
    whole = TRANSPOSE[count](data, weight, None, window.strides, 0, 0, op.group, window.dilations)
    before = [-pad for pad in window.pads[:count]]
    wanted = static_sizes(op, sizes)
    after = [wanted[a] - whole.shape[2 + a] - before[a] for a in range(count)]
    found = _padded(whole, before, after)
    return found if bias is None else found + bias.reshape(-1, *(1,) * count)


def _mat_mul(op: nn.MatMul, left: Tensor, right: Tensor) -> Tensor:
    return torch.matmul(left, right)


def _gemm(op: nn.Gemm, left: Tensor, right: Tensor, addend: Tensor | None = None) -> Tensor:
    found = torch.matmul(left.T if op.transA else left, right.T if op.transB else right)
    found = found if op.alpha == 1 else op.alpha * found
    if addend is None:
        return found
    return found + (addend if op.beta == 1 else op.beta * addend)


def _einsum(op: nn.Einsum, *operands: Tensor) -> Tensor:
    return torch.einsum(op.equation.replace(" ", ""), *operands)


def _dropout(op: nn.Dropout, data: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor]:
    """As in inference."""
    return data, torch.ones_like(data, dtype=torch.bool)


def _window_padded(op: pooling.Pool, data: Tensor, fill: float) -> Tensor:
    """The data with all that windows reach over the edge, those of ceil_mode too."""
    count = _spatial(op, data)
    spatial = op.data.type.sizes[2:]
    window, windows = op.window(spatial), op.type.sizes[2:]
    after: list[int] = []
    for a in range(count):
        reach = (windows[a] - 1) * window.strides[a] + window.extents[a]
        after.append(reach - spatial[a] - window.pads[a])
    return _padded(data, window.pads[:count], after, fill)


def _max_pool(op: pooling.MaxPool, data: Tensor) -> Tensor:
    _, strides, dilations = op.geometry()
    padded = _window_padded(op, data, float("-inf"))
    return LARGEST[data.dim() - 2](padded, list(op.kernel_shape), list(strides), 0, list(dilations))


def _average_pool(op: pooling.AveragePool, data: Tensor) -> Tensor:
    _, strides, dilations = op.geometry()
    if any(each != 1 for each in dilations):
        raise op.unsupported("no-training-rule", "averages over dilated windows are not trained", hint=FREEZE)
    kernel = list(op.kernel_shape)
    mean = AVERAGE[data.dim() - 2](_window_padded(op, data, 0.0), kernel, list(strides))
    counts = torch.from_numpy(op.counts(op.data.type.sizes)).to(data.dtype)
    return mean * (prod(kernel) / counts)


def _spatial_axes(data: Tensor) -> tuple[int, ...]:
    return tuple(range(2, data.dim()))


def _global_average(op: pooling.GlobalAveragePool, data: Tensor) -> Tensor:
    return data.mean(_spatial_axes(data), keepdim=True)


def _global_max(op: pooling.GlobalMaxPool, data: Tensor) -> Tensor:
    return data.amax(_spatial_axes(data), keepdim=True)


def _per_channel(vector: Tensor, data: Tensor) -> Tensor:
    return vector.reshape(-1, *(1,) * (data.dim() - 2))


def _batch_normalization(
    op: normalization.BatchNormalization, data: Tensor, scale: Tensor, shift: Tensor, mean: Tensor,
    variance: Tensor,
) -> Tensor:  # fmt: skip
    """By the statistics that the model has, which training leaves alone."""
    factor = scale / torch.sqrt(variance + op.epsilon)
    return (data - _per_channel(mean, data)) * _per_channel(factor, data) + _per_channel(shift, data)


def _standardized(data: Tensor, axes: tuple[int, ...], epsilon: float) -> Tensor:
    centred = data - data.mean(axes, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + epsilon)


def _instance_normalization(
    op: normalization.InstanceNormalization, data: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    normal = _standardized(data, _spatial_axes(data), op.epsilon)
    return normal * _per_channel(scale, data) + _per_channel(bias, data)


def _group_normalization(
    op: normalization.GroupNormalization, data: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    grouped = data.reshape(data.shape[0], op.num_groups, -1)
    normal = _standardized(grouped, (2,), op.epsilon).reshape(data.shape)
    return normal * _per_channel(scale, data) + _per_channel(bias, data)


def _layer_normalization(
    op: normalization.LayerNormalization, data: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    axes = range(normal_axis(op, op.axis, data.dim()), data.dim())
    normal = _standardized(data, tuple(axes), op.epsilon) * scale
    return normal if bias is None else normal + bias


def _rms_normalization(op: normalization.RMSNormalization, data: Tensor, scale: Tensor) -> Tensor:
    axes = tuple(range(normal_axis(op, op.axis, data.dim()), data.dim()))
    return data * torch.rsqrt((data * data).mean(axes, keepdim=True) + op.epsilon) * scale


def _lrn(op: normalization.LRN, data: Tensor) -> Tensor:
    before = (op.size - 1) // 2
    rows = functional.pad((data * data).flatten(2).transpose(1, 2), (before, op.size - 1 - before))
    total = rows.unfold(2, op.size, 1).sum(-1).transpose(1, 2).reshape(data.shape)
    return data / (op.bias + op.alpha / op.size * total) ** op.beta


def _softmax(op: softmax.Softmax, data: Tensor) -> Tensor:
    return torch.softmax(data, op.axis)


def _log_softmax(op: softmax.LogSoftmax, data: Tensor) -> Tensor:
    return torch.log_softmax(data, op.axis)


FREEZE = "distil a model without it, or write the layer with other operators"


def no_rule(where: str, name: str) -> Unsupported:
    """The error for an operator that training has no rule for."""
    return Unsupported("no-training-rule", f"{name} cannot be trained through", where=where, hint=FREEZE)


RULES: Rules = {
    nn.Conv: _conv,
    nn.ConvTranspose: _conv_transpose,
    nn.MatMul: _mat_mul,
    nn.Gemm: _gemm,
    nn.Einsum: _einsum,
    nn.Dropout: _dropout,
    pooling.MaxPool: _max_pool,
    pooling.AveragePool: _average_pool,
    pooling.GlobalAveragePool: _global_average,
    pooling.GlobalMaxPool: _global_max,
    normalization.BatchNormalization: _batch_normalization,
    normalization.InstanceNormalization: _instance_normalization,
    normalization.GroupNormalization: _group_normalization,
    normalization.LayerNormalization: _layer_normalization,
    normalization.RMSNormalization: _rms_normalization,
    normalization.LRN: _lrn,
    softmax.Softmax: _softmax,
    softmax.LogSoftmax: _log_softmax,
}
