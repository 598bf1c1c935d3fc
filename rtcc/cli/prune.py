"""`rtcc prune`: a model with fewer channels, heads or weights, repaired on samples, and a report on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import ModelArgument, Reading, with_options_of
from rtcc.cli.progress import progress
from rtcc.errors import InvalidInput
from rtcc.pruning.choice import Scope
from rtcc.pruning.criteria import Criterion
from rtcc.pruning.settings import DEFAULT_KEEP, REPAIRED_ON, Settings
from rtcc.pruning.sparsifier import Sparsity

if TYPE_CHECKING:
    from rich.table import Table

    from rtcc.pruning.report import Report

TABLE_WIDTH = 110
"""Columns of the report where standard output is no terminal."""

EXAMPLES = """
\b
Examples:
  rtcc prune model.onnx --keep 0.5 --data samples.npz        writes model.pruned.onnx, half the work
  rtcc prune model.onnx --keep 0.6 --latency --measure       60 % of the time that is predicted
  rtcc prune model.onnx --keep 0.5 --multiple 16 -o small.onnx
  rtcc prune model.onnx --sparsity 0.8 --data samples.npz    zeros for 80 % of the weights, same shapes
  rtcc prune model.onnx --pattern 2:4 --dense conv1          2 of 4 neighbouring weights, but for one layer
  rtcc prune model.onnx --data samples.npz --max-drop 0.5%   as much as that lets go, measured
  rtcc prune model.onnx --data samples.npz --sensitivity     what each group costs and gains; writes nothing
  rtcc prune model.onnx --data samples.npz --factorize keep=0.5     layers become two cheaper ones each
"""


class Going:
    """How far the user wants channels to go, and what else: floors, rounds, layers taken apart."""

    def __init__(
        self,
        min_sqnr: Annotated[
            float | None,
            typer.Option("--min-sqnr", metavar="DB", help="Channels go until the worst output has but that."),
        ] = None,
        max_drop: Annotated[
            str | None,
            typer.Option("--max-drop", metavar="DROP", help="Until the metric falls: 0.5% of it, or 0.01."),
        ] = None,
        rounds: Annotated[
            int | None, typer.Option(metavar="N", help="Channels go in N steps, each repaired.")
        ] = None,
        sensitivity: Annotated[
            bool,
            typer.Option("--sensitivity", help="Print what each group costs and gains; write no model."),
        ] = False,
        factorize: Annotated[
            str | None,
            typer.Option(
                metavar="TEXT", help="Take layers apart: rank=16, energy=0.9, error=0.1, share=, keep="
            ),
        ] = None,
    ) -> None:
        self.sensitivity, self.factorize = sensitivity, factorize
        self.options = _given({"min_sqnr": min_sqnr, "max_drop": max_drop, "rounds": rounds})

    def require_no_model(self, options: Iterable[str], **others: bool) -> None:
        """Refuse, beside --sensitivity, what is about a model that would be made; others: whether given."""
        others["factorize"] = self.factorize is not None
        given = [*(set(options) - {"criterion"}), *(name for name, is_given in others.items() if is_given)]
        if given:
            message = f"--sensitivity makes no model; beside it {', '.join(sorted(given))} would mean nothing"
            raise InvalidInput("prune-option", message, hint="it goes by data, samples and criterion")


class Zeros:
    """Which single weights become zero, in place of channels that go."""

    def __init__(
        self,
        sparsity: Annotated[
            float | None,
            typer.Option(metavar="SHARE", help="Single weights in place of channels: so many become zero."),
        ] = None,
        threshold: Annotated[
            float | None,
            typer.Option(metavar="SIZE", help="Single weights below that magnitude become zero."),
        ] = None,
        pattern: Annotated[
            str | None,
            typer.Option(help="Of zeros: unstructured, 2:4 (any N:M), 16x1 (blocks, outputs x inputs)."),
        ] = None,
        dense: Annotated[
            list[str] | None, typer.Option(metavar="NODE", help="Keep a layer's weights; repeatable.")
        ] = None,
        rescale: Annotated[
            bool | None,
            typer.Option("--rescale", help="Each output's weights keep their mean and variance; no repair."),
        ] = None,
    ) -> None:
        how = {"pattern": pattern, "dense": dense, "rescale": rescale}
        self.options = _given({"sparsity": sparsity, "threshold": threshold, **how})


class Choosing:
    """How it is chosen what goes, of channels and of single weights."""

    def __init__(
        self,
        criterion: Annotated[
            Criterion | None, typer.Option(help="What says how little a channel or a weight matters.")
        ] = None,
        scope: Annotated[
            Scope | None,
            typer.Option(help="All channels or weights compete, or those of each group or layer."),
        ] = None,
        least: Annotated[
            float | None,
            typer.Option(
                metavar="SHARE",
                help=f"Of each group or layer so much stays; {Settings.least}, of weights {Sparsity.least}.",
            ),
        ] = None,
        multiple: Annotated[
            int | None,
            typer.Option(metavar="N", help=f"Counts of channels are multiples of N; {Settings.multiple}."),
        ] = None,
    ) -> None:
        self.options = _given({"criterion": criterion, "scope": scope, "least": least, "multiple": multiple})


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the user gave; None stands for none."""
    return {name: value for name, value in options.items() if value is not None}


@app.command("prune", short_help="Take channels and heads out of a model, and repair it.", epilog=EXAMPLES)
@with_options_of(Reading)
@with_options_of(Going, "going")
@with_options_of(Zeros, "zeros")
@with_options_of(Choosing, "choosing")
def prune_(
    model: ModelArgument,
    asked: Reading,
    going: Going,
    zeros: Zeros,
    choosing: Choosing,
    keep: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help=f"The share of multiply-adds that may be left; {DEFAULT_KEEP}."),
    ] = None,
    latency: Annotated[
        bool | None, typer.Option("--latency", help="--keep is of the predicted time instead.")
    ] = None,
    no_repair: Annotated[
        bool, typer.Option("--no-repair", help="Leave the weights that stay as they are.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="Samples to repair on: an .npz, a folder, a script."),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", min=1, metavar="N", help="Take the first N.")
    ] = REPAIRED_ON,
    measure: Annotated[
        bool, typer.Option("--measure", help="Compile both models and time them in turns.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the report there, as JSON.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="FILE.onnx or FILE.rtir; MODEL.pruned.onnx by default."),
    ] = None,
) -> None:
    """Take whole channels and attention heads out of MODEL and write an ordinary smaller model.

    With --sparsity, --threshold or --pattern, single weights become zeros, and shapes stay. With samples,
    weights are fitted to what the layers computed before; labels are not used.
    """
    from rtcc.model_file import require_model_path
    from rtcc.pruning.pruner import prune
    from rtcc.pruning.report import make_report
    from rtcc.system.files import replace_file, require_outputs

    is_named = output is not None
    output = output or model.with_suffix(".pruned.onnx")
    if not going.sensitivity:
        require_model_path(output)
    require_outputs([None if going.sensitivity else output, report], [model, data])
    if measure:
        asked.require_here()
    given = _given({"keep": keep, "latency": latency, "repair": False if no_repair else None})
    options = {**given, **choosing.options, **zeros.options, **going.options}
    if going.sensitivity:
        going.require_no_model(options, measure=measure, output=is_named)
        _print_sensitivity(model, asked, data, samples, options, report)
        return
    with progress(f"reading {model.name}") as say:
        found = prune(
            model, data, shapes=asked.shapes, dims=asked.dims, values=asked.values, samples=samples,
            target=asked.target, say=say, factorize=going.factorize, **options,
        )  # fmt: skip
        found.write(output)
        made = make_report(found, target=asked.target, measure_times=measure, say=say)
    _show(made)
    if report is not None:
        replace_file(report, made.to_json().encode())
    typer.echo(f"{output}: {output.stat().st_size:,} bytes")


def _print_sensitivity(
    model: Path, asked: Reading, data: Path | None, samples: int, options: dict[str, Any], report: Path | None
) -> None:
    """Every group's curve, and the same as JSON where that is asked for."""
    from rtcc.pruning.pruner import sensitivity, settings_of
    from rtcc.pruning.report import sensitivity_json, sensitivity_table
    from rtcc.system.files import replace_file

    settings = settings_of(options, Settings)
    with progress(f"reading {model.name}") as say:
        found = sensitivity(
            model, data, shapes=asked.shapes, dims=asked.dims, values=asked.values, samples=samples,
            target=asked.target, settings=settings, say=say,
        )  # fmt: skip
    _print_tables([sensitivity_table(found)])
    if report is not None:
        replace_file(report, sensitivity_json(found).encode())


def _print_tables(tables: Iterable[Table]) -> None:
    from rich.console import Console

    console = Console() if Console().is_terminal else Console(width=TABLE_WIDTH)
    for table in tables:
        console.print(table)


def _show(made: Report) -> None:
    _print_tables(made.tables())
    for line in made.summary():
        typer.echo(line)
