"""Recurrent layers: the interpreter, and what legalize makes of them, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper

import rtcc
from benchmarks.models.networks import lstm
from rtcc.errors import InvalidModel, RtccError
from rtcc.ir import Constant
from rtcc.ir.ops.movement import Slice
from rtcc.ir.ops.nn import MatMul
from rtcc.ir.verify import verify
from rtcc.passes.legalization import recurrent
from rtcc.passes.legalize import Legalize
from tests.frontend.models import (
    Array,
    assert_same,
    interpreted,
    make_model,
    op_names,
    run_onnxruntime,
    value,
)

F32 = np.float32
LENGTH, BATCH, FEATURES, HIDDEN = 5, 3, 4, 6
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def layer(
    op: str, *, operands: tuple[str, ...] = (), **attributes: Any
) -> tuple[ModelProto, dict[str, Array]]:
    """A model of one layer with random weights as constants, and its inputs; `operands`: optional ones."""
    random = np.random.default_rng(0)
    ways = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = GATES[op]
    shapes = {
        "w": (ways, gates * HIDDEN, FEATURES), "r": (ways, gates * HIDDEN, HIDDEN),
        "b": (ways, 2 * gates * HIDDEN), "p": (ways, 3 * HIDDEN),
        "h": (ways, BATCH, HIDDEN), "c": (ways, BATCH, HIDDEN),
    }  # fmt: skip
    arrays: dict[str, Any] = {n: random.standard_normal(s).astype(F32) * F32(0.5) for n, s in shapes.items()}
    arrays["lengths"] = np.array([2, 5, 3], np.int32)
    order = ["w", "r", "b", "lengths", "h", *(["c", "p"] if op == "LSTM" else [])]
    used = [n if n in ("w", "r", *operands) else "" for n in order]
    outputs = ["y", "last", *(["cell"] if op == "LSTM" else [])]
    node = helper.make_node(op, ["x", *used], outputs, name="layer", hidden_size=HIDDEN, **attributes)
    feeds = {"x": random.standard_normal((LENGTH, BATCH, FEATURES)).astype(F32)}
    for state in ("h", "c"):
        if state in used:
            feeds[state] = arrays[state]
    constants = {n: arrays[n] for n in used if n and n not in feeds}
    inputs = [value(n, a.shape) for n, a in feeds.items()]
    infos = [
        value("y", (LENGTH, ways, BATCH, HIDDEN)),
        *(value(o, (ways, BATCH, HIDDEN)) for o in outputs[1:]),
    ]
    return make_model([node], inputs, infos, constants), feeds


EVERYTHING = ("b", "lengths", "h")
CASES = [
    pytest.param(
        op, given, attributes, id=f"{op}-{'-'.join(given)}-{','.join(map(str, attributes.values()))}"
    )
    for op, given, attributes in [
        ("RNN", (), {}),
        ("RNN", EVERYTHING, {"direction": "bidirectional"}),
        ("RNN", ("b",), {"activations": ["Affine"], "activation_alpha": [0.5], "activation_beta": [0.1]}),
        ("RNN", ("b",), {"activations": ["ScaledTanh"], "activation_alpha": [0.5], "activation_beta": [0.7]}),
        ("GRU", (), {}),
        ("GRU", EVERYTHING, {"direction": "reverse"}),
        ("GRU", EVERYTHING, {"direction": "bidirectional", "linear_before_reset": 1}),
        ("GRU", ("b",), {"activations": ["HardSigmoid", "Softsign"], "activation_alpha": [0.3]}),
        ("LSTM", (), {}),
        ("LSTM", (*EVERYTHING, "c"), {"direction": "reverse"}),
        ("LSTM", (*EVERYTHING, "c", "p"), {"direction": "bidirectional"}),
        ("LSTM", ("b", "p"), {"clip": 0.3}),
        ("LSTM", ("b",), {"input_forget": 1}),
        ("LSTM", ("b",), {"activations": ["Sigmoid", "Elu", "Relu"], "activation_alpha": [0.5]}),
    ]
]


@pytest.fixture(params=["written out", "scanned"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a layer's steps are written, whatever their number."""
    monkeypatch.setattr(recurrent, "MOST_WRITTEN_OUT", 0 if request.param == "scanned" else 1000)
    return str(request.param)


@pytest.mark.parametrize(("op", "given", "attributes"), CASES)
def test_layers(form: str, op: str, given: tuple[str, ...], attributes: dict[str, Any]) -> None:
    model, feeds = layer(op, operands=given, **attributes)
    expected = run_onnxruntime(model, feeds)
    module = rtcc.read(model)
    assert_same(interpreted(module, feeds), expected)
    assert Legalize().run(module)
    verify(module)
    assert not {"nn.rnn", "nn.gru", "nn.lstm"} & set(op_names(module))
    assert ("control.scan" in op_names(module)) == (form == "scanned")
    assert_same(interpreted(module, feeds), expected)


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_a_sequence_of_no_steps_keeps_its_first_state(op: str) -> None:
    model, feeds = layer(op, operands=("b", "h"))
    for info in (model.graph.input[0], model.graph.output[0]):
        info.type.tensor_type.shape.dim[0].dim_param = "steps"
    module = rtcc.read(model, dims={"steps": 0})
    feeds["x"] = feeds["x"][:0]
    Legalize().run(module)
    verify(module)
    found = interpreted(module, feeds)
    assert found["y"].shape == (0, 1, BATCH, HIDDEN)
    np.testing.assert_array_equal(found["last"], feeds["h"])


@pytest.mark.parametrize(("late", "products"), [(0, 2), (1, 1)])
def test_weights_of_a_gru_are_cut_once_for_all_steps(late: int, products: int) -> None:
    model, _ = layer("GRU", operands=("b",), linear_before_reset=late)
    module = rtcc.read(model)
    Legalize().run(module)
    ops = list(module.main.walk())
    cut = [op.data for op in ops if isinstance(op, Slice) and isinstance(op.data, Constant)]
    assert all(len(data.type.sizes) == 1 for data in cut)  # the biases, once
    weights = [op.right for op in ops if isinstance(op, MatMul)]
    assert len(weights) == 1 + products * LENGTH
    assert len(set(weights)) == 1 + products


def test_results_that_nobody_wants(form: str) -> None:
    model, feeds = layer("LSTM", operands=("b", "lengths"))
    expected = run_onnxruntime(model, feeds)
    del model.graph.node[0].output[1:], model.graph.output[1:]
    module = rtcc.read(model)
    Legalize().run(module)
    verify(module)
    np.testing.assert_allclose(interpreted(module, feeds)["y"], expected["y"], rtol=1e-4, atol=1e-6)


def test_batch_first_layout(form: str) -> None:
    model, feeds = layer("LSTM", operands=("b",))
    expected = run_onnxruntime(model, feeds)
    node = model.graph.node[0]
    node.attribute.append(helper.make_attribute("layout", 1))
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(value("x", (BATCH, LENGTH, FEATURES)))
    model.graph.output.extend([value("y", (BATCH, LENGTH, 1, HIDDEN)), value("last", (BATCH, 1, HIDDEN)),
                               value("cell", (BATCH, 1, HIDDEN))])  # fmt: skip
    turned = {"x": np.ascontiguousarray(np.swapaxes(feeds["x"], 0, 1))}
    module = rtcc.read(model)
    for _ in range(2):
        found = interpreted(module, turned)
        np.testing.assert_allclose(
            found["y"], np.transpose(expected["y"], (2, 0, 1, 3)), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(found["cell"], np.swapaxes(expected["cell"], 0, 1), rtol=1e-4, atol=1e-6)
        Legalize().run(module)


@pytest.mark.parametrize("late", [0, 1])
def test_weights_that_are_inputs(form: str, late: int) -> None:
    model, feeds = layer("GRU", operands=("b",), linear_before_reset=late)
    expected = run_onnxruntime(model, feeds)
    for tensor in model.graph.initializer:
        model.graph.input.append(value(tensor.name, tuple(tensor.dims)))
        feeds[tensor.name] = np.frombuffer(tensor.raw_data, F32).reshape(tuple(tensor.dims))
    del model.graph.initializer[:]
    module = rtcc.read(model)
    Legalize().run(module)
    verify(module)
    assert_same(interpreted(module, feeds), expected)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_layer_is_what_it_is_written_as(data: st.DataObject, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator's own `evaluate`, both forms, and ONNX Runtime agree, whatever is combined."""
    op = data.draw(st.sampled_from(["RNN", "GRU", "LSTM"]))
    optional = ["b", "lengths", "h", *(["c", "p"] if op == "LSTM" else [])]
    chosen = tuple(name for name in optional if data.draw(st.booleans(), label=name))
    attributes: dict[str, Any] = {
        "direction": data.draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    }
    if data.draw(st.booleans(), label="clip"):
        attributes["clip"] = 0.4
    if op == "GRU":
        attributes["linear_before_reset"] = data.draw(st.integers(0, 1))
    if op == "LSTM":
        attributes["input_forget"] = data.draw(st.integers(0, 1))
    model, feeds = layer(op, operands=chosen, **attributes)
    expected = interpreted(model, feeds)
    if not attributes.get("input_forget"):  # ONNX Runtime then ties the gates the other way round
        assert_same(expected, run_onnxruntime(model, feeds))
    for most in (0, 1000):
        monkeypatch.setattr(recurrent, "MOST_WRITTEN_OUT", most)
        module = rtcc.read(model)
        assert Legalize().run(module)
        verify(module)
        assert_same(interpreted(module, feeds), expected)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_steps_written_out_nest_no_deeper_with_their_number(
    direction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recurrent, "MOST_WRITTEN_OUT", 1000)
    model = lstm(steps=300, features=2, hidden=2, layers=1)
    model.graph.node[0].attribute.append(helper.make_attribute("direction", direction))
    module = rtcc.read(model)
    Legalize().run(module)
    verify(module)


@pytest.mark.parametrize(
    "attributes",
    [{"direction": "sideways"}, {"activations": ["Sigmoid"]}, {"activations": ["Wild", "Tanh", "Tanh"]}],
)
def test_wrong_attributes(attributes: dict[str, Any]) -> None:
    model, _ = layer("LSTM", **attributes)
    with pytest.raises(RtccError) as raised:
        rtcc.read(model)
    assert isinstance(raised.value, InvalidModel)
    assert raised.value.where == "layer"


def test_weights_that_do_not_fit() -> None:
    model, _ = layer("RNN")
    model.graph.node[0].op_type = "GRU"
    with pytest.raises(InvalidModel, match="must have the shape"):
        rtcc.read(model)
