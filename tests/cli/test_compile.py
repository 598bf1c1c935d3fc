"""`rtcc compile`: what it writes, what its options do, and going on from any stage."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import rtcc as package
from rtcc.cli.compile import parse_size
from rtcc.compiler import Options, settle, start, write
from rtcc.target import parse_target
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
    assert "direct_plain" in done.output


BYTES = """// rtir 1  level=graph
const #s : f32[] = 0.02
const #z : u8[] = 3
const #w : i8[16,16,3,3] = splat(1)
graph @main(%x: u8[1,16,9,9], %b: f32[16]) {
  %d = quant.dequantize_linear(%x, #s, #z) : f32[1,16,9,9]
  %f = quant.dequantize_linear(#w, #s) : f32[16,16,3,3]
  %c = nn.conv(%d, %f) {pads = [1,1,1,1]} : f32[1,16,9,9] loc("first")
  %q = quant.quantize_linear(%c, #s, #z) : u8[1,16,9,9]
  %e = quant.dequantize_linear(%q, #s, #z) : f32[1,16,9,9]
  %y = nn.conv(%e, %f, %b) {pads = [1,1,1,1]} : f32[1,16,9,9] loc("second")
  return(%y)
}
"""


def test_explains_which_layers_are_integers_and_how_they_are_requantised(rtcc: Run, tmp_path: Path) -> None:
    (tmp_path / "bytes.rtir").write_text(BYTES)
    words = ("compile", tmp_path / "bytes.rtir", "--target", "x86:cascadelake", "--requantize", "fixed25")
    done = rtcc(*words, "--explain", "--explain-json", tmp_path / "e.json", "--dump-ir", tmp_path / "ir")
    assert done.code == 0, done.errors
    assert "integers or floats, µs" in done.output
    assert "illegal   its bias is not constant" in done.output
    first, second = json.loads((tmp_path / "e.json").read_text())["arithmetic"]
    assert (first["nodes"], first["chosen"]) == (["first"], "integers")
    assert (second["nodes"], second["chosen"]) == (["second"], "floats")
    (dump,) = (tmp_path / "ir").glob("*lower-quantization.rtir")
    assert 'mode = "fixed25"' in dump.read_text()
    assert "requantize=fixed25" in dump.read_text().split("\n")[0]
    done = rtcc("compile", dump, "-o", tmp_path / "again.so", "--dump-ir", tmp_path / "again")
    assert done.code == 0, done.errors
    assert not list((tmp_path / "again").glob("*lower-quantization.rtir")), "a dump goes on where it stopped"


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


LOWERING = [
    "legalize",
    "fold-constants",
    "expand-loops",
    "fuse-attention",
    "fuse",
    "select-conv",
    "join-pools",
    "select-layout",
    "outline-kernels",
    "plan-memory",
]


@pytest.mark.parametrize(
    ("pipeline", "expected"),
    [
        ("simplify", ["simplify", *LOWERING]),
        ("", LOWERING),
        ("eliminate-dead,fold-constants", ["eliminate-dead", "fold-constants", *LOWERING]),
        ("legalize,simplify", ["legalize", "simplify", *LOWERING[1:]]),
        ("fuse{most_ops=8}", ["fuse{most_ops=8}", *LOWERING[5:]]),
        (",".join(LOWERING[3:]), LOWERING[3:]),
    ],
)
def test_a_pipeline_of_ones_own_goes_on_to_the_plan(tiny: Path, pipeline: str, expected: list[str]) -> None:
    compilation = start(tiny, Options(pipeline=pipeline))
    compilation.lower()
    assert compilation.module.after == expected


def test_a_pipeline_of_ones_own_keeps_its_level(rtcc: Run, tiny: Path, tmp_path: Path) -> None:
    assert rtcc("compile", tiny, "--pipeline=-O0,simplify", "--dump-ir", tmp_path).code == 0
    (last,) = tmp_path.glob("*-plan-memory.rtir")
    assert "select-conv{conv=generic}" in last.read_text().splitlines()[0]


def test_a_pipeline_goes_on_from_a_stage(rtcc: Run, dumps: Path, tmp_path: Path) -> None:
    (stage,) = (dumps / "ir").glob("*-fuse.rtir")
    done = rtcc("compile", stage, "-o", tmp_path / "l.so", "--pipeline", "", "--explain")
    assert done.code == 0, done.errors
    assert "\nselect-layout " in done.output
    assert "\nfuse " not in done.output


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
    assert "as in --dim N=1" in done.errors
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


@pytest.mark.parametrize(
    ("pipeline", "choosing"),
    [
        ("simplify,-O0", "select-conv{conv=generic}"), ("simplify,-O1", "select-conv{transforms=false}"),
        ("simplify, -O1 ,-O1", "select-conv{transforms=false}"), ("simplify,-O2", "select-conv"),
        ("simplify", "select-conv"),
    ],
)  # fmt: skip
def test_a_pipeline_is_lowered_by_its_level_wherever_that_stands(
    tiny: Path, pipeline: str, choosing: str
) -> None:
    compilation = start(tiny, Options(pipeline=pipeline))
    compilation.lower()
    assert compilation.report is not None
    assert choosing in [each.text for each in compilation.report.passes]


def test_a_pipeline_has_one_level(rtcc: Run, tiny: Path) -> None:
    done = rtcc("compile", tiny, "--pipeline=-O0,simplify,-O1")
    assert done.errors.startswith("error[two-levels]: -O0 and -O1 stand in one pipeline")


def left_of(path: Path) -> str:
    """The pipeline text that a dump has left to run."""
    return ",".join(package.read_module(path).left)


def test_what_is_left_is_forgotten_for_another_target(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    """The Cortex-A76 adds up signed bytes, the A72 unsigned ones: what is left of one is not the other's."""
    assert rtcc("opt", lenet, "--target", "arm:cortex-a76", "-o", tmp_path / "m.rtir").code == 0
    module = package.read_module(tmp_path / "m.rtir")
    module.left = ["fold-constants"]
    for core, left in (("cortex-a78ae", ["fold-constants"]), ("cortex-a72", [])):
        again = module.clone()
        settle(again, parse_target(f"arm:{core}"))
        assert again.left == left, core


def test_what_is_left_is_in_the_dump_until_it_is_run(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    words = ("-O1", "--conv", "direct", "--max-workspace", "1M", "--dump-ir", tmp_path / "ir")
    assert rtcc("compile", lenet, "-o", tmp_path / "l.so", *words).code == 0
    names = ("start", "fuse", "plan-memory")
    (begun,), (fused,), (planned,) = ((tmp_path / "ir").glob(f"*-{name}.rtir") for name in names)
    later = "join-pools,select-layout,outline-kernels,plan-memory{max_workspace=1M}"
    assert left_of(fused) == f"select-conv{{conv=direct,transforms=false}},{later}"
    assert left_of(planned) == ""
    made = tmp_path / "made.rtir"
    for text, passes, left in (
        (fused, "select-conv", later),
        (fused, "join-pools", left_of(fused)),
        (fused, "select-layout,outline-kernels", ""),
        (begun, "fold-constants", left_of(begun).partition(",")[2]),
        (begun, "eliminate-dead", ""),
    ):
        done = rtcc("opt", text, "-p", passes, "-o", made)
        assert done.code == 0, done.errors
        assert left_of(made) == left, passes
    small = tmp_path / "ir" / "small.rtir"
    small.write_text(fused.read_text().replace("max_workspace=1M", "max_workspace=1K"))
    assert rtcc("compile", small).errors.startswith("error[workspace-too-large]: ")
    assert rtcc("compile", small, "--max-workspace", "2M").code == 0


def test_a_pass_is_told_what_it_asks_for_alone(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    """A plug-in's options are its own, whatever they are called."""
    plugin = tmp_path / "own_conv.py"
    plugin.write_text(
        "from dataclasses import dataclass\nfrom rtcc.pipeline import Pass\n\n\n"
        "@dataclass(frozen=True)\nclass OwnConv(Pass):\n    conv: str = 'mine'\n\n"
        "    def run(self, module):\n        assert self.conv == 'mine'\n        return False\n"
    )
    words = ("--load", plugin, "-p", "-O1,own-conv", "--conv", "generic", "--explain")
    done = rtcc("compile", lenet, "-o", tmp_path / "l.so", *words)
    assert done.code == 0, done.errors
    assert "own-conv " in done.output
    assert "conv1                                        generic" in done.output


def test_opt_keeps_the_target_and_checks_the_choices_of_a_lowered_stage(
    rtcc: Run, dumps: Path, tmp_path: Path
) -> None:
    (stage,) = (dumps / "ir").glob("*-select-conv.rtir")
    done = rtcc("opt", stage, "-p", "join-pools", "--target", "x86:x86-64-v2")
    assert done.errors.startswith("error[other-target]: ")
    edited = tmp_path / "edited.rtir"
    edited.write_text(re.sub(r'algorithm = "\w+"', 'algorithm = "quick"', stage.read_text()))
    shutil.copytree(dumps / "ir" / "blobs", tmp_path / "blobs")
    assert rtcc("opt", edited, "-p", "join-pools").errors.startswith("error[bad-algorithm]: ")


def test_any_target_can_be_asked_for(rtcc: Run, tiny: Path, tmp_path: Path) -> None:
    assert rtcc("compile", tiny, "--target", "x86:x86-64-v2", "--dump-ir", tmp_path).code == 0
    for stage, wanted, found in (
        ("*-start.rtir", [], "x86:x86-64-v2"),
        ("*-start.rtir", ["--target", "x86"], str(parse_target("x86"))),
        ("*-start.rtir", ["--threads", "2"], "x86:x86-64-v2,threads=2"),
        ("*-fuse.rtir", [], "x86:x86-64-v2"),
    ):
        (path,) = tmp_path.glob(stage)
        done = rtcc("compile", path, "-o", tmp_path / "t.so", *wanted)
        assert f"target {found}, " in done.output, done.errors
    (path,) = tmp_path.glob("*-fuse.rtir")
    done = rtcc("compile", path, "-o", tmp_path / "t.so", "--target", "x86")
    assert done.errors.startswith("error[other-target]: ")


def test_threads_are_given_once(rtcc: Run, tiny: Path) -> None:
    done = rtcc("compile", tiny, "--target", "x86,threads=2", "--threads", "3")
    assert done.errors.startswith("error[threads]: ")


def test_a_stage_keeps_its_shapes_and_target(rtcc: Run, dumps: Path, tmp_path: Path) -> None:
    (stage,) = (dumps / "ir").glob("*-plan-memory.rtir")
    done = rtcc("compile", stage, "-o", tmp_path / "l.so", "--shape", "image=2x1x28x28")
    assert done.errors.startswith("error[fixed-shape]: ")
    done = rtcc("compile", stage, "-o", tmp_path / "l.so", "--target", "x86:x86-64-v2")
    assert done.errors.startswith("error[other-target]: ")


def test_forces_algorithms(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    wishes = ("--conv", "generic", "--conv", "conv2=direct")
    done = rtcc("compile", lenet, "-o", tmp_path / "l.so", "--explain", *wishes)
    assert done.code == 0, done.errors
    first, second = done.output.split("nn.conv")[1:3]
    assert "→ generic" in first
    assert "→ direct" in second
    refused = rtcc("compile", lenet, "-o", tmp_path / "l.so", "--conv", "conv1=depthwise")
    assert refused.code == 1
    assert refused.errors.startswith("error[illegal-algorithm]: depthwise cannot be used: ")
    assert "at: conv1" in refused.errors
    assert rtcc("compile", lenet, "--conv", "direct", "--conv", "direct_plain").code == 2


def test_writes_decisions_as_json(rtcc: Run, lenet: Path, tmp_path: Path) -> None:
    done = rtcc("compile", lenet, "-o", tmp_path / "l.so", "--explain-json", tmp_path / "why.json")
    assert done.code == 0, done.errors
    layers = json.loads((tmp_path / "why.json").read_text())["layers"]
    assert [layer["nodes"] for layer in layers] == [["conv1"], ["conv2"], ["fc1"], ["fc2"], ["fc3"]]


def test_a_stage_past_the_choice_cannot_follow_it(rtcc: Run, dumps: Path) -> None:
    (stage,) = (dumps / "ir").glob("*-outline-kernels.rtir")
    done = rtcc("compile", stage, "--conv", "direct")
    assert done.code == 1
    assert done.errors.startswith("error[no-pass-for-option]: ")


def test_dumps_each_kernel_as_tir(dumps: Path) -> None:
    (last,) = (dumps / "ir").glob("*-plan-memory.rtir")
    texts = {path.stem: path.read_text() for path in (dumps / "ir" / "tir").glob("*.tir")}
    assert set(texts) == set(package.read_module(last).kernels)
    assert all("T.prim_func" in text for text in texts.values())
