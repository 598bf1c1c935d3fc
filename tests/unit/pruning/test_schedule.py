# pyright: basic
"""Criteria, sensitivities, floors, rounds: what goes first, how far, and errors that say why not."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import rtcc
from rtcc import compiler
from rtcc.errors import InvalidInput
from rtcc.ir import Constant
from rtcc.ir.ops.nn import Conv
from rtcc.pruning.criteria import RULES, Criterion
from rtcc.pruning.groups import Group
from rtcc.pruning.pruner import Pruned, prune, sensitivity
from rtcc.pruning.report import make_report, sensitivity_json
from rtcc.pruning.sensitivity import STEEPER, Curve, Cut, losses
from rtcc.quantization.mixed_precision.saved import Quality
from tests.unit.pruning.networks import Net
from tests.unit.pruning.test_pruner import DIGITS, RESIDUAL, right

TARGET = "x86:skylake-avx512"


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that are measured are compiled at -O0: of each size kernels of -O2 take a second to generate."""
    monkeypatch.setattr(compiler, "compile", partial(compiler.compile, pipeline="-O0"))


def test_every_criterion_has_a_rule() -> None:
    assert set(RULES) == set(Criterion) - {Criterion.AUTO}


def normalised(scales: list[float]) -> ModelProto:
    """A convolution whose channels are normalised with those scales, and one behind it."""
    net = Net()
    x = net.conv(net.input(1, 3, 6, 6), len(scales), 3)
    count = len(scales)
    names = [net.constant(np.array(scales, np.float32)), net.weight(count), net.weight(count),
             net.constant(np.ones(count, np.float32))]  # fmt: skip
    x = net.op("BatchNormalization", [x, *names], net.shapes[x])
    return net.model(net.classifier(net.conv(net.unary("Relu", x), 4)))


def test_channels_of_small_batch_normalisation_scales_go() -> None:
    """Also where one is folded, whatever the weights: those of the smallest scales are made the largest."""
    model = normalised([0.1, 2.0, -0.2, 3.0])
    first = next(each for each in model.graph.initializer if list(each.dims) == [4, 3, 3, 3])
    weight = np.frombuffer(first.raw_data, np.float32).reshape(4, 3, 3, 3).copy()
    weight[[0, 2]] *= 100
    first.raw_data = weight.tobytes()
    found = prune(model, keep=0.6, criterion="batch-norm", scope="uniform", multiple=1)
    kept = next(op for op in found.module.main.ops if isinstance(op, Conv))
    original = next(op for op in found.original.main.ops if isinstance(op, Conv))
    assert isinstance(kept.weight, Constant)
    assert isinstance(original.weight, Constant)
    np.testing.assert_array_equal(kept.weight.array, original.weight.array[[1, 3]])


def test_a_model_without_batch_normalisation_is_refused() -> None:
    net = Net()
    model = net.model(net.classifier(net.conv(net.input(1, 3, 6, 6), 8, 3)))
    with pytest.raises(InvalidInput, match="no batch normalisation") as raised:
        prune(model, criterion="batch-norm")
    assert raised.value.code == "no-batch-norm"


def code_of(**options: Any) -> str:
    with pytest.raises(InvalidInput) as raised:
        prune(RESIDUAL, **options)
    assert raised.value.hint
    return raised.value.code


def cut(removed: int, gain: float, decibels: float, metric: float | None = None) -> Cut:
    return Cut(removed, gain, Quality(decibels, metric))


def test_losses_per_gain_rise_within_a_group() -> None:
    group = Group((1, 2, 3, 4), ("a",))
    curve = Curve(group, (cut(1, 1.0, 20), cut(2, 3.0, 20), cut(3, 4.0, 10)))
    ((found, steps),) = losses([curve], Quality(float("inf")), by_metric=False)
    assert found is group
    assert steps == pytest.approx([0.01, 0.01, 0.09, 0.09 * STEEPER])


def test_a_metric_orders_before_noise_does() -> None:
    exact = Quality(float("inf"), 0.9)
    falls = Curve(Group((1,), ("a",)), (cut(1, 1.0, 30, 0.8),))
    stays = Curve(Group((2,), ("b",)), (cut(1, 1.0, 3, 0.95),))
    by_metric = dict(losses([falls, stays], exact, by_metric=True))
    by_noise = dict(losses([falls, stays], exact, by_metric=False))
    assert by_metric[falls.group] > by_metric[stays.group]
    assert by_noise[falls.group] < by_noise[stays.group]


@pytest.mark.usefixtures("plain_kernels")
def test_sensitivities_of_groups() -> None:
    net = Net(1)
    x = net.unary("Relu", net.conv(net.input(1, 3, 8, 8), 8, 3))
    model = net.model(net.classifier(net.unary("Relu", net.conv(x, 12, 3))))
    images = np.random.default_rng(0).uniform(0, 1, (12, 3, 8, 8)).astype(np.float32)
    found = sensitivity(model, {"x": images}, target=TARGET)
    assert [len(curve.group.roots) for curve in found.curves] == [8, 12]
    for curve in found.curves:
        assert [each.removed for each in curve.cuts] == [len(curve.group.roots) * n // 4 for n in (1, 2, 3)]
        gains = [each.gain for each in curve.cuts]
        assert gains == sorted(gains)
        assert 0 < gains[-1] < found.whole
        assert curve.cuts[0].quality.sqnr > curve.cuts[-1].quality.sqnr
    assert len(json.loads(sensitivity_json(found))["cuts"]) == 6


def agreeing() -> Pruned:
    return prune(RESIDUAL, DIGITS, max_drop="2%", keep=0.55, samples=60)


@pytest.mark.usefixtures("plain_kernels")
def test_a_floor_that_holds() -> None:
    found = agreeing()
    assert found.multiply_adds[1] <= 0.55 * found.multiply_adds[0]
    assert found.outcome is not None
    exact, quality = found.outcome.exact, found.outcome.quality
    assert exact is not None
    assert quality is not None
    assert quality.metric is not None
    assert exact.metric is not None
    assert quality.metric >= 0.98 * exact.metric
    assert [each.left for each in found.outcome.tried] == [0.55]
    assert "a drop of 2% held" in "\n".join(make_report(found, target=TARGET).summary())


@pytest.mark.usefixtures("plain_kernels")
def test_a_floor_that_does_not_hold_says_what_would() -> None:
    with pytest.raises(InvalidInput, match=r"does not hold with 15.0% .* left: .* dB") as raised:
        prune(RESIDUAL, DIGITS, keep=0.15, min_sqnr=12, multiple=1, scope="global", samples=40)
    assert raised.value.code == "floor-not-held"
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("keep 0.")


def test_rounds_repair_to_what_the_model_itself_computed() -> None:
    """About as many as in one round, and as good; biases that were shifted twice read 41 % right."""
    one, three = (
        prune(RESIDUAL, DIGITS, keep=0.4, scope="uniform", multiple=1, samples=60, rounds=n) for n in (1, 3)
    )
    assert all(abs(x.after - y.after) <= 1 for x, y in zip(one.rows, three.rows, strict=True))
    assert right(three) > right(one) - 0.03


def test_factorised_instead_of_pruned_or_as_well() -> None:
    alone = prune(RESIDUAL, factorize="energy=0.9", target=TARGET)
    assert alone.rows == []
    assert alone.factored
    both = prune(RESIDUAL, DIGITS, factorize="energy=0.9", keep=0.7, samples=20, target=TARGET)
    assert both.rows
    assert both.factored
    assert both.multiply_adds[1] < 0.7 * both.multiply_adds[0]


def test_bad_input() -> None:
    labels = {"image": np.zeros((8, 1, 28, 28), np.float32)}
    assert code_of(rounds=0) == "prune-option"
    assert code_of(max_drop="much") == "prune-option"
    assert code_of(min_sqnr=float("inf")) == "prune-option"
    assert code_of(min_sqnr=20) == "no-data"
    assert code_of(scope="sensitivity") == "no-data"
    assert code_of(sparsity=0.5, scope="sensitivity") == "prune-option"
    assert code_of(sparsity=0.5, criterion="batch-norm") == "prune-option"
    assert code_of(sparsity=0.5, factorize="rank=3") == "prune-option"
    name = rtcc.read(RESIDUAL).main.parameters[0].name
    assert code_of(data={str(name): labels["image"]}, max_drop="1%") == "no-metric"
    assert code_of(data={str(name): labels["image"][:1]}, min_sqnr=5.0) == "data-too-few"
