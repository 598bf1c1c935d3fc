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
from benchmarks.gpu_figures.bounds import FLOORS, bounds_of, excess, narrowest
from benchmarks.gpu_figures.peers import traced
from benchmarks.gpu_figures.set import Case, model_at, read_case, write_case
from benchmarks.gpu_figures.weights import Spread, seeded, to_rows
from rtcc.compiler import read_model
from rtcc.errors import InvalidInput
from rtcc.pipeline.inputs import random_inputs
from rtcc.text import parse_module, print_module
from tests.targets.cuda.hosted import driver_in, hosted

ROOT = Path(__file__).parents[3]
LENET = Path(rtcc.__file__).parent / "demo" / "lenet5_mnist.onnx"

GROWN = """graph @main(%x: f32[6,4]) {
  %y = math.exp(%x) : f32[6,4] loc("grow")
  return(%y)
}"""

WITHOUT_TVM = """
import sys
for name in ("tvm", "onnx", "torch"):
    sys.modules[name] = None
from benchmarks import gpu
sys.exit(gpu.main(sys.argv[1:]))
"""


def ran(folder: Path, environment: dict[str, str]) -> tuple[int, dict[str, Any], str]:
    """The exit code, the figures and the text of a run, in a process that has no TVM, ONNX or PyTorch."""
    file = folder / "figures.json"
    command = [sys.executable, "-c", WITHOUT_TVM, "run", str(folder), "--json", str(file), "--runs", "5"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert file.exists(), done.stderr
    return done.returncode, json.loads(file.read_text()), done.stdout


def test_a_set_is_checked_and_timed(tmp_path: Path) -> None:
    driver, found = driver_in(tmp_path / "driver"), hosted(GROWN, tmp_path / "host")
    module = parse_module("// rtir 1  level=graph\n" + GROWN)
    folder = tmp_path / "set"
    folder.mkdir()
    for batch in (1, 6):  # of the same artefact: a point each of the curve
        library = folder / f"grown-b{batch}.so"
        shutil.copy(found.library, library)
        write_case(library, module, random_inputs(module, batch), "cuda:sm_80")
    environment = {"LD_LIBRARY_PATH": str(driver.parent), "FAKE_CUDA_KERNELS": str(found.kernels)}
    code, figures, text = ran(folder, environment)
    row = figures["models"]["grown-b6"]
    assert (code, row["is_right"], list(row["latency_us"])) == (0, True, ["rtcc"])
    assert row["worst"] < 1
    assert row["gpu_bytes"] >= 2 * 6 * 4 * 4
    assert row["first_run_us"] > 0
    assert [kernel["kernel"] for kernel in row["kernels"]] == ["grow"]
    assert row["device"]["name"] == "stand-in 0"
    points = figures["curves"]["grown"]["rtcc"]
    assert [point["batch"] for point in points] == [1, 6]
    for point in points:
        assert point["samples_per_second"] == pytest.approx(1e6 * point["batch"] / point["p50_us"])
        assert point["p50_us"] <= point["p99_us"]
    assert "grown-b6: right" in text
    case = read_case(folder / "grown-b6.so")
    arrays = {"in x": case.feeds["x"], "limit y": case.limits["y"]}
    wrong = np.nextafter(case.declared["y"] + 2 * case.limits["y"].max(), np.inf)
    arrays |= {"out y": wrong.astype(np.float32), "exact y": wrong}
    np.savez(folder / "grown-b6.npz", allow_pickle=False, **arrays)
    code, figures, text = ran(folder, environment)
    assert (code, figures["models"]["grown-b6"]["is_right"], figures["models"]["grown-b1"]["is_right"]) == (
        1, False, True,
    )  # fmt: skip
    assert "grown-b6: WRONG" in text


def test_bounds_are_of_each_type_and_channel() -> None:
    exact = np.zeros((1, 2, 2, 2))
    exact[0, 0], exact[0, 1] = 1, 1000
    declared = exact.astype(np.float32)
    bounds = bounds_of(declared, exact, "f32")
    np.testing.assert_allclose(bounds[0, :, 0, 0], [FLOORS["f32"], 1000 * FLOORS["f32"]])
    off = declared.copy()
    off[0, 1, 0, 0] += 0.01
    assert excess(off, declared, exact, bounds) == pytest.approx(0.5, rel=0.05)
    off[0, 0, 1, 1] += 0.01  # allowed in the other channel only
    assert excess(off, declared, exact, bounds) > 100
    noisy = declared.copy()
    noisy[0, 0, 0, 1] += 1e-4  # NumPy's own error, eight times of which is allowed there
    assert bounds_of(noisy, exact, "f32")[0, 0, 1, 1] == pytest.approx(8e-4, rel=1e-2)
    whole = np.arange(4)
    none = bounds_of(whole, whole, "f32")
    assert excess(whole, whole, whole, none) == 0
    assert excess(whole + 1, whole, whole, none) == float("inf")
    assert excess(whole.astype(np.int32), whole, whole, none) == float("inf")
    nan = np.full(3, np.nan, np.float32)
    assert excess(nan, nan, nan, np.zeros(3)) == 0
    assert excess(nan, np.zeros(3, np.float32), np.zeros(3), np.ones(3)) == float("inf")


@pytest.mark.parametrize(
    ("cast", "target", "kind"),
    [("f32", "cuda:sm_80", "f32"), ("f32", "cuda:sm_80,tf32=yes", "tf32"), ("f16", "cuda:sm_80", "f16"),
     ("bf16", "cuda:sm_80,tf32=yes", "bf16")],
)  # fmt: skip
def test_the_narrowest_type_decides(cast: str, target: str, kind: str) -> None:
    text = f"""// rtir 1  level=graph
graph @main(%x: f32[4]) {{
  %y = math.cast(%x) {{to = "{cast}"}} : {cast}[4]
  %z = math.exp(%y) : {cast}[4]
  return(%z)
}}"""
    assert narrowest(parse_module(text), target) == kind


def test_weights_are_made_alike_from_their_spread() -> None:
    module = read_model(LENET)
    full, light, spreads = seeded(module)
    assert all(constant.is_splat or constant.is_inline for constant in light.constants.values())
    assert len(print_module(light)) < 10_000
    rows = json.loads(json.dumps(to_rows(spreads)))
    assert rows.keys() <= light.constants.keys()
    for symbol, spread in spreads.items():
        was, now = module.constants[symbol].array, full.constants[f"{symbol}.seeded"].array
        assert Spread.of(was) == spread
        assert abs(now.mean() - was.mean()) < 0.2 * was.std() + 1e-6
        assert was.min() <= now.min() <= now.max() <= was.max()
    again = seeded(read_model(LENET))[0]
    assert print_module(again) == print_module(full)


def test_pytorch_computes_the_graph(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    full, light, spreads = seeded(read_model(LENET))
    path = tmp_path / "lenet-b1.rtir"
    path.write_text(print_module(light))
    path.with_suffix(".weights.json").write_text(json.dumps(to_rows(spreads)))
    feeds = random_inputs(full, 0)
    module = traced(path, [torch.from_numpy(array) for array in feeds.values()])
    (found,) = module(*(torch.from_numpy(array) for array in feeds.values()))
    (wanted,) = rtcc.interpret(full, feeds).values()
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-6)
    kinds = {str(node.target) for node in module.graph.nodes if node.op == "call_function"}
    assert any("convolution" in kind for kind in kinds)


def test_models_at_batches(tmp_path: Path) -> None:
    path, feeds = model_at("lenet", 3, tmp_path)
    assert {array.shape for array in feeds.values()} == {(3, 3, 32, 32)}
    (result,) = rtcc.interpret(read_model(path), feeds).values()
    assert result.shape == (3, 10)
    with pytest.raises(InvalidInput) as caught:
        model_at(str(LENET), 2, tmp_path / "fixed")
    assert caught.value.code == "batch-fixed"
    assert gpu._numbers("4,1,4") == [1, 4]
    assert Case(tmp_path / "a-b.half-b16.so", {}, {}, {}, {}).model == "a-b.half"
    assert Case(tmp_path / "a-b.half-b16.so", {}, {}, {}, {}).batch == 16
