"""Reading what the user wrote: shapes, dimensions, inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtcc.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

ModelArgument = Annotated[Path, typer.Argument(help="An ONNX model, or a .rtir file to go on from.", metavar="MODEL")]
TargetOption = Annotated[str, typer.Option("--target", help="NAME[:CPU][,key=value...]; `rtcc targets` lists them.")]
ShapeOption = Annotated[list[str] | None, typer.Option("--shape", help="Input shape, such as input=1x3x224x224; repeatable.")]
DimOption = Annotated[list[str] | None, typer.Option("--dim", help="Symbolic dimension, such as N=1; repeatable.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads that one run may use.")]
LoadOption = Annotated[list[Path] | None, typer.Option("--load", help="Python file with passes of your own; repeatable.")]


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """`["x=1x3x8"]` → {"x": (1, 3, 8)}; an empty right side is a scalar."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or []:
        name, equals, sizes = text.rpartition("=")
        if not equals or not all(part.isdigit() for part in sizes.split("x") if sizes):
            raise InvalidInput("bad-shape", f"--shape {text!r} is not NAME=1x3x224x224")
        shapes[name] = tuple(int(part) for part in sizes.split("x")) if sizes else ()
    return shapes


def parse_dims(texts: list[str] | None) -> dict[str, int]:
    """`["N=1"]` → {"N": 1}."""
    dims: dict[str, int] = {}
    for text in texts or []:
        name, equals, size = text.rpartition("=")
        if not equals or not size.isdigit():
            raise InvalidInput("bad-dim", f"--dim {text!r} is not NAME=SIZE")
        dims[name] = int(size)
    return dims


def load_plugins(paths: list[Path] | None) -> None:
    """Register the passes of the user's own files."""
    from rtcc.pipeline.catalogue import load_plugin

    for path in paths or []:
        load_plugin(path)


def read_arrays(texts: list[str] | None) -> dict[str, NDArray[Any]]:
    """`["x=x.npy"]` → {"x": array}."""
    import numpy as np

    arrays: dict[str, NDArray[Any]] = {}
    for text in texts or []:
        name, equals, path = text.partition("=")
        if not equals:
            raise InvalidInput("bad-input", f"--input {text!r} is not NAME=FILE.npy")
        try:
            arrays[name] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InvalidInput("bad-input", f"cannot read {path!r} for input {name!r}: {error}",
                               hint="write it with numpy.save") from error  # fmt: skip
    return arrays
