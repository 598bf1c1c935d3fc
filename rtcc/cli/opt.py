"""`rtcc opt`: run passes on a model or an IR file and print or write what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import DimOption, LoadOption, ModelArgument, ShapeOption, load_plugins, parse_dims, parse_shapes
from rtcc.errors import InvalidInput


@app.command("opt")
def opt(
    model: ModelArgument,
    pipeline: Annotated[str, typer.Option("-p", "--pipeline", help="Passes; an empty text reprints.")] = "",
    output: Annotated[Path | None, typer.Option("-o", help="FILE.rtir or FILE.onnx; standard output by default.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="For passes that ask the target.")] = None,
    shape: ShapeOption = None,
    dim: DimOption = None,
    dump_ir: Annotated[Path | None, typer.Option("--dump-ir", help="Folder for the IR after each pass.")] = None,
    verify_each: Annotated[bool, typer.Option(help="Interpret before and after each pass and compare.")] = False,
    timing: Annotated[bool, typer.Option(help="Print each pass's time and op counts to standard error.")] = False,
    load: LoadOption = None,
) -> None:
    """Run PIPELINE on MODEL."""
    from rtcc.compiler import read_model
    from rtcc.pipeline.run import RunOptions, run_pipeline
    from rtcc.target import parse_target
    from rtcc.text import print_module, write_module

    load_plugins(load)
    if output is not None and output.suffix not in (".rtir", ".onnx"):
        raise InvalidInput("unknown-suffix", f"{output.name!r} is neither .rtir nor .onnx")
    module = read_model(model, parse_shapes(shape), parse_dims(dim))
    if target is not None:
        module.target = str(parse_target(target))
    options = RunOptions(verify_each=verify_each, dump_dir=dump_ir, reproducer_dir=dump_ir)
    report = run_pipeline(module, pipeline, options)
    if timing:
        typer.echo(str(report), err=True)
    if output is None:
        typer.echo(print_module(module), nl=False)
    elif output.suffix == ".onnx":
        from rtcc.onnx import write

        write(module, output)
    else:
        write_module(module, output)
