"""benchmarks/plot.py: reports become pictures; other files, and a missing matplotlib, are typed errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.plot import draw, main
from rtcc.errors import InvalidInput, ToolMissing


def comparison(path: Path) -> Path:
    def row(model: str, threads: int) -> object:
        latency = {"rtcc": {"p50": 1.0}, "rtcc run": {"p50": 2.0}, "openvino": {"p50": 1.5}}
        return {"model": model, "threads": threads, "latency_us": {**latency, "tvm": {"p50": 300.0}}}

    path.write_text(json.dumps({"results": [row("lenet", 1), row("nudenet", 1), row("lenet", 2)]}))
    return path


def layers(path: Path) -> Path:
    kernel = {"microseconds": 2.0, "launches": 1, "gflops": 10.0, "gigabytes_per_second": 5.0, "of_peak": 0.1}
    moved = {**kernel, "gflops": 0.0, "of_peak": 0.0}
    path.write_text(json.dumps({"lenet": [kernel, moved]}))
    return path


@pytest.mark.parametrize(("kind", "report"), [("ratios", comparison), ("roofline", layers)])
@pytest.mark.parametrize("ending", ["svg", "png"])
def test_a_report_becomes_a_picture(kind: str, report: object, ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert callable(report)
    picture = tmp_path / f"picture.{ending}"
    draw(kind, Path(str(report(tmp_path / "report.json"))), picture)
    assert picture.stat().st_size > 1000
    if ending == "svg" and kind == "ratios":
        text = picture.read_text()
        assert all(f"<!-- {word} -->" in text for word in ("YOLOv8n", "openvino", "300"))
        assert "<!-- rtcc run -->" not in text


def test_another_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(InvalidInput, match=r"no report of layers\.py"):
        draw("roofline", comparison(tmp_path / "report.json"), tmp_path / "picture.svg")
    assert main(["ratios", str(layers(tmp_path / "l.json")), str(tmp_path / "picture.svg")]) == 1
    assert "error[bad-report]" in capsys.readouterr().err
    assert not (tmp_path / "picture.svg").exists()


def test_without_matplotlib_there_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ToolMissing, match="need matplotlib"):
        draw("ratios", comparison(tmp_path / "report.json"), tmp_path / "picture.svg")
