"""The search for layers that stay float: what it chooses, that its floor holds, that it goes on, errors."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import rtcc
from rtcc.data import from_arrays, split
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.quantization.end_to_end import Quantized
from rtcc.quantization.mixed_precision.saved import Kept, Quality
from rtcc.quantization.mixed_precision.search import MOST_MODELS, MOST_RETURNED, Floor, Found, search
from rtcc.quantization.mixed_precision.trials import Floatable, Trials, Watching
from rtcc.quantization.quantizer import Step
from rtcc.targets.x86.cpus import host_cpu
from rtcc.text import parse_module
from tests.unit.quantization.test_quantizer import decibels, interpreted


@dataclass
class Additive:
    """Stands for `Trials`: seconds and noise of layers, by name, add up; each model measured is counted."""

    layers: dict[str, tuple[float, float]]
    """Seconds that integers gain, and noise that they bring."""
    metric_slope: float | None = None
    harmless: Kept = frozenset()
    """Layers whose noise leaves the metric alone."""
    watching: Watching = field(default_factory=Watching)
    resumed: int = 0
    measured: list[Kept] = field(default_factory=list[Kept])

    @property
    def choices(self) -> tuple[Floatable, ...]:
        return tuple(Floatable(name, name) for name in self.layers)

    @property
    def everything(self) -> Kept:
        return frozenset(self.layers)

    @property
    def samples(self) -> Any:
        @dataclass
        class Held:
            name: str = "held"
            metric: object = self.metric_slope

            def samples(self, most: int) -> list[object]:
                return [object()] * 4

        @dataclass
        class Both:
            held_out: Held = field(default_factory=Held)
            most: int = 4

        return Both()

    def seconds(self, kept: Kept) -> float:
        return 1.0 + sum(gain for name, (gain, _) in self.layers.items() if name in kept)

    def quality(self, kept: Kept) -> Quality:
        self.measured.append(kept)
        noise = sum(noise for name, (_, noise) in self.layers.items() if name not in kept)
        seen = sum(noise for name, (_, noise) in self.layers.items() if name not in kept | self.harmless)
        metric = None if self.metric_slope is None else 1 - self.metric_slope * seen
        return Quality(-10 * math.log10(noise) if noise else math.inf, metric)


def searched(trials: Additive, floor: Floor) -> Found:
    return search(cast("Trials", trials), floor)


def many(count: int) -> dict[str, tuple[float, float]]:
    generator = np.random.default_rng(3)
    gains, noises = generator.uniform(0.01, 0.1, count), 10 ** generator.uniform(-7, -3, count)
    return {f"layer{n}": (float(g), float(e)) for n, (g, e) in enumerate(zip(gains, noises, strict=True))}


def test_what_costs_most_per_second_gained_stays_float() -> None:
    layers = {"noisy": (0.1, 1e-2), "slow": (-0.05, 1e-9), "good": (0.2, 1e-5), "fine": (0.1, 1e-4)}
    found = searched(Additive(layers), Floor(min_sqnr=35))
    assert found.chosen.kept == {"noisy", "slow"}
    assert found.chosen.quality.sqnr >= 35
    assert searched(Additive(layers), Floor(min_sqnr=10)).chosen.kept == {"slow"}
    assert searched(Additive(layers), Floor(min_sqnr=45)).chosen.kept == {"noisy", "slow", "fine"}


@pytest.mark.parametrize("floor", [31.0, 36.0, 42.0, 50.0])
def test_few_models_are_measured_and_the_floor_holds_by_a_little(floor: float) -> None:
    trials = Additive(many(64))
    found = searched(trials, Floor(min_sqnr=floor))
    assert found.chosen.quality.sqnr >= floor
    assert len(set(trials.measured)) <= 64 + MOST_MODELS
    others = [point for point in found.points if point.seconds < found.chosen.seconds]
    assert others
    assert all(point.quality.sqnr < floor for point in others)
    assert found.points == tuple(sorted(found.points, key=lambda point: point.seconds))
    front = [point.quality.sqnr for point in found.points if point.is_front]
    assert front == sorted(front)
    assert searched(Additive(many(64)), Floor(min_sqnr=floor)) == found


def test_a_layer_that_gains_much_and_loses_much_does_not_hide_the_rest() -> None:
    layers = {"huge": (1.0, 1e-2), "small": (1e-6, 1e-5)}
    assert searched(Additive(layers), Floor(min_sqnr=45)).chosen.kept == {"huge"}


def test_a_drop_is_of_the_metric() -> None:
    layers = {"a": (0.1, 1e-2), "b": (0.1, 1e-4)}
    trials = Additive(layers, metric_slope=1.0)
    assert searched(trials, Floor.of(None, "0.5%")).chosen.kept == {"a"}
    assert searched(trials, Floor.of(None, 0.1)).chosen.kept == set()
    both = Floor.of(43.0, "0.1%")
    assert str(both) == "43 dB and a drop of 0.1%"
    with pytest.raises(InvalidInput, match="no model with integers holds 43 dB") as caught:
        searched(trials, both)
    assert caught.value.code == "floor-not-held"
    assert caught.value.hint is not None
    assert "1 float: 40.0 dB, metric 0.9999" in caught.value.hint


def test_a_floor_of_the_metric_keeps_what_the_metric_needs() -> None:
    loud = [f"loud{number}" for number in range(MOST_RETURNED + 2)]
    layers = {**dict.fromkeys(loud, (0.1, 1e-2)), "near": (0.1, 1e-3), "far": (0.1, 1e-4)}
    trials = Additive(layers, metric_slope=1.0, harmless=frozenset(loud))
    assert searched(trials, Floor.of(None, 5e-4)).chosen.kept == {"near"}
    assert searched(trials, Floor.of(30.0, 5e-4)).chosen.kept == {*loud, "near"}


@pytest.mark.parametrize(
    ("layers", "floor"),
    [({"a": (-0.1, 1e-3), "b": (-0.2, 1e-3)}, 10), ({"a": (0.0, 1e-3)}, 10)],
)
def test_integers_that_gain_nothing_are_refused(layers: Any, floor: float) -> None:
    with pytest.raises(InvalidInput, match="the float model takes") as caught:
        searched(Additive(layers), Floor(min_sqnr=floor))
    assert caught.value.code == "nothing-gained"


@pytest.mark.parametrize("words", [{"max_drop": "much"}, {"max_drop": "-1%"}, {"max_drop": float("nan")},
                                   {"min_sqnr": float("inf")}])  # fmt: skip
def test_floors_are_numbers(words: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Floor.of(**words)
    assert caught.value.code == "quantize-option"


# ------------------------------------------------------------------------------------------------ real models


def network() -> Module:
    """Convolutions large enough for integers to gain, and a product."""
    generator = np.random.default_rng(5)
    module = parse_module(
        "// rtir 1  level=graph\n"
        "const #w1 : f32[32,16,3,3] = splat(0.0)\nconst #w2 : f32[64,32,3,3] = splat(0.0)\n"
        "const #w3 : f32[64,64,3,3] = splat(0.0)\nconst #w4 : f32[64,10] = splat(0.0)\n"
        "graph @main(%x: f32[1,16,20,20]) {\n"
        '  %c1 = nn.conv(%x, #w1) {pads = [1,1,1,1]} : f32[1,32,20,20] loc("conv1")\n'
        "  %r1 = math.relu(%c1) : f32[1,32,20,20]\n"
        '  %c2 = nn.conv(%r1, #w2) {pads = [1,1,1,1]} : f32[1,64,20,20] loc("conv2")\n'
        "  %r2 = math.relu(%c2) : f32[1,64,20,20]\n"
        '  %c3 = nn.conv(%r2, #w3) {pads = [1,1,1,1]} : f32[1,64,20,20] loc("conv3")\n'
        "  %p = nn.global_average_pool(%c3) : f32[1,64,1,1]\n"
        "  %f = tensor.flatten(%p) : f32[1,64]\n"
        '  %y = nn.mat_mul(%f, #w4) : f32[1,10] loc("fc")\n'
        "  return(%y)\n}\n"
    )
    for name, constant in list(module.constants.items()):
        data = generator.standard_normal(constant.type.sizes).astype(np.float32) / 8
        constant.replace_uses(module.add_constant(f"{name}.filled", data))
        del module.constants[name]
    return module


def pictures(count: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((count, 16, 20, 20)).astype(np.float32)}


def require_vnni() -> None:
    """Skip where the CPU has no sums of products of bytes: this network's integers then gain nothing."""
    if "avx512vnni" not in host_cpu().features:
        pytest.skip(f"integers gain nothing in this network on {host_cpu().name}, which has no VNNI")


def mixed(state: Path | None = None, progress: Any = None, **words: Any) -> Quantized:
    return rtcc.quantize(network(), pictures(16), state=state, progress=progress, **words)


@cache
def floored_at_52() -> Quantized:
    return mixed(min_sqnr=52.0)


def test_a_floor_holds_in_the_model_that_comes_out() -> None:
    require_vnni()
    plain, floored = mixed(), floored_at_52()
    found = floored.found
    assert found is not None
    assert 0 < len(found.chosen.kept) < 3
    held_out = {"x": pictures(16)["x"][1::4]}
    exact = interpreted(network(), held_out)
    assert decibels(exact, interpreted(plain.module, held_out)) < 52
    measured = decibels(exact, interpreted(floored.module, held_out))
    assert measured >= 52
    assert measured == pytest.approx(found.chosen.quality.sqnr, abs=0.1)
    again = rtcc.quantize(
        network(), {"x": np.delete(pictures(16)["x"], slice(1, None, 4), axis=0)},
        keep_float=tuple(found.chosen.kept),
    )  # fmt: skip
    assert rtcc.print_module(again.module) == rtcc.print_module(floored.module)


def test_products_quantised_as_they_come_are_searched_too() -> None:
    require_vnni()
    weights = "const #w : f32[256,512] = splat(0.0)\nconst #v : f32[512,256] = splat(0.0)\n"
    module = parse_module(
        f"// rtir 1  level=graph\n{weights}graph @main(%x: f32[32,256]) {{\n"
        '  %h = nn.mat_mul(%x, #w) : f32[32,512] loc("one")\n  %r = math.relu(%h) : f32[32,512]\n'
        '  %y = nn.mat_mul(%r, #v) : f32[32,256] loc("two")\n  return(%y)\n}\n'
    )
    generator = np.random.default_rng(0)
    for name, constant in list(module.constants.items()):
        data = generator.standard_normal(constant.type.sizes).astype(np.float32) / 16
        constant.replace_uses(module.add_constant(f"{name}.filled", data))
        del module.constants[name]
    samples = {"x": generator.standard_normal((8 * 32, 256)).astype(np.float32)}
    found = rtcc.quantize(module, samples, scheme="dynamic", min_sqnr=40.0).found
    assert found is not None
    assert len(found.chosen.kept) == 1
    assert found.chosen.quality.sqnr >= 40
    assert found.chosen.seconds < found.exact.seconds


def test_a_stopped_search_goes_on(tmp_path: Path) -> None:
    require_vnni()
    steps: list[str] = []

    def stopping(step: Step) -> None:
        steps.append(step.doing)
        if step.doing == "measuring layer 4 of 4":
            raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        mixed(state, stopping, min_sqnr=52.0)
    whole, resumed = floored_at_52(), mixed(state, min_sqnr=52.0)
    assert whole.found is not None
    assert resumed.found is not None
    assert (whole.found.resumed, resumed.found.resumed) == (0, 4)
    assert resumed.found.points == whole.found.points
    assert rtcc.print_module(resumed.module) == rtcc.print_module(whole.module)
    other = mixed(state, min_sqnr=52.0, calibration="min-max").found
    assert other is not None
    assert other.resumed == 0
    (tmp_path / "state.search").write_text("{}")
    with pytest.raises(InvalidInput) as caught:
        mixed(state, min_sqnr=52.0)
    assert caught.value.code == "search-damaged"


def test_labels_are_a_metric_of_the_samples_held_out() -> None:
    require_vnni()
    data = pictures(16)
    exact = interpreted(network(), data).argmax(axis=1)
    data["labels"] = np.where(np.arange(16) % 8 == 1, exact, (exact + 1) % 10)  # one of two held out is right
    found = rtcc.quantize(network(), data, max_drop="10%").found
    assert found is not None
    assert found.exact.quality.metric == 0.5
    assert found.chosen.quality.metric is not None
    assert found.chosen.quality.metric >= 0.45
    assert {each.metric for each in found.layers} <= {0.25, 0.5, 0.75}


def test_a_drop_without_a_metric_is_refused_before_the_work() -> None:
    steps: list[Step] = []
    with pytest.raises(InvalidInput, match="a drop is of a metric") as caught:
        mixed(progress=steps.append, max_drop="1%")
    assert caught.value.code == "no-metric"
    assert not steps


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({"min_sqnr": 200.0}, "floor-not-held"),
        ({"min_sqnr": 20.0, "scheme": "weights-int8"}, "search-scheme"),
        ({"min_sqnr": 20.0, "samples": 1}, "data-too-few"),
    ],
)
def test_floors_that_cannot_be_are_refused(words: dict[str, Any], code: str) -> None:
    require_vnni()
    with pytest.raises(InvalidInput) as caught:
        mixed(**words)
    assert caught.value.code == code


def test_samples_held_out_keep_their_labels() -> None:
    arrays = {**pictures(10), "labels": np.arange(10)}
    calibration, held_out = split(from_arrays(arrays, network().main), most=9)
    firsts = [[feeds["x"][0, 0, 0, 0] for feeds in part.samples()] for part in (calibration, held_out)]
    numbers = [[0, 2, 3, 4, 6, 7, 8], [1, 5]]
    assert firsts == [[arrays["x"][n, 0, 0, 0] for n in each] for each in numbers]
    answers = iter([1, 4])
    assert held_out.measured(lambda feeds: {"y": np.eye(10)[next(answers)][None]}) == 0.5
    assert len({each.identity for each in (calibration, held_out)}) == 2
