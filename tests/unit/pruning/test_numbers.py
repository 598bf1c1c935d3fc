# pyright: basic
"""Infinities inside a network, weights that are no numbers: refused by the layer's name, or left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

import rtcc
from rtcc.errors import InvalidInput
from rtcc.linear.layers import linear_layers
from rtcc.linear.matrices import NOT_FINITE, rows_of
from tests.unit.pruning.networks import Net

DATA = {"x": np.random.default_rng(0).standard_normal((6, 1, 3, 6, 6)).astype(np.float32)}


def overflowing() -> ModelProto:
    """A convolution, exp(100·x), which is infinite for some of its results, and another that reads that."""
    net = Net(0)
    large = net.binary("Mul", net.conv(net.input(1, 3, 6, 6), 8, 3), net.constant(np.float32(100)))
    return net.model(net.classifier(net.conv(net.unary("Exp", large), 8, 3)))


def broken(value: float) -> ModelProto:
    """Four convolutions; an element of the second's weight is no number."""
    net = Net(0)
    x = net.input(1, 3, 6, 6)
    for _ in range(4):
        x = net.conv(x, 8, 3)
    net.constants["c2"][3, 5, 1, 1] = value
    return net.model(net.classifier(x))


@pytest.mark.parametrize("options", [
    {"keep": 0.6, "multiple": 1},
    {"keep": 0.6, "multiple": 1, "criterion": "magnitude"},
    {"sparsity": 0.5},
    {"sparsity": 0.5, "criterion": "magnitude"},
    {"factorize": "rank=1"},
], ids=str)  # fmt: skip
def test_an_overflow_inside_names_the_layer_that_reads_it(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="infinite or NaN") as raised:
        rtcc.prune(overflowing(), DATA, **options)
    assert raised.value.code == "activation-not-finite"
    assert raised.value.where == "Conv3"
    assert raised.value.hint


def test_rows_are_numbers() -> None:
    layer = next(linear_layers(rtcc.read(overflowing()).main))
    data = DATA["x"][0].copy()
    assert np.isfinite(rows_of(layer, data, 0)).all()
    data[0, 0, 0, 0] = np.nan
    with pytest.raises(InvalidInput, match="sample 7"):
        rows_of(layer, data, 7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_stay(value: float) -> None:
    """So do their channels: sorted by what is no number, those would have gone first."""
    model = broken(value)
    for options in ({"keep": 0.7, "multiple": 1}, {"sparsity": 0.3}, {"threshold": 0.5}):
        found = rtcc.prune(model, **options)
        left = [np.argwhere(~np.isfinite(each.array)) for each in found.module.constants.values()]
        assert [at.tolist() for at in left if len(at)] == [[[3, 5, 1, 1]]], options
        reasons = {each.layer: each.reason for each in found.kept}
        assert NOT_FINITE in reasons["Conv1"]
        assert found.multiply_adds[1] < found.multiply_adds[0]


def test_what_reads_such_channels_is_named() -> None:
    for options in ({"keep": 0.7, "multiple": 1}, {"sparsity": 0.3}):
        with pytest.raises(InvalidInput) as raised:
            rtcc.prune(broken(np.nan), DATA, **options)
        assert (raised.value.code, raised.value.where) == ("activation-not-finite", "Conv2")
