# pyright: basic
"""Pruning from end to end: as much goes as was asked for, repair brings results back, errors say why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc
from rtcc.errors import InvalidInput, ParseError
from rtcc.ir.ops.nn import Conv, Gemm
from rtcc.ir.verify import verify
from rtcc.pipeline.inputs import random_inputs
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.pipeline.text import parse_pipeline
from rtcc.pruning.pruner import Pruned, prune
from rtcc.pruning.report import make_report
from tests.unit.pruning.networks import Net

ROOT = Path(__file__).parents[3]
RESIDUAL = ROOT / "tests" / "data" / "digits" / "residual.onnx"
DIGITS = ROOT / "tests" / "data" / "digits" / "training_digits.npz"
HELD_OUT = ROOT / "rtcc" / "demo" / "mnist_held_out.npz"


def right(pruned: Pruned) -> float:
    """The share of held-out digits that the pruned model reads."""
    digits = np.load(HELD_OUT)
    images, labels = digits["image"][:400].astype(np.float32), digits["labels"][:400]
    with rtcc.compile(pruned.module.clone()) as artifact:
        (name,) = (each.name for each in artifact.inputs)
        found = [next(iter(artifact.run({name: image[None]}).values())).argmax() for image in images]
    return float(np.mean(np.array(found) == labels))


def test_repair_brings_a_pruned_network_back() -> None:
    """98.4 % before; half the work gone, the network guesses until it is repaired."""
    options: dict[str, Any] = {"keep": 0.5, "criterion": "magnitude", "multiple": 1}
    bare, repaired = prune(RESIDUAL, **options), prune(RESIDUAL, DIGITS, samples=100, **options)
    assert bare.rows == repaired.rows
    assert repaired.repaired == 7
    assert repaired.multiply_adds[1] <= 0.5 * repaired.multiply_adds[0]
    assert right(bare) < 0.5
    assert right(repaired) > 0.95


@pytest.mark.parametrize("scope", ["global", "uniform"])
@pytest.mark.parametrize("keep", [0.3, 0.7])
def test_as_much_goes_as_was_asked_for(keep: float, scope: str) -> None:
    found = prune(RESIDUAL, keep=keep, scope=scope, multiple=1)
    before, after = found.multiply_adds
    assert keep - 0.08 < after / before <= keep
    if scope == "uniform":
        shares = [row.after / row.before for row in found.rows]
        assert max(shares) - min(shares) < 0.13


def test_counts_of_channels_are_multiples() -> None:
    found = prune(RESIDUAL, keep=0.5, multiple=8)
    assert {row.after % 8 for row in found.rows} == {0}


def test_a_convolution_in_groups_keeps_a_multiple_in_all() -> None:
    net = Net()
    x = net.conv(net.input(1, 3, 8, 8), 24, 3)
    x = net.conv(net.unary("Relu", x), 48, 3, group=4)
    found = prune(net.model(net.classifier(net.conv(x, 8))), keep=0.4, multiple=8)
    counts = [op.type.sizes[1] for op in found.module.main.ops if isinstance(op, Conv)]
    assert [row.after for row in found.rows] == counts
    assert counts[1] < 48
    assert all(count % 8 == 0 for count in counts[:2])  # the last has too few


def test_a_target_of_predicted_time() -> None:
    found = prune(RESIDUAL, keep=0.8, latency=True, target="x86:skylake-avx512", multiple=1)
    report = make_report(found, target="x86:skylake-avx512")
    assert report.seconds[1] <= 0.8 * report.seconds[0]


def test_bias_is_made_for_a_layer_that_has_none() -> None:
    net = Net(3)
    x = net.unary("Relu", net.conv(net.input(1, 3, 8, 8), 16, 3))
    model = net.model(net.classifier(net.conv(x, 6, bias=False)))
    random = np.random.default_rng(0)
    data = {"x": random.uniform(0, 1, (40, 3, 8, 8)).astype(np.float32)}
    found = prune(model, data, keep=0.5, multiple=1)
    verify(found.module)
    assert all(op.bias is not None for op in found.module.main.ops if isinstance(op, Conv))
    errors = []
    for each in (found, prune(model, keep=0.5, multiple=1, criterion="magnitude")):
        feeds = {"x": data["x"][:1]}
        before = next(iter(rtcc.interpret(each.original, feeds).values()))
        after = next(iter(rtcc.interpret(each.module, feeds).values()))
        errors.append(np.linalg.norm(after - before) / np.linalg.norm(before))
    assert errors[0] < 0.5 * errors[1]


def test_in_a_pipeline_with_quantisation(tmp_path: Path) -> None:
    text = f"fold-constants,prune{{keep=0.5,data={DIGITS}}},quantize{{data={DIGITS},samples=20}}"
    module = rtcc.read(RESIDUAL)
    run_pipeline(module, text, RunOptions(verify=True))
    with rtcc.compile(module.clone()) as artifact:
        feeds = random_inputs(module)
        expected = next(iter(rtcc.interpret(module, feeds).values()))
        found = next(iter(artifact.run(feeds).values()))
    assert found.argmax() == expected.argmax()


def code_of(**options: Any) -> str:
    with pytest.raises(InvalidInput) as raised:
        prune(RESIDUAL, **options)
    assert raised.value.hint
    return raised.value.code


def test_bad_input() -> None:
    assert code_of(keep=0.001, multiple=1) == "target-unreachable"
    assert code_of(keep=1.5) == "prune-option"
    assert code_of(least=-1.0) == "prune-option"
    assert code_of(multiple=0) == "prune-option"
    assert code_of(keep="half") == "prune-option"
    assert code_of(latency="no") == "prune-option"
    assert code_of(multiple=2.9) == "prune-option"
    assert code_of(multiple=True) == "prune-option"
    assert code_of(samples=-1) == "prune-option"
    assert code_of(factorize="rank=1,samples=2") == "factorize-option"
    with pytest.raises(ParseError, match="options are written"):
        prune(RESIDUAL, factorize="rank=1},simplify{")
    assert code_of(share=0.5) == "prune-option"
    assert code_of(criterion="activation") == "no-data"
    assert code_of(data=3) == "data-form"
    assert code_of(data={"image": np.zeros((0, 1, 28, 28), np.float32)}) == "data-empty"


@pytest.mark.parametrize("name", ["prune", "sparsify", "factorize"])
def test_passes_on_samples_take_one_at_least(name: str) -> None:
    options = "sparsity=0.5," if name == "sparsify" else ""
    assert parse_pipeline(f"{name}{{{options}samples=1}}")
    with pytest.raises(InvalidInput) as raised:
        parse_pipeline(f"{name}{{{options}samples=0}}")
    assert raised.value.code == ("factorize-option" if name == "factorize" else "prune-option")


def test_what_cannot_be_pruned_says_why() -> None:
    net = Net()
    model = net.model(net.classifier(net.input(1, 3, 8, 8)))
    with pytest.raises(InvalidInput, match="it is a result of the model") as raised:
        prune(model)
    assert raised.value.code == "nothing-to-prune"
    assert raised.value.hint


def test_sizes_must_be_known() -> None:
    from onnx import helper

    net = Net()
    model = net.model(net.classifier(net.conv(net.input(1, 3, 8, 8), 4)))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", 1, ["N", 3, 8, 8]))
    for node in model.graph.output:
        node.type.tensor_type.ClearField("shape")
    with pytest.raises(rtcc.RtccError) as raised:
        prune(model)
    assert raised.value.code == "unbound-dimension"


@pytest.mark.parametrize("options", [{"keep": 0.6, "multiple": 1}, {"sparsity": 0.5}])
def test_a_bias_of_one_number_stays(options: dict[str, Any]) -> None:
    """It is added to all outputs, which least squares would give one each."""
    net = Net()
    x = net.op("Gemm", [net.input(1, 6), net.weight(8, 6), net.weight(1)], (1, 8), transB=1)
    model = net.model(net.classifier(net.unary("Relu", x)))
    data = {"x": np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)}
    found = prune(model, data, **options)
    assert found.repaired == 2
    first, _ = (op for op in found.module.main.ops if isinstance(op, Gemm))
    assert first.addend is not None
    assert first.addend.type.sizes == (1,)
    verify(found.module)


@pytest.mark.parametrize("options", [{}, {"sparsity": 0.5}])
def test_layers_of_halves_are_named(options: dict[str, Any]) -> None:
    net = Net()
    x = net.op("Cast", [net.input(1, 3, 4, 4)], (1, 3, 4, 4), to=10)
    weight = net.constant(np.ones((4, 3, 1, 1), np.float16))
    x = net.op("Cast", [net.op("Conv", [x, weight], (1, 4, 4, 4))], (1, 4, 4, 4), to=1)
    with pytest.raises(InvalidInput, match="Conv1: its weights are f16") as raised:
        prune(net.model(x), **options)
    assert raised.value.code == "nothing-to-prune"
