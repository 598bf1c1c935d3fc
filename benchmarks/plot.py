"""Pictures of what compare.py and layers.py measured, from their JSON.

    python benchmarks/plot.py ratios out.json ratios.svg           bars: each runtime's latency over rtcc's
    python benchmarks/plot.py roofline layers.json roofline.svg    each kernel: achieved over peak

The picture's format is the name's ending, such as .svg or .png. Needs matplotlib: pip install "rtcc[bench]".
"""

# pyright: basic

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.comparison.headline import KNOWN_AS
from rtcc.errors import InvalidInput, RtccError, ToolMissing

OURS = "rtcc"
MOST_SHOWN = 8.0
"""Bars end here, with their figure written on them: TVM's default is hundreds of times slower."""


def ratios(report: Mapping[str, Any]) -> Any:
    """One panel per number of threads: for each model a bar per runtime, its median latency over rtcc's."""
    counts = sorted({row["threads"] for row in report["results"]})
    figure, panels = _plots().subplots(len(counts), figsize=(12, 3.6 * len(counts)), squeeze=False)
    for threads, panel in zip(counts, panels[:, 0], strict=True):
        rows = [row for row in report["results"] if row["threads"] == threads and OURS in row["latency_us"]]
        _bars(panel, rows)
        panel.set_title(f"{threads} thread{'s' if threads > 1 else ''}: median latency over rtcc's")
    figure.tight_layout()
    return figure


def _bars(panel: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    runtimes = list(dict.fromkeys(name for row in rows for name in row["latency_us"] if OURS not in name))
    width = 0.8 / max(1, len(runtimes))
    for number, runtime in enumerate(runtimes):
        for place, row in enumerate(rows):
            if runtime not in row["latency_us"]:
                continue
            ratio = row["latency_us"][runtime]["p50"] / row["latency_us"][OURS]["p50"]
            left = place + (number - (len(runtimes) - 1) / 2) * width
            panel.bar(left, min(ratio, MOST_SHOWN), width, color=f"C{number}")
            if ratio > MOST_SHOWN:
                panel.text(left, MOST_SHOWN, f"{ratio:.0f}", ha="center", va="bottom", fontsize=7)
    panel.axhline(1, color="black", linewidth=0.8)
    panel.set_xticks(range(len(rows)), [KNOWN_AS.get(row["model"], row["model"]) for row in rows])
    panel.tick_params(axis="x", rotation=20)
    panel.set_ylim(0, MOST_SHOWN * 1.25)
    colours = [panel.bar(0, 0, color=f"C{number}") for number in range(len(runtimes))]
    panel.legend(colours, runtimes, ncols=len(runtimes), loc="upper right")


def roofline(report: Mapping[str, Any]) -> Any:
    """Each kernel of each model: operations per byte, per cent of peak; the area is its share of time."""
    figure, panel = _plots().subplots(figsize=(9, 5))
    for number, (model, kernels) in enumerate(report.items()):
        busy = [kernel for kernel in kernels if kernel["gflops"] > 0]
        total = sum(kernel["microseconds"] * kernel["launches"] for kernel in kernels)
        panel.scatter(
            [kernel["gflops"] / kernel["gigabytes_per_second"] for kernel in busy],
            [100 * kernel["of_peak"] for kernel in busy],
            s=[2000 * kernel["microseconds"] * kernel["launches"] / total + 4 for kernel in busy],
            alpha=0.6, color=f"C{number}", label=KNOWN_AS.get(model, model),
        )  # fmt: skip
    panel.axhline(100, color="black", linewidth=0.8)
    panel.set_xscale("log")
    panel.set_xlabel("operations per byte of operands and results")
    panel.set_ylabel("per cent of the measured peak of one core")
    panel.set_title("Every kernel alone; the area is its share of the network's time")
    for handle in panel.legend().legend_handles:
        handle.set_sizes([40])
    figure.tight_layout()
    return figure


PICTURES = {"ratios": ratios, "roofline": roofline}


def _plots() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise ToolMissing(
            "plot-needs-matplotlib", "pictures need matplotlib", hint='pip install "rtcc[bench]"'
        ) from error
    matplotlib.use("agg")  # no window
    import matplotlib.pyplot

    return matplotlib.pyplot


def draw(kind: str, source: Path, picture: Path) -> None:
    """Draw a report; InvalidInput where the file is not one, ToolMissing without matplotlib."""
    plots = _plots()
    try:
        figure = PICTURES[kind](json.loads(source.read_text()))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        other = {"ratios": "compare.py", "roofline": "layers.py"}[kind]
        message = f"{source} is no report of {other}: {type(error).__name__} {error}"
        raise InvalidInput(
            "bad-report", message, hint=f"make one: benchmarks/{other} … --json FILE"
        ) from error
    figure.savefig(picture, dpi=150)
    plots.close(figure)


def main(given: Sequence[str] | None = None) -> int:
    """Draw one picture."""
    parser = argparse.ArgumentParser(description="Draw what was measured.")
    parser.add_argument("kind", choices=PICTURES)
    parser.add_argument("report", type=Path, metavar="JSON")
    parser.add_argument("picture", type=Path, metavar="PICTURE")
    options = parser.parse_args(given)
    try:
        draw(options.kind, options.report, options.picture)
    except RtccError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
