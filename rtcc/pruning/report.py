"""What pruning did: channels by group, work, parameters, and what the results are worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Module
from rtcc.measure import Latency
from rtcc.pruning.groups import Kept
from rtcc.pruning.pruner import Pruned, Row
from rtcc.pruning.sparsifier import Sparsity
from rtcc.quantization.calibration.running import probe

if TYPE_CHECKING:
    from rich.table import Table

RUNS = 200
"""Timed runs of each model."""


@dataclass
class Report:
    """Figures before and after, in pairs.

    of: what groups are of, channels or weights. bytes: of constants. seconds: predicted by the cost model of
    `target`. metric: what the data measure. latency: medians of interleaved runs in microseconds, where
    measured.
    """

    target: str
    groups: list[Row]
    kept: list[Kept]
    multiply_adds: tuple[int, int]
    parameters: tuple[int, int]
    bytes: tuple[int, int]
    seconds: tuple[float, float]
    repaired: int
    of: str = "channels"
    metric: tuple[float, float] | None = None
    latency: tuple[Latency, Latency] | None = None

    def to_json(self) -> str:
        """The figures as JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def tables(self) -> Iterator[Table]:
        """Channels by group or weights by layer, and the layers that keep theirs."""
        from rich.table import Table

        table = Table(f"{self.of} of")
        for column in ("before", "after", "left"):
            table.add_column(column, justify="right")
        for row in self.groups:
            table.add_row(row.name, f"{row.before:,}", f"{row.after:,}", f"{row.after / row.before:.0%}")
        yield table
        if self.kept:
            table = Table(f"keeps its {self.of}", "because")
            for each in self.kept:
                table.add_row(each.layer, each.reason)
            yield table

    def summary(self) -> Iterator[str]:
        """A line for each figure."""
        yield _line("multiply-adds", *self.multiply_adds)
        yield _line("parameters", *self.parameters)
        yield _line("constants", *self.bytes, " bytes")
        before, after = (1e6 * each for each in self.seconds)
        yield _times("predicted", before, after)
        if self.latency is not None:
            yield _times("measured", *(each.p50 for each in self.latency))
        if self.metric is not None:
            yield f"metric         {self.metric[0]:.4f} before, {self.metric[1]:.4f} after"
        yield f"repaired       {self.repaired} layers" if self.repaired else "repaired       nothing"


def _line(name: str, before: int, after: int, unit: str = "") -> str:
    return f"{name:14} {before:,}{unit} before, {after:,} after ({after / before:.1%})"


def _times(name: str, before: float, after: float) -> str:
    return f"{name:14} {before:,.1f} µs before, {after:,.1f} after ({before / after:.2f} times as fast)"


def make_report(
    pruned: Pruned, *, target: str | None = None, measure_times: bool = False,
    say: Callable[[str], None] = lambda doing: None,
) -> Report:  # fmt: skip
    """Ask the cost model, run the data's metric if there is one, and time both models if that is wanted."""
    from rtcc.prediction import predict
    from rtcc.target import DEFAULT_TARGET

    models = (pruned.original, pruned.module)
    say("predicting times")
    seconds = [predict(each.clone(), target).seconds for each in models]
    metric = None
    if pruned.data is not None and pruned.data.metric is not None:
        say("measuring the metric")
        found = [pruned.data.measured(probe(each, [], target, keep_outputs=True).run) for each in models]
        if found[0] is not None and found[1] is not None:
            metric = (found[0], found[1])
    latency = None
    if measure_times:
        say("measuring times")
        latency = _latencies(models, target)
    return Report(
        target or DEFAULT_TARGET, pruned.rows, pruned.kept, pruned.multiply_adds, pruned.parameters,
        (models[0].weight_bytes, models[1].weight_bytes), (seconds[0], seconds[1]), pruned.repaired,
        "weights" if isinstance(pruned.settings, Sparsity) else "channels", metric, latency,
    )  # fmt: skip


def _latencies(models: tuple[Module, Module], target: str | None) -> tuple[Latency, Latency]:
    """Both models in turns on the same inputs, pinned to one core."""
    from rtcc.compiler import compile
    from rtcc.measure import measure

    artifacts = [compile(each.clone(), target) for each in models]
    feeds: dict[str, NDArray[Any]] = {k: np.asarray(v) for k, v in artifacts[0].random_inputs(0).items()}
    found = measure({str(n): each.bind(feeds) for n, each in enumerate(artifacts)}, RUNS)
    for each in artifacts:
        each.close()
    return found["0"], found["1"]
