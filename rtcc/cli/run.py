"""`rtcc run`: run an artefact, or a model compiled on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import (
    DimOption,
    ShapeOption,
    TargetOption,
    ThreadsOption,
    parse_dims,
    parse_shapes,
    read_arrays,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


@app.command("run")
def run(
    model: Annotated[Path, typer.Argument(help="An artefact (.so), an ONNX model, or a .rtir file.")],
    interpret: Annotated[bool, typer.Option("--interpret", help="Use the interpreter: slow, the reference.")] = False,
    input: Annotated[list[str] | None, typer.Option("--input", help="NAME=FILE.npy; repeatable.")] = None,
    random: Annotated[int, typer.Option("--random", help="Seed for inputs that are not given.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", help="Folder for one .npy per output.")] = None,
    target: TargetOption = "x86",
    shape: ShapeOption = None,
    dim: DimOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Run once and print a line per output: name, type, range, where the largest element is."""
    given = read_arrays(input)
    shapes = {**{name: array.shape for name, array in given.items()}, **parse_shapes(shape)}
    if model.suffix == ".so":
        outputs = _run_artifact(model, given, random)
    else:
        outputs = _run_model(model, given, random, target, shapes, parse_dims(dim), threads, interpret)
    for name, array in outputs.items():
        typer.echo(describe(name, array))
    if output is not None:
        _save(outputs, output)


def _run_artifact(path: Path, given: dict[str, NDArray[Any]], seed: int) -> dict[str, NDArray[Any]]:
    from rtcc.artifact import load

    artifact = load(path)
    return artifact.run({**artifact.random_inputs(seed), **given})


def _run_model(
    path: Path, given: dict[str, NDArray[Any]], seed: int, target: str, shapes: dict[str, tuple[int, ...]],
    dims: dict[str, int], threads: int, interpret: bool,
) -> dict[str, NDArray[Any]]:  # fmt: skip
    from rtcc.compiler import compile, read_model
    from rtcc.pipeline.inputs import random_inputs

    module = read_model(path, shapes, dims)
    feeds = {**random_inputs(module, seed), **given}
    if interpret:
        from rtcc.interpreter import interpret as run_interpreter

        return run_interpreter(module, feeds)
    return compile(module, target, threads=threads).run(feeds)


def describe(name: str, array: NDArray[Any]) -> str:
    """One line on an output."""
    import numpy as np

    head = f"{name}: {array.dtype}{list(array.shape)}"
    if array.size == 0 or array.dtype.kind not in "fiub":
        return head
    numbers = array.astype(np.float64)
    return f"{head} min {numbers.min():.6g} max {numbers.max():.6g} mean {numbers.mean():.6g} argmax {int(numbers.argmax())}"


def _save(outputs: dict[str, NDArray[Any]], folder: Path) -> None:
    import io

    import numpy as np

    from rtcc.artifact.atomic import replace_file

    folder.mkdir(parents=True, exist_ok=True)
    for name, array in outputs.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        replace_file(folder / f"{name.replace('/', '_')}.npy", buffer.getvalue())
