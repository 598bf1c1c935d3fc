"""Reading what the user wrote: shapes, dimensions, inputs, levels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtcc.errors import InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

ModelArgument = Annotated[Path, typer.Argument(help="An ONNX model, or a .rtir file to go on from.")]
AnyModelArgument = Annotated[Path, typer.Argument(help="An artefact (.so), an ONNX model, or a .rtir file.")]
TargetOption = Annotated[
    str, typer.Option("--target", help="NAME[:CPU][,key=value...]; `rtcc targets` lists them.")
]
ShapeOption = Annotated[
    list[str] | None, typer.Option("--shape", help="Input shape, such as input=1x3x224x224; repeatable.")
]
DimOption = Annotated[
    list[str] | None, typer.Option("--dim", help="Symbolic dimension, such as N=1; repeatable.")
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads that one run may use.")]
LoadOption = Annotated[
    list[Path] | None, typer.Option("--load", help="Python file with passes of your own; repeatable.")
]
DumpOption = Annotated[
    Path | None, typer.Option("--dump-ir", metavar="DIR", help="Write the IR after each pass there.")
]
VerifyEachOption = Annotated[
    bool, typer.Option("--verify-each", help="Interpret before and after each pass and compare.")
]
O0Option = Annotated[bool, typer.Option("-O0", help="Only what is needed to emit code.")]
O1Option = Annotated[bool, typer.Option("-O1", help="Exact passes only, and what lowering needs.")]
O2Option = Annotated[bool, typer.Option("-O2", help="All passes; the default.")]


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]]:
    """`["x=1x3x8"]` → {"x": (1, 3, 8)}; an empty right side is a scalar."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or []:
        name, equals, sizes = text.rpartition("=")
        parts = sizes.split("x") if sizes else []
        if not equals or not name or not all(part.isascii() and part.isdigit() for part in parts):
            raise InvalidInput("bad-shape", f"--shape {text!r} is not NAME=SIZExSIZEx...",
                               hint="write it as in --shape input=1x3x224x224")  # fmt: skip
        shapes[name] = tuple(map(int, parts))
    return shapes


def parse_dims(texts: list[str] | None) -> dict[str, int]:
    """`["N=1"]` → {"N": 1}."""
    dims: dict[str, int] = {}
    for text in texts or []:
        name, equals, size = text.rpartition("=")
        if not equals or not name or not (size.isascii() and size.isdigit()):
            raise InvalidInput("bad-dim", f"--dim {text!r} is not NAME=SIZE", hint="write it as in --dim N=1")
        dims[name] = int(size)
    return dims


def optimisation_level(o0: bool, o1: bool, o2: bool, pipeline: str | None) -> str:
    """The pipeline that the options ask for; a usage error where they ask for two."""
    given = [level for level, chosen in (("-O0", o0), ("-O1", o1), ("-O2", o2)) if chosen]
    given += [pipeline] if pipeline is not None else []
    if len(given) > 1:
        raise typer.BadParameter("give one of -O0, -O1, -O2 and --pipeline, not several")
    return given[0] if given else "-O2"


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
        name, equals, path = text.rpartition("=")
        if not equals or not name:
            raise InvalidInput("bad-input", f"--input {text!r} is not NAME=FILE.npy")
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InvalidInput("bad-input", f"cannot read {path!r} for input {name!r}: {error}",
                               hint="write it with numpy.save") from error  # fmt: skip
        if not isinstance(array, np.ndarray):
            array.close()
            raise InvalidInput("bad-input", f"{path!r} for input {name!r} holds several arrays (.npz)",
                               hint="write one array with numpy.save")  # fmt: skip
        arrays[name] = array
    return arrays
