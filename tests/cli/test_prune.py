# pyright: basic
"""`rtcc prune`: an ordinary smaller model, a report, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import onnx

from tests.cli.conftest import Run
from tests.cli.test_errors import code_of

ROOT = Path(__file__).parents[2]
RESIDUAL = ROOT / "tests" / "data" / "digits" / "residual.onnx"
DIGITS = ROOT / "tests" / "data" / "digits" / "training_digits.npz"


def test_command(rtcc: Run, tmp_path: Path) -> None:
    small, report = tmp_path / "small.onnx", tmp_path / "report.json"
    words = ("--keep", "0.5", "--data", DIGITS, "--samples", "40", "--measure", "--report", report)
    done = rtcc("prune", RESIDUAL, "-o", small, *words)
    assert done.code == 0, done.errors
    assert "it is a result of the model" in done.output
    onnx.checker.check_model(onnx.load(small), full_check=True)
    row = json.loads(report.read_text())
    assert row["multiply_adds"][1] <= 0.5 * row["multiply_adds"][0]
    assert row["repaired"] == 7
    assert row["metric"][0] > 0.97
    assert row["latency"][1]["p50"] > 0
    assert rtcc("run", small).code == 0


def test_single_weights(rtcc: Run, tmp_path: Path) -> None:
    sparse, report = tmp_path / "sparse.onnx", tmp_path / "report.json"
    words = ("--sparsity", "0.8", "--data", DIGITS, "--samples", "40", "--report", report)
    done = rtcc("prune", RESIDUAL, "-o", sparse, *words)
    assert done.code == 0, done.errors
    model = onnx.load(sparse)
    onnx.checker.check_model(model, full_check=True)
    row = json.loads(report.read_text())
    assert row["of"] == "weights"
    assert row["parameters"][1] <= 0.2 * row["parameters"][0]
    assert row["repaired"] == 7
    weights = [onnx.numpy_helper.to_array(each) for each in model.graph.initializer if len(each.dims) > 1]
    assert sum(int((each != 0).sum()) for each in weights) == row["parameters"][1]
    assert sum(each.size for each in weights) == row["parameters"][0]


def test_no_file_is_two_things(rtcc: Run, tmp_path: Path) -> None:
    model, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    shutil.copy(RESIDUAL, model)
    for words in (
        ("-o", model),
        ("-o", out, "--report", tmp_path / "none" / ".." / "out.onnx"),
        ("--sensitivity", "--report", model),
    ):
        assert code_of(rtcc("prune", model, *words).errors) == "same-file", words
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert model.read_bytes() == RESIDUAL.read_bytes()


def test_what_is_refused(rtcc: Run, tmp_path: Path) -> None:
    for words, code in (
        (("--keep", "2"), "prune-option"),
        (("-o", tmp_path / "small.txt"), "unknown-suffix"),
        (("-o", tmp_path / "none" / "small.onnx"), "no-such-folder"),
        (("--criterion", "activation", "-o", tmp_path / "small.onnx"), "no-data"),
        (("--keep", "0.001", "--multiple", "1", "-o", tmp_path / "small.onnx"), "target-unreachable"),
        (("--sparsity", "0.8", "--keep", "0.5"), "prune-option"),
        (("--pattern", "2:4", "--keep", "0.5"), "prune-option"),
        (("--pattern", "3:2"), "prune-option"),
        (("--pattern", "2:4"), "pattern-misfit"),
        (("--sparsity", "0.8", "--dense", "nowhere"), "unknown-layer"),
        (("--least", "2"), "prune-option"),
        (("--multiple", "0"), "prune-option"),
        (("--data", tmp_path / "none.npz"), "data-missing"),
        (("--data", RESIDUAL), "data-form"),
        (("--sensitivity", "--factorize", "rank=1"), "prune-option"),
        (("--sensitivity", "--measure"), "prune-option"),
        (("--sensitivity", "--keep", "0.3"), "prune-option"),
        (("--sensitivity", "--no-repair"), "prune-option"),
        (("--sensitivity", "--sparsity", "0.5"), "prune-option"),
        (("--sensitivity", "-o", tmp_path / "small.onnx"), "prune-option"),
    ):
        done = rtcc("prune", RESIDUAL, *words)
        assert (done.code, code_of(done.errors)) == (1, code), (words, done.errors)
        assert "hint: " in done.errors, words
        named = set(re.findall(r"--[a-z]+", done.errors.partition("hint: ")[2]))
        assert named <= set(re.findall(r"--[a-z]+", rtcc("prune", "-h").output)), "there is no such option"
    least = rtcc("prune", RESIDUAL, "--keep", "0.0001", "--least", "0", "-o", tmp_path / "small.onnx").errors
    assert ("target-unreachable" in least, "lower --least" in least) == (True, False)
    assert list(tmp_path.iterdir()) == []
