"""`rtcc tune`: measure the ways to compute a model's layers on this machine, for `rtcc compile --tuned`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from rtcc.cli.app import INTERRUPTED, app
from rtcc.cli.arguments import ModelArgument, Reading, ThreadsOption, with_options_of
from rtcc.cli.progress import progress

EXAMPLES = """
\b
Examples:
  rtcc tune model.onnx                                 writes model.tuned.json
  rtcc compile model.onnx --tuned model.tuned.json     chooses by what was measured
"""


@app.command("tune", short_help="Measure layers, to compile by what is fastest.", epilog=EXAMPLES)
@with_options_of(Reading)
def tune(
    model: ModelArgument,
    asked: Reading,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file; MODEL.tuned.json by default.")
    ] = None,
    threads: ThreadsOption = 1,
) -> None:
    """Measure the algorithms and tiles that MODEL's layers could have, and write what each took.

    Ctrl-C stops it; the same command goes on where it stopped. Nothing else should run on the machine.
    """
    from rtcc.tuning.tuner import Progress
    from rtcc.tuning.tuner import tune as measure

    output = output or model.with_suffix(".tuned.json")
    last = Progress(0, 0, 0, "")
    started = time.perf_counter()
    with progress(f"reading {model.name}") as say:

        def shown(now: Progress) -> None:
            nonlocal last
            last = now
            say(f"{now.done} of {now.total} kernels measured, now {now.layer}")

        try:
            gain = measure(
                model, output, asked.target, threads=threads, shapes=asked.shapes, dims=asked.dims,
                values=asked.values, progress=shown,
            )  # fmt: skip
        except KeyboardInterrupt:
            stopped = f"{output}: stopped with {last.done} of {last.total} kernels; run it again to go on"
            typer.echo(stopped, err=True)
            raise typer.Exit(INTERRUPTED) from None
    seconds = time.perf_counter() - started
    typer.echo(f"{output}: {last.total} kernels, {last.ways} ways measured in {seconds:.0f} s")
    typer.echo(
        f"these kernels alone take {gain.predicted * 1e3:.3f} ms a run as predicted to be best, "
        f"{gain.measured * 1e3:.3f} ms as measured to be best"
    )
    for each in gain.failed:
        way = f"{each.algorithm} {'x'.join(map(str, each.tile))}".strip()
        typer.echo(f"warning: {each.layer}: {way} is not to be taken: {each.reason}", err=True)
