"""`rtcc run --emulate`: artefacts for another machine, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Run
from tests.cli.test_errors import code_of
from tests.targets.arm.emulation import require_emulation, require_estimates

LENET = Path(__file__).parents[2] / "rtcc" / "demo" / "lenet5_mnist.onnx"


def test_commands(rtcc: Run, tmp_path: Path) -> None:
    require_emulation()
    path = tmp_path / "lenet.so"
    assert rtcc("compile", LENET, "--target", "arm:cortex-a53", "-o", path).code == 0
    ran = rtcc("run", path, "--emulate", "--random", "7")
    assert ran.output == rtcc("run", LENET, "--target", "arm:cortex-a53", "--emulate", "--random", "7").output
    assert ran.output.startswith("logits: float32[1,10] min ")
    for words, code in (
        (("run", path), "wrong-machine"),
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
