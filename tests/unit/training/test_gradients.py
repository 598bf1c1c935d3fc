# pyright: basic
"""Criteria by gradients: what a loss changes by, with labels and without, and which channels go by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import rtcc
from rtcc.data import Data, data_of, split
from rtcc.errors import InvalidInput, Unsupported
from rtcc.ir import Module
from rtcc.linear.layers import linear_layers
from rtcc.pruning.criteria import RULES, Criterion, Evidence
from rtcc.pruning.dependencies import Dependencies
from rtcc.pruning.groups import read_roots
from rtcc.pruning.pruner import Pruned, prune
from rtcc.training import gradients
from rtcc.training.gradients import Changes, loss_changes
from tests.unit.pruning.networks import Net
from tests.unit.pruning.test_pruner import DIGITS, RESIDUAL, right
from tests.unit.training.networks import CLASSES, perceptron, points, with_constant

GRADIENTS = [Criterion.TAYLOR, Criterion.FISHER]
SMALL = 1e-2


def data(module: Module, count: int, *, labelled: bool) -> Data:
    labels = {"labels": np.arange(count) % CLASSES} if labelled else {}
    found = data_of({**points(count), **labels}, module.main)
    assert found is not None
    return found


def scaled(module: Module, symbol: str, channel: int, factor: float) -> Module:
    """The module with the weights that read a channel multiplied."""
    array = module.constants[symbol].array.copy()
    array[channel] *= factor
    return with_constant(module, symbol, array)


def logits(module: Module, x: Any) -> Any:
    return rtcc.interpret(module, {"x": x[None]})["logits"].astype(np.float64)


def cross_entropy(module: Module, x: Any, label: int) -> float:
    scores = logits(module, x).ravel()
    return float(np.log(np.exp(scores).sum()) - scores[label])


def slope(of: Any, module: Module, channel: int) -> Any:
    """The derivative along a factor before a channel that the second layer reads, by differences."""
    up, down = (of(scaled(module, "w2", channel, 1 + sign * SMALL)) for sign in (1, -1))
    return (up - down) / (2 * SMALL)


def test_changes_of_the_cross_entropy_are_its_differences() -> None:
    module = perceptron(width=5)
    x = points(3)["x"]
    found = loss_changes(module, data(module, 3, labelled=True), 3)[module.constants["w2"]]
    expected = [
        [slope(lambda m, n=n: cross_entropy(m, x[n], n), module, channel) for channel in range(5)]
        for n in range(3)
    ]
    np.testing.assert_allclose(found.read, expected, rtol=1e-2, atol=1e-4)


def test_without_labels_squares_are_what_outputs_change_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "DRAWS", 1500)
    module = perceptron(width=5)
    (x,) = points(1)["x"]
    found = loss_changes(module, data(module, 1, labelled=False), 1)[module.constants["w2"]]
    assert found.read.shape == (1500, 5)
    size = np.square(logits(module, x)).sum()
    for channel in range(5):
        change = np.square(slope(lambda m: logits(m, x), module, channel)).sum() / size
        assert np.square(found.read[:, channel]).mean() == pytest.approx(change, rel=0.2, abs=1e-6)


def test_written_channels_are_those_that_are_computed() -> None:
    """Without biases and with a linear function between, a hidden channel is worth the same on both sides."""
    net = Net()
    model = net.model(net.linear(net.linear(net.input(2, 4), 6), 3))
    module = rtcc.read(model)
    for constant in module.constants.values():
        if constant.type.rank == 1:
            module = with_constant(module, constant.symbol, np.zeros_like(constant.array))
    found = data_of({"x": np.ones((8, 4), np.float32)}, module.main)
    assert found is not None
    first, second = (loss_changes(module, found, 4)[layer.weight] for layer in linear_layers(module.main))
    assert first.written is not None
    np.testing.assert_allclose(first.written, second.read, rtol=1e-4, atol=1e-6)


def test_taylor_is_of_means_and_fisher_of_squares() -> None:
    module = perceptron(width=2)
    changes = Changes(np.array([[3, 1.2], [0, -1.2], [0, 1.2]]), None)
    seen = Evidence(changes={module.constants["w2"]: changes})
    found = Dependencies(module)
    roots = read_roots(list(linear_layers(module.main))[1], found)
    taylor, fisher = (RULES[each].scores(module, found, seen) for each in GRADIENTS)
    assert [taylor[root] for root in roots] == pytest.approx([1, 1.2])
    assert [fisher[root] for root in roots] == pytest.approx([3, 1.44])


def cancelling() -> Any:
    """Of four channels the first is read twice, with opposite weights, the largest of all."""
    net = Net(4)
    hidden = net.conv(net.input(1, 3, 4, 4), 4)
    weight = net.random.standard_normal((5, 4, 1, 1)).astype(np.float32)
    weight[:, 0] = 10
    other = weight.copy()
    other[:, 0] = -10
    one, two = (net.op("Conv", [hidden, net.constant(each)], (1, 5, 4, 4)) for each in (weight, other))
    return net.model(net.classifier(net.binary("Add", one, two)))


def kept_filters(found: Pruned) -> list[int]:
    """Which filters of the first layer are left."""
    before, after = (next(linear_layers(each.main)).weight.array for each in (found.original, found.module))
    return [n for n, each in enumerate(before) if any(np.array_equal(each, other) for other in after)]


@pytest.mark.parametrize("criterion", GRADIENTS)
def test_changes_of_all_that_read_a_channel_are_added_up(criterion: str) -> None:
    images = {"x": np.random.default_rng(0).uniform(0, 1, (8, 3, 4, 4)).astype(np.float32)}
    options: dict[str, Any] = {"keep": 0.85, "multiple": 1, "scope": "uniform", "repair": False}
    by_gradients, by_power = (
        prune(cancelling(), images, criterion=each, **options) for each in (criterion, "activation")
    )
    assert by_gradients.repaired == 0
    assert 0 not in kept_filters(by_gradients)
    assert 0 in kept_filters(by_power)


@pytest.mark.parametrize("criterion", GRADIENTS)
def test_a_network_that_is_pruned_by_gradients(criterion: str) -> None:
    """Unrepaired, it reads three times as many digits as by magnitude, with which it guesses."""
    options: dict[str, Any] = {"keep": 0.6, "multiple": 1, "samples": 80}
    bare = prune(RESIDUAL, DIGITS, criterion=criterion, repair=False, **options)
    guessing = prune(RESIDUAL, DIGITS, criterion="magnitude", repair=False, **options)
    assert right(bare) > 0.3 > 3 * right(guessing)


def test_gradients_that_are_no_numbers_are_refused() -> None:
    module = perceptron()
    for symbol in ("w1", "w2"):
        module = with_constant(module, symbol, module.constants[symbol].array * np.float32(1e30))
    with pytest.raises(InvalidInput) as raised:
        loss_changes(module, data(module, 3, labelled=True), 3)
    assert raised.value.code == "gradient-not-finite"


def test_held_out_samples_keep_their_labels() -> None:
    module = perceptron()
    parts = split(data(module, 12, labelled=True))
    for part, numbers in zip(parts, ([0, 2, 3, 4], [1, 5, 9]), strict=True):
        assert part.labelled is not None
        labels = [int(found[0]) for _, found in part.labelled() if found is not None]
        assert labels[: len(numbers)] == [number % CLASSES for number in numbers]


def test_what_is_refused() -> None:
    net = Net()
    weights = [net.weight(1, 32, 4), net.weight(1, 32, 8)]
    sequence = net.op("LSTM", [net.input(2, 1, 4), *weights], (2, 1, 1, 8), hidden_size=8)
    recurrent = net.model(net.linear(net.linear(net.reshape(sequence, 2, 8), 8), 3))
    with pytest.raises(Unsupported) as unsupported:
        prune(recurrent, {"x": np.ones((4, 1, 4), np.float32)}, criterion="taylor")
    assert (unsupported.value.code, unsupported.value.where) == ("no-training-rule", "LSTM0")
    assert unsupported.value.hint == "the criterion activation needs no gradients"
    labels = np.arange(20) + 5
    images = np.load(DIGITS)["image"][:20].astype(np.float32)
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("no-data", None, {"criterion": "fisher"}),
        ("prune-option", DIGITS, {"criterion": "taylor", "sparsity": 0.5}),
        ("data-labels", {"image": images, "labels": labels}, {"criterion": "taylor"}),
        ("data-empty", {"image": images[:0]}, {"criterion": "taylor"}),
    ]
    for code, given, options in cases:
        with pytest.raises(InvalidInput) as raised:
            prune(RESIDUAL, given, **options)
        assert (raised.value.code, bool(raised.value.hint)) == (code, True)
