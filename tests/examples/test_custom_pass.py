"""examples/custom_pass: a pass in a file of its own is listed, run, dumped and held to its golden files."""

from __future__ import annotations

from pathlib import Path

import pytest

import rtcc as package
from rtcc.pipeline.catalogue import load_plugin
from tests.cli.conftest import Run
from tests.cli.conftest import lenet as lenet
from tests.cli.conftest import rtcc as rtcc
from tests.golden.test_golden import test_golden as check_golden

FOLDER = Path(__file__).parents[2] / "examples" / "custom_pass"
PLUGIN = FOLDER / "pool_before_relu.py"
PIPELINE = "pool-before-relu,-O2,legalize,fuse,select-conv,select-layout,outline-kernels,plan-memory"


@pytest.mark.parametrize("path", sorted((FOLDER / "golden").glob("*.rtir")), ids=lambda path: path.stem)
def test_golden_files(path: Path, request: pytest.FixtureRequest) -> None:
    load_plugin(PLUGIN)
    check_golden(path, request)


def test_it_is_listed(rtcc: Run) -> None:
    listed = rtcc("passes", "--load", PLUGIN).output
    assert "pool-before-relu     exact                    Move a rectifier behind the max pooling" in listed


def test_opt_runs_it(rtcc: Run, lenet: Path) -> None:
    done = rtcc("opt", lenet, "--load", PLUGIN, "-p", "pool-before-relu", "--verify-each")
    assert done.code == 0, done.errors
    assert done.output.startswith("// rtir 1  level=graph  after=pool-before-relu\n")
    assert 'by "pool-before-relu"' in done.output


def test_compile_runs_and_dumps_it(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    words = ["--load", PLUGIN, f"--pipeline={PIPELINE}", "--dump-ir", tmp_path / "ir"]
    done = rtcc("compile", lenet, "-o", tmp_path / "swapped.so", *words)
    assert done.code == 0, done.errors
    assert (tmp_path / "ir" / "01-pool-before-relu.rtir").exists()
    done = rtcc("compile", lenet, "-o", tmp_path / "plain.so")
    assert done.code == 0, done.errors
    with package.load(tmp_path / "swapped.so") as swapped, package.load(tmp_path / "plain.so") as plain:
        feeds = plain.random_inputs(2)
        assert swapped.run(feeds)["logits"].tobytes() == plain.run(feeds)["logits"].tobytes()
