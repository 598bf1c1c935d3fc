"""Planned memory stays near the live-range bound, and benchmarks/workspace.py says by how much."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import workspace
from benchmarks.models import networks
from benchmarks.workspace import Workspace

NETWORKS = {
    "resnet": lambda: networks.resnet18(size=64, width=32),
    "mobilenet": lambda: networks.mobilenet_v2(size=96),
    "encoder": lambda: networks.minilm(tokens=64, layers=2),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_workspaces_are_within_the_bar(name: str, tmp_path: Path) -> None:
    path, report = tmp_path / f"{name}.onnx", tmp_path / "workspace.json"
    path.write_bytes(NETWORKS[name]().SerializeToString())
    assert workspace.main(["--models", str(path), "--json", str(report)]) == 0
    one, two = json.loads(report.read_text())
    assert (one["threads"], two["threads"]) == (1, 2)
    assert one["live"] <= one["arena"] <= one["bar"]
    assert one["further"] == 0
    assert two["further"] <= two["scratch"]
    assert name != "encoder" or two["further"] > 0  # attention has scratch memory, and is divided


def test_an_arena_of_holes_is_above_the_bar() -> None:
    assert Workspace(arena=2000, live=1000, scratch=100, further=100).bar == 1225
