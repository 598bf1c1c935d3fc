"""benchmarks/layers.py names every kernel that a plan launches, with figures that a core can reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import layers
from benchmarks.models.networks import write_model

ANCHORS = ("matmul", "direct_plain", "direct", "winograd", "columns", "fft", "im2col")
"""What convolutions and products are computed by; their share of the peak is given."""


def test_every_kernel_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model("lenet", tmp_path)
    report = tmp_path / "layers.json"
    assert layers.main([str(model), "--rounds", "2", "--share", "0", "--json", str(report)]) == 0
    shown = capsys.readouterr().out
    (found,) = json.loads(report.read_text()).values()
    products = [layer for layer in found if layer["algorithm"].startswith(ANCHORS)]
    assert len(products) == 5
    assert all(layer["launches"] >= 1 and 0 < layer["microseconds"] < 1e5 for layer in found)
    assert all(0 < layer["of_peak"] < 1.5 for layer in products)
    assert all(layer["algorithm"].partition(" ")[0] in shown for layer in products)


def test_parts_of_divided_kernels_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model("lenet", tmp_path)
    report = tmp_path / "layers.json"
    told = ["--threads", "2", "--rounds", "2", "--share", "0", "--json", str(report)]
    assert layers.main([str(model), *told]) == 0
    (found,) = json.loads(report.read_text()).values()
    assert "times faster" in " ".join(capsys.readouterr().out.split())
    assert {layer["parts"] for layer in found} <= {1, 2}
    assert all(layer["longest"] == layer["microseconds"] for layer in found if layer["parts"] == 1)
