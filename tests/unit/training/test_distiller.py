# pyright: basic
"""Distilling a two-layer network: losses, held-out samples, checkpoints, divergence, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import rtcc
from rtcc.errors import InvalidInput
from rtcc.interpreter import interpret
from rtcc.ir.ops.nn import Conv
from rtcc.training.distiller import prepared
from rtcc.training.history import Stop
from rtcc.training.losses import Losses
from rtcc.training.network import Network
from rtcc.training.report import make_report
from rtcc.training.settings import Schedule, Settings
from rtcc.training.trainer import rate
from tests.frontend.models import run_onnxruntime
from tests.unit.pruning.test_pruner import DIGITS, RESIDUAL
from tests.unit.training.networks import CLASSES, perceptron, pixels, points

TEACHER = perceptron(width=16, seed=3)
QUICK = {"steps": 60, "evaluate": 20, "batch": 16, "learning_rate": 0.02, "temperature": 2.0}


def logits_of(module, rows: np.ndarray) -> np.ndarray:
    return np.concatenate([interpret(module, {"x": row[None]})["logits"] for row in rows])


def weights_of(module) -> dict[str, np.ndarray]:
    return {name: constant.array for name, constant in module.constants.items()}


def same(a, b) -> bool:
    left, right = weights_of(a), weights_of(b)
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


def refusal(*words, **options) -> str:
    with pytest.raises(InvalidInput) as caught:
        rtcc.distill(*words, **options)
    return caught.value.code


def test_layers_made_separable_are_trained_by_what_they_were() -> None:
    """A network whose 3x3 layers became depthwise and 1x1 ones; those stay what they are."""
    made = rtcc.prune(RESIDUAL, factorize="scheme=separable,rank=1", target="x86:skylake-avx512").module
    found = rtcc.distill(RESIDUAL, made, DIGITS, steps=40, batch=16, evaluate=20, samples=100)
    assert found.best.loss < 0.5 * found.history[0].loss
    groups = [[op.group for op in each.main.ops if isinstance(op, Conv)] for each in (made, found.module)]
    assert groups[0] == groups[1]
    assert sum(group > 1 for group in groups[0]) >= 5


def test_a_student_comes_near_its_teacher() -> None:
    found = rtcc.distill(TEACHER, perceptron(), points(), **QUICK)
    assert found.stopped is Stop.DONE
    assert [each.step for each in found.history] == [0, 20, 40, 60]
    assert found.best.loss < 0.3 * found.history[0].loss
    assert found.best.parts.keys() == {"output"}
    fresh = points(40, seed=9)["x"]
    wanted = logits_of(TEACHER, fresh)
    models = (found.original, found.module)
    before, after = (np.abs(logits_of(each, fresh) - wanted).mean() for each in models)
    assert after < 0.7 * before


def test_the_written_model_runs_elsewhere(tmp_path: Path) -> None:
    found = rtcc.distill(TEACHER, perceptron(), points(32), **{**QUICK, "steps": 5})
    found.write(tmp_path / "student.onnx")
    model = onnx.load(tmp_path / "student.onnx")
    onnx.checker.check_model(model, full_check=True)
    feeds = {"x": points(1)["x"]}
    theirs = run_onnxruntime(model, feeds)["logits"]
    np.testing.assert_allclose(theirs, interpret(found.module, feeds)["logits"], rtol=1e-5, atol=1e-5)


def test_labels_teach_without_a_teacher() -> None:
    data = points(200)
    labels = logits_of(TEACHER, data["x"]).argmax(1)
    options = {**QUICK, "output": "none", "label_weight": 1.0, "steps": 100}
    found = rtcc.distill(None, perceptron(), {**data, "labels": labels}, **options)
    assert found.best.parts.keys() == {"labels"}
    assert (found.history[0].right or 0) < 0.6 < 0.75 < (found.best.right or 0)
    again = rtcc.distill(None, perceptron(), data, labels=labels, **options)
    assert same(found.module, again.module)
    assert make_report(found).metric is not None


def test_labels_of_each_position_lie_beside_the_axis_of_classes() -> None:
    x = np.random.default_rng(0).standard_normal((40, 2, 4, 4)).astype(np.float32)
    labels = (x[:, 0] > x[:, 1]).astype(np.int64).reshape(40, 16)
    options = {**QUICK, "output": "none", "label_weight": 1.0, "labels": labels, "learning_rate": 0.2}
    found = rtcc.distill(None, pixels(), {"x": x}, class_axis=1, **options)
    scores = np.concatenate([interpret(found.module, {"x": each[None]})["scores"] for each in x])
    right = (scores.argmax(1).reshape(40, 16) == labels)[1::10].mean()
    assert right > 0.9
    assert found.best.right == pytest.approx(right)
    assert refusal(None, pixels(), {"x": x}, **options) == "data-labels"  # along the last axis
    one_each = {**options, "labels": labels[:, 0]}
    assert refusal(None, pixels(), {"x": x}, class_axis=1, **one_each) == "data-labels"


def test_features_are_brought_together_through_an_adapter() -> None:
    options = {**QUICK, "output": "none", "features": ["hidden=hidden"]}
    found = rtcc.distill(TEACHER, perceptron(width=8), points(), **options)
    assert found.best.parts.keys() == {"features"}
    assert found.best.loss < 0.7 * found.history[0].loss
    settings = Settings(features=("hidden=hidden",))
    assert [each.shape for each in Losses(perceptron(8), TEACHER, settings).adapters.values()] == [(16, 8)]
    assert not Losses(perceptron(16), TEACHER, settings).adapters


def output_loss(student, teacher, settings: Settings, x) -> float:
    with torch.no_grad():
        found, taught = Network(student)({"x": x}), Network(teacher)({"x": x})
        return float(Losses(student, teacher, settings)(found, taught, None)["output"])


def test_probabilities_count_as_their_logarithms() -> None:
    """A model that ends in a softmax has the loss of the one without, up to rounding."""
    x = torch.from_numpy(points(7)["x"][:, None])
    settings = Settings(temperature=3.0)
    plain, soft = (perceptron(seed=5, probabilities=each) for each in (False, True))
    teachers = (TEACHER, perceptron(width=16, seed=3, probabilities=True))
    losses = [output_loss(a, b, settings, x) for a in (plain, soft) for b in teachers]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-4)
    assert losses[0] > 0.1


def test_the_loss_of_results_is_the_divergence_at_a_temperature() -> None:
    x = points(5)["x"]
    student = perceptron(seed=5)
    found = output_loss(student, TEACHER, Settings(temperature=2.0), torch.from_numpy(x[:, None]))

    def logarithms(module):
        scores = logits_of(module, x).astype(float) / 2
        return scores - np.log(np.exp(scores).sum(1, keepdims=True))

    p, q = logarithms(TEACHER), logarithms(student)
    assert found == pytest.approx(4 * (np.exp(p) * (p - q)).sum(1).mean(), rel=1e-4)


@pytest.mark.parametrize("regularizer", ["l2", "l1", "group"])
def test_a_regulariser_makes_weights_smaller(regularizer: str) -> None:
    def size(**options) -> float:
        found = rtcc.distill(TEACHER, perceptron(), points(), **{**QUICK, "held_out": 0.0}, **options)
        matrices = [array for array in weights_of(found.module).values() if array.ndim == 2]
        return float(sum(np.abs(array).sum() for array in matrices))

    assert size(regularizer=regularizer, regularizer_weight=0.1) < 0.8 * size()


def test_a_seed_decides_everything() -> None:
    first, again, other = (
        rtcc.distill(TEACHER, perceptron(), points(), seed=seed, **QUICK) for seed in (1, 1, 2)
    )
    assert first.history == again.history
    assert same(first.module, again.module)
    assert not same(first.module, other.module)


class Stopped(KeyboardInterrupt):
    """Ctrl-C, at a step."""


def test_resuming_gives_what_an_uninterrupted_run_does(tmp_path: Path) -> None:
    options = {**QUICK, "features": ["hidden=hidden"], "output": "mse"}
    whole = rtcc.distill(TEACHER, perceptron(), points(), **options)
    checkpoint = tmp_path / "state"

    def interrupt(doing: str) -> None:
        if doing.startswith("step 34 "):
            raise Stopped

    with pytest.raises(Stopped):
        rtcc.distill(TEACHER, perceptron(), points(), checkpoint=checkpoint, say=interrupt, **options)
    said: list[str] = []
    rest = rtcc.distill(
        TEACHER, perceptron(), points(), checkpoint=checkpoint, resume=True, say=said.append, **options
    )
    assert sum(each.startswith("step") for each in said) == 40  # from the last checkpoint, after 20 steps
    assert rest.history == whole.history
    assert same(rest.module, whole.module)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state"
    options = {**QUICK, "steps": 2}
    given = (TEACHER, perceptron(), points())
    assert refusal(*given, checkpoint=checkpoint, resume=True, **options) == "no-checkpoint"
    rtcc.distill(*given, checkpoint=checkpoint, **options)
    assert refusal(*given, checkpoint=checkpoint, resume=True, **options, seed=1) == "checkpoint-other"
    others = (TEACHER, perceptron(seed=7), points()), (TEACHER, perceptron(), points(seed=3))
    for other in others:
        assert refusal(*other, checkpoint=checkpoint, resume=True, **options) == "checkpoint-other"
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    assert refusal(*given, checkpoint=checkpoint, resume=True, **options) == "checkpoint-damaged"


def test_divergence_keeps_the_best(tmp_path: Path) -> None:
    wild = {**QUICK, "optimizer": "sgd", "learning_rate": 1e5, "clip": 0.0, "evaluate": 2}
    found = rtcc.distill(TEACHER, perceptron(), points(), **wild, schedule="constant", output="mse")
    assert found.stopped is Stop.DIVERGED
    assert same(found.module, found.original)  # nothing was better than the start
    with pytest.raises(InvalidInput) as caught:
        found.require_converged()
    assert caught.value.code == "training-diverged"


def test_a_loss_that_is_no_number_from_the_start() -> None:
    broken = perceptron()
    huge = np.full((8, CLASSES), 3e38, np.float32)
    broken.constants["w2"].replace_uses(broken.add_constant("huge", huge))
    assert refusal(TEACHER, broken, points(), **QUICK) == "training-diverged"


def test_stopping_early() -> None:
    found = rtcc.distill(TEACHER, perceptron(), points(), **{**QUICK, "learning_rate": 1e-12}, patience=2)
    assert found.stopped is Stop.PATIENCE
    assert found.history[-1].step == 40


def test_augmentation_is_checked_and_follows_the_seed() -> None:
    seen: list[float] = []

    def augment(sample, random):
        seen.append(float(sample["x"].sum()))
        return {"x": sample["x"] + random.standard_normal((1, 4)).astype(np.float32)}

    options = {**QUICK, "steps": 4}
    first = rtcc.distill(TEACHER, perceptron(), points(), augment=augment, **options)
    assert len(seen) == 4 * 16  # what is held out stays as it is
    again = rtcc.distill(TEACHER, perceptron(), points(), augment=augment, **options)
    assert same(first.module, again.module)
    assert not same(first.module, rtcc.distill(TEACHER, perceptron(), points(), **options).module)
    wrong = (
        (lambda sample, random: {"x": sample["x"][0]}, "data-shape"),
        (lambda sample, random: {"y": sample["x"]}, "data-input"),
        (lambda sample, random: None, "data-script"),
        (lambda sample, random: 1 / 0, "data-script"),
    )
    for function, code in wrong:
        assert refusal(TEACHER, perceptron(), points(), augment=function, **options) == code


def test_augmentation_in_place_leaves_the_samples() -> None:
    seen: list[float] = []

    def augment(sample, random):
        sample["x"] += 1
        seen.append(float(sample["x"].max()))
        return sample

    data = points(32)
    before = data["x"].copy()
    rtcc.distill(TEACHER, perceptron(), data, augment=augment, held_out=0.0, **QUICK)
    assert max(seen) == pytest.approx(before.max() + 1)
    assert (data["x"] == before).all()


def test_a_checkpoint_of_another_augmentation_is_refused(tmp_path: Path) -> None:
    script, checkpoint = tmp_path / "augment.py", tmp_path / "ck"
    script.write_text("def augment(sample, random):\n    return sample\n")
    options = {**QUICK, "steps": 4, "checkpoint": checkpoint}
    words = (TEACHER, perceptron(), points())
    rtcc.distill(*words, augment=script, **options)
    rtcc.distill(*words, augment=script, resume=True, **options)
    script.write_text("def augment(sample, random):\n    return {'x': 2 * sample['x']}\n")
    assert refusal(*words, augment=script, resume=True, **options) == "checkpoint-other"

    def doubled(sample, random):
        return {"x": 2 * sample["x"]}

    rtcc.distill(*words, augment=doubled, **options)
    rtcc.distill(*words, augment=doubled, resume=True, **options)
    assert refusal(*words, augment=dict.copy, resume=True, **options) == "checkpoint-other"


def test_what_is_refused(tmp_path: Path) -> None:
    student, data = perceptron(), points(32)
    with_labels = {"output": "none", "label_weight": 1.0}
    assert refusal(perceptron(batch=2), student, data) == "inputs-differ"
    assert refusal(perceptron(probabilities=True), perceptron(), data, features=["a=b"]) == "no-such-value"
    assert refusal(TEACHER, student, data, features=["hidden=logits", "hidden"]) == "distill-option"
    assert refusal(TEACHER, student, data, steps=0) == "distill-option"
    assert refusal(TEACHER, student, data, held_out=0.9) == "distill-option"
    assert refusal(TEACHER, student, data, frobnicate=1) == "distill-option"
    assert refusal(TEACHER, student, data, output="none") == "distill-option"
    assert refusal(None, student, data) == "distill-option"
    assert refusal(TEACHER, student, data, labels=np.zeros(32)) == "distill-option"
    assert refusal(TEACHER, student, data, resume=True) == "distill-option"
    assert refusal(None, student, data, **with_labels) == "data-labels"
    assert refusal(None, student, data, labels=np.zeros(3), **with_labels) == "data-labels"
    assert refusal(None, student, data, labels=np.full(32, 7), **with_labels) == "data-labels"
    assert refusal(None, student, data, labels=np.full(32, 1.9), **with_labels) == "data-labels"
    assert refusal(None, student, data, labels=np.full(32, np.nan), **with_labels) == "data-labels"
    for options in (
        {"class_axis": 2}, {"class_axis": -3}, {"seed": 2**64}, {"samples": -1}, {"samples": 2.0},
        {"threads": -1}, {"threads": 0}, {"steps": 2.9}, {"freeze": 3},
    ):  # fmt: skip
        assert refusal(TEACHER, student, data, **options) == "distill-option", options
    late = tmp_path / "none" / "checkpoint"
    assert refusal(TEACHER, "no model", data, checkpoint=late) == "no-such-folder"
    assert refusal(TEACHER, student, {"x": data["x"][:1]}) == "data-too-few"
    assert refusal(TEACHER, student, data, zeros="x") == "distill-option"
    layers = [op.result.name for op in prepared(student).main.ops if op.results]
    assert refusal(TEACHER, student, data, freeze=layers) == "nothing-to-train"


def test_rates_rise_and_fall() -> None:
    settings = Settings(steps=100, learning_rate=1.0)
    rates = [rate(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[5] == 1.0
    assert rates[-1] < 0.01
    assert {rate(Settings(schedule=Schedule.CONSTANT), step) for step in (0, 500)} == {5e-3}


def test_the_report_is_json() -> None:
    found = rtcc.distill(TEACHER, perceptron(), points(), **QUICK)
    report = make_report(found)
    row = json.loads(report.to_json())
    assert row["history"][0]["step"] == 0
    assert row["trained"] == 8 * 4 + 8 + 8 * 3 + 3
    assert any(line.startswith("loss") for line in report.summary())
