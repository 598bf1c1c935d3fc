"""The benchmark networks, the zoo, the light and the generated models are what the other tests think."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from benchmarks.models.light import light_model
from benchmarks.models.networks import (
    gru,
    lenet,
    lstm,
    lstm_bidirectional,
    minilm,
    mobilenet_v2,
    resnet18,
    resnet50,
    sample_inputs,
    vgg16,
)
from benchmarks.models.real import SMALL as REAL_SMALL
from benchmarks.models.reference import Deviation, compare, float64_reference, onnxruntime_outputs
from benchmarks.models.zoo import ZOO, zoo_model
from rtcc.interpreter import interpret
from tests.models.nnsmith import generated_cases

DEMO = Path(__file__).parents[2] / "rtcc" / "demo"

SMALL: dict[str, Callable[[], ModelProto]] = {
    "lenet": lenet,
    "resnet18": lambda: resnet18(width=8, size=64, classes=10),
    "resnet50": lambda: resnet50(width=8, size=64, classes=10),
    "mobilenet_v2": lambda: mobilenet_v2(width=0.25, size=64, classes=10),
    "vgg16": lambda: vgg16(width=4, size=32, classes=10, hidden=32),
    "minilm": lambda: minilm(layers=2, hidden=48, heads=4, tokens=16, vocabulary=1000),
    "minilm-layernorm": lambda: minilm(
        layers=2, hidden=48, heads=4, tokens=16, vocabulary=1000, primitive=False
    ),
    "lstm": lambda: lstm(steps=5, features=8, hidden=12),
    "lstm-bidirectional": lambda: lstm_bidirectional(steps=5, features=8, hidden=12),
    "gru": lambda: gru(steps=5, features=8, hidden=12),
}


@pytest.mark.parametrize("name", SMALL)
def test_benchmark_network_is_well_conditioned(name: str) -> None:
    model = SMALL[name]()
    assert model.SerializeToString() == SMALL[name]().SerializeToString()
    answers = [onnxruntime_outputs(model, sample_inputs(model, seed)) for seed in range(4)]
    (output,) = answers[0]
    stacked = np.stack([answer[output] for answer in answers])
    assert np.isfinite(stacked).all()
    assert 0.01 < stacked.std() < 1e3
    assert stacked.std(axis=0).mean() > 0.05 * stacked.std(), "the answer hardly depends on the input"


@pytest.mark.parametrize("name", SMALL)
def test_float64_reference_agrees_with_onnxruntime(name: str) -> None:
    model = SMALL[name]()
    feeds = sample_inputs(model)
    found = onnxruntime_outputs(model, feeds)
    for deviation in compare(found, found, float64_reference(model, feeds)).values():
        assert deviation.theirs <= 1e-4 * deviation.scale


@pytest.mark.parametrize("name", REAL_SMALL)
def test_float64_reference_agrees_with_the_interpreter_in_float64(name: str) -> None:
    """Two evaluations in float64 that share no code: neither may fall back to float32, or err."""
    real = REAL_SMALL[name]
    model = real.build()
    exact = float64_reference(model, real.feeds(model, 0))
    found = interpret(real.module(), real.open_feeds(0), precision="f64")
    for output, array in exact.items():
        assert np.abs(found[output] - array).max() <= 1e-12 * np.abs(array).max()


def test_a_broken_yardstick_is_noticed() -> None:
    assert Deviation(ours=1e-6, theirs=1e-5, scale=1.0).is_sound
    assert not Deviation(ours=0.0, theirs=0.5, scale=1.0).is_sound
    assert not Deviation(ours=0.0, theirs=np.inf, scale=1.0).is_sound
    assert not Deviation(ours=1e-3, theirs=1e-5, scale=1.0).within(4, 2e-5)


def test_light_model_depends_on_its_input() -> None:
    model = light_model("squeezenet")
    random = np.random.default_rng(0)
    pictures = [random.standard_normal((1, 3, 224, 224)).astype(np.float32) + shift for shift in (0, 2)]
    first, second = (onnxruntime_outputs(model, {"data_0": picture})["softmaxout_1"] for picture in pictures)
    assert np.isfinite(first).all()
    assert not np.allclose(first, second, rtol=1e-2)


def test_generated_cases_are_complete() -> None:
    cases = generated_cases()
    assert len(cases) == 98
    for case in cases.values():
        graph = onnx.load_model_from_string(case.model).graph
        assert {value.name for value in graph.output} == set(case.expected)
        assert set(case.feeds) <= {value.name for value in graph.input}


@pytest.mark.parametrize("name", ZOO)
def test_zoo_shapes_fit_the_model(name: str) -> None:
    model = ModelProto.FromString(zoo_model(name).read_bytes())
    assert {value.name for value in model.graph.input} == set(ZOO[name].shapes)


def test_demo_model_reads_the_held_out_digits() -> None:
    model = ModelProto.FromString((DEMO / "lenet5_mnist.onnx").read_bytes())
    with np.load(DEMO / "mnist_held_out.npz") as data:
        images, labels = data["image"].astype(np.float32), data["labels"]
    outputs = [onnxruntime_outputs(model, {"image": image[None]})["logits"] for image in images[:200]]
    assert np.mean(np.concatenate(outputs).argmax(axis=1) == labels[:200]) >= 0.97
