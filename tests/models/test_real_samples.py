"""Real models beside ONNX Runtime on what they are made for: sound, lines of text, sentences, tables.

The tolerances and their reasons stand in benchmarks/real_models.py, whose lines these are. The wider lines of
text run with `-m slow`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import real_models
from benchmarks.models.samples import windows_of_sound
from benchmarks.models.zoo import ZOO, zoo_model, zoo_values
from benchmarks.real_models import CASES, NEXT, STREAMS, TABLES, Runs, agreement, main
from rtcc.compiler import Options, start
from tests.models.test_real_models import marked

LONG = ("ppocr-rec-320", "ppocr-rec-640")


def test_there_are_fourteen() -> None:
    assert (len(STREAMS), len(TABLES), len(CASES)) == (6, 4, 14)


@pytest.mark.parametrize("name", marked(CASES, quick=tuple(name for name in CASES if name not in LONG)))
def test_answers_are_onnxruntimes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.endswith("right\n")


@pytest.mark.parametrize("name", STREAMS)
def test_the_sound_has_speech_and_silence_and_moves_the_state(name: str) -> None:
    runs = CASES[name]()
    assert len(runs.theirs) == 30
    assert runs.labels is not None
    assert np.unique(runs.labels(runs.theirs)).size == 2
    states = np.stack([array for run in runs.ours for each, array in run.items() if each in NEXT.values()])
    assert states.std(axis=0).max() > 0.1


def test_each_step_hears_the_end_of_the_last() -> None:
    first, second = windows_of_sound(2)
    np.testing.assert_array_equal(second[0, :64], first[0, -64:])


def runs_of(*ours: Mapping[str, NDArray[Any]]) -> Runs:
    score, count = np.array([1.0, -2.0], np.float32), np.array([3, 4])
    theirs = [{"score": score, "count": count}] * len(ours)
    return Runs(ours, theirs, "runs", lambda runs: np.stack([run["score"].argmax() for run in runs]))


@pytest.mark.parametrize(
    ("score", "count", "is_right"),
    [
        ([1.0, -2.0001], [3, 4], True),
        ([1.0, -2.0003], [3, 4], False),
        ([1.0, -2.0], [3, 5], False),
        ([1.0, np.nan], [3, 4], False),
        ([-2.0, 1.0], [3, 4], False),
    ],
)
def test_what_is_wrong_is_said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    score: list[float],
    count: list[int],
    is_right: bool,
) -> None:
    """Also where only the second of two runs is wrong."""
    good = {"score": np.array([1.0, -2.0], np.float32), "count": np.array([3, 4])}
    other = {"score": np.array(score, np.float32), "count": np.array(count)}
    monkeypatch.setitem(real_models.CASES, "two", lambda: runs_of(good, other))
    assert agreement("two").is_right == is_right
    assert main(["two"]) == (0 if is_right else 1)
    assert ("right" if is_right else "WRONG") in capsys.readouterr().out


def test_a_model_that_was_not_fetched_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    monkeypatch.setenv("RTCC_ZOO", str(tmp_path))
    assert main(["minilm-int8"]) == 1
    assert "zoo fetch minilm-int8" in capsys.readouterr().out


@pytest.mark.parametrize("name", marked(STREAMS, quick=STREAMS[:1]))
def test_every_pass_keeps_the_arithmetic(name: str) -> None:
    options = Options(shapes=ZOO[name].shapes, values=zoo_values(name), verify_each=True)
    start(zoo_model(name), options).lower()
