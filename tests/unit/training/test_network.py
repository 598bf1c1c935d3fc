# pyright: basic
"""Modules as PyTorch modules: what is trained of them, and that they compute what the interpreter does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional

import rtcc
from rtcc.errors import InvalidInput
from rtcc.ir import DType, Graph, Module, Return, TensorType
from rtcc.ir.ops.indexing import Gather
from rtcc.ir.ops.math import Add, Mul
from rtcc.ir.ops.nn import MatMul
from rtcc.ir.ops.normalization import BatchNormalization
from rtcc.ir.ops.shapes import Reshape
from rtcc.pipeline.inputs import random_inputs
from rtcc.training.distiller import prepared
from rtcc.training.network import Network
from rtcc.training.settings import Zeros
from tests.unit.training.networks import perceptron, with_constant

ROOT = Path(__file__).parents[3]
LENET = ROOT / "rtcc" / "demo" / "lenet5_mnist.onnx"
RESIDUAL = ROOT / "tests" / "data" / "digits" / "residual.onnx"
DIGITS = RESIDUAL.with_name("training_digits.npz")


def compare(module: Module, seeds: int = 3) -> None:
    """A batch at once is what the interpreter gives for each of its samples."""
    feeds = [random_inputs(module, seed) for seed in range(seeds)]
    batch = {name: torch.from_numpy(np.stack([each[name] for each in feeds])) for name in feeds[0]}
    with torch.no_grad():
        found = Network(module)(batch)
    for number, each in enumerate(feeds):
        for name, expected in rtcc.interpret(module, each).items():
            limit = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(found[name][number].numpy(), expected, rtol=0, atol=limit)


@pytest.fixture(scope="module")
def quantized() -> Module:
    with np.load(DIGITS) as data:
        return rtcc.quantize(RESIDUAL, {"image": data["image"][:20]}).module


@pytest.mark.parametrize("name", ["residual.onnx", "depthwise.onnx"])
def test_networks_compute_what_the_interpreter_does(name: str) -> None:
    compare(prepared(RESIDUAL.with_name(name)))


def test_quantised_networks_do_too(quantized: Module) -> None:
    compare(prepared(quantized))


def test_samples_of_several_rows_and_written_shapes() -> None:
    module = Module()
    main = module.add_graph(Graph("main"))
    x = main.add_parameter(TensorType(DType.F32, (2, 6)), "x")
    shape = module.add_constant("shape", np.array([2, 2, 3]))
    folded = main.append(Reshape(x, shape)).result
    weight = module.add_constant("w", np.ones((3, 4), np.float32))
    main.append(Return(main.append(MatMul(folded, weight)).result))
    compare(module)


def test_gradients_are_those_of_the_network_written_by_hand() -> None:
    module = prepared(LENET)
    network = Network(module)
    image = torch.rand(5, 1, 1, 28, 28) * 255
    network({"image": image})["logits"].square().sum().backward()
    found = network.weights
    ours = {each.constant.symbol: found.parameter[each.key].grad / each.unit for each in found.found}
    w = {name: torch.tensor(module.constants[name].array, requires_grad=True) for name in ours}
    x = image[:, 0]
    x = functional.max_pool2d(functional.conv2d(x, w["conv1.weight"], w["conv1.bias"], padding=2).relu(), 2)
    x = functional.max_pool2d(functional.conv2d(x, w["conv2.weight"], w["conv2.bias"]).relu(), 2)
    x = functional.linear(x.flatten(1), w["fc1.weight"], w["fc1.bias"]).relu()
    x = functional.linear(x, w["fc2.weight"], w["fc2.bias"]).relu()
    functional.linear(x, w["fc3.weight"], w["fc3.bias"]).square().sum().backward()
    assert len(ours) == 10
    for name, gradient in ours.items():
        expected = w[name].grad
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_what_is_a_weight() -> None:
    """Matrices, tables, biases and scales; no statistics, no numbers, no masks over several axes."""
    module = Module()
    main = module.add_graph(Graph("main"))
    ids = main.add_parameter(TensorType(DType.I64, (2,)), "ids")

    def constant(name: str, *shape: int):
        return module.add_constant(name, np.ones(shape, np.float32))

    value = main.append(Gather(constant("table", 5, 4), ids, axis=0)).result
    value = main.append(MatMul(value, constant("matrix", 4, 4))).result
    value = main.append(Add(value, constant("bias", 4))).result
    value = main.append(Mul(value, constant("number"))).result
    value = main.append(Add(value, constant("mask", 2, 4))).result
    stats = [constant(name, 4) for name in ("scale", "shift", "mean", "variance")]
    value = main.append(BatchNormalization(value, *stats)).result
    main.append(Return(value))
    trained = [each.constant.symbol for each in Network(module).weights.found]
    assert trained == ["table", "matrix", "bias", "scale", "shift"]
    compare(module)


def test_frozen_layers_have_no_parameters() -> None:
    module = perceptron()
    weights = Network(module, freeze=["logits"]).weights
    assert [each.constant.symbol for each in weights.found] == ["w1", "b1"]


def moved(module: Module, **options) -> tuple[Network, Module]:
    """A network after some steps of its own, and the module it goes back into."""
    network = Network(module, **options)
    feeds = [random_inputs(module, seed) for seed in range(4)]
    batch = {name: torch.from_numpy(np.stack([each[name] for each in feeds])) for name in feeds[0]}
    optimizer = torch.optim.Adam(network.weights.parameter.values(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        torch.stack([array.square().sum() for array in network(batch).values()]).sum().backward()
        optimizer.step()
    back = network.weights.write_back()
    with torch.no_grad():
        found = network(batch)
    for number, each in enumerate(feeds):
        for name, expected in rtcc.interpret(back, each).items():
            limit = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(found[name][number].numpy(), expected, rtol=0, atol=limit)
    return network, back


def test_steps_are_relative_to_the_size_of_a_weight() -> None:
    """The same network with its input scaled takes the same steps, and computes the same after them."""
    plain = perceptron()
    scaled = with_constant(plain, "w1", plain.constants["w1"].array * np.float32(2**-8))
    _, back = moved(plain)
    network = Network(scaled)
    feeds = [{"x": random_inputs(plain, seed)["x"] * np.float32(2**8)} for seed in range(4)]
    batch = {"x": torch.from_numpy(np.stack([each["x"] for each in feeds]))}
    optimizer = torch.optim.Adam(network.weights.parameter.values(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        network(batch)["logits"].square().sum().backward()
        optimizer.step()
    found = network.weights.write_back()
    np.testing.assert_allclose(
        found.constants["w1.new"].array * 2**8, back.constants["w1"].array, rtol=1e-5, atol=1e-6
    )
    assert (back.constants["w1"].array != plain.constants["w1"].array).mean() > 0.8


def test_weights_go_back() -> None:
    module = perceptron()
    _, back = moved(module)
    assert back.constants.keys() == module.constants.keys()
    assert all((back.constants[name].array != module.constants[name].array).any() for name in ("w1", "b2"))
    assert [op.name for op in back.main.ops] == [op.name for op in module.main.ops]


def test_zeros_stay_where_they_are_held() -> None:
    module = perceptron()
    pruned = module.constants["w1"].array.copy()
    pruned[:, ::2] = 0
    module = with_constant(module, "w1", pruned)
    network, back = moved(module)
    assert network.weights.masked == 16
    left = next(array for name, array in arrays(back).items() if name.startswith("w1"))
    assert not left[:, ::2].any()
    assert (left[:, 1::2] != pruned[:, 1::2]).all()
    network, back = moved(module, zeros=Zeros.FREE)
    assert network.weights.masked == 0
    assert next(array for name, array in arrays(back).items() if name.startswith("w1"))[:, ::2].any()


def arrays(module: Module) -> dict[str, np.ndarray]:
    return {name: constant.array for name, constant in module.constants.items()}


def test_integers_are_trained_behind_their_scales(quantized: Module) -> None:
    """They go back as integers of the type that they had, under the same scales."""
    module = prepared(quantized)
    network, back = moved(module)
    assert sum(each.op is not None for each in network.weights.found) >= 14  # weights and biases
    for each in network.weights.found:
        if each.op is not None:
            new = back.constants[f"{each.constant.symbol}.trained"]
            assert new.type == each.constant.type
    scales = [name for name in module.constants if name.endswith((".scale", ".zero_point"))]
    assert all((back.constants[name].array == module.constants[name].array).all() for name in scales)
    changed = [
        (back.constants[f"{each.constant.symbol}.trained"].array != each.constant.array).mean()
        for each in network.weights.found
        if each.op is not None
    ]
    assert max(changed) > 0.1


def test_zero_integers_move_unless_all_zeros_are_held(quantized: Module) -> None:
    module = prepared(quantized)
    assert Network(module).weights.masked == 0
    assert Network(module, zeros=Zeros.ALL).weights.masked > 100


def test_values_are_watched_by_name() -> None:
    module = perceptron()
    found = Network(module, watched=["hidden"])({"x": torch.ones(2, 1, 4)})
    assert found["hidden"].shape == (2, 1, 8)
    with pytest.raises(InvalidInput) as caught:
        Network(module, watched=["nothing"])
    assert caught.value.code == "no-such-value"
    assert "hidden, logits" in (caught.value.hint or "")
