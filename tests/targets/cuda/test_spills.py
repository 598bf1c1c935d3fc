# pyright: basic
"""The kernels that do 90 % of a network's work keep everything in registers, by the artefact's own table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import rtcc
from benchmarks.models import networks
from rtcc.compiler import Options, read_model, start
from rtcc.pipeline.inputs import random_inputs
from rtcc.targets.cuda import Cuda
from tests.targets.arm.test_halves import halved
from tests.targets.cuda.nvcc import needs_nvcc

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    "lenet": lambda: onnx.load(Path(rtcc.__file__).parent / "demo" / "lenet5_mnist.onnx"),
    "resnet18": networks.resnet18,
    "mobilenet_v2": networks.mobilenet_v2,
}

SAMPLES = 4
"""For ranges of activations, which do not matter here."""


def of_bytes(model: onnx.ModelProto) -> Any:
    read = read_model(model.SerializeToString())
    feeds = [random_inputs(read, seed) for seed in range(SAMPLES)]
    samples = {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}
    return rtcc.quantize(model.SerializeToString(), samples, bias_correction=False).module


FORMS: dict[str, Callable[[onnx.ModelProto], Any]] = {
    "f32": lambda model: model.SerializeToString(),
    "f16": lambda model: halved(model).SerializeToString(),
    "int8": of_bytes,
}


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_work_is_done_in_registers(name: str, form: str, architecture: str) -> None:
    compilation = start(FORMS[form](NETWORKS[name]()), Options(target=f"cuda:{architecture}"))
    compilation.lower()
    target, module = compilation.target, compilation.module
    assert isinstance(target, Cuda)
    device = target.emit(module, "model", target.compile_kernels(module)).info.device
    assert device is not None
    done = 0.0
    for kernel in sorted(device.kernels, key=lambda each: -each.share):
        if done > 0.9:
            break
        done += kernel.share
        assert (kernel.spill_bytes, kernel.stack_bytes) == (0, 0), kernel
        assert kernel.threads * kernel.blocks >= 256, f"hardly a thread: {kernel}"
    assert done > 0.9
