"""What an accelerator of 8-bit layers computes (family `accelerator`): sums in i32, requantised at once.

    result = clip(round_half_even((sum + bias) · m / 2ˢ) + zero_point, low, high)

m and s are those of a float32 factor (`requantization.multiplier_and_shift`), so every result is exact
integer arithmetic. Data, weights and results are s8; only `conv_sum` gives the sums themselves, i32. Padding
reads `fill`, the data's zero point. `nn.max_pool` of s8 data is computed as it is.
"""

from __future__ import annotations

import numpy as np

from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, Op, attribute, operand, required_attribute
from rtcc.ir.ops.computed import INTEGERS, ComputedOp
from rtcc.ir.ops.nn import Convolution, sum_operations
from rtcc.ir.ops.pooling import Pool
from rtcc.ir.ops.requantization import scaled_exactly
from rtcc.ir.ops.sum_range import LIMIT
from rtcc.ir.ops.window import Window, convolve, per_channel
from rtcc.ir.roles import Role
from rtcc.ir.types import Shape, TensorType
from rtcc.ir.value import Constant, Value

LEAST, MOST = -128, 127
"""The range of s8."""


class Requantized(ComputedOp):
    """What the sums share: how they become s8."""

    role = Role.NONE
    zero_point = attribute(0)
    low = attribute(LEAST)
    high = attribute(MOST)

    def requantized(self, total: Array, factor: Array) -> Array:
        """Sums in i64, within i32, as s8."""
        zero = np.array(self.zero_point, np.int32)
        scaled = scaled_exactly(total, factor, zero, DType.I8)
        return np.clip(scaled, self.low, self.high).astype(np.int8)

    def require_s8(self, *values: Value) -> None:
        """Raise InvalidModel unless all are s8 and the limits of the result lie in order within s8."""
        for value in values:
            if value.type.dtype is not DType.I8:
                raise self.fail(f"data and weights must be i8, found {value.type}")
        if not LEAST <= self.low <= self.high <= MOST or not LEAST <= self.zero_point <= MOST:
            raise self.fail(
                f"zero point {self.zero_point} and limits {self.low} to {self.high} must lie within i8"
            )


class AcceleratorSums(Convolution):
    """What convolutions of s8 [N, C, H, W] by s8 [M, C/group, kernel…] share; padding reads `fill`.

    bias: i32[M], with the data's zero point in it. taps: products that one result needs where its kernel has
    more, zeros that only fill it up (0: all); for reports.
    """

    role = Role.NONE
    data = operand()
    weight = operand()
    bias = operand()
    fill = attribute(0)
    taps = attribute(0)

    def summed_shape(self) -> Shape:
        """The shape of the sums; InvalidModel unless the operands fit each other."""
        for value in (self.data, self.weight):
            if value.type.dtype is not DType.I8:
                raise self.fail(f"data and weights must be i8, found {value.type}")
        shape = self.convolved(self.data.type.shape, self.weight.type.shape)
        self.require_channels(self.bias, DType.I32, shape)
        return shape

    def require_channels(self, value: Value, dtype: DType, shape: Shape) -> None:
        """Raise InvalidModel unless a value has that element type and an element for each channel."""
        if value.type.dtype is not dtype or value.type.shape != shape[1:2]:
            raise self.fail(f"bias and factor are i32 and f32 of {shape[1]} elements, found {value.type}")

    def check(self) -> None:
        if not isinstance(self.weight, Constant) or not isinstance(self.bias, Constant):
            return
        if not sums_fit(self.weight.array, self.bias.array):
            raise self.fail("some data take its sums out of i32")

    def geometry(self) -> Window:
        """The window with explicit pads."""
        return self.window(self.data.type.shape[2:], self.weight.type.shape)

    def operations(self) -> int:
        if self.taps:
            return 2 * self.taps * self.type.elements
        return sum_operations(self.type, self.weight.type)

    def sums(self, data: Array, weight: Array, bias: Array) -> Array:
        """The sums with their bias, in i64."""
        centred = data.astype(np.int16) - self.fill
        total = convolve(centred, weight, self.window(data.shape[2:], weight.shape), self.group)
        known = bias.astype(np.int64) + self.fill * weight.reshape(len(weight), -1).sum(1, dtype=np.int64)
        return total.astype(np.int64) + per_channel(known, total.ndim)


class AcceleratorConv(Requantized, AcceleratorSums):
    """A convolution whose sums are requantised; factor: f32[M]."""

    name = "accelerator.conv"
    role = Role.NONE
    factor = operand()

    def infer(self) -> tuple[TensorType, ...]:
        self.require_s8()
        shape = self.summed_shape()
        self.require_channels(self.factor, DType.F32, shape)
        return (TensorType(DType.I8, shape),)

    def compute(self, data: Array, weight: Array, bias: Array, factor: Array) -> Array:
        total = self.sums(data, weight, bias)
        return self.requantized(total, per_channel(factor, total.ndim))


class AcceleratorConvSum(AcceleratorSums):
    """A convolution whose sums are its result, i32, for what is not requantised: the host scales them."""

    name = "accelerator.conv_sum"

    def infer(self) -> tuple[TensorType, ...]:
        return (TensorType(DType.I32, self.summed_shape()),)

    def compute(self, data: Array, weight: Array, bias: Array) -> Array:
        return self.sums(data, weight, bias)


class AcceleratorAdd(Requantized):
    """left · left_multiplier + right · right_multiplier + bias, requantised; one shape, no broadcasting.

    So residual additions are two taps of a sum; how many bits its multipliers have is the target's.
    """

    name = "accelerator.add"
    left = operand()
    right = operand()
    left_multiplier = required_attribute(int)
    right_multiplier = required_attribute(int)
    bias = attribute(0)
    factor = required_attribute(float)

    def infer(self) -> tuple[TensorType, ...]:
        self.require_s8(self.left, self.right)
        if self.left.type.shape != self.right.type.shape:
            raise self.fail(f"{self.left.type} and {self.right.type} must have one shape")
        if -LEAST * (abs(self.left_multiplier) + abs(self.right_multiplier)) + abs(self.bias) >= LIMIT:
            raise self.fail("some data take its sums out of i32")
        return (TensorType(DType.I8, self.left.type.shape),)

    def compute(self, left: Array, right: Array) -> Array:
        total = left.astype(np.int64) * self.left_multiplier + right.astype(np.int64) * self.right_multiplier
        return self.requantized(total + self.bias, np.array(self.factor, np.float32))


class AcceleratorAveragePool(Requantized, Pool):
    """The sum of each window of s8 [N, C, H, W], plus bias, requantised; padding reads `fill`.

    A window of one element converts between scales.
    """

    name = "accelerator.average_pool"
    role = Role.NONE
    kinds = INTEGERS
    bias = attribute(0)
    factor = required_attribute(float)
    fill = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        self.require_s8(self.data)
        return Pool.infer(self)

    def compute(self, data: Array) -> Array:
        views = self.views(data, self.fill)
        total = views.sum(axis=self.kernel_axes(views), dtype=np.int64) + self.bias
        return self.requantized(total, np.array(self.factor, np.float32))


ACCELERATED: tuple[type[Op], ...] = (
    AcceleratorConv,
    AcceleratorConvSum,
    AcceleratorAdd,
    AcceleratorAveragePool,
)
"""The operators of this family."""


def sums_fit(weight: Array, bias: Array) -> bool:
    """Whether every partial sum of s8 data by the weights [M, …], and the whole with its bias, fits i32."""
    terms = -LEAST * np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1)
    return bool((terms + np.abs(bias.astype(np.int64)) < LIMIT).all())
