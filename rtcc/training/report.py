"""What training did: how the loss went, and what the data's metric says of teacher and student."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rtcc.quantization.calibration.running import probe
from rtcc.training.distiller import Distilled
from rtcc.training.history import Evaluation

if TYPE_CHECKING:
    from rich.table import Table

ROWS = 12
"""Evaluations that the table shows at most."""


@dataclass
class Report:
    """How it went. metric: what the data measure of teacher (None without one), student before and after."""

    stopped: str
    trained: int
    held: int
    best: Evaluation
    history: list[Evaluation]
    is_held_out: bool
    metric: tuple[float | None, float, float] | None = None

    def to_json(self) -> str:
        """The figures as JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> Table:
        """The loss along the way, in parts; * marks the weights that were kept."""
        from rich.table import Table

        columns = ("after steps", "loss", *self.best.parts)
        table = Table(*columns, *(["right"] if self.best.right is not None else []))
        for each in self._shown():
            mark = "*" if each.step == self.best.step else ""
            numbers = [f"{number:.4g}" for number in (each.loss, *each.parts.values())]
            right = [] if each.right is None else [f"{each.right:.2%}"]
            table.add_row(f"{each.step:,}{mark}", *numbers, *right)
        for column in table.columns:
            column.justify = "right"
        return table

    def _shown(self) -> list[Evaluation]:
        every = -(-len(self.history) // ROWS)
        last = len(self.history) - 1
        return [
            each
            for number, each in enumerate(self.history)
            if number % every == 0 or number == last or each.step == self.best.step
        ]

    def summary(self) -> Iterator[str]:
        """A line for each figure."""
        yield f"stopped        {self.stopped}, after {self.history[-1].step:,} steps"
        kept = f", {self.held:,} kept zero" if self.held else ""
        yield f"weights        {self.trained:,} trained{kept}, those after {self.best.step:,} steps written"
        of = "what is held out" if self.is_held_out else "training"
        yield f"loss           {self.history[0].loss:.4g} before, {self.best.loss:.4g} after, of {of}"
        if self.metric is not None:
            teacher, before, after = self.metric
            taught = "" if teacher is None else f", the teacher's {teacher:.4f}"
            yield f"metric         {before:.4f} before, {after:.4f} after{taught}"


def make_report(
    found: Distilled, *, target: str | None = None, say: Callable[[str], None] = lambda doing: None
) -> Report:
    """Run the data's metric on all models, if there is one."""
    metric = None
    if found.data.metric is not None:
        say("measuring the metric")
        measured: list[Any] = [
            None if each is None else found.data.measured(probe(each, [], target, keep_outputs=True).run)
            for each in (found.teacher, found.original, found.module)
        ]
        metric = (measured[0], measured[1], measured[2])
    return Report(
        found.stopped, found.trained, found.held, found.best, found.history, found.settings.held_out > 0,
        metric,
    )  # fmt: skip
