"""What quantising did to a model: per tensor, per layer, per output, in bytes; as a table and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data
from rtcc.interpreter import output_names
from rtcc.ir import Module, Value
from rtcc.quantization.calibration.histogram import Histogram
from rtcc.quantization.calibration.ranges import squared_error
from rtcc.quantization.calibration.running import probe
from rtcc.quantization.end_to_end import Quantized
from rtcc.quantization.mixed_precision.report import search_json, search_summary, search_tables
from rtcc.quantization.placement import values_of
from rtcc.quantization.quantizer import Step, unwatched
from rtcc.quantization.reporting.noise import float_outputs, lost_elements, powers
from rtcc.quantization.reporting.times import Times, times_of, times_summary, times_table
from rtcc.quantization.weights import signal_to_noise
from rtcc.target import host_of

if TYPE_CHECKING:
    from rich.table import Table

    from rtcc.quantization.mixed_precision.search import Found

COMPARED = 32
"""Samples on which the quantised model is compared with the float one."""

PLOTTED_BINS = 256
"""Bars of a plotted histogram."""


@dataclass(frozen=True)
class TensorRow:
    """A quantised activation. own_sqnr: of its own rounding and clipping, in dB, from the distribution.

    sqnr: of the tensor in the quantised model, with the errors of all before it; None if not measured.
    """

    name: str
    dtype: str
    low: float
    high: float
    scale: float
    zero_point: int
    seen_low: float | None
    seen_high: float | None
    own_sqnr: float | None
    sqnr: float | None


@dataclass(frozen=True)
class LayerRow:
    """A layer with a quantised weight. weight_sqnr, output_sqnr: in dB; the latter None if not measured."""

    name: str
    operator: str
    weight: str
    shape: tuple[int, ...]
    dtype: str
    scales: int
    smallest_scale: float
    largest_scale: float
    weight_sqnr: float
    output_sqnr: float | None


@dataclass(frozen=True)
class OutputRow:
    """A result of the model. top1: the share of vectors along the last axis whose largest element agrees.

    not_finite: elements that are NaN or infinite in one of the two models alone; sqnr is then -inf. Results
    that are no floats have the share of elements that are equal, `agreement`, and neither of the two.
    """

    name: str
    sqnr: float | None
    top1: float | None
    not_finite: int = 0
    agreement: float | None = None

    def __str__(self) -> str:
        if self.agreement is not None:
            return f"{self.agreement:.2%} of elements agree"
        top1 = "" if self.top1 is None else f", top-1 agrees in {self.top1:.2%}"
        lost = f", {self.not_finite:,} elements not finite in one model alone" if self.not_finite else ""
        return f"{_decibels(self.sqnr)} dB{top1}{lost}"


@dataclass
class Report:
    """All of it. bytes_before, bytes_after: of constants. engine: how the float model was run to calibrate.

    metric_before, metric_after: what the data measure, where they do. kept: why constants that the scheme
    narrows stayed float32, by name.
    """

    settings: dict[str, Any]
    samples: int
    compared: int
    engine: str
    bytes_before: int
    bytes_after: int
    tensors: list[TensorRow] = field(default_factory=list[TensorRow])
    layers: list[LayerRow] = field(default_factory=list[LayerRow])
    outputs: list[OutputRow] = field(default_factory=list[OutputRow])
    metric_before: float | None = None
    metric_after: float | None = None
    kept: dict[str, str] = field(default_factory=dict[str, str])
    histograms: dict[str, Histogram] = field(default_factory=dict[str, Histogram])
    found: Found | None = None
    """What the search for float layers found."""
    times: Times | None = None
    """What layers take, and how large they are."""

    def to_json(self) -> str:
        """Everything, histograms as counts of PLOTTED_BINS bins; infinite decibels are null."""
        rows: dict[str, Any] = {
            k: v for k, v in vars(self).items() if k not in ("histograms", "found", "times")
        }
        for name in ("tensors", "layers", "outputs"):
            rows[name] = [asdict(row) for row in rows[name]]
        rows["histograms"] = {name: coarse(each) for name, each in self.histograms.items()}
        rows["search"] = None if self.found is None else search_json(self.found)
        rows["times"] = [] if self.times is None else [asdict(row) for row in self.times.rows]
        return json.dumps(_finite(rows), indent=1) + "\n"

    def tables(self) -> list[Table]:
        """Activations, layers, what layers take, what a search found, for a terminal."""
        from rich.table import Table

        tensors = Table(title="activations")
        for column in ("tensor", "type", "range", "scale", "zero", "own dB", "dB"):
            tensors.add_column(column, justify="left" if column in ("tensor", "type") else "right")
        for row in self.tensors:
            shown = f"{row.low:.4g} … {row.high:.4g}"
            tensors.add_row(row.name, row.dtype, shown, f"{row.scale:.4g}", str(row.zero_point),
                            _decibels(row.own_sqnr), _decibels(row.sqnr))  # fmt: skip
        layers = Table(title="layers")
        for column in ("layer", "operator", "weight", "type", "scales", "weight dB", "output dB"):
            layers.add_column(column, justify="right" if "dB" in column or column == "scales" else "left")
        for layer in self.layers:
            shape = "x".join(map(str, layer.shape))
            layers.add_row(layer.name, layer.operator, shape, layer.dtype, str(layer.scales),
                           _decibels(layer.weight_sqnr), _decibels(layer.output_sqnr))  # fmt: skip
        searched = [] if self.found is None else search_tables(self.found)
        timed = [times_table(self.times)] if self.times and self.times.rows else []
        return [table for table in (tensors, layers, *timed, *searched) if table.row_count]

    def summary(self) -> list[str]:
        """The model as a whole, in lines."""
        lines = [f"constants   {self.bytes_before:,} bytes before, {self.bytes_after:,} after"]
        lines += [f"kept        #{name} as f32: {reason}" for name, reason in self.kept.items()]
        if self.samples:
            lines.append(f"calibrated  on {self.samples} samples, {self.engine}")
        for row in self.outputs:
            lines.append(f"output      {row.name}: {row} ({self.compared} samples)")
        if self.metric_before is not None and self.metric_after is not None:
            lines.append(f"metric      {self.metric_before:.4f} before, {self.metric_after:.4f} after")
        lines += [] if self.times is None else times_summary(self.times)
        return lines + ([] if self.found is None else search_summary(self.found))


def make_report(
    quantized: Quantized, *, compare: int = COMPARED, metric: bool = True, target: str | None = None,
    progress: Callable[[Step], None] = unwatched, measure_times: bool = False,
) -> Report:  # fmt: skip
    """The report on a quantised model; compare: samples to run both models on (0, or without data: none).

    measure_times: run each kernel of both models alone, besides predicting what it takes.
    """
    outcome, data, target = quantized.outcome, quantized.data, host_of(target)
    settings = {name: str(value) if isinstance(value, str) else value
                for name, value in vars(quantized.settings).items()}  # fmt: skip
    report = Report(
        settings, outcome.samples, 0, outcome.engine,
        constant_bytes(quantized.float_module), constant_bytes(quantized.module), kept=dict(outcome.kept),
        found=quantized.found,
    )  # fmt: skip
    noise: dict[str, float] = {}
    if data is not None and compare:
        progress(Step("comparing"))
        noise = _compare(quantized, data, compare, target, report, progress)
        if metric and data.metric is not None:
            progress(Step("measuring the metric"))
            report.metric_before = data.measured(
                probe(quantized.float_module, [], target, keep_outputs=True).run
            )
            report.metric_after = data.measured(probe(quantized.module, [], target, keep_outputs=True).run)
    _add_tensors(report, quantized, noise)
    _add_layers(report, quantized, noise)
    report.times = times_of(quantized, target, progress, is_measured=measure_times)
    return report


def constant_bytes(module: Module) -> int:
    """Bytes of all constants as a file stores them, 4-bit ones two to a byte."""
    return sum(-(-c.data.size * c.type.dtype.bits // 8) for c in module.constants.values() if c.use_count)


def _compare(
    quantized: Quantized, data: Data, most: int, target: str | None, report: Report,
    progress: Callable[[Step], None],
) -> dict[str, float]:  # fmt: skip
    """Decibels by the name of each value that is quantised or a layer's; outputs go to the report.

    Outputs are held against the model as it was given, values inside it against what was quantised.
    """
    inserted = quantized.outcome.inserted
    wanted = [*(t.name for t in inserted.tensors), *(each.output for each in inserted.layers)]
    names = list(dict.fromkeys(wanted))
    inner = quantized.outcome.reference or quantized.float_module
    before, after = _by_name(inner), _by_name(quantized.module)
    restored = {t.name: t.restored for t in quantized.outcome.inserted.tensors}
    names = [name for name in names if name in before and name in after]
    left = probe(inner, [before[n] for n in names], target)
    given = probe(quantized.float_module, [], target, keep_outputs=True)
    right = probe(quantized.module, [restored.get(n, after[n]) for n in names], target, keep_outputs=True)
    floats = set(float_outputs(quantized.float_module))
    outputs = {name: Output(name in floats) for name in output_names(quantized.float_module.main)}
    sums = {name: np.zeros(2) for name in names}
    for feeds in data.samples(most=most):
        found = right.run(feeds)
        for name, array, other in zip(names, left.watched(feeds), right.names, strict=True):
            sums[name] += powers(array, found[other])
        exact = given.run(feeds)
        for name, output in outputs.items():
            output.add(exact[name], found[name])
        report.compared += 1
        progress(Step("comparing", report.compared))
    report.outputs += [output.row(name) for name, output in outputs.items()]
    return {name: signal_to_noise(*sums[name]) for name in names}


@dataclass
class Output:
    """What is counted of one result. powers: of the floats and their errors. same, total: of what agrees."""

    is_float: bool
    powers: NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    same: int = 0
    total: int = 0
    lost: int = 0

    def add(self, exact: NDArray[Any], found: NDArray[Any]) -> None:
        """Count the results of one sample."""
        if not self.is_float:
            self._agree(exact == found)
            return
        self.powers += powers(exact, found)
        self.lost += int(np.sum(lost_elements(exact, found)))
        if exact.ndim and exact.shape[-1] > 1:
            self._agree(exact.argmax(axis=-1) == found.argmax(axis=-1))

    def _agree(self, same: NDArray[np.bool_]) -> None:
        self.same += int(np.sum(same))
        self.total += int(np.size(same))

    def row(self, name: str) -> OutputRow:
        """What the report says of it."""
        share = self.same / self.total if self.total else None
        if not self.is_float:
            return OutputRow(name, None, None, agreement=share)
        return OutputRow(name, signal_to_noise(*self.powers), share, self.lost)


def _by_name(module: Module) -> dict[str, Value]:
    return {value.name: value for value in values_of(module.main) if value.name is not None}


def _add_tensors(report: Report, quantized: Quantized, noise: dict[str, float]) -> None:
    for tensor in quantized.outcome.inserted.tensors:
        chosen = tensor.parameters
        histogram = quantized.outcome.histograms.get(tensor.name)
        own = None
        if histogram is not None:
            report.histograms[tensor.name] = histogram
            error = squared_error(histogram, tensor.range, float(chosen.scale)) * histogram.count
            own = signal_to_noise(histogram.squares, error)
        report.tensors.append(
            TensorRow(
                tensor.name,
                chosen.dtype.value,
                tensor.range.low,
                tensor.range.high,
                float(chosen.scale),
                int(chosen.zero_point),
                None if histogram is None else histogram.low,
                None if histogram is None else histogram.high,
                own,
                noise.get(tensor.name),
            )
        )


def _add_layers(report: Report, quantized: Quantized, noise: dict[str, float]) -> None:
    for layer in quantized.outcome.inserted.layers:
        scale, before = layer.after.parameters.scale, layer.before.astype(np.float64)
        report.layers.append(
            LayerRow(
                layer.name,
                layer.operator,
                layer.weight,
                layer.before.shape,
                layer.after.parameters.dtype.value,
                int(scale.size),
                float(scale.min()),
                float(scale.max()),
                signal_to_noise(*powers(before, layer.restored)),
                noise.get(layer.output),
            )
        )


def coarse(histogram: Histogram) -> dict[str, Any]:
    """Counts of PLOTTED_BINS equal bins between the extremes; zeros are in the bin they fall in."""
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    high = high if high > low else low + 1.0
    held = histogram.counts > 0
    counts, _ = np.histogram(
        np.append(np.clip(histogram.centres[held], low, high), 0.0), PLOTTED_BINS, (low, high),
        weights=np.append(histogram.counts[held], histogram.zeros),
    )  # fmt: skip
    return {"low": low, "high": high, "counts": counts.astype(int).tolist()}


def _finite(item: Any) -> Any:
    """The same with None for numbers that JSON has no form for."""
    if isinstance(item, float):
        return item if np.isfinite(item) else None
    if isinstance(item, dict):
        return {str(key): _finite(value) for key, value in item.items()}  # pyright: ignore
    if isinstance(item, list | tuple):
        return [_finite(each) for each in item]  # pyright: ignore
    return item


def _decibels(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}"
