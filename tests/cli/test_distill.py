# pyright: basic
"""`rtcc distill`: a student with other weights, a report, checkpoints and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Run
from tests.cli.test_errors import code_of
from tests.frontend.models import run_onnxruntime

pytest.importorskip("torch")

RESIDUAL = Path(__file__).parents[1] / "data" / "digits" / "residual.onnx"
DIGITS = RESIDUAL.with_name("training_digits.npz")
QUICK = ("--steps", "8", "--evaluate", "4", "--batch", "8", "--samples", "40", "--threads", "1")
INTERRUPTING = """
from pathlib import Path
calls = 0

def augment(sample, random):
    global calls
    calls += 1
    if calls == 50 and not Path(__file__).with_suffix(".once").exists():
        Path(__file__).with_suffix(".once").touch()
        raise KeyboardInterrupt
    return sample
"""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The residual network with half of its work gone."""
    import rtcc

    path = tmp_path_factory.mktemp("distill") / "student.onnx"
    rtcc.prune(RESIDUAL, keep=0.5).write(path)
    return path


def test_command(rtcc: Run, student: Path, tmp_path: Path) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    words = ("--data", DIGITS, "--label-weight", "0.5", "--report", report)
    done = rtcc("distill", RESIDUAL, student, *words, *QUICK, "-o", out)
    assert done.code == 0, done.errors
    assert "all steps are done, after 8 steps" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "report.json"]
    row = json.loads(report.read_text())
    assert [each["step"] for each in row["history"]] == [0, 4, 8]
    assert row["best"]["loss"] < row["history"][0]["loss"]
    assert row["metric"][0] > 0.97
    before, after = onnx.load(student), onnx.load(out)
    onnx.checker.check_model(after, full_check=True)
    assert [n.op_type for n in after.graph.node] == [n.op_type for n in before.graph.node]
    image = np.load(DIGITS)["image"][:1].astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    done = rtcc("run", out, "--input", f"image={tmp_path}/image.npy", "--output", tmp_path)
    assert done.code == 0, done.errors
    theirs = run_onnxruntime(after, {"image": image})["logits"]
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), theirs, rtol=1e-4, atol=1e-4)


def test_ctrl_c_leaves_a_checkpoint_to_go_on_from(rtcc: Run, student: Path, tmp_path: Path) -> None:
    script, out, whole = (tmp_path / name for name in ("augment.py", "out.onnx", "whole.onnx"))
    script.write_text(INTERRUPTING)
    words = ("distill", RESIDUAL, student, "--data", DIGITS, "--augment", script, *QUICK)
    done = rtcc(*words, "-o", out)
    assert done.code == 130
    assert "run it again with --resume" in done.errors
    assert not out.exists()
    assert (tmp_path / "out.onnx.checkpoint").exists()
    assert rtcc(*words, "-o", out, "--resume").code == 0
    assert not (tmp_path / "out.onnx.checkpoint").exists()
    assert rtcc(*words, "-o", whole).code == 0
    assert out.read_bytes() == whole.read_bytes()


def test_divergence_writes_the_best_and_fails(rtcc: Run, student: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    wild = ("--optimizer", "sgd", "--learning-rate", "1e6", "--clip", "0", "--schedule", "constant")
    done = rtcc("distill", RESIDUAL, student, "--data", DIGITS, *QUICK, *wild, "-o", out)
    assert (done.code, code_of(done.errors)) == (1, "training-diverged"), done.errors
    onnx.checker.check_model(onnx.load(out))


def test_what_is_refused(rtcc: Run, student: Path, tmp_path: Path) -> None:
    for words, code in (
        (("--temperature", "0"), "distill-option"),
        (("--features", "layer4"), "distill-option"),
        (("--output-loss", "none"), "distill-option"),
        (("--features", "logits=nothing"), "no-such-value"),
        (("--labels", DIGITS), "distill-option"),
        (("--augment", tmp_path / "none.py"), "data-missing"),
        (("--resume",), "no-checkpoint"),
        (("-o", tmp_path / "out.txt"), "unknown-suffix"),
        (("-o", tmp_path / "none" / "out.onnx"), "no-such-folder"),
        (("-o", student), "same-file"),
        (("--report", tmp_path / "out.onnx"), "same-file"),
        (("--report", tmp_path / "out.onnx.checkpoint"), "same-file"),
    ):
        given = ("-o", tmp_path / "out.onnx", *words)
        done = rtcc("distill", RESIDUAL, student, "--data", DIGITS, *QUICK, *given)
        assert (done.code, code_of(done.errors)) == (1, code), (words, done.errors)
    assert list(tmp_path.iterdir()) == []
