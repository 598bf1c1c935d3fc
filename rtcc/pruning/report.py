"""What pruning did: channels by group, work, parameters, and what the results are worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rtcc.factorization.factorizer import Factored
from rtcc.ir import Module
from rtcc.measure import Latency
from rtcc.pruning.groups import Kept
from rtcc.pruning.pruner import Pruned
from rtcc.pruning.schedule import Outcome, Row, Sensitivities, Tried
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
    measured. factored: layers taken apart. tried: models that were pruned and measured for a floor.
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
    factored: list[Factored] = field(default_factory=list[Factored])
    tried: list[Tried] = field(default_factory=list[Tried])
    floor: str = ""

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
        if self.groups:
            yield table
        if self.factored:
            yield _factored_table(self.factored)
        for what in dict.fromkeys(each.what for each in self.kept):
            table = Table(f"keeps its {what}", "because")
            for each in self.kept:
                if each.what == what:
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
        if self.floor:
            shown = "; ".join(f"{each.left:.1%} left: {each.quality}" for each in self.tried)
            yield f"floor          {self.floor} held on samples held out ({shown})"
        if self.groups:
            yield f"repaired       {self.repaired} layers" if self.repaired else "repaired       nothing"


def _factored_table(rows: list[Factored]) -> Table:
    from rich.table import Table

    table = Table("layer", "becomes")
    for column in ("rank", "of", "energy", "multiply-adds", "left", "predicted µs", "after"):
        table.add_column(column, justify="right")
    for row in rows:
        before, after = row.work
        times = [f"{1e6 * each:.1f}" for each in row.seconds]
        table.add_row(
            row.layer, row.scheme, str(row.rank), str(row.full), f"{row.energy:.1%}", f"{before:,}",
            f"{after / before:.0%}", *times,
        )  # fmt: skip
    return table


def sensitivity_table(found: Sensitivities) -> Table:
    """A row for each group: what the model becomes, and gains, with parts of the group gone."""
    from rich.table import Table

    has_metric = found.exact.metric is not None
    title = "each group cut alone, nothing repaired" + (
        f"; metric {found.exact.metric:.4f} as it is" if has_metric else ""
    )
    table = Table("channels of", title=title)
    for column in ("gone", "left", "dB", *(["metric"] if has_metric else []), "saves µs", "of all"):
        table.add_column(column, justify="right")
    for curve in found.curves:
        for number, cut in enumerate(curve.cuts):
            size = len(curve.group.roots)
            metric = [] if cut.quality.metric is None else [f"{cut.quality.metric:.4f}"]
            table.add_row(
                "" if number else curve.group.name, f"{cut.removed / size:.0%}", str(size - cut.removed),
                f"{cut.quality.sqnr:.1f}", *metric, f"{1e6 * cut.gain:.2f}", f"{cut.gain / found.whole:.1%}",
                end_section=number == len(curve.cuts) - 1,
            )  # fmt: skip
    return table


def sensitivity_json(found: Sensitivities) -> str:
    """The same as JSON."""
    rows = [
        {"group": curve.group.name, "channels": len(curve.group.roots), "removed": cut.removed,
         "sqnr": cut.quality.sqnr, "metric": cut.quality.metric, "gain_seconds": cut.gain}
        for curve in found.curves for cut in curve.cuts
    ]  # fmt: skip
    return json.dumps({"seconds": found.whole, "metric": found.exact.metric, "cuts": rows}, indent=2) + "\n"


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
        "weights" if isinstance(pruned.settings, Sparsity) else "channels", metric, latency, pruned.factored,
        *_floor_of(pruned.outcome),
    )  # fmt: skip


def _floor_of(outcome: Outcome | None) -> tuple[list[Tried], str]:
    """What was tried for a floor, and the floor."""
    return ([], "") if outcome is None else (outcome.tried, outcome.floor)


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
