"""Pictures of calibrated distributions, with the ranges that were chosen, and of times and sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rtcc.errors import ToolMissing
from rtcc.quantization.reporting.report import PLOTTED_BINS, Report, TensorRow, coarse
from rtcc.quantization.reporting.times import TimeRow

LONGEST_NAME = 80
"""Characters of a tensor's name that the file's name keeps."""


def figure_class() -> Any:
    """Matplotlib's Figure; ToolMissing where it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        message = "plots need matplotlib, which is not installed"
        raise ToolMissing("no-matplotlib", message, hint="pip install matplotlib") from error
    return Figure


def plot(report: Report, folder: Path) -> list[Path]:
    """One PNG per calibrated tensor, `times.png`, `sizes.png` and `front.png` where the report has them.

    Written to a folder, which is made; ToolMissing without matplotlib.
    """
    new_figure = figure_class()
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for number, row in enumerate(report.tensors):
        if row.name not in report.histograms:
            continue
        figure: Any = new_figure(figsize=(7, 3), layout="constrained")
        _draw(figure.subplots(), row, coarse(report.histograms[row.name]))
        stem = "".join(c if c.isalnum() or c in "._-" else "_" for c in row.name)[:LONGEST_NAME]
        written.append(folder / f"{number:03}-{stem}.png")
        figure.savefig(written[-1], dpi=100)
    return written + _draw_model(report, folder, new_figure)


def _draw_model(report: Report, folder: Path, new_figure: Any) -> list[Path]:
    """The pictures of all layers together."""
    drawn: dict[str, Callable[[Any], None]] = {}
    if report.times is not None and report.times.rows:
        rows = report.times.rows
        kind = "predicted" if rows[0].measured_before is None else "measured"
        drawn["times"] = lambda axes: _bars(axes, rows, kind, 1e6, f"µs, {kind}")
        if any(row.bytes_before is not None for row in rows):
            drawn["sizes"] = lambda axes: _bars(axes, rows, "bytes", 1 / 1024, "KiB of weights")
    if report.found is not None:
        drawn["front"] = lambda axes: _draw_front(axes, report)
    for name, draw in drawn.items():
        height = 4.0 if name == "front" or report.times is None else 1.5 + 0.22 * len(report.times.rows)
        figure: Any = new_figure(figsize=(8, height), layout="constrained")
        draw(figure.subplots())
        figure.savefig(folder / f"{name}.png", dpi=100)
    return [folder / f"{name}.png" for name in drawn]


def _bars(axes: Any, rows: Sequence[TimeRow], kind: str, factor: float, unit: str) -> None:
    """Two bars for each layer, before and after, the first layer on top."""
    places = np.arange(len(rows))
    for when, shift in (("before", -0.2), ("after", 0.2)):
        lengths = [factor * (getattr(row, f"{kind}_{when}") or 0.0) for row in rows]
        axes.barh(places + shift, lengths, height=0.4, label=when)
    axes.set_yticks(places, [row.name[:LONGEST_NAME] for row in rows], fontsize=6)
    axes.set(xlabel=unit, ylim=(len(rows) - 0.5, -0.5))
    axes.legend()


def _draw_front(axes: Any, report: Report) -> None:
    """Decibels against predicted time, the chosen point marked; the exact model has none to show."""
    found = report.found
    assert found is not None
    shown = [point for point in found.points if np.isfinite(point.quality.sqnr)]
    axes.plot([point.seconds * 1e6 for point in shown], [point.quality.sqnr for point in shown], "o")
    axes.plot([found.chosen.seconds * 1e6], [found.chosen.quality.sqnr], "s", label="chosen")
    axes.axvline(found.exact.seconds * 1e6, color="tab:gray", linewidth=1, label="float")
    if found.floor.min_sqnr is not None:
        axes.axhline(found.floor.min_sqnr, color="tab:red", linewidth=1, label="floor")
    axes.set(xlabel="µs, predicted", ylabel="dB of the worst output")
    axes.legend()


def _draw(axes: Any, row: TensorRow, bars: dict[str, Any]) -> None:
    """Bars of a distribution on a logarithmic axis, and lines at the limits."""
    edges = bars["low"] + np.arange(PLOTTED_BINS + 1) * (bars["high"] - bars["low"]) / PLOTTED_BINS
    axes.stairs(np.maximum(bars["counts"], 0.5), edges, fill=True, baseline=0.5)
    axes.set(title=row.name, xlabel="value", ylabel="elements", yscale="log")
    for limit in (row.low, row.high):
        axes.axvline(limit, color="tab:red", linewidth=1)
