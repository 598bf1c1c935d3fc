"""`rtcc compile`: a model to a shared or static library."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rtcc.cli.app import app
from rtcc.cli.arguments import (
    DimOption,
    LoadOption,
    ModelArgument,
    ShapeOption,
    TargetOption,
    ThreadsOption,
    load_plugins,
    parse_dims,
    parse_shapes,
)

if TYPE_CHECKING:
    from rtcc.compiler import Compilation


@app.command("compile")
def compile_(
    model: ModelArgument,
    output: Annotated[Path | None, typer.Option("-o", help="PATH.so or PATH.a; MODEL.so by default.")] = None,
    target: TargetOption = "x86",
    shape: ShapeOption = None,
    dim: DimOption = None,
    threads: ThreadsOption = 1,
    o0: Annotated[bool, typer.Option("-O0", help="Only what is needed to emit code.")] = False,
    o1: Annotated[bool, typer.Option("-O1", help="Exact passes only.")] = False,
    o2: Annotated[bool, typer.Option("-O2", help="The default.")] = False,
    pipeline: Annotated[str | None, typer.Option(help="Pipeline text in place of -O2.")] = None,
    weights: Annotated[str, typer.Option(help="`embedded`, or `external`: a file beside the artefact.")] = "embedded",
    max_workspace: Annotated[str | None, typer.Option(help="Refuse a larger workspace, such as 64M.")] = None,
    dump_ir: Annotated[Path | None, typer.Option("--dump-ir", help="Folder for the IR after each pass.")] = None,
    verify_each: Annotated[bool, typer.Option(help="Interpret before and after each pass and compare.")] = False,
    verify_kernels: Annotated[bool, typer.Option(help="Run each kernel against the interpreter.")] = False,
    explain: Annotated[bool, typer.Option(help="Print what each pass did and what each kernel became.")] = False,
    load: LoadOption = None,
) -> None:
    """Compile MODEL for a target: PATH.so (or .a), and PATH.h beside it."""
    from rtcc.artifact.atomic import require_folder
    from rtcc.compiler import Options, start, write

    load_plugins(load)
    output = output or model.with_suffix(".so")
    require_folder(output)
    options = Options(
        target=target, threads=threads, shapes=parse_shapes(shape), dims=parse_dims(dim),
        pipeline=pipeline or ("-O0" if o0 else "-O1" if o1 else "-O2"), dump_ir=dump_ir,
        verify_each=verify_each, verify_kernels=verify_kernels, max_workspace=max_workspace,
        external_weights=external_weights(weights),
    )  # fmt: skip
    console = Console(stderr=True)
    with console.status(f"reading {model.name}") as status:
        compilation = start(model, options)
        status.update("running passes")
        compilation.lower()
        status.update(f"generating code for {len(compilation.module.kernels)} kernels")
        write(compilation, output)
    if explain:
        typer.echo(explanation(compilation))
    typer.echo(f"{output}: {output.stat().st_size} bytes, {summary(compilation)}")


def external_weights(text: str) -> bool:
    """Whether `--weights` says external; a usage error for anything but the two words."""
    if text not in ("embedded", "external"):
        raise typer.BadParameter(f"--weights is embedded or external, not {text!r}")
    return text == "external"


def summary(compilation: Compilation) -> str:
    """Target, kernels and workspace in one line."""
    assert compilation.source is not None
    info = compilation.source.info
    return f"target {info.target}, {len(compilation.module.kernels)} kernels, workspace {info.workspace_bytes} bytes"


def explanation(compilation: Compilation) -> str:
    """Each pass with its time and op counts, then each kernel with what was chosen for it."""
    module = compilation.module
    lines = [str(compilation.report), "", f"{'kernel':44} {'algorithm':10} {'tile':10} operators"]
    for name, kernel in module.kernels.items():
        algorithm = str(kernel.attributes.get("algorithm", "generic"))
        tile = "x".join(map(str, kernel.attributes.get("tile", ()))) or "-"
        operators = " ".join(op.name.split(".")[-1] for op in list(kernel.ops)[:-1])
        lines.append(f"{name[:44]:44} {algorithm:10} {tile:10} {operators}")
    return "\n".join(lines)
