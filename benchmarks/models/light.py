"""onnx's light models (AlexNet, ResNet-50, …) with seeded weights in place of their constant fillings.

The package stores each weight as a ConstantOfShape, so that every output is the same whatever the input;
here each gets He-scaled random numbers, or plausible statistics where BatchNormalization reads it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

LIGHT_MODELS = (
    "alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)

_FILES = {"alexnet": "bvlc_alexnet"}
_BATCH_NORM_RANGES = {1: (0.7, 1.3), 2: (-0.2, 0.2), 3: (-0.2, 0.2), 4: (0.6, 1.4)}


def light_path(name: str) -> Path:
    """The file inside the onnx package, with its constant weights."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return folder / f"light_{_FILES.get(name, name)}.onnx"


def light_model(name: str, seed: int = 0) -> ModelProto:
    """The named light model (see LIGHT_MODELS) with random weights; the picture input is 1x3x224x224.

    As in the original (IR version 3) every initialiser is also listed among the graph's inputs.
    """
    model = ModelProto.FromString(light_path(name).read_bytes())
    graph = model.graph
    random = np.random.Generator(np.random.PCG64(seed))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    fillers = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    shapes = {node.output[0]: tuple(int(n) for n in constants[node.input[0]]) for node in fillers}
    shapes |= {name: array.shape for name, array in constants.items() if array.dtype == np.float32}

    weights: dict[str, NDArray[np.float32]] = {}
    gains = _gains(model)
    for node, slot, weight in _weight_uses(model):
        if weight in shapes and weight not in weights:
            gain = gains.get(node.output[0], np.float32(1)) if slot == 1 else np.float32(1)
            weights[weight] = gain * _weight(node, slot, shapes[weight], random)
    left = [node.output[0] for node in fillers if node.output[0] not in weights]
    assert not left, f"light model {name}: no rule for the weights {left}"
    _replace(model, weights, {node.input[0] for node in fillers})
    onnx.checker.check_model(model)  # pyright: ignore[reportUnknownMemberType]
    return model


def _weight_uses(model: ModelProto) -> Iterator[tuple[NodeProto, int, str]]:
    """(consumer, operand index, tensor) of every operand, seen through Unsqueeze and Reshape."""
    moves = [node for node in model.graph.node if node.op_type in ("Unsqueeze", "Reshape")]
    source = {node.output[0]: node.input[0] for node in moves}
    for node in model.graph.node:
        if node.op_type not in ("Unsqueeze", "Reshape", "ConstantOfShape"):
            for slot, operand in enumerate(node.input):
                yield node, slot, source.get(operand, operand)


def _gains(model: ModelProto) -> dict[str, np.float32]:
    """What to scale a node's weight by, per output: branches into a sum are quiet, and no ReLU halves a
    convolution's input that comes straight from a normalisation. So the sums do not grow with the depth.
    """
    nodes = model.graph.node
    normalised = {node.output[0] for node in nodes if node.op_type == "BatchNormalization"}
    summed = {operand for node in nodes if node.op_type == "Sum" for operand in node.input}
    linear = {n.output[0] for n in nodes if n.op_type == "Conv" and n.input[0] in normalised}
    quiet = dict.fromkeys(normalised & summed, np.float32(0.3))
    return quiet | dict.fromkeys(linear, np.float32(0.6))


def _weight(
    node: NodeProto, slot: int, shape: tuple[int, ...], random: np.random.Generator
) -> NDArray[np.float32]:
    match node.op_type:
        case "Conv" if slot == 1:
            return _centred(shape, int(np.prod(shape[1:])), random)
        case "Gemm" if slot == 1:
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            rows = shape[-2:] if transposed else shape[:-3:-1]
            weight = _centred(rows, rows[1], random)
            return (weight if transposed else np.ascontiguousarray(weight.T)).reshape(shape)
        case "BatchNormalization":
            low, high = _BATCH_NORM_RANGES[slot]
        case "Mul":
            low, high = 0.7, 1.3
        case "Conv" | "Gemm" | "Add":
            low, high = -0.1, 0.1
        case _:
            raise AssertionError(f"no rule for operand {slot} of {node.op_type}")
    return random.uniform(low, high, shape).astype(np.float32)


def _centred(shape: tuple[int, ...], fan_in: int, random: np.random.Generator) -> NDArray[np.float32]:
    """Variance 3 / fan_in, each output's weights summing to zero: the answer then depends on the input."""
    values = random.random((shape[0], fan_in), dtype=np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return (values * np.float32(6 / np.sqrt(fan_in))).reshape(shape)


def _replace(model: ModelProto, weights: dict[str, NDArray[Any]], fill_shapes: set[str]) -> None:
    """Put `weights` in as initialisers and take out what they replace, and the shapes they were filled to."""
    graph = model.graph
    gone = fill_shapes | set(weights)
    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    initialisers = [tensor for tensor in graph.initializer if tensor.name not in gone]
    inputs = [value for value in graph.input if value.name not in gone]
    for name, array in weights.items():
        initialisers.append(numpy_helper.from_array(array, name))
        inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    for field_name, entries in (("node", nodes), ("initializer", initialisers), ("input", inputs)):
        graph.ClearField(field_name)
        getattr(graph, field_name).extend(entries)
