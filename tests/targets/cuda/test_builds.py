"""Whole models compiled for GPUs on a machine without one: what nvcc makes of them."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import rtcc
from benchmarks import gpu_builds
from benchmarks.gpu_builds import MODELS, TARGETS, Build, table_of, with_most_work
from benchmarks.models.named import find_model
from rtcc.artifact.elf import Elf
from rtcc.artifact.library import info_of_library
from rtcc.compiler import Options, build
from tests.targets.cuda.nvcc import needs_nvcc

LENET = Path(rtcc.__file__).parent / "demo" / "lenet5_mnist.onnx"

HOSTS = {"cuda:sm_80": "x86_64", "cuda:sm_87": "aarch64", "cuda:sm_90": "x86_64"}

LEAST_THREADS = 256
"""Of a launch that does much of a network's work."""

FINE = Build(
    "minilm6.half", "cuda:sm_80", seconds=59.9, artefact_bytes=45_000_000, kernels=14, launches=90,
    with_most_work=4, registers=64, shared_bytes=32768, spill_bytes=0, stack_bytes=0,
)  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name", [name if name == "lenet" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_most_of_the_work_is_done_in_registers(name: str, target: str, tmp_path: Path) -> None:
    path, feeds = find_model(name, tmp_path)
    shapes = {key: array.shape for key, array in feeds.items()}
    library = build(path, tmp_path, Options(target=target, shapes=shapes))
    contents = library.read_bytes()
    assert Elf(contents, library.name).machine == HOSTS[target]
    assert f".target {target.removeprefix('cuda:')}".encode() in contents
    device = info_of_library(library).device
    assert device is not None
    assert f"cuda:{device.architecture}" == target
    assert sum(kernel.share for kernel in device.kernels) == pytest.approx(1, abs=0.01)
    for kernel in with_most_work(device.kernels):
        assert (kernel.spill_bytes, kernel.stack_bytes) == (0, 0), kernel
        assert kernel.threads * kernel.blocks >= LEAST_THREADS, f"hardly a thread: {kernel}"


@needs_nvcc
def test_builds_are_timed_and_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models, found = tmp_path / "models", tmp_path / "builds.json"
    chosen = ["--models", "lenet.half", "--targets", "cuda:sm_80"]
    code = gpu_builds.main([*chosen, "--folder", str(models), "--json", str(found)])
    (each,) = (Build(**row) for row in json.loads(found.read_text()))
    assert code == bool(each.missed)
    assert (each.model, each.target, each.spill_bytes, each.stack_bytes) == ("lenet.half", "cuda:sm_80", 0, 0)
    assert each.launches >= each.kernels >= each.with_most_work >= 1
    assert "lenet.half" in capsys.readouterr().out


def test_bars() -> None:
    assert FINE.missed == []
    assert replace(FINE, seconds=60.1).missed == ["seconds"]
    assert replace(FINE, spill_bytes=4, stack_bytes=8).missed == ["spills", "stack"]
    table = table_of([FINE, replace(FINE, spill_bytes=4)])
    assert [list(column.cells) for column in table.columns][-1] == ["yes", "no: spills"]


@needs_nvcc
def test_the_library_needs_no_driver_to_load(tmp_path: Path) -> None:
    library = build(LENET, tmp_path, Options(target="cuda:sm_80"))
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", needed)) <= {"libc.so.6", "libm.so.6", "libdl.so.2"}
    assert info_of_library(library).inputs[0].name == "image"
