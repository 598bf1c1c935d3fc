"""Whole models compiled for GPUs on a machine without one: what nvcc makes of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import rtcc
from benchmarks.models import networks
from rtcc.artifact.elf import Elf
from rtcc.artifact.library import info_of_library
from rtcc.compiler import Options, build
from tests.targets.cuda.nvcc import needs_nvcc

LENET = Path(rtcc.__file__).parent / "demo" / "lenet5_mnist.onnx"

MODELS: dict[str, Callable[[], bytes]] = {
    "lenet": LENET.read_bytes,
    "resnet18": lambda: networks.resnet18().SerializeToString(),
    "mobilenetv2": lambda: networks.mobilenet_v2().SerializeToString(),
    "minilm": lambda: networks.minilm().SerializeToString(),
}

GPUS = {"sm_80": "x86_64", "sm_87": "aarch64", "sm_90": "x86_64"}
"""Architecture → the host's."""

MOST = 0.9
"""The share of a run's operations whose kernels must have registers enough."""


@needs_nvcc
@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize(
    "name", [name if name == "lenet" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_kernels_have_registers_enough(name: str, gpu: str, tmp_path: Path) -> None:
    library = build(MODELS[name](), tmp_path, Options(target=f"cuda:{gpu}"))
    contents = library.read_bytes()
    assert Elf(contents, library.name).machine == GPUS[gpu]
    assert f".target {gpu}".encode() in contents
    device = info_of_library(library).device
    assert device is not None
    assert device.architecture == gpu
    assert sum(kernel.share for kernel in device.kernels) == pytest.approx(1, abs=0.01)
    covered = 0.0
    for kernel in device.kernels:  # those with the most operations first
        if covered < MOST:
            assert kernel.spill_bytes == 0, kernel
        covered += kernel.share


@needs_nvcc
def test_the_library_needs_no_driver_to_load(tmp_path: Path) -> None:
    library = build(LENET, tmp_path, Options(target="cuda:sm_80"))
    needed = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"\(NEEDED\).*\[(.*)\]", needed)) <= {"libc.so.6", "libm.so.6", "libdl.so.2"}
    assert info_of_library(library).inputs[0].name == "image"
