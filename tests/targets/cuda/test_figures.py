# pyright: basic
"""`benchmarks/gpu.py` without a GPU: sets, the run over the stand-in driver, PyTorch's module of a graph."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc
from benchmarks import gpu
from rtcc.compiler import read_model
from rtcc.pipeline.inputs import random_inputs
from rtcc.text import parse_module, read_module
from tests.targets.cuda.hosted import driver_in, hosted

ROOT = Path(__file__).parents[3]
LENET = Path(rtcc.__file__).parent / "demo" / "lenet5_mnist.onnx"

GROWN = """graph @main(%x: f32[6,4]) {
  %y = math.exp(%x) : f32[6,4]
  return(%y)
}"""

WITHOUT_TVM = """
import sys
for name in ("tvm", "onnx", "torch"):
    sys.modules[name] = None
from benchmarks import gpu
sys.exit(gpu.main(sys.argv[1:]))
"""


def ran(folder: Path, environment: dict[str, str], *more: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the figures of a run, in a process that has no TVM, ONNX or PyTorch."""
    file = folder / "figures.json"
    options = ["run", str(folder), "--json", str(file), "--runs", "5", *more]
    command = [sys.executable, "-c", WITHOUT_TVM, *options]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert file.exists(), done.stderr
    return done.returncode, json.loads(file.read_text())


def test_a_set_is_checked_and_timed(tmp_path: Path) -> None:
    driver, found = driver_in(tmp_path / "driver"), hosted(GROWN, tmp_path / "set")
    module = parse_module("// rtir 1  level=graph\n" + GROWN)
    feeds = random_inputs(module, 0)
    gpu.add_to_set(module, feeds, found.library)
    environment = {"LD_LIBRARY_PATH": str(driver.parent), "FAKE_CUDA_KERNELS": str(found.kernels)}
    for name in ("kernels.so", "kernels.c"):  # what stands for the GPU is no part of the set
        shutil.move(tmp_path / "set" / name, tmp_path / name)
    environment["FAKE_CUDA_KERNELS"] = str(tmp_path / "kernels.so")
    code, figures = ran(tmp_path / "set", environment)
    row = figures["models"]["model"]
    assert (code, row["is_right"], list(row["latency_us"])) == (0, True, ["rtcc"])
    assert row["distance"] < 1e-6
    assert row["gpu_bytes"] >= 2 * 6 * 4 * 4
    wrong = {"out y": np.exp(feeds["x"]) + 1, "in x": feeds["x"]}
    np.savez(tmp_path / "set" / "model.npz", allow_pickle=False, **wrong)
    code, figures = ran(tmp_path / "set", environment)
    assert (code, figures["models"]["model"]["is_right"]) == (1, False)
    assert ran(tmp_path / "set", environment, "--tolerance", "10")[0] == 0


def test_pytorch_computes_the_graph(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    module = read_model(LENET)
    light = gpu.without_weights(module)
    assert any(constant.is_splat for constant in light.constants.values())
    assert all(constant.is_splat or constant.is_inline for constant in light.constants.values())
    path = tmp_path / "lenet.rtir"
    gpu.add_to_set(module, random_inputs(module, 0), tmp_path / "lenet.so")
    assert path.stat().st_size < 10_000
    feeds = random_inputs(module, 0)
    traced = gpu.traced(path, [torch.from_numpy(array) for array in feeds.values()])
    (found,) = traced(*(torch.from_numpy(array) for array in feeds.values()))
    (wanted,) = rtcc.interpret(read_module(path), feeds).values()
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-6)
    kinds = {str(node.target) for node in traced.graph.nodes if node.op == "call_function"}
    assert any("convolution" in kind for kind in kinds)
