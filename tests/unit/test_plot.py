"""benchmarks/plot.py: reports become pictures; other files, and a missing matplotlib, are typed errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plot import MOST_SHOWN, draw, main, ratios, roofline
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


def bars_of(panel: Any) -> list[tuple[float, float, object]]:
    """Place, height and colour of every bar that is seen, from left to right."""
    seen = [bar for bar in panel.patches if bar.get_height() > 0]
    return sorted((bar.get_x() + bar.get_width() / 2, bar.get_height(), bar.get_facecolor()) for bar in seen)


def test_bars_are_as_high_as_the_ratios(tmp_path: Path) -> None:
    """openvino takes 1.5 times rtcc's time, TVM 300 times, which is cut off and written on its bar."""
    pytest.importorskip("matplotlib")
    figure = ratios(json.loads(comparison(tmp_path / "report.json").read_text()))
    one, two = figure.axes
    assert [panel.get_title() for panel in figure.axes] == [
        "1 thread: median latency over rtcc's", "2 threads: median latency over rtcc's",
    ]  # fmt: skip
    bars = bars_of(one)
    assert [height for _, height, _ in bars] == [1.5, MOST_SHOWN, 1.5, MOST_SHOWN]
    assert [height for _, height, _ in bars_of(two)] == [1.5, MOST_SHOWN]
    assert [round(place) for place, _, _ in bars] == [0, 0, 1, 1]
    assert [label.get_text() for label in one.get_xticklabels()] == ["lenet", "YOLOv8n"]
    written = [(text.get_text(), round(text.get_position()[0])) for text in one.texts]
    assert written == [("300", 0), ("300", 1)]
    legend = one.get_legend()
    names = {text.get_text(): handle.get_facecolor() for text, handle in zip(
        legend.get_texts(), legend.legend_handles, strict=True)}  # fmt: skip
    assert names == {"openvino": bars[0][2], "tvm": bars[1][2]}
    assert [line.get_ydata()[0] for line in one.lines] == [1]  # rtcc's own


def test_a_runtime_that_failed_has_no_bar() -> None:
    pytest.importorskip("matplotlib")
    rows = [
        {"model": name, "threads": 1, "latency_us": {"rtcc": {"p50": 2.0}, **others}}
        for name, others in (("a", {"mnn": {"p50": 5.0}}), ("b", {"ncnn": {"p50": 3.0}}))
    ]
    failed = {"model": "c", "threads": 1, "latency_us": {"mnn": {"p50": 5.0}}}
    (panel,) = ratios({"results": [*rows, failed]}).axes
    assert [(round(place), height) for place, height, _ in bars_of(panel)] == [(0, 2.5), (1, 1.5)]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["a", "b"]  # c: rtcc itself failed


def test_points_are_where_kernels_are_on_the_roofline(tmp_path: Path) -> None:
    """10 GFLOP/s at 5 GB/s are 2 operations a byte; what only moves has no point, but its time counts."""
    pytest.importorskip("matplotlib")
    figure = roofline(json.loads(layers(tmp_path / "layers.json").read_text()))
    (panel,) = figure.axes
    (points,) = panel.collections
    assert points.get_offsets().tolist() == [[2.0, 10.0]]
    assert points.get_sizes().tolist() == [2000 / 2 + 4]
    assert panel.get_xscale() == "log"
    assert [line.get_ydata()[0] for line in panel.lines] == [100]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["lenet"]


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
