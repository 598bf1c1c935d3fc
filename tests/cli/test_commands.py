"""Each command besides `compile`, on the demo's model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc as package
from rtcc.cli.bisect import distance
from rtcc.cli.run import describe, file_names
from tests.cli.conftest import Run

COMMANDS = (
    "compile", "run", "bench", "info", "opt", "passes", "targets", "quantize", "prune", "distill", "tune",
    "bisect", "doctor", "demo",
)  # fmt: skip


def test_help_names_every_command(rtcc: Run) -> None:
    done = rtcc("-h")
    assert done.code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in done.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(rtcc: Run, command: str) -> None:
    done = rtcc(command, "--help")
    assert done.code == 0
    assert f"Usage: rtcc {command}" in done.output


def test_run_takes_inputs_and_writes_outputs(rtcc: Run, artifact: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    np.save(tmp_path / "image.npy", image)
    done = rtcc("run", artifact, "--input", f"image={tmp_path}/image.npy", "--output", tmp_path / "out")
    assert done.code == 0, done.errors
    found = np.load(tmp_path / "out" / "logits.npy")
    with package.load(artifact) as loaded:
        assert np.array_equal(found, loaded.run({"image": image})["logits"])
    assert f"argmax {found.argmax()}" in done.output


def test_run_agrees_with_the_interpreter(rtcc: Run, lenet: Path, artifact: Path, tmp_path: Path) -> None:
    for name, words in {"a": [artifact], "m": [lenet], "i": [lenet, "--interpret"]}.items():
        done = rtcc("run", *words, "--random", "5", "--output", tmp_path / name)
        assert done.code == 0, done.errors
    a, m, i = (np.load(tmp_path / name / "logits.npy") for name in "ami")
    assert np.array_equal(a, m)
    np.testing.assert_allclose(a, i, rtol=1e-4, atol=1e-5)


def test_names_that_are_no_file_names() -> None:
    assert file_names(["a/b", "a_b", "x\0y", "plain"]) == ["a_b.npy", "a_b-2.npy", "x_y.npy", "plain.npy"]
    assert file_names(["é" * 500]) == ["é" * 50 + ".npy"]
    assert describe("\x1b[31mred", np.zeros(0, np.float32)) == '"\\u001b[31mred": float32[0]'


def test_an_artefact_knows_what_its_indices_must_stay_below(rtcc: Run, lookup: Path, tmp_path: Path) -> None:
    done = rtcc("compile", lookup, "--value", "count=2")
    assert done.code == 0, done.errors
    artifact = lookup.with_suffix(".so")
    assert json.loads(rtcc("info", artifact).output)["inputs"][0]["below"] == 3
    for seed in range(4):
        of_model = rtcc("run", lookup, "--value", "count=2", "--random", seed)
        assert of_model.code == 0, of_model.errors
        assert rtcc("run", artifact, "--random", seed).output == of_model.output
    assert rtcc("bench", artifact, "--runs", "3").code == 0


def test_values_fix_inputs(rtcc: Run, lookup: Path, tmp_path: Path) -> None:
    assert "y: float32[5,2]" in rtcc("run", lookup, "--value", "count=2").output
    assert "y: float32[5,3]" in rtcc("run", lookup, "--value", "count=3", "--interpret").output
    np.save(tmp_path / "count.npy", np.array([1]))
    assert "output      y : f32[5,1]" in rtcc("info", lookup, "--value", f"count={tmp_path}/count.npy").output
    assert package.compile(lookup, values={"count": 2}).outputs[0].shape == (5, 2)
    assert package.Session(lookup, values={"count": [4]}).run({"ids": np.zeros(5, int)})["y"].shape == (5, 4)


def test_bench_gives_fixed_values_to_other_runtimes(rtcc: Run, lookup: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = rtcc("bench", lookup, "--value", "count=2", "--against", "onnxruntime", "--runs", "3")
    assert done.code == 0, done.errors


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("count", "bad-value"),
        ("count=", "bad-value"),
        ("count=two", "bad-value"),
        ("count=1.5", "bad-value"),
        ("count=x.npy", "bad-value"),
        ("count=99999999999999999999", "bad-value"),
        ("count=1,2", "shape-conflict"),
        ("size=2", "unknown-input"),
    ],
)
def test_wrong_values_are_typed_errors(rtcc: Run, lookup: Path, value: str, code: str) -> None:
    done = rtcc("info", lookup, "--value", value)
    assert done.code == 1
    assert done.errors.startswith(f"error[{code}]: ")


def test_run_takes_shapes_from_the_arrays(rtcc: Run, symbolic: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", -np.ones((3, 4), np.float32))
    done = rtcc("run", symbolic, "--input", f"x={tmp_path}/x.npy")
    assert done.output.startswith("y: float32[3,4] min 0 max 0 mean 0 ")


def test_bench_reports_and_writes_figures(rtcc: Run, artifact: Path, tmp_path: Path) -> None:
    done = rtcc("bench", artifact, "--runs", "20", "--json", tmp_path / "figures.json")
    assert done.code == 0, done.errors
    assert "workspace bytes" in done.output
    figures = json.loads((tmp_path / "figures.json").read_text())
    latency = figures["latency_us"]["rtcc"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]
    assert figures["artefact_bytes"] == artifact.stat().st_size


def test_bench_against_another_runtime(rtcc: Run, lenet: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = rtcc("bench", lenet, "--against", "onnxruntime", "--runs", "5")
    assert done.code == 0, done.errors
    assert "onnxruntime" in done.output


def test_bench_loads_every_runtime_on_the_cores_it_measures_on(
    rtcc: Run, artifact: Path, lenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stay on the cores of the one that starts them."""
    first = {min(os.sched_getaffinity(0))}
    cores: dict[str, set[int]] = {}
    bind = package.Artifact.bind

    class Other:
        def __init__(self, path: Path, shapes: object, threads: int) -> None:
            cores["other"] = os.sched_getaffinity(0)

        def bind(self, feeds: object) -> Callable[[], None]:
            return lambda: None

    def noted(self: package.Artifact, *words: Any) -> Callable[[], object]:
        cores["ours"] = os.sched_getaffinity(0)
        return bind(self, *words)

    monkeypatch.setattr(package.Artifact, "bind", noted)
    monkeypatch.setattr("rtcc.peers.PEERS", {"other": Other})
    done = rtcc("bench", lenet, "--against", "other", "--runs", "1")
    assert done.code == 0, done.errors
    assert cores == {"ours": first, "other": first}
    assert os.sched_getaffinity(0) >= first


BREAKING = """
from dataclasses import dataclass
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.math import Neg
from rtcc.pipeline import Pass, Rewriter, apply, rewrite


@dataclass(frozen=True)
class BreakIt(Pass):
    def run(self, module):
        return apply(module, (negate,), self.name)


@rewrite(Relu)
def negate(op: Relu, rw: Rewriter) -> None:
    rw.replace(op, Neg(op.data, like=op))
"""


def test_bisect_names_the_pass_that_breaks_a_result(rtcc: Run, tiny: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "break_it.py"
    plugin.write_text(BREAKING)
    done = rtcc("bisect", tiny, "--load", plugin, "--pipeline=simplify,-O1,break-it,eliminate-common")
    assert (done.code, done.errors) == (1, "")
    assert done.output == "break-it: the first pass after which a result is off by more than 0.001\n"
    done = rtcc("bisect", tiny, "-O1")
    assert (done.code, done.errors) == (0, "")
    assert "no pass moves a result" in done.output


def test_how_far_results_are_apart() -> None:
    one = np.array([3.0, 4.0])
    assert distance(one, one) == 0
    assert distance(one * 1.1, one) == pytest.approx(0.1)
    assert distance(np.array([3.0, np.nan]), np.array([3.0, np.nan])) == 0
    assert distance(np.array([3.0, np.inf]), np.array([3.0, np.nan])) == np.inf
    assert distance(np.array([3.0, 4.0]), np.array([3.0, np.nan])) == np.inf
    assert distance(np.array([1.0]), np.zeros(1)) == 1
    assert distance(np.zeros(3), np.zeros(5)) == distance(np.zeros((2, 3)), np.zeros((3, 2))) == np.inf
    assert distance(np.array(["a"], object), np.array(["b"], object)) == 1


def test_info_of_a_model(rtcc: Run, lenet: Path) -> None:
    output = rtcc("info", lenet).output
    assert "input       image : f32[1,1,28,28]" in output
    assert "parameters  61,706 floating-point" in output
    assert "2 nn.conv" in output
    assert "refused     nothing" in output


def test_info_refuses_what_compile_does(rtcc: Run, lenet: Path, tiny: Path) -> None:
    """Too little room, and types that a target has not; what it has kernels for is told so."""
    for limits, why in (
        ("flash=64K", "the weights alone take"),
        ("ram=1K", "the workspace needs"),
    ):
        for target in ("c", "cortex-m:cortex-m4"):
            assert f"refused     {why}" in rtcc("info", lenet, "--target", f"{target},{limits}").output
    enough = "cortex-m:cortex-m4,flash=1M,ram=1M"
    assert "refused     nothing" in rtcc("info", lenet, "--target", enough).output
    tiny.write_text(HALVES)
    assert "refused     math.exp (1: exponential): C99 has no type for f16" in rtcc(
        "info", tiny, "--target", "c"
    ).output
    assert "refused     nothing" in rtcc("info", tiny, "--target", "cortex-m:cortex-m4").output


HALVES = """// rtir 1  level=graph
graph @main(%x: f16[4]) {
  %y = math.exp(%x) : f16[4] loc("exponential")
  return(%y)
}
"""


def test_info_names_symbolic_dimensions(rtcc: Run, symbolic: Path) -> None:
    assert "dimension   N in [1,*]; bind it with --dim N=SIZE" in rtcc("info", symbolic).output
    assert "dimension" not in rtcc("info", symbolic, "--dim", "N=3").output


QUANTISED = """// rtir 1  level=graph
const #s : f32[] = 0.05
const #z : u8[] = 128
graph @main(%x: f32[4]) {
  %y = quant.quantize_linear(%x, #s, #z) : u8[4]
  return(%y)
}
"""
READ_BY_MATRIX_PRODUCT = """// rtir 1  level=graph
dim K in [0,6]
graph @main(%x: f32[6]) {
  %i = tensor.non_zero(%x) : i64[1,K]
  %f = math.cast(%i) {to = "f32"} : f32[1,K]
  %t = tensor.transpose(%f) {perm = [1,0]} : f32[K,1]
  %y = nn.mat_mul(%f, %t) : f32[1,1]
  return(%y)
}
"""
DATA_DEPENDENT = """// rtir 1  level=graph
dim K in [0,6]
graph @main(%x: f32[6]) {
  %y = tensor.non_zero(%x) : i64[1,K]
  return(%y)
}
"""


def test_info_sees_through_what_is_decomposed(rtcc: Run, tiny: Path) -> None:
    tiny.write_text(QUANTISED)
    assert "refused     nothing" in rtcc("info", tiny).output


def test_sizes_that_the_data_decide(rtcc: Run, tiny: Path) -> None:
    tiny.write_text(DATA_DEPENDENT)
    done = rtcc("info", tiny)
    assert "dimension   K in [0,6]; the data decide it" in done.output, done.errors
    assert "refused     nothing" in done.output
    tiny.write_text(READ_BY_MATRIX_PRODUCT)
    assert rtcc("compile", tiny).errors.startswith(
        "error[data-dependent-size]: nn.mat_mul: it reads f32[1,K], whose size the data decide"
    )


def test_info_of_an_artefact(rtcc: Run, artifact: Path) -> None:
    info = json.loads(rtcc("info", artifact).output)
    assert info["name"] == "lenet"
    assert info["outputs"][0]["shape"] == [1, 10]


def test_opt_with_no_passes_reprints(rtcc: Run, dumps: Path) -> None:
    for stage in sorted((dumps / "ir").glob("*.rtir")):
        assert rtcc("opt", stage).output == stage.read_text()


def test_opt_writes_text_and_onnx(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    feeds = {"image": np.ones((1, 1, 28, 28), np.float32)}
    expected = package.interpret(package.read(lenet), feeds)["logits"]
    for name in ("out.rtir", "out.onnx"):
        done = rtcc("opt", lenet, "-p", "-O1", "-o", tmp_path / name, "--timing")
        assert done.code == 0, done.errors
        assert "eliminate-dead" in done.errors
    for module in (package.read_module(tmp_path / "out.rtir"), package.read(tmp_path / "out.onnx")):
        assert np.array_equal(package.interpret(module, feeds)["logits"], expected)
    refused = rtcc("opt", lenet, "-o", tmp_path / "out.txt").errors
    assert ("error[unknown-suffix]: " in refused, "hint: write out.onnx" in refused) == (True, True)


def test_passes_are_listed_with_options(rtcc: Run) -> None:
    output = rtcc("passes").output
    assert "fold-batch-norm      reassociates" in output
    assert "max_workspace=0: a size such as 64M" in output
    assert "-O2 at graph level:" in output


def test_targets(rtcc: Run) -> None:
    assert rtcc("targets").output.startswith("x86 ")
    assert "vector bits: 256" in rtcc("targets", "x86:haswell").output
    assert "error[unknown-target]: " in rtcc("targets", "z80").errors
    for name, cpu in (("arm", "cortex-a76"), ("cortex-m", "cortex-m4"), ("cortex-m,ram=64K", "cortex-m4")):
        listed = rtcc("targets", name)
        assert (listed.code, cpu in listed.output, "threads=…" in listed.output) == (0, True, True)
    assert "CPUs:" not in rtcc("targets", "c").output
    refused = rtcc("targets", "c:foo").errors
    assert ("error[unknown-cpu]: " in refused, "rtcc targets" in refused) == (True, False)
    assert "error[target-needs-cpu]: " in rtcc("targets", "cortex-m", "--synthesize").errors


def test_doctor_compiles_and_runs(rtcc: Run) -> None:
    done = rtcc("doctor")
    assert done.code == 0, done.errors
    assert "compile and run        works" in done.output
    emulator = "qemu-aarch64 or qemu-aarch64-static"
    for declared in ("onnxruntime", "pnnx", "MNN", "verilator", "yosys", "g++", emulator):
        assert f"\n{declared} " in done.output


def test_doctor_without_a_compiler(rtcc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    done = rtcc("doctor")
    assert done.code == 1
    assert "error[compiler-missing]: " in done.errors


def test_demo(rtcc: Run, tmp_path: Path) -> None:
    done = rtcc("demo", "--output", tmp_path)
    assert done.code == 0, done.errors
    for expected in (
        "98.5% of 1000",
        "p50 / p99 / max",
        "frames per second",
        "workspace",
        "plan-memory",
        f"{tmp_path}/ir",
    ):
        assert expected in done.output
    assert (tmp_path / "lenet5.h").exists()
    assert len(list((tmp_path / "ir").glob("*.rtir"))) > 10
