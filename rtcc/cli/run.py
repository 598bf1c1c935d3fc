"""`rtcc run`: run an artefact, or a model compiled on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import (
    AnyModelArgument,
    DimOption,
    ShapeOption,
    TargetOption,
    ThreadsOption,
    parse_dims,
    parse_shapes,
    read_arrays,
)
from rtcc.cli.progress import progress
from rtcc.errors import InvalidInput
from rtcc.quoting import name_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from rtcc.ir import Module

LONGEST_STEM = 50
"""Characters of an output's name that its file keeps; a name in a folder has at most 255 bytes."""

EXAMPLES = """
\b
Examples:
  rtcc run model.so --input x=x.npy --output results      writes results/NAME.npy
  rtcc run model.onnx --random 7                          seeded inputs, compiled on the spot
  rtcc run ir/14-fuse.rtir --interpret                    what the maths say at that stage
"""


@app.command("run", short_help="Run an artefact or a model once.", epilog=EXAMPLES)
def run(
    model: AnyModelArgument,
    interpret: Annotated[
        bool, typer.Option("--interpret", help="Use the interpreter: slow, the reference.")
    ] = False,
    input: Annotated[
        list[str] | None, typer.Option("--input", metavar="NAME=FILE.npy", help="An input; repeatable.")
    ] = None,
    random: Annotated[
        int, typer.Option("--random", min=0, metavar="SEED", help="Seed for inputs that are not given.")
    ] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Write one .npy per output there.")
    ] = None,
    target: TargetOption = "x86",
    shape: ShapeOption = None,
    dim: DimOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Run once and print a line per output: name, type, range, where the largest element is."""
    given = read_arrays(input)
    shapes = {**{name: array.shape for name, array in given.items()}, **parse_shapes(shape)}
    if model.suffix == ".so":
        if interpret or shape or dim:
            raise InvalidInput("artefact-options", "an artefact has its shapes, and no graph to interpret",
                               hint="give the model for --interpret, --shape or --dim")  # fmt: skip
        outputs = _run_artifact(model, given, random, threads)
    else:
        module = _read(model, shapes, parse_dims(dim))
        outputs = (
            _interpret(module, given, random)
            if interpret
            else _compile_and_run(module, given, random, target, threads)
        )
    for name, array in outputs.items():
        typer.echo(describe(name, array))
    if output is not None:
        save(outputs, output)


def _run_artifact(
    path: Path, given: Mapping[str, NDArray[Any]], seed: int, threads: int
) -> dict[str, NDArray[Any]]:
    from rtcc.artifact import load

    with load(path, threads=threads) as artifact:
        return artifact.run({**artifact.random_inputs(seed), **given})


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int]) -> Module:
    """The module; the shapes of given arrays bind symbolic dimensions of an ONNX model only."""
    from rtcc.compiler import read_model

    is_text = path.suffix == ".rtir"
    return read_model(path, None if is_text else shapes, dims)


def _interpret(module: Module, given: Mapping[str, NDArray[Any]], seed: int) -> dict[str, NDArray[Any]]:
    from rtcc.interpreter import interpret
    from rtcc.pipeline.inputs import random_inputs

    return interpret(module, {**random_inputs(module, seed), **given})


def _compile_and_run(
    module: Module, given: Mapping[str, NDArray[Any]], seed: int, target: str, threads: int
) -> dict[str, NDArray[Any]]:
    from rtcc.compiler import compile
    from rtcc.pipeline.inputs import random_inputs

    with progress("compiling"), compile(module, target, threads=threads) as artifact:
        return artifact.run({**random_inputs(module, seed), **given})


def describe(name: str, array: NDArray[Any]) -> str:
    """One line on an output."""
    import numpy as np

    head = f"{name_text(name)}: {array.dtype}[{','.join(map(str, array.shape))}]"
    if array.size == 0 or array.dtype.kind not in "fiub":
        return head
    numbers = array.astype(np.float64)
    with np.errstate(all="ignore"):
        figures = f"min {numbers.min():.6g} max {numbers.max():.6g} mean {numbers.mean():.6g}"
    return f"{head} {figures} argmax {int(numbers.argmax())}"


def save(outputs: Mapping[str, NDArray[Any]], folder: Path) -> None:
    """One `NAME.npy` per output in the folder, made where it is missing; see `file_names`."""
    import io

    import numpy as np

    from rtcc.files import replace_file

    folder.mkdir(parents=True, exist_ok=True)
    for file, array in zip(file_names(outputs), outputs.values(), strict=True):
        buffer = io.BytesIO()
        np.save(buffer, array)
        replace_file(folder / file, buffer.getvalue())


def file_names(names: Iterable[str]) -> list[str]:
    """A file for each output: what a path cannot hold becomes `_`, and equal names get a number."""
    files: list[str] = []
    for name in names:
        stem = "".join("_" if c == "/" or not c.isprintable() else c for c in name)[:LONGEST_STEM]
        file, number = f"{stem}.npy", 1
        while file in files:
            number += 1
            file = f"{stem}-{number}.npy"
        files.append(file)
    return files
