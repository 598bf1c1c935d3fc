# pyright: basic
"""What stands and falls together: the smaller model computes what zeros for the weights that go would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, checker

import rtcc
from rtcc.ir import Module, Op, Value
from rtcc.ir.ops.math import Mul
from rtcc.ir.ops.nn import Conv, ConvTranspose, Gemm
from rtcc.ir.verify import verify
from rtcc.linear.layers import linear_layers
from rtcc.pipeline.catalogue import BEFORE_PRUNING
from rtcc.pipeline.inputs import random_inputs
from rtcc.pipeline.run import RunOptions, run_pipeline
from rtcc.pruning.choice import Limits
from rtcc.pruning.criteria import RULES, Criterion, Evidence
from rtcc.pruning.dependencies import Dependencies
from rtcc.pruning.groups import Work, groups_of
from rtcc.pruning.shrink import Shrunk
from tests.frontend.models import run_onnxruntime
from tests.unit.pruning.networks import Net, drawn_network

TOLERANCE = 1e-9
"""In float64, of the largest result: fewer zeros are added, in another order."""


def prepared(model: ModelProto) -> Module:
    module = rtcc.read(model)
    run_pipeline(module, BEFORE_PRUNING, RunOptions(verify=False))
    return module


def drawn(module: Module, found: Dependencies, share: float, seed: int = 0) -> set[int]:
    """Some of the channels that may go: of each group that share, never all."""
    random, gone = np.random.default_rng(seed), set[int]()
    for group in groups_of(module, found)[0]:
        count = min(int(np.ceil(share * len(group.roots))), len(group.roots) - 1)
        gone.update(random.permutation(group.roots)[:count].tolist())
    return set(Limits(axes=found.whole_axes()).without_empty_axes(gone, ()))


def silence(module: Module, found: Dependencies, removed: set[int]) -> Module:
    """The same module with zeros in what multiplies those channels where they are summed over."""
    copy = module.clone()
    twins = dict(zip(module.main.ops, list(copy.main.ops), strict=True))
    for op, ids in found.sums:
        left = np.array([root not in removed for root in found.channels.roots(ids).tolist()])
        if left.all():
            continue
        axis, twin = summed_axis(op), twins[op]
        weight = second(twin)
        mask = left.astype(np.float32).reshape([-1 if k == axis else 1 for k in range(weight.type.rank)])
        masked = Mul(weight, copy.add_constant("mask", mask))
        copy.main.insert_before(twin, masked)
        twin.set_operand(1, masked.result)
    return copy


def summed_axis(op: Op) -> int:
    """The axis of the second operand that an op sums over."""
    match op:
        case Conv():
            return 1
        case ConvTranspose():
            return 0
        case Gemm():
            return 1 if op.transB else 0
        case _:
            return second(op).type.rank - 2


def second(op: Op) -> Value:
    """The operand that may be a weight."""
    value = op.operands[1]
    assert value is not None
    return value


def shrunk(module: Module, share: float = 0.5, seed: int = 0) -> tuple[Shrunk, int]:
    """The smaller module, held to be right, and how many channels went."""
    found = Dependencies(module)
    gone = drawn(module, found, share, seed)
    small = Shrunk(module, found, gone, "prune")
    verify(small.module)
    feeds = random_inputs(module, seed)
    expected = rtcc.interpret(silence(module, found, gone), feeds, precision="f64")
    result = rtcc.interpret(small.module, feeds, precision="f64")
    for name, array in expected.items():
        np.testing.assert_allclose(result[name], array, rtol=0, atol=TOLERANCE * np.abs(array).max())
    left = sum(layer.op.operations() // 2 for layer in linear_layers(small.module.main))
    assert Work(module, found).of(gone) == pytest.approx(left)
    return small, len(gone)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([0.3, 0.5, 0.9]))
def test_drawn_networks(data: st.DataObject, share: float) -> None:
    shrunk(prepared(drawn_network(data.draw)), share)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(st.data(), st.sampled_from([0.3, 0.5, 0.9]))
def test_many_drawn_networks(data: st.DataObject, share: float) -> None:
    shrunk(prepared(drawn_network(data.draw)), share)


def residual() -> ModelProto:
    net = Net()
    x = net.conv(net.input(1, 3, 8, 8), 8, 3)
    x = net.binary("Add", net.conv(net.unary("Relu", net.batch_norm(net.conv(x, 8, 3))), 8), x)
    return net.model(net.classifier(net.mean(x)))


def heads() -> ModelProto:
    net = Net()
    return net.model(net.linear(net.attention(net.input(1, 6, 8), 4), 3))


def shuffled() -> ModelProto:
    net = Net()
    x = net.conv(net.shuffle(net.conv(net.input(1, 4, 6, 6), 12, group=2), 2), 12, 3, group=12)
    return net.model(net.classifier(net.conv(x, 4)))


def pixels() -> ModelProto:
    """Depth to space, behind it a convolution."""
    net = Net()
    x = net.conv(net.input(1, 3, 4, 4), 16, 3)
    x = net.op("DepthToSpace", [x], (1, 4, 8, 8), blocksize=2)
    return net.model(net.classifier(net.conv(x, 3, 3)))


def normalized_in_groups() -> ModelProto:
    """As PyTorch exports GroupNorm: an instance normalisation of groups, laid out as channels."""
    net = Net()
    x = net.reshape(net.conv(net.input(1, 3, 4, 4), 12, 3), 1, 4, 48)
    ones, zeros = (net.constant(np.full(4, each, np.float32)) for each in (1, 0))
    x = net.reshape(net.op("InstanceNormalization", [x, ones, zeros], (1, 4, 48)), 1, 12, 4, 4)
    return net.model(net.classifier(net.conv(x, 4)))


CASES: dict[str, tuple[Any, dict[str, tuple[int, int]]]] = {
    "residual": (residual, {"Conv0": (8, 4), "Conv1": (8, 4)}),
    "heads": (heads, {"MatMul0": (4, 2)}),
    "shuffled": (shuffled, {"Conv0": (6, 3), "Conv5": (4, 2)}),
    "normalized in groups": (normalized_in_groups, {"Conv0": (4, 2), "Conv4": (4, 2)}),
    "pixels": (pixels, {"Conv0": (4, 2), "Conv2": (3, 1)}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_goes_together(name: str) -> None:
    """By the first layer of each group: sets of channels before and after."""
    make, expected = CASES[name]
    module = prepared(make())
    small, _ = shrunk(module)
    found = Dependencies(module)
    groups, _ = groups_of(module, found)
    gone = drawn(module, found, 0.5)
    sizes = {g.layers[0].split(",")[0]: (len(g.roots), sum(r not in gone for r in g.roots)) for g in groups}
    assert {key: sizes.get(key) for key in expected} == expected, sizes
    assert small.module.weight_bytes < module.weight_bytes


def reasons(model: ModelProto) -> dict[str, str]:
    module = prepared(model)
    return {each.layer: each.reason for each in groups_of(module, Dependencies(module))[1]}


def test_what_stays_and_why() -> None:
    net = Net()
    x = net.linear(net.input(1, 6, 8), 8)
    scale = net.weight(8)
    x = net.op("LayerNormalization", [x, scale], (1, 6, 8), axis=-1)
    found = reasons(net.model(net.linear(x, 3)))
    assert any("takes a mean over it" in reason for reason in found.values()), found
    assert any("result of the model" in reason for reason in found.values()), found


def test_a_slice_in_steps_keeps_what_it_takes() -> None:
    net = Net()
    x = net.conv(net.input(1, 3, 8, 8), 8)
    bounds = [net.constant([each]) for each in (0, 8, 1, 2)]
    x = net.op("Slice", [x, *bounds], (1, 4, 8, 8))
    found = reasons(net.model(net.classifier(net.conv(x, 4))))
    assert any("takes it in steps" in reason for reason in found.values()), found


def test_a_mean_within_a_group_keeps_its_channels_together() -> None:
    """Three channels in each group: one of them silent is none that may go."""
    module = prepared(normalized_in_groups())
    (reader,) = [each for each in linear_layers(module.main) if each.weight.type.sizes[:2] == (4, 12)]
    array = reader.weight.array.copy()
    array[:, :4] = 0  # a group and a third of the next
    reader.op.set_operand(1, module.add_constant("masked", array))
    feeds = random_inputs(module)
    expected = rtcc.interpret(module, feeds, precision="f64")
    run_pipeline(module, "drop-silent-channels", RunOptions(verify=True))
    assert next(iter(linear_layers(module.main))).weight.type.sizes[0] == 9
    for name, array in rtcc.interpret(module, feeds, precision="f64").items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=TOLERANCE * np.abs(array).max())


def test_channels_that_no_weight_reads_matter_by_those_that_compute_them() -> None:
    net = Net()
    x = net.input(1, 6, 8)
    queries, keys, values = (net.linear(x, 8) for _ in range(3))
    product = net.op("MatMul", [queries, net.transpose(keys, 0, 2, 1)], (1, 6, 6))
    mixed = net.op("MatMul", [net.unary("Softmax", product, axis=-1), values], (1, 6, 8))
    module = prepared(net.model(net.linear(mixed, 3)))
    found = Dependencies(module)
    layers = list(linear_layers(module.main))
    power = {layer.data: np.ones(layer.data.type.sizes[-1]) for layer in layers}
    weights = RULES[Criterion.MAGNITUDE].scores(module, found, Evidence())
    worth = RULES[Criterion.ACTIVATION].scores(module, found, Evidence(power))
    (unread,) = [g for g in groups_of(module, found)[0] if len(g.layers) == 2]  # queries and keys
    assert [worth[root] for root in unread.roots] == [weights[root] for root in unread.roots]
    assert min(worth[root] for root in unread.roots) > 0


def test_a_smaller_model_is_one_for_onnx_too(tmp_path: Path) -> None:
    for make, _ in CASES.values():
        module = prepared(make())
        small, gone = shrunk(module)
        assert gone > 0
        rtcc.write(small.module, tmp_path / "small.onnx")
        model = onnx.load(tmp_path / "small.onnx")
        checker.check_model(model, full_check=True)
        feeds = random_inputs(small.module)
        expected = rtcc.interpret(small.module, feeds)
        for name, array in run_onnxruntime(model, feeds).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5)
