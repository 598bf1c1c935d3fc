"""`rtcc bench`: latency of a model, alone or side by side with other runtimes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rtcc.cli.app import app
from rtcc.cli.arguments import DimOption, ShapeOption, TargetOption, ThreadsOption, parse_dims, parse_shapes
from rtcc.errors import InvalidInput
from rtcc.measure import Latency, measure

if TYPE_CHECKING:
    from rtcc.artifact import Artifact


@app.command("bench")
def bench(
    model: Annotated[Path, typer.Argument(help="An artefact (.so), an ONNX model, or a .rtir file.")],
    against: Annotated[str, typer.Option(help="Other runtimes to interleave, such as onnxruntime,openvino.")] = "",
    runs: Annotated[int, typer.Option(min=1, help="Runs per runtime.")] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures there.")] = None,
    target: TargetOption = "x86",
    shape: ShapeOption = None,
    dim: DimOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Latency p50/p99/max, runs per second, load time, workspace and artefact bytes; interleaved with peers."""
    artifact, load_seconds = _artifact(model, target, threads, parse_shapes(shape), parse_dims(dim))
    feeds = artifact.random_inputs(0)
    runners = {"rtcc": artifact.bind(feeds)}
    if against:
        if model.suffix != ".onnx":
            raise InvalidInput("bench-against", f"peers need an ONNX model, found {model.name!r}")
        from rtcc.peers import load_peer

        shapes = {tensor.name: tensor.shape for tensor in artifact.inputs}
        for name in against.split(","):
            runners[name] = load_peer(name, model, shapes, threads).bind(feeds)
    figures = measure(runners, runs, cores=sorted(os.sched_getaffinity(0))[:threads])
    row = {
        "model": model.name, "target": artifact.info.target, "threads": threads, "load ms": load_seconds * 1e3,
        "workspace bytes": artifact.workspace_bytes(threads), "artefact bytes": artifact.path.stat().st_size,
    }  # fmt: skip
    _print(row, figures)
    if json_file is not None:
        from rtcc.artifact.atomic import replace_file

        result: dict[str, Any] = {**row, "latency us": {name: latency.as_dict() for name, latency in figures.items()}}
        replace_file(json_file, json.dumps(result, indent=2).encode() + b"\n")


def _artifact(
    path: Path, target: str, threads: int, shapes: dict[str, tuple[int, ...]], dims: dict[str, int]
) -> tuple[Artifact, float]:
    from rtcc.artifact import load
    from rtcc.compiler import compile

    artifact = load(path) if path.suffix == ".so" else compile(path, target, threads=threads, shapes=shapes, dims=dims)
    started = time.perf_counter()
    load(artifact.path).run(artifact.random_inputs(0))
    return artifact, time.perf_counter() - started


def _print(row: dict[str, Any], figures: dict[str, Latency]) -> None:
    table = Table(title="  ".join(f"{key} {value:.1f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
    for column in ("runtime", "p50 us", "p99 us", "max us", "min us", "runs/s", "p50 / rtcc"):
        table.add_column(column, justify="left" if column == "runtime" else "right")
    ours = figures["rtcc"].p50
    for name, latency in figures.items():
        table.add_row(name, f"{latency.p50:.1f}", f"{latency.p99:.1f}", f"{latency.most:.1f}", f"{latency.least:.1f}",
                      f"{1e6 / latency.p50:.0f}", f"{latency.p50 / ours:.2f}")  # fmt: skip
    Console(width=110).print(table)
