"""Times and sizes per layer: whose they are, that they add up, and models that have none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import rtcc
from rtcc.data import from_arrays
from rtcc.prediction import predict
from rtcc.quantization.quantizer import unwatched
from rtcc.quantization.reporting.report import make_report
from rtcc.quantization.reporting.times import OTHERS, times_of
from rtcc.text import parse_module
from tests.unit.quantization.test_search import network, pictures

VNNI = "x86:znver5"
"""What is predicted is the same on any machine: this CPU computes the network's layers in integers."""


def test_times_add_up_to_the_models_and_sizes_are_those_of_weights() -> None:
    quantized = rtcc.quantize(network(), pictures(4), keep_float=("conv2",))
    times = times_of(quantized, VNNI, unwatched, is_measured=False)
    rows = {row.name: row for row in times.rows}
    assert list(rows) == ["conv1", "conv2", "conv3", "fc", OTHERS]
    assert times.total("predicted_before") == pytest.approx(predict(quantized.float_module, VNNI).seconds)
    assert times.total("predicted_after") == pytest.approx(predict(quantized.module, VNNI).seconds)
    assert rows["conv3"].predicted_after < rows["conv3"].predicted_before
    assert rows["conv2"].predicted_after == pytest.approx(rows["conv2"].predicted_before, rel=0.1)
    assert rows["conv1"].bytes_before == 32 * 16 * 9 * 4
    assert rows["conv1"].bytes_after == 32 * 16 * 9 + 32 * 4 + 32
    assert rows["conv2"].bytes_after is rows[OTHERS].bytes_after is None
    assert times.total("measured_before") is None


def test_kernels_are_measured_where_that_is_asked_for() -> None:
    quantized = rtcc.quantize(network(), pictures(4), keep_float=("conv2",))
    for row in times_of(quantized, None, unwatched, is_measured=True).rows[:4]:
        assert row.measured_before
        assert row.measured_after


def test_reports_have_times() -> None:
    report = make_report(rtcc.quantize(network(), pictures(4)), compare=0)
    assert report.times is not None
    assert report.times.rows[0].measured_before is None
    assert report.times.total("measured_before") is None
    assert '"predicted_before": ' in report.to_json()
    assert any(line.startswith("predicted   ") for line in report.summary())
    assert "one run, µs" in [table.title for table in report.tables()]


@pytest.mark.parametrize("option", [{"activations": "i16"}, {"weights": "affine"}, {"weights": "normalized"}])
def test_layers_that_integers_do_not_compute_are_told(option: dict[str, Any]) -> None:
    quantized = rtcc.quantize(network(), pictures(4), keep_float=("conv2",), **option)
    report = make_report(quantized, compare=0)
    line = "in floats   3 of 3 quantised layers are computed so: conv1, conv3, fc"
    assert line in report.summary()
    told = {row["name"]: row["in_integers"] for row in json.loads(report.to_json())["times"]}
    assert told == {"conv1": False, "conv2": None, "conv3": False, "fc": False, OTHERS: None}


def test_layers_that_integers_compute_are_told() -> None:
    quantized = rtcc.quantize(network(), pictures(4), keep_float=("conv2",))
    report = make_report(quantized, compare=0, target=VNNI)
    assert not any(line.startswith("in floats") for line in report.summary())
    told = {row["name"]: row["in_integers"] for row in json.loads(report.to_json())["times"]}
    assert told == {"conv1": True, "conv2": None, "conv3": True, "fc": True, OTHERS: None}


def test_weights_alone_ask_for_no_integers() -> None:
    report = make_report(rtcc.quantize(network(), scheme="weights-int8"), compare=0)
    assert report.times is not None
    assert all(row.in_integers is None for row in report.times.rows)


def test_a_product_of_two_activations_that_is_quantised_counts() -> None:
    module = parse_module(
        "// rtir 1  level=graph\ngraph @main(%x: f32[1,16,32], %y: f32[1,32,16]) {\n"
        '  %z = nn.mat_mul(%x, %y) : f32[1,16,16] loc("scores")\n  return(%z)\n}\n'
    )
    noise = np.random.default_rng(0).standard_normal((4, 1, 16, 32)).astype(np.float32)
    data = {"x": noise[:, 0], "y": noise[:, 0].swapaxes(1, 2).copy()}
    report = make_report(rtcc.quantize(module, data, products=True), compare=0)
    assert "in floats   1 of 1 quantised layers are computed so: scores" in report.summary()


def test_a_model_that_is_not_compiled_says_so() -> None:
    text = (
        "// rtir 1  level=graph\ndim N in [1,8]\nconst #w : f32[4,8] = splat(0.5)\n"
        'graph @main(%x: f32[N,4]) {\n  %y = nn.mat_mul(%x, #w) : f32[N,8] loc("fc")\n  return(%y)\n}\n'
    )
    module = parse_module(text)
    data = {"x": pictures(1)["x"].reshape(-1, 4)[:8]}
    assert from_arrays(data, module.main).metric is None
    report = make_report(rtcc.quantize(module, data), compare=0)
    assert report.times is not None
    assert report.times.rows == ()
    assert any(
        line.startswith("times       unknown, the model is not compiled: ") for line in report.summary()
    )
