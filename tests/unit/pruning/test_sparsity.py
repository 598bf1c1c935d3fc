# pyright: basic
"""Zeros for single weights: as many as asked for, where the pattern has them; repair; errors that say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtcc
from rtcc.errors import InvalidInput
from rtcc.ir import Constant
from rtcc.ir.verify import verify
from rtcc.linear.layers import linear_layers
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.pruning.patterns import Pattern, by_taps, from_taps
from rtcc.pruning.pruner import Pruned, prune
from rtcc.pruning.reconstruction import masked_least_squares, rescaled
from tests.unit.pruning.networks import Net

ROOT = Path(__file__).parents[3]
LENET = ROOT / "rtcc" / "demo" / "lenet5_mnist.onnx"
RESIDUAL = ROOT / "tests" / "data" / "digits" / "residual.onnx"
DIGITS = ROOT / "tests" / "data" / "digits" / "training_digits.npz"
HELD_OUT = ROOT / "rtcc" / "demo" / "mnist_held_out.npz"


def right(pruned: Pruned) -> float:
    """The share of 1,000 held-out digits that the sparse network reads."""
    digits = np.load(HELD_OUT)
    with rtcc.compile(pruned.module.clone()) as artifact:
        (name,) = (each.name for each in artifact.inputs)
        images = digits["image"].astype(np.float32)
        found = [next(iter(artifact.run({name: image[None]}).values())).argmax() for image in images]
    return float(np.mean(np.array(found) == digits["labels"]))


def test_repair_brings_a_sparse_network_back() -> None:
    """98.5 % before. 80 % of the weights gone: 96.5 %, and 98.1 % repaired; of 90 % 80.0 and 96.5 %."""
    bare = prune(LENET, sparsity=0.9, criterion="magnitude")
    assert right(bare) < 0.9
    assert right(prune(LENET, DIGITS, sparsity=0.8)) > 0.975
    assert right(prune(LENET, DIGITS, sparsity=0.9)) > 0.95


def weights_of(pruned: Pruned) -> list[np.ndarray]:
    return [layer.weight.array for layer in linear_layers(pruned.module.main)]


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("with_data", [False, True])
def test_as_many_go_as_were_asked_for(scope: str, with_data: bool) -> None:
    found = prune(RESIDUAL, DIGITS if with_data else None, samples=10, sparsity=0.8, scope=scope)
    verify(found.module)
    zeros = [int((each == 0).sum()) for each in weights_of(found)]
    sizes = [each.size for each in weights_of(found)]
    assert 0.8 <= sum(zeros) / sum(sizes) < 0.801
    assert found.parameters == (sum(sizes), sum(sizes) - sum(zeros))
    if scope == "uniform":
        assert all(0.8 <= z / s < 0.82 for z, s in zip(zeros, sizes, strict=True))


def test_two_of_four_stay() -> None:
    found = prune(RESIDUAL, DIGITS, samples=10, pattern="2:4", dense="layer0")
    for layer in linear_layers(found.module.main):
        if layer.name.startswith("layer0"):
            assert (layer.weight.array != 0).all()
            continue
        weight = by_taps(layer, layer.weight.array)
        groups, summands, outputs = weight.shape
        assert ((weight.reshape(groups, summands // 4, 4, outputs) != 0).sum(2) == 2).all()
    (kept,) = found.kept
    assert kept.reason == "asked for"


def test_blocks_go_whole() -> None:
    found = prune(RESIDUAL, DIGITS, samples=10, sparsity=0.7, pattern="8x2", dense=("layer0", "layer10"))
    for layer in linear_layers(found.module.main):
        if not layer.name.startswith(("layer0", "layer10")):
            zero = by_taps(layer, layer.weight.array) == 0
            groups, summands, outputs = zero.shape
            blocks = zero.reshape(groups, summands // 2, 2, outputs // 8, 8).sum((2, 4))
            assert set(np.unique(blocks)) <= {0, 16}


def test_a_threshold() -> None:
    found = prune(LENET, threshold=0.05, dense="conv1")
    for before, after in zip(linear_layers(found.original.main), weights_of(found), strict=True):
        large = np.abs(before.weight.array) >= (0 if before.name.startswith("conv1") else 0.05)
        np.testing.assert_array_equal(after, before.weight.array * large)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["unstructured", "2:4", "4x1", "2x2"]), st.booleans())
def test_the_masked_model_is_the_model_with_zeros(seed: int, pattern: str, uniform: bool) -> None:
    """Without repair, weights that stay are what they were; the graph and its shapes are the same."""
    net = Net(seed)
    x = net.conv(net.input(1, 4, 6, 6), 8, 3)
    model = net.model(net.classifier(net.conv(net.unary("Relu", x), 8, 3, group=2), 4))
    scope = "uniform" if uniform else "global"
    options: dict[str, Any] = {} if pattern == "2:4" else {"sparsity": 0.6, "scope": scope}
    found = prune(model, pattern=pattern, **options)
    pairs = zip(linear_layers(found.original.main), linear_layers(found.module.main), strict=True)
    for layer, twin in pairs:
        left = twin.weight.array != 0
        np.testing.assert_array_equal(twin.weight.array, layer.weight.array * left)
        np.testing.assert_array_equal(
            from_taps(layer, by_taps(layer, layer.weight.array)), layer.weight.array
        )
    assert [op.name for op in found.module.main.ops] == [op.name for op in found.original.main.ops]


def test_least_squares_under_a_mask() -> None:
    """As solving for each output's own weights does it."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((200, 30)) @ random.standard_normal((30, 30))
    squares = (rows.T @ rows / 200)[None] + 0.01 * np.eye(30)
    wanted, mask = random.standard_normal((1, 30, 7)), random.random((1, 30, 7)) < 0.3
    found = masked_least_squares(squares, wanted, mask)
    for output in range(7):
        at = np.nonzero(mask[0, :, output])[0]
        exact = np.linalg.solve(squares[0][np.ix_(at, at)], (squares[0] @ wanted[0])[at, output])
        np.testing.assert_allclose(found[0, at, output], exact, rtol=1e-3, atol=1e-3)
    assert (found[~mask] == 0).all()


def test_rescaling_keeps_mean_and_variance() -> None:
    random = np.random.default_rng(1)
    weight = random.standard_normal((1, 50, 6)) + 0.1
    mask = np.abs(weight) > 0.8
    found = rescaled(weight, mask)
    np.testing.assert_allclose(found.mean(1), weight.mean(1))
    np.testing.assert_allclose(found.var(1), weight.var(1))
    assert (found[~mask] == 0).all()
    offset = rescaled(weight + 3, mask)  # no factor gives both
    np.testing.assert_allclose(np.square(offset).sum(1), np.square(weight + 3).sum(1))


def test_rescaled_outputs_of_a_model_keep_mean_and_variance() -> None:
    net = Net(1)
    x = net.unary("Relu", net.conv(net.input(1, 4, 6, 6), 8, 3))
    model = net.model(net.classifier(x))
    plain = prune(model, sparsity=0.3, scope="uniform")
    found = prune(model, sparsity=0.3, scope="uniform", rescale=True)
    layers = zip(linear_layers(found.original.main), weights_of(plain), weights_of(found), strict=True)
    for layer, bare, scaled in layers:
        before, without, after = (
            by_taps(layer, each).astype(np.float64) for each in (layer.weight.array, bare, scaled)
        )
        np.testing.assert_array_equal(after == 0, without == 0)
        np.testing.assert_allclose(after.var(1), before.var(1), rtol=1e-4)
        np.testing.assert_allclose(after.mean(1), before.mean(1), rtol=1e-3, atol=1e-6)
        assert not np.allclose(without.var(1), before.var(1), rtol=1e-2)


def test_a_bias_is_made_where_there_is_none() -> None:
    net = Net(2)
    x = net.unary("Relu", net.conv(net.input(1, 4, 8, 8), 16, 3, bias=False))
    model = net.model(net.classifier(x))
    data = {"x": np.random.default_rng(0).uniform(0, 1, (20, 4, 8, 8)).astype(np.float32)}
    errors = []
    for repair in (True, False):
        found = prune(model, data, sparsity=0.6, repair=repair)
        verify(found.module)
        feeds = {"x": data["x"][:1]}
        before = next(iter(rtcc.interpret(found.original, feeds).values()))
        errors.append(np.linalg.norm(next(iter(rtcc.interpret(found.module, feeds).values())) - before))
    assert errors[0] < 0.5 * errors[1]


def test_shared_weights_stay() -> None:
    net = Net(0)
    x, weight = net.input(1, 4, 8, 8), net.weight(4, 4, 1, 1)
    first = net.op("Conv", [x, weight], (1, 4, 8, 8))
    model = net.model(net.classifier(net.op("Conv", [first, weight], (1, 4, 8, 8))))
    found = prune(model, sparsity=0.5)
    assert [each.reason for each in found.kept] == ["its weights are shared"] * 2
    assert [row.before for row in found.rows] == [4 * 64 * 5]


def test_in_a_pipeline() -> None:
    module = rtcc.read(LENET)
    text = f"fold-constants,sparsify{{sparsity=0.8,data={DIGITS},samples=20}},eliminate-dead"
    run_pipeline(module, text, RunOptions(verify=True))
    zeros = [float((each.array == 0).mean()) for each in module.constants.values() if _is_matrix(each)]
    assert max(zeros) > 0.8


def _is_matrix(constant: Constant) -> bool:
    return constant.type.rank > 1


def code_of(model: Any = LENET, **options: Any) -> str:
    with pytest.raises(InvalidInput) as raised:
        prune(model, **options)
    assert raised.value.hint
    return raised.value.code


def test_bad_input() -> None:
    for sparsity in (0.0, 1.0, -0.2, 1.5, float("nan"), "most"):
        assert code_of(sparsity=sparsity) == "prune-option"
    assert code_of(sparsity=0.8, keep=0.5) == "prune-option"
    assert code_of(pattern="2:4", keep=0.5) == "prune-option"
    assert code_of(sparsity=0.8, multiple=8) == "prune-option"
    assert code_of(pattern="2:4", sparsity=0.5) == "prune-option"
    assert code_of(pattern="16x1") == "prune-option"
    assert code_of(sparsity=0.8, threshold=0.1) == "prune-option"
    assert code_of(threshold=float("nan")) == "prune-option"
    assert code_of(threshold=0.1, criterion="activation") == "prune-option"
    for pattern in ("4:2", "0:4", "2:", "1x1", "dense", "0x4"):
        assert code_of(pattern=pattern, sparsity=0.5) == "prune-option"
    assert code_of(sparsity=0.8, least=2.0) == "prune-option"
    assert code_of(sparsity=0.8, criterion="activation") == "no-data"
    assert code_of(sparsity=0.8, rescale=True, data=DIGITS) == "prune-option"
    assert code_of(sparsity=0.8, data={"image": np.zeros((0, 1, 28, 28), np.float32)}) == "data-empty"
    assert code_of(sparsity=0.8, data={"picture": np.zeros((4, 1, 28, 28), np.float32)}) == "data-input"
    assert code_of(sparsity=0.995) == "target-unreachable"
    assert code_of(sparsity=0.9, least=0.2, scope="uniform") == "target-unreachable"
    assert code_of(threshold=10.0) == "target-unreachable"
    assert code_of(RESIDUAL, threshold=1e-30) == "nothing-to-prune"
    assert code_of(sparsity=0.8, dense=("conv1", "conv2", "fc1", "fc2", "fc3")) == "nothing-to-prune"
    assert code_of(sparsity=0.8, dense="conv9") == "unknown-layer"


def test_a_pattern_that_does_not_fit_names_the_layer() -> None:
    with pytest.raises(InvalidInput, match="its 1 inputs are no multiple of 4") as raised:
        prune(LENET, pattern="2:4")
    assert (raised.value.code, raised.value.where) == ("pattern-misfit", "conv1")
    assert raised.value.hint == "leave it dense: --dense conv1"
    with pytest.raises(InvalidInput, match="its 10 outputs are no multiple of 4"):
        prune(LENET, pattern="4x1", sparsity=0.5, dense=("conv1",))


def test_patterns_are_read() -> None:
    assert Pattern.parse("2:4") == Pattern(2, 4)
    assert Pattern.parse("16x1") == Pattern(0, 0, 16, 1)
    assert Pattern.parse("unstructured") == Pattern()
