"""`rtcc tune`: quiet in a pipe, stopped by Ctrl-C, and of use to compile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rtcc.cli.arguments import Compiling
from rtcc.cli.opening import open_or_compile
from rtcc.tuning.tuner import Failed, Gain, Progress
from tests.cli.conftest import Run


def test_tune_writes_what_compile_takes(rtcc: Run, tmp_path: Path) -> None:
    model = tmp_path / "product.rtir"
    model.write_text(
        "// rtir 1  level=graph\n"
        "const #w : f32[4,6] = splat(0.5)\n"
        "graph @main(%x: f32[8,4]) {\n"
        "  %y = nn.mat_mul(%x, #w) : f32[8,6]\n"
        "  return(%y)\n"
        "}\n"
    )
    done = rtcc("tune", model)
    assert done.code == 0, done.errors
    assert "product.tuned.json: 1 kernels" in done.output
    assert "as measured to be best" in done.output
    assert done.errors == ""
    compiled = rtcc("compile", model, "--tuned", tmp_path / "product.tuned.json", "--explain")
    assert compiled.code == 0, compiled.errors
    assert ",tuned=" in compiled.output
    assert "   measured " in compiled.output
    assert ",tuned=" in rtcc("bench", model, "--tuned", tmp_path / "product.tuned.json", "--runs", "1").output
    opened, _ = open_or_compile(model, Compiling(tuned=tmp_path / "product.tuned.json"), seed=0)
    with opened:
        assert ",tuned=" in opened.info.target
    refused = rtcc("compile", model, "--tuned", model)
    assert refused.code == 1
    assert "error[tuning-damaged]" in refused.errors


def test_a_kernel_that_failed_is_said(rtcc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Failed("conv4", "direct", (14, 2), "its process ended with signal SIGSEGV")
    monkeypatch.setattr("rtcc.tuning.tuner.tune", lambda *words, **options: Gain(1.0, 1.0, (failed,)))  # pyright: ignore
    done = rtcc("tune", tmp_path / "model.onnx")
    assert done.code == 0
    assert done.errors == (
        "warning: conv4: direct 14x2 is not to be taken: its process ended with signal SIGSEGV\n"
    )


def test_a_stopped_tune_says_how_to_go_on(rtcc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*words: Any, progress: Any, **options: Any) -> Gain:
        progress(Progress(3, 12, 40, "conv4"))
        raise KeyboardInterrupt

    monkeypatch.setattr("rtcc.tuning.tuner.tune", stopped)
    done = rtcc("tune", tmp_path / "model.onnx")
    assert done.code == 130
    assert "model.tuned.json: stopped with 3 of 12 kernels; run it again to go on" in done.errors


@pytest.mark.parametrize("target", ["c", "cortex-m:cortex-m4"])
def test_targets_that_go_by_no_measurements(rtcc: Run, tmp_path: Path, target: str) -> None:
    model, kept = tmp_path / "net.rtir", tmp_path / "net.tuned.json"
    model.write_text("// rtir 1  level=graph\ngraph @main(%x: f32[8]) {\n  return(%x)\n}\n")
    assert rtcc("tune", model, "-o", kept).code == 0
    for words in (("tune", model), ("compile", model, "--tuned", kept, "-o", tmp_path / "net.a")):
        refused = rtcc(*words, "--target", target)
        assert refused.code == 1
        assert "error[not-tunable]" in refused.errors
