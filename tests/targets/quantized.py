# pyright: basic
"""Small quantised networks as exporters write them: QuantizeLinear and DequantizeLinear between operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import rtcc
from rtcc.compiler import Options, start
from rtcc.interpreter import interpret
from rtcc.ir import Graph


class Qdq:
    """A network in the making; tensors are quantised ones, by name, u8 or s8 throughout."""

    def __init__(self, seed: int, *, signed: bool = False) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.parameters: dict[str, tuple[str, str]] = {}
        self.shift = 128 if signed else 0
        self.dtype = np.int8 if signed else np.uint8
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape)))
        return self._quantized(name, tuple(shape), 0.03, 120)

    def conv(
        self, x: str, filters: int, kernel: int, stride: int = 1, *, group: int = 1, zero: int = 0,
        activation: str = "Relu", per_channel: bool = True,
    ) -> str:  # fmt: skip
        """A padded convolution with bias; weights per filter."""
        n, c, h, w = self.shapes[x]
        weight = self.random.integers(-127, 128, (filters, c // group, kernel, kernel)).astype(np.int8)
        fan_in = weight[0].size
        scale = self.random.uniform(0.5, 1.5, filters) / (70 * np.sqrt(fan_in))
        if not per_channel:
            scale = scale[:1].mean()
        name = self._name("conv")
        bias = self.random.normal(0, 0.2, filters).astype(np.float32)
        weight_name = self._weight(f"{name}.w", weight, np.asarray(scale, np.float32))
        out = self._node(
            "Conv", [self._real(x), weight_name, self._constant(f"{name}.b", bias)],
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4, group=group,
        )  # fmt: skip
        if activation:
            out = self._node(activation, [out])
        size = [(e + 2 * (kernel // 2) - kernel) // stride + 1 for e in (h, w)]
        return self._quantized(out, (n, filters, *size), 0.02, zero)

    def convolved(
        self, x: str, filters: int, function: str, attributes: dict[str, Any], *, between: bool
    ) -> str:
        """A 3x3 convolution and a function of it, quantised between where asked for."""
        n, c, h, w = self.shapes[x]
        weight = self.random.integers(-127, 128, (filters, c, 3, 3)).astype(np.int8)
        scale = self.random.uniform(0.5, 1.5, filters) / (25 * np.sqrt(weight[0].size))
        name = self._name("conv")
        bias = self.random.normal(0, 0.2, filters).astype(np.float32)
        operands = [
            self._real(x), self._weight(f"{name}.w", weight, np.asarray(scale, np.float32)),
            self._constant(f"{name}.b", bias),
        ]  # fmt: skip
        out = self._node("Conv", operands, kernel_shape=[3, 3], pads=[1] * 4)
        if between:
            out = self._real(self._quantized(out, (n, filters, h, w), 0.05, 128))
        return self._quantized(self._function(function, out, attributes), (n, filters, h, w), 0.02, 130)

    def _function(self, function: str, x: str, attributes: dict[str, Any]) -> str:
        match function:
            case "Swish":
                return self._node("Mul", [x, self._node("Sigmoid", [x])])
            case "Gelu":
                root, one, half = (
                    self._constant(self._name(each), np.array(number, np.float32))
                    for each, number in (("root", np.sqrt(2)), ("one", 1.0), ("half", 0.5))
                )
                inner = self._node("Erf", [self._node("Div", [x, root])])
                return self._node("Mul", [self._node("Mul", [x, self._node("Add", [inner, one])]), half])
            case _:
                return self._node(function, [x], **attributes)

    def add(self, x: str, y: str, *, zero: int = 0) -> str:
        total = self._node("Add", [self._real(x), self._real(y)])
        return self._quantized(self._node("Relu", [total]), self.shapes[x], 0.025, zero)

    def concat(self, x: str, y: str) -> str:
        n, c, h, w = self.shapes[x]
        joined = self._node("Concat", [self._real(x), self._real(y)], axis=1)
        return self._quantized(joined, (n, c + self.shapes[y][1], h, w), 0.025, 10)

    def max_pool(self, x: str) -> str:
        n, c, h, w = self.shapes[x]
        out = self._node("MaxPool", [self._real(x)], kernel_shape=[2, 2], strides=[2, 2])
        return self._quantized(out, (n, c, h // 2, w // 2), None, x)

    def halves(self, x: str) -> tuple[str, str]:
        """Both halves of the channels; the second has another scale."""
        n, c, h, w = self.shapes[x]
        names = [self._name("half0"), self._name("half1")]
        self.nodes.append(helper.make_node("Split", [self._real(x)], names, axis=1))
        first = self._quantized(names[0], (n, c // 2, h, w), None, x)
        return first, self._quantized(names[1], (n, c // 2, h, w), 0.03, 5)

    def enlarged(self, x: str) -> str:
        n, c, h, w = self.shapes[x]
        scales = self._constant(self._name("scales"), np.array([1, 1, 2, 2], np.float32))
        out = self._node(
            "Resize", [self._real(x), "", scales],
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        return self._quantized(out, (n, c, 2 * h, 2 * w), None, x)

    def transposed(self, x: str, filters: int, kernel: int, stride: int, pad: int) -> str:
        """A transposed convolution with bias and ReLU; weights per filter."""
        n, c, h, w = self.shapes[x]
        weight = self.random.integers(-127, 128, (c, filters, kernel, kernel)).astype(np.int8)
        scale = (self.random.uniform(0.5, 1.5, filters) / (70 * np.sqrt(c))).astype(np.float32)
        name = self._name("transposed")
        operands = [
            self._real(x), self._weight(f"{name}.w", weight, scale, axis=1),
            self._constant(f"{name}.b", self.random.normal(0, 0.2, filters).astype(np.float32)),
        ]  # fmt: skip
        out = self._node("ConvTranspose", operands, strides=[stride] * 2, pads=[pad] * 4)
        size = [(e - 1) * stride + kernel - 2 * pad for e in (h, w)]
        return self._quantized(self._node("Relu", [out]), (n, filters, *size), 0.02, 11)

    def average_pool(self, x: str, padding: int) -> str:
        """Of 3x3, stride 2, padded by 1; padding: whether the zeros count."""
        n, c, h, w = self.shapes[x]
        out = self._node(
            "AveragePool", [self._real(x)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
            count_include_pad=padding,
        )  # fmt: skip
        return self._quantized(out, (n, c, (h + 1) // 2, (w + 1) // 2), 0.018, 2)

    def moved(self, x: str, kind: str) -> str:
        """What only moves the elements of a picture, with its scale."""
        n, c, h, w = self.shapes[x]
        constants = {
            "Pad": [np.array([0, 0, 1, 2, 0, 0, 0, 1])],
            "Gather": [np.array([c - 1, 0, *range(c - 2)])],
            "Tile": [np.array([1, 1, 2, 1])],
            "Expand": [np.array([2, c, h, w])],
            "GlobalMaxPool": [],
        }[kind]
        shape = {"Pad": (n, c, h + 1, w + 3), "Tile": (n, c, 2 * h, w), "Expand": (2 * n, c, h, w)}
        shape |= {"Gather": (n, c, h, w), "GlobalMaxPool": (n, c, 1, 1)}
        operands = [self._constant(self._name(kind), each.astype(np.int64)) for each in constants]
        axis = {"axis": 1} if kind == "Gather" else {}
        return self._quantized(self._node(kind, [self._real(x), *operands], **axis), shape[kind], None, x)

    def average(self, x: str) -> str:
        n, c, _, _ = self.shapes[x]
        out = self._node("GlobalAveragePool", [self._real(x)])
        return self._quantized(out, (n, c, 1, 1), 0.01, 3)

    def linear(self, x: str, classes: int) -> str:
        n, c, *_ = self.shapes[x]
        flat = self._quantized(self._node("Flatten", [self._real(x)]), (n, c), None, x)
        weight = self.random.integers(-127, 128, (classes, c)).astype(np.int8)
        scale = (self.random.uniform(0.5, 1.5, classes) / (70 * np.sqrt(c))).astype(np.float32)
        name = self._name("linear")
        bias = self.random.normal(0, 0.2, classes).astype(np.float32)
        operands = [
            self._real(flat), self._weight(f"{name}.w", weight, scale), self._constant(f"{name}.b", bias),
        ]  # fmt: skip
        return self._quantized(self._node("Gemm", operands, transB=1), (n, classes), 0.02, 130)

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The model; results are quantised tensors as they are."""
        kind = onnx.TensorProto.INT8 if self.shift else onnx.TensorProto.UINT8
        found = [helper.make_tensor_value_info(o, kind, list(self.shapes[o])) for o in outputs]
        graph = helper.make_graph(self.nodes, "network", self.inputs, found, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model

    @property
    def last(self) -> str:
        """The tensor that was quantised last."""
        return next(reversed(self.shapes))

    def _name(self, kind: str) -> str:
        return f"{kind}{len(self.nodes)}"

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = self._name(kind.lower())
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def _quantized(self, real: str, shape: tuple[int, ...], scale: float | None, zero: int | str) -> str:
        """The tensor quantised; scale None: with the parameters of the tensor that `zero` names."""
        if scale is None:
            parameters = self.parameters[str(zero)]
        else:
            name = self._name("q")
            parameters = (
                self._constant(f"{name}.scale", np.array(scale, np.float32)),
                self._constant(f"{name}.zero", np.array(int(zero) - self.shift, self.dtype)),
            )
        quantized = self._node("QuantizeLinear", [real, *parameters])
        self.shapes[quantized], self.parameters[quantized] = shape, parameters
        return quantized

    def _real(self, quantized: str) -> str:
        return self._node("DequantizeLinear", [quantized, *self.parameters[quantized]])

    def _weight(self, name: str, weight: np.ndarray, scale: np.ndarray, axis: int = 0) -> str:
        operands = [
            self._constant(name, weight),
            self._constant(f"{name}.scale", scale),
            self._constant(f"{name}.zero", np.zeros(scale.shape, np.int8)),
        ]
        return self._node("DequantizeLinear", operands, axis=axis)


def residual_network(seed: int = 0, *, signed: bool = False) -> onnx.ModelProto:
    """A stem, a block with a shortcut, one with a convolution in its shortcut, a classifier."""
    net = Qdq(seed, signed=signed)
    x = net.max_pool(net.conv(net.input("input", (1, 3, 20, 20)), 24, 3))
    y = net.conv(net.conv(x, 24, 3), 24, 3, activation="", zero=131)
    x = net.add(y, x)
    y = net.conv(net.conv(x, 40, 1), 40, 3, stride=2, activation="", zero=120)
    x = net.add(y, net.conv(x, 40, 1, stride=2, activation="", zero=125))
    x = net.concat(x, net.conv(x, 16, 3, zero=20))
    x = net.conv(x, 32, 3, zero=7, per_channel=False)
    return net.model(net.linear(net.average(x), 10), x)


def branching_network(seed: int = 0, *, signed: bool = False) -> onnx.ModelProto:
    """Halves of a convolution, one convolved and enlarged again, joined."""
    net = Qdq(seed, signed=signed)
    first, second = net.halves(net.conv(net.input("input", (1, 3, 20, 20)), 32, 3, zero=3))
    smaller = net.conv(second, 24, 3, stride=2, zero=4)
    joined = net.concat(net.conv(net.enlarged(smaller), 16, 1), first)
    return net.model(net.conv(joined, 40, 3, zero=9))


def checked_kernels(
    model: onnx.ModelProto, feeds: dict[str, np.ndarray] | None = None, *, units: int, share: float
) -> list[Graph]:
    """The kernels that a model of integer results becomes, its machine code compared with two oracles.

    It gives the interpreter's bits, and is at most `units` from ONNX Runtime, in less than that share of the
    elements from 0. `feeds` are random by default.
    """
    feeds = feeds_of(model) if feeds is None else feeds
    compilation = start(model, Options())
    compilation.lower()
    with rtcc.compile(model, verify_kernels=True) as artifact:
        found = list(artifact.run(feeds).values())
    lowered = list(interpret(compilation.module, feeds).values())
    for ours, interpreted, theirs in zip(found, lowered, reference(model, feeds), strict=True):
        np.testing.assert_array_equal(ours, interpreted)
        difference = np.abs(ours.astype(int) - theirs.astype(int))
        assert difference.max() <= units
        assert (difference > 0).mean() < share
        assert len(np.unique(theirs)) > min(40, theirs.size // 2), "hardly any value: this compares nothing"
    return list(compilation.module.kernels.values())


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What ONNX Runtime gives."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(each) for each in session.run(None, feeds)]


def feeds_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for the inputs."""
    random = np.random.default_rng(seed)
    return {
        value.name: random.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for value in model.graph.input
    }
