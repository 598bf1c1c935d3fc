"""Pictures of calibrated distributions, with the ranges that were chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rtcc.errors import ToolMissing
from rtcc.quantization.report import PLOTTED_BINS, Report, TensorRow, coarse

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
    """One PNG per calibrated tensor, written to a folder; ToolMissing without matplotlib."""
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
    return written


def _draw(axes: Any, row: TensorRow, bars: dict[str, Any]) -> None:
    """Bars of a distribution on a logarithmic axis, and lines at the limits."""
    edges = bars["low"] + np.arange(PLOTTED_BINS + 1) * (bars["high"] - bars["low"]) / PLOTTED_BINS
    axes.stairs(np.maximum(bars["counts"], 0.5), edges, fill=True, baseline=0.5)
    axes.set(title=row.name, xlabel="value", ylabel="elements", yscale="log")
    for limit in (row.low, row.high):
        axes.axvline(limit, color="tab:red", linewidth=1)
