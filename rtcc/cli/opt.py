"""`rtcc opt`: run passes on a model or an IR file and print or write what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import (
    DumpOption,
    LoadOption,
    ModelArgument,
    Reading,
    VerifyEachOption,
    load_plugins,
    with_options_of,
)

if TYPE_CHECKING:
    from rtcc.ir import Module

EXAMPLES = """
\b
Examples:
  rtcc opt model.onnx                                  print the model as text
  rtcc opt model.onnx -p simplify,fold-batch-norm -o better.onnx
  rtcc opt model.onnx --pipeline=-O2,legalize,fuse --target x86 --timing
"""


@app.command("opt", short_help="Run passes on a model or its text.", epilog=EXAMPLES)
@with_options_of(Reading)
def opt(
    model: ModelArgument,
    asked: Reading,
    pipeline: Annotated[str, typer.Option("-p", "--pipeline", help="Passes; an empty text reprints.")] = "",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="FILE.rtir or FILE.onnx; standard output by default."),
    ] = None,
    dump_ir: DumpOption = None,
    verify_each: VerifyEachOption = False,
    timing: Annotated[
        bool, typer.Option("--timing", help="Print each pass's time and op counts to standard error.")
    ] = False,
    load: LoadOption = None,
) -> None:
    """Run passes on MODEL and print the IR that comes out, or write it as text or ONNX."""
    from rtcc.compiler import settle
    from rtcc.model_file import require_model_path
    from rtcc.pipeline.run import RunOptions, run_pipeline
    from rtcc.system.files import require_folder

    load_plugins(load)
    if output is not None:
        require_model_path(output)
        require_folder(output)
    module = asked.read(model)
    if asked.target is not None or (module.target and module.level != "graph"):
        settle(module, asked.target_for(module))
    report = run_pipeline(
        module, pipeline, RunOptions(verify_each=verify_each, dump_dir=dump_ir, reproducer_dir=dump_ir)
    )
    if timing:
        typer.echo(str(report), err=True)
    _write(module, output)


def _write(module: Module, output: Path | None) -> None:
    from rtcc.text import print_module, write_module

    if output is None:
        typer.echo(print_module(module), nl=False)
    elif output.suffix == ".onnx":
        from rtcc.onnx import write

        write(module, output)
    else:
        write_module(module, output)
