"""Normalisations by statistics of the data or of training (family `nn`)."""

from __future__ import annotations

import numpy as np

from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, attribute, ints, operand, optional_operand, required_attribute
from rtcc.ir.ops.axes import normal_axis
from rtcc.ir.ops.computed import FLOATS, SameType
from rtcc.ir.ops.nn import training_mode
from rtcc.ir.ops.pooling import norm
from rtcc.ir.ops.softmax import AlongAxis
from rtcc.ir.ops.window import per_channel
from rtcc.ir.roles import Role
from rtcc.ir.types import Shape, TensorType, broadcast_shapes


class Normalization(SameType):
    """A normalisation of `data`; statistics are taken in float32 or wider."""

    data = operand()

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, FLOATS, "the data")
        return super().infer()

    def check_channels(self, what: str, shape: Shape) -> None:
        """Raise InvalidModel unless a parameter has one element per channel."""
        channels = self.data.type.shape[1] if self.data.type.rank > 1 else 1
        if len(shape) != 1 or (
            isinstance(channels, int) and isinstance(shape[0], int) and shape[0] != channels
        ):
            raise self.fail(f"{what} must have one element per channel ({channels}), found shape {shape}")


class BatchNormalization(Normalization):
    """(data - mean) / √(variance + epsilon) · scale + shift per channel, in inference.

    (ONNX BatchNormalization.)
    """

    name = "nn.batch_normalization"
    role = Role.COMPOSITE
    scale, shift, mean, variance = operand(), operand(), operand(), operand()
    epsilon = attribute(1e-5)
    momentum = attribute(0.9)
    training_mode = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        if self.training_mode:
            raise training_mode(self)
        for what in ("scale", "shift", "mean", "variance"):
            self.check_channels(what, getattr(self, what).type.shape)
        return super().infer()

    def compute(self, data: Array, scale: Array, shift: Array, mean: Array, variance: Array) -> Array:
        factor = scale / np.sqrt(variance + self.epsilon)
        rank = data.ndim
        return (data - per_channel(mean, rank)) * per_channel(factor, rank) + per_channel(shift, rank)


class InstanceNormalization(Normalization):
    """Each channel of each sample normalised over its spatial axes (ONNX InstanceNormalization)."""

    name = "nn.instance_normalization"
    role = Role.ANCHOR
    scale, bias = operand(), operand()
    epsilon = attribute(1e-5)

    def infer(self) -> tuple[TensorType, ...]:
        self.check_channels("scale", self.scale.type.shape)
        self.check_channels("bias", self.bias.type.shape)
        return super().infer()

    def compute(self, data: Array, scale: Array, bias: Array) -> Array:
        centred, inverse, _ = standardized(data, tuple(range(2, data.ndim)), self.epsilon)
        return centred * inverse * per_channel(scale, data.ndim) + per_channel(bias, data.ndim)


class GroupNormalization(Normalization):
    """Groups of channels of each sample normalised together (ONNX GroupNormalization, opset 21)."""

    name = "nn.group_normalization"
    role = Role.COMPOSITE
    scale, bias = operand(), operand()
    epsilon = attribute(1e-5)
    num_groups = required_attribute(int)
    stash_type = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        self.check_channels("scale", self.scale.type.shape)
        self.check_channels("bias", self.bias.type.shape)
        channels = self.data.type.shape[1]
        if isinstance(channels, int) and channels % self.num_groups:
            raise self.fail(f"{channels} channels do not split into {self.num_groups} groups")
        return super().infer()

    def compute(self, data: Array, scale: Array, bias: Array) -> Array:
        grouped = data.reshape(data.shape[0], self.num_groups, -1)
        centred, inverse, _ = standardized(grouped, (2,), self.epsilon)
        normal = (centred * inverse).reshape(data.shape)
        return normal * per_channel(scale, data.ndim) + per_channel(bias, data.ndim)


class LayerNormalization(Normalization):
    """The axes from `axis` on normalised together; also mean and 1/deviation (ONNX LayerNormalization).

    The statistics have the type that `stash_type` (an ONNX element type number) names, f32 by default.
    """

    name = "nn.layer_normalization"
    role = Role.ANCHOR
    scale = operand()
    bias = optional_operand()
    axis = attribute(-1)
    epsilon = attribute(1e-5)
    stash_type = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        (result,) = super().infer()
        axis = normal_axis(self, self.axis, result.rank)
        for value in (self.scale, self.bias):
            if value is not None and broadcast_shapes(result.shape, value.type.shape) != result.shape:
                raise self.fail(f"{value.type} does not broadcast to {result}")
        shape = (*result.shape[:axis], *(1 for _ in result.shape[axis:]))
        statistic = TensorType(
            {10: DType.F16, 11: DType.F64, 16: DType.BF16}.get(self.stash_type, DType.F32), shape
        )
        return result, statistic, statistic

    def compute(self, data: Array, scale: Array, bias: Array | None = None) -> tuple[Array, Array, Array]:
        axes = tuple(range(normal_axis(self, self.axis, data.ndim), data.ndim))
        centred, inverse, mean = standardized(data, axes, self.epsilon)
        normal = centred * inverse * scale
        return normal if bias is None else normal + bias, mean, inverse


class RMSNormalization(Normalization):
    """The axes from `axis` on divided by their root mean square, times scale (ONNX RMSNormalization)."""

    name = "nn.rms_normalization"
    role = Role.ANCHOR
    scale = operand()
    axis = attribute(-1)
    epsilon = attribute(1e-5)
    stash_type = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        (result,) = super().infer()
        normal_axis(self, self.axis, result.rank)
        if broadcast_shapes(result.shape, self.scale.type.shape) != result.shape:
            raise self.fail(f"{self.scale.type} does not broadcast to {result}")
        return (result,)

    def compute(self, data: Array, scale: Array) -> Array:
        axes = tuple(range(normal_axis(self, self.axis, data.ndim), data.ndim))
        square = np.mean(data * data, axis=axes, keepdims=True)
        return data * (1 / np.sqrt(square + self.epsilon)) * scale


class LRN(Normalization):
    """Each element over a power of the mean square of neighbouring channels (ONNX LRN)."""

    name = "nn.lrn"
    role = Role.ANCHOR
    alpha = attribute(0.0001)
    beta = attribute(0.75)
    bias = attribute(1.0)
    size = required_attribute(int)

    def compute(self, data: Array) -> Array:
        before = (self.size - 1) // 2
        squares = data * data
        total = np.zeros_like(squares)
        channels = data.shape[1]
        for shift in range(-before, self.size - before):
            first, last = max(0, -shift), min(channels, channels - shift)
            if first < last:
                total[:, first:last] += squares[:, first + shift : last + shift]
        return data / (self.bias + self.alpha / self.size * total) ** self.beta


class LpNormalization(AlongAxis):
    """Each vector along the axis over its 1- or 2-norm; a zero vector stays zero (ONNX LpNormalization)."""

    name = "nn.lp_normalization"
    role = Role.COMPOSITE
    p = attribute(2)

    def compute(self, data: Array) -> Array:
        length = norm(data, self.p, (self.axis,), keepdims=True)
        return np.where(length == 0, 0, data / length)


class MeanVarianceNormalization(Normalization):
    """(data - mean) / (deviation + 1e-9) over the axes (ONNX MeanVarianceNormalization)."""

    name = "nn.mean_variance_normalization"
    role = Role.COMPOSITE
    axes = ints(0, 2, 3)

    def compute(self, data: Array) -> Array:
        axes = tuple(normal_axis(self, axis, data.ndim) for axis in self.axes)
        centred = data - np.mean(data, axis=axes, keepdims=True)
        return centred / (np.sqrt(np.mean(centred * centred, axis=axes, keepdims=True)) + 1e-9)


def standardized(data: Array, axes: tuple[int, ...], epsilon: float) -> tuple[Array, Array, Array]:
    """(data - mean, 1 / √(variance + epsilon), mean) over some axes, which are kept."""
    mean = np.mean(data, axis=axes, keepdims=True)
    centred = data - mean
    variance = np.mean(centred * centred, axis=axes, keepdims=True)
    return centred, 1 / np.sqrt(variance + epsilon), mean
