"""benchmarks/layers.py names every kernel that a plan launches, with figures that a core can reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rtcc
from benchmarks import layers
from benchmarks.models.networks import write_model
from rtcc.text import parse_module

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


def test_kernels_of_bytes_are_set_against_the_peak_of_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "layers.json"
    told = ["--rounds", "2", "--share", "0", "--json", str(report), "--folder", str(tmp_path)]
    assert layers.main(["lenet.int8", *told]) == 0
    assert "all of bytes" in capsys.readouterr().out
    (found,) = json.loads(report.read_text()).values()
    of_bytes = [layer for layer in found if layer["sums_bytes"]]
    assert len(of_bytes) >= 4
    assert all(0 < layer["of_peak"] < 1.2 for layer in of_bytes)


def test_parts_of_divided_kernels_are_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "wide.onnx"
    text = """// rtir 1  level=graph
const #w : f32[64,64,3,3] = splat(0.5)
graph @main(%x: f32[1,64,40,40]) {
  %c = nn.conv(%x, #w) {pads = [1,1,1,1]} : f32[1,64,40,40]
  %y = reduce.reduce_max(%c) {keepdims = 0} : f32[]
  return(%y)
}
"""
    rtcc.write(parse_module(text), model)
    report = tmp_path / "layers.json"
    told = ["--threads", "2", "--rounds", "2", "--share", "0", "--json", str(report)]
    assert layers.main([str(model), *told]) == 0
    (found,) = json.loads(report.read_text()).values()
    assert "times faster" in " ".join(capsys.readouterr().out.split())
    parts = {layer["parts"] for layer in found}
    assert parts <= {1, 2}
    assert 2 in parts
    assert all(layer["longest"] == layer["microseconds"] for layer in found if layer["parts"] == 1)
