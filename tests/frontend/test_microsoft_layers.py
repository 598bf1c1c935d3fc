"""ONNX Runtime's quantised attention and LSTM (com.microsoft) mean here what they mean there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import rtcc
from rtcc.errors import InvalidModel, RtccError, Unsupported
from tests.frontend.models import Array, assert_same, interpreted, make_model, run_onnxruntime, value

F32, U8, I8, I32 = np.float32, np.uint8, np.int8, np.int32
DOMAIN = "com.microsoft"
LENGTH, BATCH, FEATURES, HIDDEN, HEADS = 5, 2, 12, 6, 3
BOTH_STATES = ("b", "h", "c")


def layer(
    op: str, operands: Mapping[str, Any], data: tuple[str, ...], outputs: list[str], **attributes: Any
) -> tuple[ModelProto, dict[str, Array]]:
    """A model of one node, operands by name, None where absent; those of `data` are inputs."""
    names = ["" if operand is None else name for name, operand in operands.items()]
    given = {name: operand for name, operand in operands.items() if operand is not None}
    feeds = {name: given.pop(name) for name in data if name in given}
    node = helper.make_node(op, names, outputs, domain=DOMAIN, name="node", **attributes)
    inputs = [value(name, array.shape, array.dtype) for name, array in feeds.items()]
    results = [value(name, None, F32) for name in outputs]
    return make_model([node], inputs, results, given, domains=[DOMAIN]), feeds


def integers(random: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    return random.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)


def attention(
    *,
    mask: Any = None,
    past: int = 0,
    weight: Any = I8,
    per_column: bool = False,
    zeros: bool = True,
    present: bool = False,
    **attributes: Any,
) -> tuple[ModelProto, dict[str, Array]]:
    random, columns = np.random.default_rng(0), 3 * FEATURES
    zero = integers(random, (columns,), weight) if per_column else weight(3)
    operands = {
        "x": integers(random, (BATCH, LENGTH, FEATURES), U8),
        "w": integers(random, (FEATURES, columns), weight),
        "bias": random.standard_normal(columns).astype(F32),
        "xs": F32(0.02),
        "ws": np.linspace(0.005, 0.02, columns).astype(F32) if per_column else F32(0.01),
        "mask": None if mask is None else np.array(mask, I32),
        "xz": U8(7) if zeros else None,
        "wz": zero if zeros else None,
        "past": random.standard_normal((2, BATCH, HEADS, past, FEATURES // HEADS)).astype(F32)
        if past
        else None,
    }
    outputs = ["y", "present"] if past or present else ["y"]
    return layer("QAttention", operands, ("x", "mask", "past"), outputs, num_heads=HEADS, **attributes)


KEYS = [[1, 1, 0, 1, 0], [0, 1, 1, 0, 0]]
SCORES = np.random.default_rng(1).integers(0, 2, (BATCH, LENGTH, LENGTH)).tolist()


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": U8},
        {"per_column": True},
        {"zeros": False},
        {"past": 3},
        {"present": True},
        {"mask": [5, 3]},
        {"mask": [0, 3]},
        {"mask": [7, 3], "past": 3},
        {"mask": [5, 3, 1, 2]},
        {"mask": [[1], [1]]},
        {"mask": [[0]]},
        {"mask": KEYS},
        {"mask": KEYS, "mask_filter_value": -2.0},
        {"mask": [[1, 0, 1, *row] for row in KEYS], "past": 3},
        {"mask": SCORES},
        {"mask": np.zeros((BATCH, LENGTH))},
    ],
    ids=str,
)
def test_attention(options: dict[str, Any], causal: int) -> None:
    model, feeds = attention(**options, unidirectional=causal)
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


def test_attention_compiled() -> None:
    model, feeds = attention(mask=KEYS, per_column=True, present=True, unidirectional=1)
    assert_same(rtcc.compile(model).run(feeds), run_onnxruntime(model, feeds))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"mask": np.ones((BATCH, 1, LENGTH, LENGTH))}, Unsupported),
        ({"mask": [1, 2, 3]}, Unsupported),
        ({"do_rotary": 1}, Unsupported),
        ({"num_heads": 5}, InvalidModel),
        ({"num_heads": 0}, InvalidModel),
    ],
)
def test_attention_refused(options: dict[str, Any], error: type[RtccError]) -> None:
    heads = options.pop("num_heads", None)
    model, _ = attention(**options)
    if heads is not None:
        next(a for a in model.graph.node[0].attribute if a.name == "num_heads").i = heads
    with pytest.raises(error) as raised:
        rtcc.read(model)
    assert raised.value.where == "node"


def test_past_that_does_not_fit() -> None:
    model, _ = attention(past=3)
    model.graph.input[1].type.tensor_type.shape.dim[2].dim_value = HEADS + 1
    with pytest.raises(InvalidModel, match="past must be"):
        rtcc.read(model)


def lstm(
    *given: str, weight: Any = I8, zero: int = 0, per_column: bool = False, lengths: Any = None,
    length: int = LENGTH, **attributes: Any,
) -> tuple[ModelProto, dict[str, Array]]:  # fmt: skip
    """`given`: which of the optional operands there are."""
    random = np.random.default_rng(0)
    ways, batch = 2 if attributes.get("direction") == "bidirectional" else 1, 3
    columns = 4 * HIDDEN
    each = (ways, columns) if per_column else (ways,)
    shapes = {"x": (length, batch, FEATURES), "b": (ways, 2 * columns), "h": (ways, batch, HIDDEN),
              "c": (ways, batch, HIDDEN), "p": (ways, 3 * HIDDEN)}  # fmt: skip
    real = {n: (random.standard_normal(s) * 0.5).astype(F32) for n, s in shapes.items()}
    scales = [random.uniform(0.003, 0.006, each).astype(F32) for _ in range(2)]
    operands = {
        "x": real["x"],
        "w": integers(random, (ways, FEATURES, columns), weight),
        "r": integers(random, (ways, HIDDEN, columns), weight),
        "b": real["b"] if "b" in given else None,
        "lengths": None if lengths is None else np.array(lengths, I32),
        **{name: real[name] if name in given else None for name in "hcp"},
        "ws": scales[0], "wz": np.full(each, zero, weight),
        "rs": scales[1], "rz": np.full(each, zero, weight),
    }  # fmt: skip
    outputs = ["y", "last", "cell"]
    data = ("x", "h", "c", "lengths")
    return layer("DynamicQuantizeLSTM", operands, data, outputs, hidden_size=HIDDEN, **attributes)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("given", "options"),
    [
        ((), {}),
        (BOTH_STATES, {}),
        (BOTH_STATES, {"weight": U8, "zero": 100}),
        (BOTH_STATES, {"zero": 5}),
        (BOTH_STATES, {"per_column": True}),
        (BOTH_STATES, {"per_column": True, "weight": U8, "zero": 128}),
        ((*BOTH_STATES, "p"), {}),
        (BOTH_STATES, {"length": 1}),
        ((), {"lengths": (2, 5, 3)}),
        (BOTH_STATES, {"lengths": (2, 3, 1)}),
        (BOTH_STATES, {"lengths": (0, 4, 4)}),
        ((*BOTH_STATES, "p"), {"lengths": (5, 4, 1), "per_column": True}),
        (BOTH_STATES, {"clip": 0.3}),
        ((*BOTH_STATES, "p"), {"input_forget": 1}),
    ],
    ids=str,
)
def test_lstm(direction: str, given: tuple[str, ...], options: dict[str, Any]) -> None:
    model, feeds = lstm(*given, direction=direction, **options)
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


@pytest.mark.parametrize(
    ("names", "alphas", "betas"),
    [
        (["Sigmoid", "Elu", "Relu"], [0.5], []),
        (["HardSigmoid", "ScaledTanh", "Softsign"], [0.3, 0.5], [0.4, 0.7]),
        (["Affine", "Softplus", "LeakyRelu"], [0.3, 0.5], [0.4]),
        (["Sigmoid", "ThresholdedRelu", "Tanh"], [0.2], []),
    ],
    ids=str,
)
def test_activations(names: list[str], alphas: list[float], betas: list[float]) -> None:
    parameters = {"activation_alpha": alphas, "activation_beta": betas}
    given: dict[str, Any] = {name: numbers for name, numbers in parameters.items() if numbers}
    model, feeds = lstm(*BOTH_STATES, activations=names, **given)
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


def test_lstm_compiled() -> None:
    model, feeds = lstm(*BOTH_STATES, lengths=(2, 5, 3), direction="reverse")
    assert_same(rtcc.compile(model).run(feeds), run_onnxruntime(model, feeds))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"direction": "sideways"}, "direction"),
        ({"activations": ["Sigmoid"]}, "expected 3 activations"),
        ({"activations": ["Wild", "Tanh", "Tanh"]}, "none of"),
    ],
)
def test_lstm_wrong(attributes: dict[str, Any], message: str) -> None:
    model, _ = lstm(**attributes)
    with pytest.raises(InvalidModel, match=message) as raised:
        rtcc.read(model)
    assert raised.value.where == "node"


def test_lstm_operands_that_do_not_fit() -> None:
    model, _ = lstm("b")
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b")
    bias.dims[:] = (len(bias.raw_data) // 4, 1)
    with pytest.raises(InvalidModel, match="input 3 must have the shape"):
        rtcc.read(model)
    model, _ = lstm()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "steps"
    with pytest.raises(Unsupported, match="known sizes"):
        rtcc.read(model)
