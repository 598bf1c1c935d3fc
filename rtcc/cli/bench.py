"""`rtcc bench`: latency of a model, alone or side by side with other runtimes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rtcc.cli.app import app
from rtcc.cli.arguments import (
    AnyModelArgument,
    DimOption,
    ShapeOption,
    TargetOption,
    ThreadsOption,
    parse_dims,
    parse_shapes,
)
from rtcc.cli.progress import progress
from rtcc.errors import InvalidInput
from rtcc.measure import Latency, measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtcc.artifact import Artifact

    Feeds = dict[str, NDArray[Any]]

EXAMPLES = """
\b
Examples:
  rtcc bench model.so
  rtcc bench model.onnx --against onnxruntime,openvino --threads 2 --json figures.json
"""


@app.command("bench", short_help="Measure latency, also against other runtimes.", epilog=EXAMPLES)
def bench(
    model: AnyModelArgument,
    against: Annotated[
        str, typer.Option("--against", metavar="NAMES", help="Other runtimes: onnxruntime,openvino.")
    ] = "",
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs of each runtime.")] = 200,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there.")
    ] = None,
    target: TargetOption = "x86",
    shape: ShapeOption = None,
    dim: DimOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Latency p50/p99/max, runs per second, load time, workspace and artefact bytes.

    Runtimes take turns, run by run, on the same inputs and cores: only neighbours in time compare.
    """
    from rtcc.files import replace_file, require_folder

    if json_file is not None:
        require_folder(json_file)
    artifact, feeds = _artifact(model, target, threads, parse_shapes(shape), parse_dims(dim))
    row = {
        "model": model.name, "target": artifact.info.target, "threads": threads,
        "load_ms": round(load_seconds(artifact) * 1e3, 3),
        "workspace_bytes": artifact.workspace_bytes(threads), "artefact_bytes": artifact.path.stat().st_size,
    }  # fmt: skip
    runners: dict[str, Callable[[], object]] = {"rtcc": artifact.bind(feeds)}
    runners |= _peers(against, model, artifact, feeds, threads)
    figures = measure(runners, runs, cores=sorted(os.sched_getaffinity(0))[:threads])
    for name, value in row.items():
        typer.echo(
            f"{name.replace('_', ' '):16} {value:,}"
            if isinstance(value, int)
            else f"{name.replace('_', ' '):16} {value}"
        )
    Console(width=100).print(_table(figures))
    if json_file is not None:
        latency = {name: figure.as_dict() for name, figure in figures.items()}
        replace_file(json_file, json.dumps({**row, "latency_us": latency}, indent=2).encode() + b"\n")


def load_seconds(artifact: Artifact) -> float:
    """Time to open the artefact and set a workspace up, its file in the page cache."""
    from rtcc.artifact import load

    started = time.perf_counter()
    with load(artifact.path):
        return time.perf_counter() - started


def _artifact(
    path: Path, target: str, threads: int, shapes: dict[str, tuple[int, ...]], dims: dict[str, int]
) -> tuple[Artifact, Feeds]:
    """The artefact that is given or compiled now, and inputs for it."""
    if path.suffix == ".so":
        from rtcc.artifact import load

        if shapes or dims:
            raise InvalidInput(
                "artefact-options", "an artefact has its shapes", hint="give the ONNX model for others"
            )
        artifact = load(path, threads=threads)
        return artifact, artifact.random_inputs(0)
    from rtcc.compiler import compile, read_model
    from rtcc.pipeline.inputs import random_inputs

    with progress(f"compiling {path.name}"):
        module = read_model(path, shapes, dims)
        return compile(module, target, threads=threads), random_inputs(module, 0)


def _peers(
    against: str, model: Path, artifact: Artifact, feeds: Feeds, threads: int
) -> dict[str, Callable[[], object]]:
    """The other runtimes, bound to the same inputs."""
    if not against:
        return {}
    if model.suffix != ".onnx":
        raise InvalidInput("bench-against", f"other runtimes need an ONNX model, found {model.name!r}",
                           hint="give the .onnx file")  # fmt: skip
    from rtcc.peers import load_peer

    shapes = {tensor.name: tensor.shape for tensor in artifact.inputs}
    return {name: load_peer(name, model, shapes, threads).bind(feeds) for name in against.split(",")}


def _table(figures: dict[str, Latency]) -> Table:
    table = Table()
    for column in ("runtime", "p50 us", "p99 us", "max us", "min us", "runs/s", "p50 / rtcc"):
        table.add_column(column, justify="left" if column == "runtime" else "right")
    ours = figures["rtcc"].p50
    for name, latency in figures.items():
        figure = (latency.p50, latency.p99, latency.most, latency.least)
        rate = f"{1e6 / latency.p50:,.0f}"
        table.add_row(name, *(f"{us:.1f}" for us in figure), rate, f"{latency.p50 / ours:.2f}")
    return table
