"""What a search for float layers found, as tables, lines and JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from rtcc.quantization.mixed_precision.search import Found, Point


def search_tables(found: Found) -> list[Table]:
    """What each layer loses and gains, then the models that were measured, fastest first."""
    from rich.table import Table

    has_metric = found.exact.quality.metric is not None
    layers = Table(title="layers, each alone in integers")
    for column in ("layer", "dB", *(["metric"] if has_metric else []), "gains µs", "kept"):
        layers.add_column(column, justify="left" if column in ("layer", "kept") else "right")
    for each in found.layers:
        kept = "float" if each.layer.key in found.chosen.kept else ""
        metric = [f"{each.metric:.4f}"] if each.metric is not None else []
        layers.add_row(each.layer.name, f"{each.sqnr:.1f}", *metric, f"{each.gain * 1e6:.2f}", kept)
    front = Table(title="time against accuracy")
    for column in ("float layers", "predicted µs", "dB", *(["metric"] if has_metric else []), "", ""):
        front.add_column(column, justify="right" if column else "left")
    for point in found.points:
        quality = point.quality
        metric = [f"{quality.metric:.4f}"] if quality.metric is not None else []
        count = f"{len(point.kept)} of {len(found.layers)}"
        marks = ("front" if point.is_front else "", "chosen" if point is found.chosen else "")
        front.add_row(count, f"{point.seconds * 1e6:,.1f}", f"{quality.sqnr:.1f}", *metric, *marks)
    return [layers, front]


def search_summary(found: Found) -> list[str]:
    """The choice in lines."""
    chosen, exact = found.chosen, found.exact
    names = found.names(chosen.kept)
    floor = f"{found.floor} held on {found.samples} samples held out: {chosen.quality.sqnr:.1f} dB"
    if chosen.quality.metric is not None and exact.quality.metric is not None:
        floor += f", metric {exact.quality.metric:.4f} before, {chosen.quality.metric:.4f} after"
    lines = [
        f"floor       {floor}",
        f"float stay  {len(names)} of {len(found.layers)} layers"
        + "".join(f" --keep-float {name}" for name in names),
    ]
    if found.resumed:
        lines.append(f"resumed     with {found.resumed} measurements of an interrupted run")
    return lines


def search_json(found: Found) -> dict[str, Any]:
    """The same for JSON: seconds, decibels (infinite ones become null), layers as `keep_float` takes them."""
    return {
        "floor": asdict(found.floor),
        "held_out_samples": found.samples,
        "kept": found.names(found.chosen.kept),
        "layers": [
            {"layer": each.layer.key, "name": each.layer.name, "sqnr": each.sqnr, "metric": each.metric,
             "gain_seconds": each.gain}
            for each in found.layers
        ],
        "points": [_point_json(found, point) for point in found.points],
    }  # fmt: skip


def _point_json(found: Found, point: Point) -> dict[str, Any]:
    return {
        "kept": found.names(point.kept), "predicted_seconds": point.seconds, "sqnr": point.quality.sqnr,
        "metric": point.quality.metric, "is_front": point.is_front, "is_chosen": point is found.chosen,
    }  # fmt: skip
