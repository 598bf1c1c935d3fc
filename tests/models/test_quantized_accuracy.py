"""What 8 bits cost small trained networks, and that other runtimes read the exported models alike.

Calibrated on 200 digits of the training set, measured on the 1,000 digits that no network has seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rtcc
from benchmarks.models.zoo import zoo_model

Array = NDArray[Any]
ROOT = Path(__file__).parents[2]
DEMO, DIGITS = ROOT / "rtcc" / "demo", ROOT / "tests" / "data" / "digits"
NETWORKS = {
    "lenet": DEMO / "lenet5_mnist.onnx",
    "residual": DIGITS / "residual.onnx",
    "depthwise": DIGITS / "depthwise.onnx",
}
MOST_LOST = {"lenet": 3, "residual": 5, "depthwise": 5}
"""How many of the 1,000 digits fewer may be read right: 0.3 and 0.5 points."""


@dataclass(frozen=True)
class Answers:
    """The classes that the digits held out get: as float, compiled by rtcc, exported."""

    exact: Array
    compiled: Array
    exported: Array


@cache
def held_out() -> tuple[Array, Array]:
    """Images f32[1000,1,28,28] and their labels."""
    with np.load(DEMO / "mnist_held_out.npz") as data:
        return data["image"].astype(np.float32), data["labels"]


@pytest.fixture(scope="module", params=NETWORKS)
def answered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Answers]:
    name: str = request.param
    with np.load(DIGITS / "training_digits.npz") as data:
        given = data["image"].astype(np.float32)
    path = tmp_path_factory.mktemp("quantized") / f"{name}.onnx"
    rtcc.quantize(NETWORKS[name], {"image": given}).write(path)
    images, _ = held_out()
    artifact = rtcc.compile(path, target="x86", threads=1)
    compiled = [artifact.run({"image": image[None]})["logits"].argmax() for image in images]
    return name, Answers(
        in_onnxruntime(NETWORKS[name], "image", images).argmax(axis=1),
        np.array(compiled),
        in_onnxruntime(path, "image", images).argmax(axis=1),
    )


def in_onnxruntime(path: Path, name: str, samples: Array) -> Array:
    """The scores of each sample as ONNX Runtime finds them."""
    plain = pytest.importorskip("onnxruntime")
    runtime: Any = plain
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(path, options)
    return np.concatenate([session.run(None, {name: sample[None]})[0] for sample in samples])


def test_few_digits_are_lost(answered: tuple[str, Answers]) -> None:
    name, answers = answered
    _, labels = held_out()
    before, after = (int(np.sum(found == labels)) for found in (answers.exact, answers.compiled))
    assert len(labels) == 1000
    assert before > 970
    assert before - after <= MOST_LOST[name]


def test_the_exported_model_answers_alike_elsewhere(answered: tuple[str, Answers]) -> None:
    _, answers = answered
    assert (answers.compiled == answers.exported).mean() >= 0.999


def test_a_real_model_answers_alike_elsewhere(tmp_path: Path) -> None:
    path, shape = tmp_path / "cls.onnx", (1, 3, 48, 192)
    generator = np.random.default_rng(3)
    coarse = generator.uniform(-1, 1, (48, 3, 12, 48)).astype(np.float32)
    samples = coarse.repeat(4, axis=2).repeat(4, axis=3)
    rtcc.quantize(zoo_model("ppocr-cls"), {"x": samples[:32]}, shapes={"x": shape}).write(path)
    artifact = rtcc.compile(path, target="x86", threads=1)
    (output,) = artifact.outputs
    found = np.concatenate([artifact.run({"x": sample[None]})[output.name] for sample in samples])
    exported = in_onnxruntime(path, "x", samples)
    margins = np.abs(exported[:, 0] - exported[:, 1])
    assert np.abs(found - exported).max() < 0.05
    assert np.array_equal(found.argmax(axis=1)[margins > 0.1], exported.argmax(axis=1)[margins > 0.1])
    assert (margins > 0.1).sum() >= 24
    assert set(map(int, exported.argmax(axis=1))) == {0, 1}, "one class alone would show little"
