"""`rtcc demo`: the main job on a model that comes with the package, a LeNet-5 for MNIST digits."""

from __future__ import annotations

import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rtcc.cli.app import app
from rtcc.cli.arguments import TargetOption, ThreadsOption
from rtcc.cli.progress import kernels_done, progress
from rtcc.measure import Latency, measure

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rtcc.artifact import Artifact
    from rtcc.pipeline.run import Report

RUNS = 2000


@app.command("demo", short_help="Compile and run LeNet-5, and show everything.")
def demo(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Where to put artefact, header and IR; a new folder by default."
        ),
    ] = None,
    target: TargetOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Compile LeNet-5, run it on held-out MNIST digits, and show accuracy, latency, sizes and every pass."""
    from rtcc.artifact import load
    from rtcc.compiler import Options, start, write

    folder = folder or Path(tempfile.mkdtemp(prefix="rtcc-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    dumps = folder / "ir"
    started = time.perf_counter()
    with as_file(files("rtcc") / "demo" / "lenet5_mnist.onnx") as model, progress("compiling LeNet-5") as say:
        compilation = start(model, Options(target=target, threads=threads, dump_ir=dumps))
        compilation.lower()
        path = write(compilation, folder / "lenet5.so", kernels_done(say))
    seconds = time.perf_counter() - started
    assert compilation.report is not None
    artifact = load(path)
    images, labels = held_out_digits()
    correct = accuracy(artifact, images, labels)
    latency = measure({"lenet5": artifact.bind({artifact.inputs[0].name: images[:1].copy()})}, RUNS)["lenet5"]
    console = Console(width=100)
    console.print(_passes(compilation.report))
    console.print(_figures(artifact, latency, correct, len(labels), seconds))
    typer.echo(
        f"artefact  {path}\nheader    {path.with_suffix('.h')}\nIR        {dumps}, one file after each pass"
    )


def held_out_digits() -> tuple[NDArray[Any], NDArray[Any]]:
    """Images f32[N,1,28,28] of pixels 0…255 and labels i64[N], which training has not seen."""
    import numpy as np

    with as_file(files("rtcc") / "demo" / "mnist_held_out.npz") as path, np.load(path) as data:
        return data["image"].astype(np.float32), data["labels"]


def accuracy(artifact: Artifact, images: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of digits whose largest score is at the label."""
    name, score = artifact.inputs[0].name, artifact.outputs[0].name
    hits = [
        int(artifact.run({name: image[None]})[score].argmax()) == label
        for image, label in zip(images, labels, strict=True)
    ]
    return sum(hits) / len(hits)


def _passes(report: Report) -> Table:
    table = Table(title="passes")
    for column in ("pass", "ms", "ops before", "ops after"):
        table.add_column(column, justify="left" if column == "pass" else "right")
    for each in report.passes:
        table.add_row(each.text, f"{each.seconds * 1e3:.2f}", str(each.ops_before), str(each.ops_after))
    return table


def _figures(artifact: Artifact, latency: Latency, correct: float, digits: int, seconds: float) -> Table:
    table = Table(title=f"LeNet-5 on {artifact.info.target}", show_header=False)
    spread = " / ".join(f"{us:.1f}" for us in (latency.p50, latency.p99, latency.most))
    rows = {
        "accuracy": f"{correct:.1%} of {digits} held-out digits",
        "latency p50 / p99 / max": f"{spread} us over {RUNS} runs",
        "frames per second": f"{1e6 / latency.p50:,.0f}",
        "workspace": f"{artifact.workspace_bytes():,} bytes",
        "artefact": f"{artifact.path.stat().st_size:,} bytes",
        "compiled in": f"{seconds:.1f} s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
