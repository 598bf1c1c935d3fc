"""Random networks of 8-bit layers in ONNX, in every form that the accelerator takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

SPREAD = 74.0
"""The standard deviation of numbers that are evenly drawn from s8."""


@dataclass(frozen=True)
class Tensor:
    """A quantised tensor [N, *shape] of images [C, H, W]: real = (integer - zero) · scale."""

    name: str
    shape: tuple[int, int, int]
    scale: float
    zero: int


@dataclass
class Network:
    """Nodes between dequantize_linear and quantize_linear, drawn one layer after the other."""

    draw: st.DrawFn
    rng: np.random.Generator
    nodes: list[Any] = field(default_factory=list[Any])
    constants: list[Any] = field(default_factory=list[Any])
    outputs: list[Any] = field(default_factory=list[Any])
    count: int = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def constant(self, array: NDArray[Any]) -> str:
        name = self.name("k")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        result = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [result], result, **attributes))
        return result

    def real(self, tensor: Tensor) -> str:
        return self.node("DequantizeLinear", tensor.name, *self.scaling(tensor.scale, tensor.zero))

    def scaling(self, scale: float, zero: int) -> tuple[str, str]:
        return self.constant(np.array(scale, np.float32)), self.constant(np.array(zero, np.int8))

    def clamped(self, value: str, unit: float) -> str:
        """The value, perhaps through an activation that clamps."""
        match self.draw(st.sampled_from(("none", "none", "relu", "clip"))):
            case "relu":
                return self.node("Relu", value)
            case "clip":
                low, high = sorted(self.draw(st.tuples(st.integers(-60, 60), st.integers(-60, 60))))
                limits = [self.constant(np.array(each * unit, np.float32)) for each in (low, high)]
                return self.node("Clip", value, *limits)
            case _:
                return value

    def quantised(
        self, value: str, shape: tuple[int, int, int], spread: float, like: Tensor | None = None
    ) -> Tensor:
        """quantize(clamp(value)), of values that spread so far around 0; like: with its scale."""
        scale = spread / self.draw(st.integers(20, 60)) if like is None else like.scale
        zero = self.draw(st.sampled_from((0, 0, -128, 127, -7, 33))) if like is None else like.zero
        found = self.node("QuantizeLinear", self.clamped(value, scale), *self.scaling(scale, zero))
        return Tensor(found, shape, scale, zero)

    # ---- layers

    def weights(self, filters: int, *shape: int) -> str:
        array = self.rng.integers(-127, 128, (filters, *shape)).astype(np.int8)
        if self.draw(st.booleans()):
            scales = self.rng.uniform(0.5, 1, filters).astype(np.float32) / np.float32(SPREAD)
            return self.node("DequantizeLinear", self.constant(array), self.constant(scales), axis=0)
        scale = np.array(1 / SPREAD, np.float32)
        return self.node("DequantizeLinear", self.constant(array), self.constant(scale))

    def convolution(self, data: Tensor, *, stride: int = 0) -> Tensor:
        """Dense, grouped or depthwise. stride: of both axes, 0 for any."""
        channels, size = data.shape[0], data.shape[1:]
        group, outputs = self.groups(channels)
        kernel = self.draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
        dilations = self.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        kernel = tuple(min(k, s) for k, s in zip(kernel, size, strict=True))
        dilations = tuple(
            d if (k - 1) * d < s else 1 for k, d, s in zip(kernel, dilations, size, strict=True)
        )
        strides = (stride, stride) if stride else self.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        if stride:
            dilations = (1, 1)
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        pads = [self.draw(st.integers(0, extent - 1)) for extent in (*extents, *extents)]
        height, width = (
            (size[axis] + pads[axis] + pads[axis + 2] - extents[axis]) // strides[axis] + 1 for axis in (0, 1)
        )
        operands = [self.real(data), self.weights(outputs, channels // group, *kernel)]
        spread = SPREAD * data.scale * float(np.sqrt(channels // group * kernel[0] * kernel[1]))
        if self.draw(st.booleans()):
            bias = self.rng.uniform(-spread, spread, outputs).astype(np.float32)
            operands.append(self.constant(bias))
        value = self.node("Conv", *operands, kernel_shape=kernel, strides=strides, dilations=dilations,
                          pads=pads, group=group)  # fmt: skip
        return self.quantised(value, (outputs, height, width), spread)

    def groups(self, channels: int) -> tuple[int, int]:
        """How many groups of channels, and how many filters."""
        form = self.draw(st.sampled_from(("dense", "dense", "depthwise", "grouped")))
        if form == "depthwise":
            return channels, channels
        divisors = [each for each in range(2, 7) if channels % each == 0]
        if form == "grouped" and divisors:
            group = self.draw(st.sampled_from(divisors))
            return group, group * self.draw(st.integers(1, 40 // group))
        return 1, self.draw(st.integers(1, 40))

    def addition(self, data: Tensor, other: Tensor) -> Tensor:
        value = self.node("Add", self.real(data), self.real(other))
        return self.quantised(value, data.shape, SPREAD * max(data.scale, other.scale))

    def residual(self, data: Tensor) -> Tensor:
        """A convolution that keeps the shape, and what goes around it."""
        kernel = self.draw(st.sampled_from((1, 3)))
        channels = data.shape[0]
        pad = kernel // 2
        value = self.node("Conv", self.real(data), self.weights(channels, channels, kernel, kernel),
                          pads=[pad] * 4)  # fmt: skip
        spread = SPREAD * data.scale * float(np.sqrt(channels)) * kernel
        return self.addition(data, self.quantised(value, data.shape, spread))

    def pool(self, data: Tensor) -> Tensor:
        """The largest or the mean of windows; the largest with sizes rounded up too."""
        is_largest = self.draw(st.booleans())
        kernel = tuple(min(self.draw(st.integers(1, 3)), size) for size in data.shape[1:])
        strides = self.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        pads = [self.draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
        up = self.draw(st.integers(0, 1)) if is_largest else 0
        around = [data.shape[1 + axis] + pads[axis] + pads[axis + 2] - kernel[axis] for axis in (0, 1)]
        size = [room // step + 1 for room, step in zip(around, strides, strict=True)]
        for axis in (0, 1):  # a window that begins in the padding behind is none
            begin = size[axis] * strides[axis]
            if up and around[axis] % strides[axis] and begin < data.shape[1 + axis] + pads[axis]:
                size[axis] += 1
        if is_largest:
            value = self.node("MaxPool", self.real(data), kernel_shape=kernel, strides=strides, pads=pads,
                              ceil_mode=up)  # fmt: skip
            result = self.node("QuantizeLinear", value, *self.scaling(data.scale, data.zero))
            return Tensor(result, (data.shape[0], size[0], size[1]), data.scale, data.zero)
        value = self.node("AveragePool", self.real(data), kernel_shape=kernel, strides=strides, pads=pads,
                          count_include_pad=1)  # fmt: skip
        spread = SPREAD * data.scale / float(np.sqrt(kernel[0] * kernel[1]))
        return self.quantised(value, (data.shape[0], size[0], size[1]), spread)

    def joined(self, data: Tensor) -> Tensor:
        """A concatenation of the data's own planes and of two layers', all of one scale."""
        channels, height, width = data.shape
        parts = [data] if channels % 16 == 0 else []
        for outputs in (16, self.draw(st.sampled_from((16, 32, 5)))):
            value = self.node("Conv", self.real(data), self.weights(outputs, channels, 1, 1))
            parts.append(self.quantised(value, (outputs, height, width), 0.0, like=data))
        value = self.node("Concat", *(self.real(each) for each in parts), axis=1)
        result = self.node("QuantizeLinear", value, *self.scaling(data.scale, data.zero))
        return Tensor(result, (sum(each.shape[0] for each in parts), height, width), data.scale, data.zero)

    def converted(self, data: Tensor) -> Tensor:
        """The same in another scale."""
        return self.quantised(self.real(data), data.shape, SPREAD * data.scale)

    def layer(self, data: Tensor) -> Tensor:
        forms = (self.convolution, self.convolution, self.residual, self.pool, self.pool, self.joined,
                 self.converted)  # fmt: skip
        return self.draw(st.sampled_from(forms))(data)

    def product(self, data: Tensor) -> None:
        """A matrix product over all elements: the end."""
        count, filters = int(np.prod(data.shape)), self.draw(st.integers(1, 20))
        flat = self.node("QuantizeLinear", self.node("Flatten", self.real(data)),
                         *self.scaling(data.scale, data.zero))  # fmt: skip
        real = self.real(Tensor(flat, data.shape, data.scale, data.zero))
        value = self.node("Gemm", real, self.weights(filters, count), transB=1)
        if self.draw(st.booleans()):
            self.outputs.append((value, TensorProto.FLOAT))
            return
        spread = SPREAD * data.scale * float(np.sqrt(count))
        scaled = self.quantised(value, (filters, 1, 1), spread)
        self.outputs.append((scaled.name, TensorProto.INT8))


@st.composite
def networks(draw: st.DrawFn) -> ModelProto:
    """One to three layers of one to three images; some begin with a strided convolution of few channels."""
    network = Network(draw, np.random.default_rng(draw(st.integers(0, 2**32 - 1))))
    is_first = draw(st.integers(0, 3)) == 0
    if is_first:
        stride = draw(st.sampled_from((2, 2, 4)))
        channels = draw(st.integers(1, 16 // stride**2))
        size = [4 * draw(st.integers(1, 5)) for _ in range(2)]
    else:
        stride, channels, size = 0, draw(st.integers(1, 40)), [draw(st.integers(1, 20)) for _ in range(2)]
    data = Tensor("x", (channels, size[0], size[1]), 0.02, draw(st.sampled_from((0, -3, 127, -128))))
    first = data
    if is_first:
        data = network.convolution(data, stride=stride)
    for _ in range(draw(st.integers(0 if is_first else 1, 2))):
        if int(np.prod(data.shape)) > 20_000:
            break
        data = network.layer(data)
    network.outputs.append((data.name, TensorProto.INT8))
    if int(np.prod(data.shape)) <= 500 and draw(st.booleans()):
        network.product(data)
    images = draw(st.sampled_from((1, 1, 1, 2, 3)))
    graph = helper.make_graph(
        network.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.INT8, [images, *first.shape])],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in network.outputs],
        network.constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
