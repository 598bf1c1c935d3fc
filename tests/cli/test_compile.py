"""`rtcc compile`: what it writes, what its options do, and going on from any stage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import rtcc as package
from rtcc.cli.compile import parse_size
from rtcc.compiler import Options, start, write
from tests.cli.conftest import Run


def test_writes_library_and_header(rtcc: Run, tiny: Path) -> None:
    done = rtcc("compile", tiny)
    assert done.code == 0, done.errors
    assert done.errors == ""
    assert done.output.startswith(f"{tiny.with_suffix('.so')}: ")
    assert "int tiny_run(" in tiny.with_suffix(".h").read_text()
    with package.load(tiny.with_suffix(".so")) as artifact:
        assert artifact.run({"x": np.array([-1, 0, 1, 2], np.float32)})["y"].tolist() == [0, 0, 1, 2]


def test_writes_a_static_library(rtcc: Run, tiny: Path, tmp_path: Path) -> None:
    assert rtcc("compile", tiny, "-o", tmp_path / "net.a").code == 0
    assert (tmp_path / "net.a").read_bytes().startswith(b"!<arch>\n")


def test_explains_passes_and_kernels(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    done = rtcc("compile", lenet, "-o", tmp_path / "l.so", "--explain")
    assert done.code == 0, done.errors
    assert "select-layout" in done.output
    assert "nchw" in done.output


def test_verifies_each_pass_and_kernel(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    done = rtcc("compile", lenet, "-o", tmp_path / "l.so", "--verify-each", "--verify-kernels")
    assert done.code == 0, done.errors


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2"])
def test_levels_agree(rtcc: Run, lenet: Path, tmp_path: Path, level: str) -> None:
    done = rtcc("compile", lenet, "-o", tmp_path / "l.so", level)
    assert done.code == 0, done.errors
    with package.load(tmp_path / "l.so") as artifact:
        feeds = artifact.random_inputs(1)
        expected = package.interpret(package.read(lenet), feeds)["logits"]
        np.testing.assert_allclose(artifact.run(feeds)["logits"], expected, rtol=1e-4, atol=1e-5)


def test_runs_a_pipeline_of_ones_own(rtcc: Run, tiny: Path) -> None:
    lowering = "fuse,select-layout,outline-kernels,plan-memory"
    assert rtcc("compile", tiny, "--pipeline", lowering).code == 0
    done = rtcc("compile", tiny, "--pipeline", "simplify")
    assert done.code == 1
    assert done.errors.startswith("error[pipeline-incomplete]: ")


def test_threads_and_external_weights(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    done = rtcc("compile", lenet, "-o", tmp_path / "l.so", "--threads", "2", "--weights", "external")
    assert done.code == 0, done.errors
    assert (tmp_path / "l.weights").stat().st_size > 240_000
    assert (tmp_path / "l.so").stat().st_size < 200_000
    info = json.loads(rtcc("info", tmp_path / "l.so").output)
    assert info["threads"] == 2
    assert info["weights_file"] == "l.weights"


def test_refuses_a_workspace_over_the_limit(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    done = rtcc("compile", lenet, "-o", tmp_path / "l.so", "--max-workspace", "1K")
    assert done.code == 1
    assert done.errors.startswith("error[workspace-too-large]: ")
    assert list(tmp_path.iterdir()) == []
    assert rtcc("compile", lenet, "-o", tmp_path / "l.so", "--max-workspace", "1M").code == 0


def test_sizes() -> None:
    assert parse_size(None) is None
    assert parse_size("64M") == 64 << 20


def test_binds_symbolic_dimensions(rtcc: Run, symbolic: Path) -> None:
    done = rtcc("compile", symbolic)
    assert done.code == 1
    assert done.errors.startswith("error[unbound-dimension]: ")
    for binding in (["--shape", "x=2x4"], ["--dim", "N=2"]):
        assert rtcc("compile", symbolic, *binding).code == 0
        with package.load(symbolic.with_suffix(".so")) as artifact:
            assert artifact.inputs[0].shape == (2, 4)


def test_every_stage_compiles_to_the_same_bits(dumps: Path, tmp_path: Path) -> None:
    with package.load(dumps / "lenet.so") as artifact:
        feeds = artifact.random_inputs(3)
        expected = artifact.run(feeds)["logits"]
    stages = sorted((dumps / "ir").glob("*.rtir"))
    assert {stage.name.partition("-")[2] for stage in stages} >= {
        "start.rtir",
        "fuse.rtir",
        "plan-memory.rtir",
    }
    for stage in stages:
        compilation = start(stage, Options())
        compilation.lower()
        with package.load(write(compilation, tmp_path / f"{stage.stem}.so")) as artifact:
            assert artifact.run(feeds)["logits"].tobytes() == expected.tobytes(), stage.name


def test_a_stage_runs_only_what_is_left(dumps: Path) -> None:
    (stage,) = (dumps / "ir").glob("*-outline-kernels.rtir")
    compilation = start(stage, Options())
    compilation.lower()
    assert compilation.report is not None
    assert [each.text for each in compilation.report.passes] == ["plan-memory"]


def test_a_stage_keeps_its_shapes_and_target(rtcc: Run, dumps: Path, tmp_path: Path) -> None:
    (stage,) = (dumps / "ir").glob("*-plan-memory.rtir")
    done = rtcc("compile", stage, "-o", tmp_path / "l.so", "--shape", "image=2x1x28x28")
    assert done.errors.startswith("error[fixed-shape]: ")
    done = rtcc("compile", stage, "-o", tmp_path / "l.so", "--target", "x86:x86-64-v2")
    assert done.errors.startswith("error[other-target]: ")
