# pyright: basic
"""Kernels' names, as profilers show them; and how long each kernel takes, beside what a GPU can do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtcc.artifact import load
from rtcc.artifact.elf import Elf
from rtcc.artifact.info import DeviceInfo, DeviceKernel
from rtcc.emission.device_code import WHOLE
from rtcc.emission.emit_cuda import named
from rtcc.errors import ArtifactError, RtccError
from rtcc.system.child_process import Child
from rtcc.system.gpu import GpuFacts
from rtcc.target import parse_target
from rtcc.targets.cuda import Cuda
from rtcc.targets.cuda.compile import lower_kernel
from rtcc.targets.cuda.device_code import SYMBOL, build_device_code
from rtcc.targets.cuda.profile import report_of
from rtcc.targets.cuda.toolkit import nvcc
from rtcc.text import parse_module
from tests.targets.cuda.hosted import Driver, Hosted, hosted, stand_in
from tests.targets.cuda.nvcc import needs_nvcc

LAYERS = """graph @main(%x: f32[6,64], %w: f32[64,8]) {
  %a = nn.softmax(%x) {axis = -1} : f32[6,64] loc("weigh/rows")
  %b = nn.mat_mul(%a, %w) : f32[6,8] loc("sum it up")
  %c = math.exp(%b) : f32[6,8] loc("sum it up")
  %d = tensor.transpose(%c) {perm = [1,0]} : f32[8,6]
  return(%d)
}"""

A100 = GpuFacts("A100", (8, 0), 108, 1.41, 1555.0, 40 << 20, "13.0")


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Hosted:
    return hosted(LAYERS, tmp_path_factory.mktemp("layers"), conv="generic")


# ----------------------------------------------------------------------------------------------------- names


def test_kernels_are_named_after_layers(layers: Hosted) -> None:
    """The stand-in driver finds functions by these names alone, as a GPU's does: other tests run them."""
    device = layers.source.info.device
    assert device is not None
    symbols = {kernel.name: kernel.symbol for kernel in device.kernels}
    assert symbols["weigh_rows"] == "rtcc_weigh_rows_softmax"
    assert symbols["sum_it_up"].startswith("rtcc_sum_it_up_mat_mul")
    assert all(symbol.isidentifier() and symbol.isascii() for symbol in symbols.values())
    assert set(device.order) == set(symbols)
    for symbol in symbols.values():
        assert f'{{"{symbol}", ' in layers.source.code


KERNELS = """// rtir 1  level=kernels
kernel @first(%x: f32[7]) {
 %y = math.exp(%x) : f32[7]
 return(%y)\n}
kernel @second(%x: f32[7]) {
 %y = math.exp(%x) : f32[7]
 return(%y)\n}
kernel @NAME(%x: f32[7]) {
 %y = math.tanh(%x) : f32[7]
 return(%y)\n}"""


def test_equal_kernels_share_a_name_and_long_names_are_cut() -> None:
    module = parse_module(KERNELS.replace("NAME", "n" * 80))
    target = parse_target("cuda:sm_80")
    assert isinstance(target, Cuda)
    codes = {name: stand_in(kernel, target, "same") for name, kernel in module.kernels.items()}
    other = codes["n" * 80][WHOLE]
    codes["n" * 80] = {WHOLE: replace(other, cubin=other.cubin + b"other")}
    found = {name: phases[WHOLE] for name, phases in named(module, codes).items()}
    assert [found[name].symbol for name in ("first", "second")] == ["rtcc_first_exp"] * 2
    cut = found["n" * 80]
    assert len(cut.symbol) == len(SYMBOL)
    assert cut.symbol.startswith("rtcc_nnn")
    assert cut.symbol.encode() in cut.ptx
    assert SYMBOL.encode() not in cut.ptx + cut.cubin
    assert len(cut.cubin) == len(codes["n" * 80][WHOLE].cubin)  # nothing in it moves


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_a_renamed_cubin_is_what_ptxas_makes_of_that_name(architecture: str, tmp_path: Path) -> None:
    """All sections, by their names, have the bytes that they have where the name was that one from the start:
    but for tables of strings and symbols, whose offsets differ."""
    target = parse_target(f"cuda:{architecture}")
    assert isinstance(target, Cuda)
    module = parse_module("// rtir 1  level=kernels\n" + LAYERS_KERNEL)
    name = "rtcc_rows_softmax"
    code = build_device_code(lower_kernel(module.kernels["rows"], target), architecture).named(name)
    (tmp_path / "kernel.ptx").write_bytes(code.ptx)
    command = [nvcc(), "-cubin", f"-arch={architecture}", "kernel.ptx", "-o", "kernel.cubin"]
    subprocess.run(command, cwd=tmp_path, check=True)
    made, wanted = Elf(code.cubin, "renamed"), Elf((tmp_path / "kernel.cubin").read_bytes(), "ptxas")
    assert [s.name for s in made.symbols] == [s.name for s in wanted.symbols]
    assert name in {s.name for s in made.symbols}
    contents = [
        {elf.name_of(s): elf.contents(s) for s in elf.sections if s.has_bytes and "tab" not in elf.name_of(s)}
        for elf in (made, wanted)
    ]
    differing = {each for each in contents[1] if contents[0][each] != contents[1][each]}
    assert contents[0].keys() == contents[1].keys()
    assert f".text.{name}" in contents[0]
    assert differing <= {".note.nv.tkinfo"}  # what ptxas was called with


LAYERS_KERNEL = """kernel @rows(%x: f32[6,64]) {
 %y = nn.softmax(%x) {axis = -1} : f32[6,64]
 return(%y)
}"""


# ----------------------------------------------------------------------------------------------------- times


def _kernel(name: str, launches: int, operations: int, bytes: int, element: str) -> DeviceKernel:
    return DeviceKernel(name, name, launches, 1, 1, 32, 0, 0, 0, 0.5, operations, bytes, element)


def test_times_beside_peaks() -> None:
    kernels = (
        _kernel("halves", 2, 312_000_000, 1_555_000, "f16"),
        _kernel("singles", 1, 19_500_000, 15_550_000, "f32"),
        _kernel("wide", 1, 100, 100, "f64"),
    )  # fmt: skip
    info = DeviceInfo("sm_80", "12.0", 0, kernels, ("halves", "", "singles", "halves", "wide"))
    report = report_of(info, [3.0, 1.0, 20.0, 1.0, 2.0], A100, tf32=False)
    rows = {row["kernel"]: row for row in report.layers}
    assert list(rows) == ["singles", "halves", "wide", "copies"]
    assert (rows["halves"]["us"], rows["halves"]["launches"], rows["halves"]["share"]) == (4.0, 2, "14.8 %")
    assert (rows["halves"]["of peak"], rows["halves"]["of bandwidth"]) == ("50.0 %", "50.0 %")
    assert (rows["singles"]["of peak"], rows["singles"]["of bandwidth"]) == ("5.0 %", "50.0 %")
    assert rows["wide"]["of peak"] == "-"
    assert (report.total["us"], report.total["launches"]) == (27.0, 5)
    faster = report_of(info, [3.0, 1.0, 20.0, 1.0, 2.0], A100, tf32=True)
    assert {row["kernel"]: row for row in faster.layers}["singles"]["of peak"] == "0.6 %"
    unknown = report_of(info, [0.0] * 5, replace(A100, capability=(9, 9)), tf32=False)
    assert {row["of peak"] for row in unknown.layers} == {"", "-"}


def timed(driver: str, found: Hosted) -> list[Any]:
    here = Driver(driver)
    here.use(found)
    with load(found.library) as artifact:
        feeds = artifact.random_inputs(0)
        before = artifact.run(feeds)
        number, times = artifact.profile(feeds, runs=2)
        launches = here.count("launches")
        after = artifact.run(feeds)
        same = [np.array_equal(before[name], after[name]) for name in before]
        codes: list[Any] = []
        for call in ("cuEventCreate", "cuEventElapsedTime", "cuGraphInstantiateWithFlags"):
            here.fail(call, 719, 1 if call == "cuEventCreate" else 0)
            with pytest.raises(ArtifactError) as caught:
                artifact.profile(feeds, runs=1)
            here.fail("", 0)
            codes.append((caught.value.code, here.count("events") - 1))  # one is the workspace's own
    return [number, times, launches, same, codes, here.left()]


def test_each_launch_is_timed(driver: Path, layers: Hosted, gpu: Child) -> None:
    number, times, launches, same, codes, left = gpu.call(300, timed, str(driver), layers)
    device = layers.source.info.device
    assert device is not None
    assert number == 0
    assert len(times) == len(device.order)
    assert min(times) > 0
    # a run, then twice a run and each launch twice in rows of 32
    assert launches == len(times) * (1 + 2 * (1 + 2 * 32))
    assert all(same)
    assert codes == [("device-failed", 0)] * 3
    assert left == {}


def test_the_command_line(driver: Path, layers: Hosted, tmp_path: Path) -> None:
    environment = {
        **os.environ, "LD_LIBRARY_PATH": str(driver.parent), "FAKE_CUDA_KERNELS": str(layers.kernels)
    }  # fmt: skip
    plain = hosted(PLAIN, tmp_path / "plain")
    environment["FAKE_CUDA_KERNELS"] = str(plain.kernels)

    def said(*arguments: str) -> str:
        command = [sys.executable, "-m", "rtcc.cli", "bench", "--profile", *arguments, str(plain.library)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return done.stdout + done.stderr

    file = tmp_path / "figures.json"
    text = said("--json", str(file))
    assert "of bandwidth" in text
    figures = json.loads(file.read_text())
    assert figures["device"]["name"] == "stand-in 0"
    assert figures["device"]["gigabytes_per_second"] == pytest.approx(1555.2)
    assert [row["kernel"] for row in figures["layers"]] == ["grow"]
    assert figures["layers"][0]["us"] > 0
    assert "error[bench-profile]" in said("--runs", "5")


PLAIN = """graph @main(%x: f32[6,4]) {
  %y = math.exp(%x) : f32[6,4] loc("grow")
  return(%y)
}"""


def test_a_cpu_has_no_profile(tmp_path: Path) -> None:
    from rtcc.compiler import Options, build

    library = build(parse_module("// rtir 1  level=graph\n" + PLAIN), tmp_path, Options())
    with load(library) as artifact:
        for call in (artifact.profile, lambda: parse_target("x86").profile(artifact, {})):
            with pytest.raises(RtccError) as caught:
                call()
            assert caught.value.code in ("no-gpu", "no-profile")
