"""Build the benchmark networks as ONNX files with seeded random weights (no framework needed).

The structures are the published ones, node by node as PyTorch's exporter writes them; the weights are
He-scaled random numbers, so the files serve for speed and for comparing arithmetic, not for accuracy.
BatchNormalization stays in the graph with statistics that fit the activations. The same arguments give
the same bytes.

    python -m benchmarks.models.networks resnet18 vgg16 --out build/models

The functions take sizes, so that tests can use small variants: `resnet18(width=8, size=32, classes=10)`.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8
PRODUCER = "rtcc benchmarks/models.py"


class GraphWriter:
    """Nodes, weights, inputs and outputs of one model in the making; tensors are named by strings."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []
        self._random = np.random.Generator(np.random.PCG64(seed))

    def input(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        return name

    def output(self, name: str, shape: Sequence[int], dtype: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def uniform(self, name: str, shape: Sequence[int], low: float, high: float) -> str:
        """A float32 weight drawn evenly from [low, high)."""
        values = self._random.random(tuple(shape), dtype=np.float32)
        values *= np.float32(high - low)
        values += np.float32(low)
        return self.constant(name, values)

    def scaled(self, name: str, shape: Sequence[int], fan_in: int, gain: float) -> str:
        """A float32 weight with variance gain / fan_in; gain 2 is He's, for inputs that come from a ReLU."""
        bound = float(np.sqrt(3.0 * gain / fan_in))
        return self.uniform(name, shape, -bound, bound)

    def centred(self, name: str, shape: Sequence[int], gain: float) -> str:
        """Like `scaled` with shape [outputs, inputs…], each output's weights summing to zero.

        What all inputs have in common after a ReLU then cancels; without this a deep random network
        answers nearly the same for every picture.
        """
        fan_in = int(np.prod(shape[1:]))
        bound = np.float32(np.sqrt(3.0 * gain / fan_in))
        values = self._random.random((shape[0], fan_in), dtype=np.float32)
        # In float64 this sum is exact, so the bytes do not depend on the machine.
        values -= values.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        values *= 2 * bound
        return self.constant(name, values.reshape(tuple(shape)))

    def node(
        self, operator: str, inputs: Sequence[str], name: str, outputs: int = 1, **attributes: Any
    ) -> str:
        """Append a node; its first output is called `<name>_out`, the further ones `<name>_out1` and on."""
        results = [f"{name}_out"] + [f"{name}_out{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(operator, list(inputs), results, name=name, **attributes))
        return results[0]

    def rename_last(self, name: str) -> str:
        """Give the first output of the last node the name under which it becomes a graph output."""
        self.nodes[-1].output[0] = name
        return name

    def model(self) -> ModelProto:
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.weights)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name=PRODUCER)
        check = onnx.checker.check_model  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        check(model, full_check=model.ByteSize() < 1 << 28)
        return model


# ----- layers


def conv(
    g: GraphWriter, x: str, name: str, channels: tuple[int, int], kernel: int, *,
    stride: int = 1, pad: int = 0, groups: int = 1, bias: bool = False, gain: float = 3.0,
) -> str:  # fmt: skip
    """Convolution from channels[0] to channels[1] with a square kernel."""
    per_group = channels[0] // groups
    operands = [x, g.centred(f"{name}.weight", (channels[1], per_group, kernel, kernel), gain)]
    if bias:
        operands.append(g.uniform(f"{name}.bias", (channels[1],), -0.1, 0.1))
    return g.node(
        "Conv", operands, f"/{name}/Conv", dilations=[1, 1], group=groups,
        kernel_shape=[kernel, kernel], pads=[pad] * 4, strides=[stride, stride],
    )  # fmt: skip


def batch_norm(
    g: GraphWriter, x: str, name: str, channels: int, gain: float = 1.0, variance: float = 1.0
) -> str:
    """BatchNormalization for an input of about the given variance; the scales lie around `gain`."""
    operands = [
        x,
        g.uniform(f"{name}.weight", (channels,), 0.7 * gain, 1.3 * gain),
        g.uniform(f"{name}.bias", (channels,), -0.2 * gain, 0.2 * gain),
        g.uniform(f"{name}.running_mean", (channels,), -0.2, 0.2),
        g.uniform(f"{name}.running_var", (channels,), 0.6 * variance, 1.4 * variance),
    ]
    return g.node("BatchNormalization", operands, f"/{name}/BatchNormalization", epsilon=1e-5, momentum=0.9)


def linear(g: GraphWriter, x: str, name: str, features: tuple[int, int], gain: float = 3.0) -> str:
    """Fully connected layer as Gemm with a transposed weight."""
    weight = g.centred(f"{name}.weight", (features[1], features[0]), gain)
    bias = g.uniform(f"{name}.bias", (features[1],), -0.1, 0.1)
    return g.node("Gemm", [x, weight, bias], f"/{name}/Gemm", alpha=1.0, beta=1.0, transB=1)


def relu(g: GraphWriter, x: str, name: str) -> str:
    return g.node("Relu", [x], f"/{name}/Relu")


def max_pool(g: GraphWriter, x: str, name: str, kernel: int, stride: int, pad: int = 0) -> str:
    return g.node(
        "MaxPool", [x], f"/{name}/MaxPool", ceil_mode=0,
        kernel_shape=[kernel, kernel], pads=[pad] * 4, strides=[stride, stride],
    )  # fmt: skip


def classifier_head(g: GraphWriter, x: str, features: int, classes: int, name: str) -> ModelProto:
    """Global average pool, flatten, fully connected; finishes the model."""
    x = g.node("GlobalAveragePool", [x], "/avgpool/GlobalAveragePool")
    x = g.node("Flatten", [x], "/Flatten", axis=1)
    linear(g, x, name, (features, classes), gain=4.0)
    g.output(g.rename_last("output"), (g.inputs[0].type.tensor_type.shape.dim[0].dim_value, classes))
    return g.model()


# ----- image classifiers


def lenet(size: int = 32, batch: int = 1, classes: int = 10, seed: int = 1) -> ModelProto:
    """LeNet-5 for colour pictures: input [batch,3,size,size], output [batch,classes]."""
    g = GraphWriter("lenet", seed)
    x = g.input("input", (batch, 3, size, size))
    side = ((size - 4) // 2 - 4) // 2
    for index, channels in enumerate([(3, 6), (6, 16)], start=1):
        x = relu(g, conv(g, x, f"conv{index}", channels, 5, bias=True), f"relu{index}")
        x = max_pool(g, x, f"pool{index}", 2, 2)
    x = g.node("Flatten", [x], "/Flatten", axis=1)
    x = relu(g, linear(g, x, "fc1", (16 * side * side, 120)), "relu3")
    x = relu(g, linear(g, x, "fc2", (120, 84)), "relu4")
    linear(g, x, "fc3", (84, classes))
    g.output(g.rename_last("output"), (batch, classes))
    return g.model()


def _input_variance(index: int) -> float:
    """Variance after the first convolution of a stage's block `index`: the residual sums grow slowly."""
    return 1.0 + 0.4 * index


def _basic_block(
    g: GraphWriter, x: str, name: str, channels: tuple[int, int], stride: int, index: int
) -> str:
    before, after = channels
    y = conv(g, x, f"{name}.conv1", (before, after), 3, stride=stride, pad=1)
    y = relu(g, batch_norm(g, y, f"{name}.bn1", after, variance=_input_variance(index)), f"{name}.relu1")
    y = conv(g, y, f"{name}.conv2", (after, after), 3, pad=1)
    y = batch_norm(g, y, f"{name}.bn2", after, gain=0.5)
    return _join(g, x, y, name, channels, stride)


def _bottleneck(g: GraphWriter, x: str, name: str, channels: tuple[int, int], stride: int, index: int) -> str:
    before, after = channels
    middle = after // 4
    y = conv(g, x, f"{name}.conv1", (before, middle), 1)
    y = relu(g, batch_norm(g, y, f"{name}.bn1", middle, variance=_input_variance(index)), f"{name}.relu1")
    y = conv(g, y, f"{name}.conv2", (middle, middle), 3, stride=stride, pad=1)
    y = relu(g, batch_norm(g, y, f"{name}.bn2", middle), f"{name}.relu2")
    y = conv(g, y, f"{name}.conv3", (middle, after), 1)
    y = batch_norm(g, y, f"{name}.bn3", after, gain=0.5)
    return _join(g, x, y, name, channels, stride)


def _join(g: GraphWriter, x: str, y: str, name: str, channels: tuple[int, int], stride: int) -> str:
    if stride != 1 or channels[0] != channels[1]:
        x = conv(g, x, f"{name}.downsample.0", channels, 1, stride=stride)
        x = batch_norm(g, x, f"{name}.downsample.1", channels[1], gain=0.9, variance=1.8)
    return relu(g, g.node("Add", [y, x], f"/{name}/Add"), f"{name}.relu")


def _resnet(
    name: str,
    depths: Sequence[int],
    expansion: int,
    width: int,
    size: int,
    batch: int,
    classes: int,
    seed: int,
) -> ModelProto:
    g = GraphWriter(name, seed)
    block = _basic_block if expansion == 1 else _bottleneck
    x = g.input("input", (batch, 3, size, size))
    x = conv(g, x, "conv1", (3, width), 7, stride=2, pad=3, gain=1.0)
    x = relu(g, batch_norm(g, x, "bn1", width), "relu")
    x = max_pool(g, x, "maxpool", 3, 2, 1)
    channels = width
    for stage, depth in enumerate(depths):
        after = width * expansion << stage
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(g, x, f"layer{stage + 1}.{index}", (channels, after), stride, index)
            channels = after
    return classifier_head(g, x, channels, classes, "fc")


def resnet18(
    width: int = 64, size: int = 224, batch: int = 1, classes: int = 1000, seed: int = 2
) -> ModelProto:
    """ResNet-18: input [batch,3,size,size], output [batch,classes]; `width` is the first stage's channels."""
    return _resnet("resnet18", (2, 2, 2, 2), 1, width, size, batch, classes, seed)


def resnet50(
    width: int = 64, size: int = 224, batch: int = 1, classes: int = 1000, seed: int = 3
) -> ModelProto:
    """ResNet-50 v1.5 (the stride sits in the 3x3): input [batch,3,size,size], output [batch,classes]."""
    return _resnet("resnet50", (3, 4, 6, 3), 4, width, size, batch, classes, seed)


def _relu6(g: GraphWriter, x: str, name: str) -> str:
    return g.node("Clip", [x, "zero", "six"], f"/{name}/Clip")


def _inverted_residual(
    g: GraphWriter, x: str, name: str, channels: tuple[int, int], stride: int, expansion: int
) -> str:
    hidden = channels[0] * expansion
    y = x
    if expansion != 1:
        y = conv(g, y, f"{name}.conv.0.0", (channels[0], hidden), 1, gain=1.0)
        y = _relu6(g, batch_norm(g, y, f"{name}.conv.0.1", hidden), f"{name}.conv.0.2")
    y = conv(g, y, f"{name}.conv.1.0", (hidden, hidden), 3, stride=stride, pad=1, groups=hidden)
    y = _relu6(g, batch_norm(g, y, f"{name}.conv.1.1", hidden), f"{name}.conv.1.2")
    y = conv(g, y, f"{name}.conv.2", (hidden, channels[1]), 1)
    joins = stride == 1 and channels[0] == channels[1]
    y = batch_norm(g, y, f"{name}.conv.3", channels[1], gain=0.5 if joins else 1.0)
    return g.node("Add", [x, y], f"/{name}/Add") if joins else y


def mobilenet_v2(
    width: float = 1.0, size: int = 224, batch: int = 1, classes: int = 1000, seed: int = 4
) -> ModelProto:
    """MobileNetV2, ReLU6 as Clip: input [batch,3,size,size], output [batch,classes]."""

    def scaled(channels: int) -> int:
        return max(8, int(channels * width + 4) // 8 * 8)

    g = GraphWriter("mobilenet_v2", seed)
    g.constant("zero", np.array(0, np.float32))
    g.constant("six", np.array(6, np.float32))
    x = g.input("input", (batch, 3, size, size))
    channels = scaled(32)
    x = conv(g, x, "features.0.0", (3, channels), 3, stride=2, pad=1, gain=1.0)
    x = _relu6(g, batch_norm(g, x, "features.0.1", channels), "features.0.2")
    stages = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    index = 1
    for expansion, after, repeats, first_stride in stages:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            x = _inverted_residual(g, x, f"features.{index}", (channels, scaled(after)), stride, expansion)
            channels = scaled(after)
            index += 1
    last = scaled(1280) if width > 1.0 else 1280
    x = conv(g, x, f"features.{index}.0", (channels, last), 1, gain=1.0)
    x = _relu6(g, batch_norm(g, x, f"features.{index}.1", last), f"features.{index}.2")
    return classifier_head(g, x, last, classes, "classifier.1")


def vgg16(
    width: int = 64, size: int = 224, batch: int = 1, classes: int = 1000, hidden: int = 4096, seed: int = 5
) -> ModelProto:
    """VGG-16: input [batch,3,size,size] with size a multiple of 32, output [batch,classes]."""
    g = GraphWriter("vgg16", seed)
    x = g.input("input", (batch, 3, size, size))
    channels, index = 3, 0
    for stage, repeats in enumerate((2, 2, 3, 3, 3)):
        after = width << min(stage, 3)
        for _ in range(repeats):
            x = conv(g, x, f"features.{index}", (channels, after), 3, pad=1, bias=True)
            x = relu(g, x, f"features.{index + 1}")
            channels = after
            index += 2
        x = max_pool(g, x, f"features.{index}", 2, 2)
        index += 1
    x = g.node("Flatten", [x], "/Flatten", axis=1)
    x = relu(g, linear(g, x, "classifier.0", (channels * (size // 32) ** 2, hidden)), "classifier.1")
    x = relu(g, linear(g, x, "classifier.3", (hidden, hidden)), "classifier.4")
    linear(g, x, "classifier.6", (hidden, classes))
    g.output(g.rename_last("output"), (batch, classes))
    return g.model()


# ----- text encoder


def layer_norm(g: GraphWriter, x: str, name: str, features: int, primitive: bool) -> str:
    """Layer normalisation over the last axis, as one operator or as the chain older exporters write."""
    weight = g.uniform(f"{name}.weight", (features,), 0.7, 1.3)
    bias = g.uniform(f"{name}.bias", (features,), -0.2, 0.2)
    if not primitive:
        return g.node(
            "LayerNormalization", [x, weight, bias], f"/{name}/LayerNormalization", axis=-1, epsilon=1e-12
        )
    mean = g.node("ReduceMean", [x], f"/{name}/ReduceMean", axes=[-1], keepdims=1)
    centred = g.node("Sub", [x, mean], f"/{name}/Sub")
    square = g.node("Pow", [centred, "two"], f"/{name}/Pow")
    variance = g.node("ReduceMean", [square], f"/{name}/ReduceMean_1", axes=[-1], keepdims=1)
    deviation = g.node("Sqrt", [g.node("Add", [variance, "norm_epsilon"], f"/{name}/Add")], f"/{name}/Sqrt")
    normalised = g.node("Div", [centred, deviation], f"/{name}/Div")
    return g.node("Add", [g.node("Mul", [normalised, weight], f"/{name}/Mul"), bias], f"/{name}/Add_1")


def _dense(g: GraphWriter, x: str, name: str, features: tuple[int, int], gain: float = 1.0) -> str:
    """Fully connected layer over the last axis of a rank-3 tensor: MatMul, then Add with the bias first."""
    y = g.node("MatMul", [x, g.scaled(f"{name}.weight", features, features[0], gain)], f"/{name}/MatMul")
    return g.node("Add", [g.uniform(f"{name}.bias", (features[1],), -0.1, 0.1), y], f"/{name}/Add")


def _gelu(g: GraphWriter, x: str, name: str) -> str:
    error = g.node("Erf", [g.node("Div", [x, "sqrt_two"], f"/{name}/Div")], f"/{name}/Erf")
    shifted = g.node("Add", [error, "one"], f"/{name}/Add")
    return g.node("Mul", [g.node("Mul", [x, shifted], f"/{name}/Mul"), "half"], f"/{name}/Mul_1")


def _attention(g: GraphWriter, x: str, mask: str, name: str, hidden: int) -> str:
    def heads(part: str, permutation: list[int]) -> str:
        y = _dense(g, x, f"{name}.self.{part}", (hidden, hidden), gain=2.0 if part != "value" else 1.0)
        y = g.node("Reshape", [y, "split_heads"], f"/{name}.self.{part}/Reshape")
        return g.node("Transpose", [y], f"/{name}.self.{part}/Transpose", perm=permutation)

    query, value, key = heads("query", [0, 2, 1, 3]), heads("value", [0, 2, 1, 3]), heads("key", [0, 2, 3, 1])
    scores = g.node("MatMul", [query, key], f"/{name}/MatMul")
    scores = g.node("Div", [scores, "sqrt_head"], f"/{name}/Div")
    scores = g.node("Add", [scores, mask], f"/{name}/Add")
    weights = g.node("Softmax", [scores], f"/{name}/Softmax", axis=-1)
    context = g.node("MatMul", [weights, value], f"/{name}/MatMul_1")
    context = g.node("Transpose", [context], f"/{name}/Transpose", perm=[0, 2, 1, 3])
    context = g.node("Reshape", [context, "join_heads"], f"/{name}/Reshape")
    return _dense(g, context, f"{name}.output.dense", (hidden, hidden), gain=0.5)


def _encoder_constants(g: GraphWriter, batch: int, tokens: int, hidden: int, heads: int) -> None:
    numbers = {
        "one": 1.0, "half": 0.5, "two": 2.0, "sqrt_two": 2.0**0.5, "sqrt_head": (hidden // heads) ** 0.5,
        "norm_epsilon": 1e-12, "lowest": float(np.finfo(np.float32).min),
    }  # fmt: skip
    for name, number in numbers.items():
        g.constant(name, np.array(number, np.float32))
    g.constant("split_heads", np.array([batch, tokens, heads, hidden // heads], np.int64))
    g.constant("join_heads", np.array([batch, tokens, hidden], np.int64))
    g.constant("mask_axes", np.array([1, 2], np.int64))
    g.constant("positions", np.arange(tokens, dtype=np.int64)[None])


def _embed(g: GraphWriter, ids: str, types: str, vocabulary: int, tokens: int, hidden: int) -> str:
    tables = {
        "word_embeddings": (vocabulary, ids), "token_type_embeddings": (2, types),
        "position_embeddings": (max(tokens, 512), "positions"),
    }  # fmt: skip
    parts: list[str] = []
    for table, (rows, index) in tables.items():
        weight = g.scaled(f"embeddings.{table}.weight", (rows, hidden), 1, 0.04 if index == ids else 0.01)
        parts.append(g.node("Gather", [weight, index], f"/embeddings/{table}/Gather", axis=0))
    total = g.node("Add", parts[:2], "/embeddings/Add")
    return g.node("Add", [total, parts[2]], "/embeddings/Add_1")


def minilm(
    layers: int = 6, hidden: int = 384, heads: int = 12, tokens: int = 128, batch: int = 1,
    vocabulary: int = 30522, primitive: bool = True, seed: int = 6,
) -> ModelProto:  # fmt: skip
    """MiniLM (BERT) encoder: three int64 inputs [batch,tokens], output [batch,tokens,hidden].

    `primitive` writes each layer normalisation as nine nodes, as the published files have it; otherwise
    it is the LayerNormalization operator.
    """
    g = GraphWriter("minilm", seed)
    names = ("input_ids", "attention_mask", "token_type_ids")
    ids, mask, types = (g.input(name, (batch, tokens), TensorProto.INT64) for name in names)
    _encoder_constants(g, batch, tokens, hidden, heads)
    x = layer_norm(
        g, _embed(g, ids, types, vocabulary, tokens, hidden), "embeddings.LayerNorm", hidden, primitive
    )
    wide = g.node(
        "Cast", [g.node("Unsqueeze", [mask, "mask_axes"], "/Unsqueeze")], "/Cast", to=TensorProto.FLOAT
    )
    bias = g.node("Mul", [g.node("Sub", ["one", wide], "/Sub"), "lowest"], "/Mul")
    for index in range(layers):
        name = f"encoder.layer.{index}"
        y = _attention(g, x, bias, f"{name}.attention", hidden)
        x = g.node("Add", [y, x], f"/{name}.attention/Add_1")
        x = layer_norm(g, x, f"{name}.attention.output.LayerNorm", hidden, primitive)
        y = _gelu(g, _dense(g, x, f"{name}.intermediate.dense", (hidden, 4 * hidden)), f"{name}.intermediate")
        y = _dense(g, y, f"{name}.output.dense", (4 * hidden, hidden), gain=0.5)
        x = g.node("Add", [y, x], f"/{name}.output/Add")
        x = layer_norm(g, x, f"{name}.output.LayerNorm", hidden, primitive)
    g.output(g.rename_last("last_hidden_state"), (batch, tokens, hidden))
    return g.model()


# ----- recurrent networks


def _recurrent(
    operator: str, gates: int, steps: int, features: int, hidden: int, layers: int, batch: int, seed: int,
    ways: int = 1, **attributes: Any,
) -> ModelProto:  # fmt: skip
    """ways: directions of each layer, whose states are joined as the next one's features."""
    g = GraphWriter(operator.lower(), seed)
    x = g.input("input", (steps, batch, features))
    g.constant("direction_axis", np.array([1], np.int64))
    g.constant("initial_state", np.zeros((ways, batch, hidden), np.float32))
    states = ["initial_state"] * (2 if operator == "LSTM" else 1)
    for index in range(layers):
        operands = [
            x,
            g.scaled(f"rnn.weight_ih_l{index}", (ways, gates * hidden, features), features, 2.0),
            g.scaled(f"rnn.weight_hh_l{index}", (ways, gates * hidden, hidden), hidden, 1.0),
            g.uniform(f"rnn.bias_l{index}", (ways, 2 * gates * hidden), -0.1, 0.1),
        ]
        name = f"/rnn/{operator}_{index}"
        y = g.node(
            operator,
            [*operands, "", *states],
            name,
            outputs=1 + len(states),
            hidden_size=hidden,
            **attributes,
        )
        x = _joined_directions(g, y, name, steps, batch, ways * hidden, ways)
        features = ways * hidden
    g.constant("last_step", np.array(steps - 1, np.int64))
    linear(g, g.node("Gather", [x, "last_step"], "/Gather", axis=0), "fc", (ways * hidden, 10))
    g.output(g.rename_last("output"), (batch, 10))
    return g.model()


def _joined_directions(
    g: GraphWriter, y: str, name: str, steps: int, batch: int, features: int, ways: int
) -> str:
    """[steps, ways, batch, hidden] as [steps, batch, features]."""
    if ways == 1:
        return g.node("Squeeze", [y, "direction_axis"], f"{name}/Squeeze")
    turned = g.node("Transpose", [y], f"{name}/Transpose", perm=[0, 2, 1, 3])
    g.constant(f"{name}/shape", np.array([steps, batch, features], np.int64))
    return g.node("Reshape", [turned, f"{name}/shape"], f"{name}/Reshape")


def lstm(
    steps: int = 32, features: int = 128, hidden: int = 128, layers: int = 2, batch: int = 1, seed: int = 7
) -> ModelProto:
    """Stacked LSTM and a classifier on the last step: input [steps,batch,features], output [batch,10]."""
    return _recurrent("LSTM", 4, steps, features, hidden, layers, batch, seed)


def lstm_bidirectional(
    steps: int = 32, features: int = 128, hidden: int = 128, layers: int = 2, batch: int = 1, seed: int = 9
) -> ModelProto:
    """As `lstm`, in both directions."""
    return _recurrent(
        "LSTM", 4, steps, features, hidden, layers, batch, seed, ways=2, direction="bidirectional"
    )


def gru(
    steps: int = 32, features: int = 128, hidden: int = 128, layers: int = 2, batch: int = 1, seed: int = 8
) -> ModelProto:
    """Stacked GRU (linear_before_reset): input [steps,batch,features], output [batch,10]."""
    return _recurrent("GRU", 3, steps, features, hidden, layers, batch, seed, linear_before_reset=1)


def _minilm_operator() -> ModelProto:
    return minilm(primitive=False)


MODELS: dict[str, Callable[[], ModelProto]] = {
    "lenet": lenet,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "mobilenetv2": mobilenet_v2,
    "vgg16": vgg16,
    "minilm6": minilm,
    "minilm6-layernorm": _minilm_operator,
    "lstm": lstm,
    "lstm-bidirectional": lstm_bidirectional,
    "gru": gru,
}


# ----- inputs and files


def sample_inputs(model: ModelProto, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Seeded inputs that fit the model: smooth pictures with noise, token ids, normal sequences."""
    random = np.random.Generator(np.random.PCG64(seed))
    feeds: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            feeds[value.name] = _token_input(value.name, shape, random)
        elif len(shape) == 4:
            feeds[value.name] = _picture(shape, random)
        else:
            feeds[value.name] = random.standard_normal(shape, dtype=np.float32)
    return feeds


def _token_input(name: str, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    if name == "attention_mask":
        used = int(random.integers(shape[-1] // 2, shape[-1] + 1))
        return np.broadcast_to(np.arange(shape[-1]) < used, shape).astype(np.int64)
    return random.integers(0, 2 if name == "token_type_ids" else 1000, shape, dtype=np.int64)


def _picture(shape: tuple[int, ...], random: np.random.Generator) -> NDArray[Any]:
    """Waves of several lengths, 10 % noise, a brightness and a contrast per channel."""
    rows, columns = np.mgrid[0 : shape[2], 0 : shape[3]].astype(np.float32) / np.float32(shape[3])
    picture = 0.1 * random.standard_normal(shape, dtype=np.float32)
    for _ in range(6):
        frequency = random.uniform(-12, 12, (2, *shape[:2], 1, 1)).astype(np.float32)
        phase = random.uniform(0, 6.3, (*shape[:2], 1, 1)).astype(np.float32)
        picture += 0.5 * np.sin(frequency[0] * rows + frequency[1] * columns + phase)
    contrast = random.uniform(0.3, 1.2, (*shape[:2], 1, 1))
    brightness = random.uniform(-1, 1, (*shape[:2], 1, 1))
    return (contrast * picture + brightness).astype(np.float32)


def write_model(name: str, folder: Path) -> Path:
    """Write `<folder>/<name>.onnx` if it is not there yet (atomically) and return its path."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".part", delete=False) as file:
            file.write(MODELS[name]().SerializeToString(deterministic=True))
        part = Path(file.name)
        part.chmod(0o644)
        part.replace(path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the benchmark networks as ONNX files.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(MODELS)}")
    parser.add_argument("--out", type=Path, default=Path("build/models"), metavar="DIR")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in MODELS]
    if unknown:
        parser.error(f"unknown model {unknown[0]!r}; there are {', '.join(MODELS)}")
    for name in options.names or MODELS:
        path = write_model(name, options.out)
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
