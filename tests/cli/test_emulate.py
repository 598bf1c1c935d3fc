"""`rtcc run --emulate`: artefacts for another machine, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.cli.test_errors import code_of
from tests.targets.arm.emulation import require_emulation, require_estimates
from tests.targets.cortex_m.boards import require_boards

LENET = Path(__file__).parents[2] / "rtcc" / "demo" / "lenet5_mnist.onnx"


def test_commands(rtcc: Run, tmp_path: Path) -> None:
    require_emulation()
    path = tmp_path / "lenet.so"
    assert rtcc("compile", LENET, "--target", "arm:cortex-a53", "-o", path).code == 0
    ran = rtcc("run", path, "--emulate", "--random", "7")
    assert ran.output == rtcc("run", LENET, "--target", "arm:cortex-a53", "--emulate", "--random", "7").output
    assert ran.output.startswith("logits: float32[1,10] min ")
    described = json.loads(rtcc("info", path).output)
    assert (described["target"], described["triple"]) == ("arm:cortex-a53", "aarch64-linux-gnu")
    for words, code in (
        (("run", path), "wrong-machine"),
        (("run", LENET, "--target", "arm:cortex-a53"), "other-machine"),
        (("run", path, "--emulated-cpu", "cortex-a7"), "emulator-cpu"),
        (("run", path, "--emulate", "--target", "x86"), "artefact-options"),
        (("run", path, "--emulate", "--simulate", "rtl"), "run-places"),
        (("run", LENET, "--emulate", "--interpret"), "interpret-options"),
        (("run", LENET, "--emulate", "--target", "x86:x86-64-v2"), "wrong-machine"),
        (("compile", LENET, "--target", "arm:cortex-a77"), "unknown-cpu"),
        (("compile", LENET, "--target", "arm:cortex-a53", "--verify-kernels", "-o", path), "other-machine"),
    ):
        done = rtcc(*words)
        assert (done.code, code_of(done.errors)) == (1, code), words


def test_bench_counts_and_estimates(rtcc: Run, tmp_path: Path) -> None:
    """An artefact for another machine is not timed, and says so."""
    require_estimates()
    path, figures = tmp_path / "lenet.so", tmp_path / "figures.json"
    assert rtcc("compile", LENET, "--target", "arm:cortex-a76", "-o", path).code == 0
    done = rtcc("bench", path, "--json", figures)
    assert done.code == 0
    assert "Estimates; nothing was timed" in done.output
    found = json.loads(figures.read_text())
    assert (found["target"], found["scheduling_model"]) == ("arm:cortex-a76", "neoverse-n1")
    assert f"instructions     {found['instructions']:,}" in done.output
    assert found["instructions"] > found["products"] / 4 > 0
    assert found["loops"][0]["function"] in done.output
    assert rtcc("bench", LENET, "--target", "arm:cortex-a76").code == 0
    for words, code in (
        (("bench", path, "--runs", "5"), "bench-estimates"),
        (("bench", path, "--simulate", "rtl"), "bench-estimates"),
        (("bench", path, "--target", "arm:cortex-a53"), "artefact-options"),
    ):
        done = rtcc(*words)
        assert (done.code, code_of(done.errors)) == (1, code), words


def test_microcontrollers(rtcc: Run, tmp_path: Path) -> None:
    """Flash and memory are printed before and after linking; there are no shared libraries."""
    require_boards()
    path, target = tmp_path / "lenet.a", ("--target", "cortex-m:cortex-m7")
    compiled = rtcc("compile", LENET, *target, "-o", path)
    ran = rtcc("run", path, "--emulate", "--random", "7")
    again = rtcc("run", LENET, *target, "--emulate", "--random", "7")
    assert ran.output.splitlines()[0] == again.output.splitlines()[0]
    predicted = re.findall(r"^(?:flash|RAM) ([0-9,]+) bytes", compiled.output, re.MULTILINE)
    found = re.search(r"as linked and run: flash ([0-9,]+) bytes, RAM ([0-9,]+) bytes", ran.output)
    assert found, ran.output
    for expected, actual in zip(predicted, found.groups(), strict=True):
        assert int(actual.replace(",", "")) == pytest.approx(int(expected.replace(",", "")), rel=0.02)
    assert "rtcc run lenet.a --emulate" in rtcc("run", path).errors
    assert json.loads(rtcc("info", path).output)["target"] == "cortex-m:cortex-m7"
    require_same_figures(rtcc, path, found.groups(), tmp_path / "figures.json")
    for words, code in (
        (("compile", LENET, *target, "-o", tmp_path / "lenet.so"), "artefact-suffix"),
        (("compile", LENET, *target, "--threads", "2"), "threads"),
        (("compile", LENET, *target, "--verify-kernels", "-o", path), "other-machine"),
        (("compile", LENET, "--target", "cortex-m"), "target-needs-cpu"),
        (("compile", LENET, "--target", "cortex-m:cortex-m0"), "unknown-cpu"),
        (("compile", LENET, "--target", "cortex-m:cortex-m4,flash=64K", "-o", path), "flash-too-small"),
        (("run", path), "static-library"),
        (("run", path, "--emulate", "--threads", "3"), "threads"),
        (("run", LENET, *target), "other-machine"),
        (("bench", path, "--threads", "3"), "threads"),
        (("bench", path, "--runs", "5"), "bench-estimates"),
        (("bench", path, "--against", "onnxruntime"), "bench-estimates"),
        (("bench", path, *target), "artefact-options"),
        (("run", path, "--emulated-cpu", "cortex-m4"), "cpu-unsupported"),
    ):
        done = rtcc(*words)
        assert (done.code, code_of(done.errors)) == (1, code), words


def require_same_figures(rtcc: Run, path: Path, linked: tuple[str, ...], file: Path) -> None:
    """`bench` says what `run` said, of an artefact and of the model that it was made of."""
    done = rtcc("bench", path, "--json", file)
    assert done.code == 0, done.errors
    row = json.loads(file.read_text())
    assert [f"{row[each]:,}" for each in ("flash_bytes", "ram_bytes")] == list(linked)
    assert f"instructions     {row['instructions']:,}\nOf a board that QEMU emulates" in done.output
    assert row["instructions"] > 100_000
    assert row["measured_on"] == "a cortex-m7 that QEMU emulates"
    again = rtcc("bench", LENET, "--target", "cortex-m:cortex-m7")
    assert f"instructions     {row['instructions']:,}" in again.output
