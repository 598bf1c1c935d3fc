"""`rtcc prune`: a model with fewer channels and heads, repaired on samples, and a report on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import ModelArgument, Reading, with_options_of
from rtcc.cli.progress import progress
from rtcc.pruning.choice import Scope
from rtcc.pruning.groups import Criterion
from rtcc.pruning.pruner import REPAIRED_ON, Settings

if TYPE_CHECKING:
    from rtcc.pruning.report import Report

TABLE_WIDTH = 110
"""Columns of the report where standard output is no terminal."""

EXAMPLES = """
\b
Examples:
  rtcc prune model.onnx --keep 0.5 --data samples.npz        writes model.pruned.onnx, half the work
  rtcc prune model.onnx --keep 0.6 --latency --measure       60 % of the time that is predicted
  rtcc prune model.onnx --keep 0.5 --multiple 16 -o small.onnx
"""


@app.command("prune", short_help="Take channels and heads out of a model, and repair it.", epilog=EXAMPLES)
@with_options_of(Reading)
def prune_(
    model: ModelArgument,
    asked: Reading,
    keep: Annotated[
        float, typer.Option(metavar="SHARE", help="The share of multiply-adds that may be left.")
    ] = Settings.keep,
    latency: Annotated[
        bool, typer.Option("--latency", help="--keep is of the predicted time instead.")
    ] = Settings.latency,
    criterion: Annotated[
        Criterion, typer.Option(help="What says how little a channel matters.")
    ] = Settings.criterion,
    scope: Annotated[
        Scope, typer.Option(help="All channels compete, or those of each group.")
    ] = Settings.scope,
    least: Annotated[
        float, typer.Option(metavar="SHARE", help="Of each group so much stays in any case.")
    ] = Settings.least,
    multiple: Annotated[
        int, typer.Option(metavar="N", help="Counts of channels are multiples of N.")
    ] = Settings.multiple,
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

    With samples, weights are fitted to what the layers computed before; labels are not used.
    """
    from rtcc.model_file import require_model_path
    from rtcc.pruning.pruner import prune
    from rtcc.pruning.report import make_report
    from rtcc.system.files import replace_file, require_folder

    output = output or model.with_suffix(".pruned.onnx")
    require_model_path(output)
    for path in (output, *([report] if report else [])):
        require_folder(path)
    settings = Settings(keep, latency, criterion, scope, least, multiple)
    with progress(f"reading {model.name}") as say:
        found = prune(
            model, data, shapes=asked.shapes, dims=asked.dims, values=asked.values, samples=samples,
            target=asked.target, settings=settings, say=say,
        )  # fmt: skip
        found.write(output)
        made = make_report(found, target=asked.target, measure_times=measure, say=say)
    _show(made)
    if report is not None:
        replace_file(report, made.to_json().encode())
    typer.echo(f"{output}: {output.stat().st_size:,} bytes")


def _show(made: Report) -> None:
    from rich.console import Console

    console = Console() if Console().is_terminal else Console(width=TABLE_WIDTH)
    for table in made.tables():
        console.print(table)
    for line in made.summary():
        typer.echo(line)
