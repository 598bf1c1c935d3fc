"""`rtcc compile`: a model to a shared or static library."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import (
    Compiling,
    DumpOption,
    LoadOption,
    ModelArgument,
    O0Option,
    O1Option,
    O2Option,
    VerifyEachOption,
    load_plugins,
    optimisation_level,
    with_options_of,
)
from rtcc.cli.progress import kernels_done, progress
from rtcc.errors import InvalidInput

if TYPE_CHECKING:
    from rtcc.compiler import Compilation
    from rtcc.emission.footprint import Footprint

EXAMPLES = """
\b
Examples:
  rtcc compile model.onnx                                 writes model.so and model.h
  rtcc compile model.onnx -o net.a --shape input=1x3x224x224 --threads 2
  rtcc compile model.onnx --target x86:x86-64-v3          for any CPU with AVX2
  rtcc compile vad.onnx --value sr=16000 --state h=hn     a rate fixed, a state updated in place
  rtcc compile model.onnx --emit c -o net.c               one C99 file for any machine
  rtcc compile model.onnx --dump-ir ir --verify-each      keep and check every stage
  rtcc compile ir/20-fuse.rtir -o net.so                  go on from a stage
"""


class Form(StrEnum):
    """What is made of a model."""

    LIBRARY = "library"
    C = "c"


class Weights(StrEnum):
    """Where constants lie: inside the artefact, or in a file beside it."""

    EMBEDDED = "embedded"
    EXTERNAL = "external"


class Choosing:
    """What the user wants chosen for layers: algorithms, and arithmetic on weights and sums of few bits."""

    def __init__(
        self,
        conv: Annotated[
            list[str] | None,
            typer.Option(
                "--conv",
                metavar="NAME",
                help="Algorithm of all convolutions, or LAYER=NAME of one layer; repeatable.",
            ),
        ] = None,
        max_error: Annotated[
            float | None,
            typer.Option(
                "--max-error", min=0, help="Forbid algorithms whose error bound is larger, say 1e-5."
            ),
        ] = None,
        widen_weights: Annotated[
            bool,
            typer.Option("--widen-weights", help="Make float32 of weights that are stored in fewer bits."),
        ] = False,
        requantize: Annotated[
            str,
            typer.Option(
                "--requantize",
                metavar="MODE",
                help="How integer sums are scaled: f32, fixed25 (in integers), or auto, the target's way.",
            ),
        ] = "auto",
    ) -> None:
        bits: dict[str, Any] = {"widen_weights": widen_weights, "requantize": requantize}
        self.options = {"max_error": max_error, **bits, **parse_conv(conv)}


@app.command("compile", short_help="Compile a model to a library and a header.", epilog=EXAMPLES)
@with_options_of(Compiling)
@with_options_of(Choosing, "choosing")
def compile_(
    model: ModelArgument,
    asked: Compiling,
    choosing: Choosing,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="PATH.so or PATH.a; MODEL.so by default, MODEL.a for Cortex-M."),
    ] = None,
    emit: Annotated[
        Form, typer.Option(help="A library, or one C99 file (MODEL.c) that any C compiler takes.")
    ] = Form.LIBRARY,
    o0: O0Option = False,
    o1: O1Option = False,
    o2: O2Option = False,
    pipeline: Annotated[
        str | None,
        typer.Option(
            "-p",
            "--pipeline",
            help="Passes to run in place of -O2, such as -O1,my-pass; those that lower to the plan follow.",
        ),
    ] = None,
    weights: Annotated[Weights, typer.Option(help="Where the weights go.")] = Weights.EMBEDDED,
    max_workspace: Annotated[
        str | None,
        typer.Option("--max-workspace", metavar="SIZE", help="Refuse a larger arena, such as 64M."),
    ] = None,
    dump_ir: DumpOption = None,
    verify_each: VerifyEachOption = False,
    verify_kernels: Annotated[
        bool, typer.Option("--verify-kernels", help="Run each compiled kernel against the interpreter.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print what was decided for each layer, and why.")
    ] = False,
    explain_json: Annotated[
        Path | None, typer.Option("--explain-json", metavar="FILE", help="Write what was decided there.")
    ] = None,
    load: LoadOption = None,
) -> None:
    """Compile MODEL to PATH.so or PATH.a, or with --emit c to PATH.c; the header PATH.h lies beside it.

    A .rtir file goes on with what is left of the pipeline.
    """
    from rtcc.compiler import in_c, start, write
    from rtcc.emission.link import require_destination, suffixes_of
    from rtcc.system.files import require_folder

    load_plugins(load)
    options = asked.options(
        pipeline=optimisation_level(o0, o1, o2, pipeline), dump_ir=dump_ir, verify_each=verify_each,
        verify_kernels=verify_kernels, max_workspace=parse_size(max_workspace),
        external_weights=weights is Weights.EXTERNAL, explain=explain or explain_json is not None,
        **choosing.options,
    )  # fmt: skip
    if explain_json is not None:
        require_folder(explain_json)
    with progress(f"reading {model.name}") as say:
        compilation = start(model, in_c(options) if emit is Form.C else options)
        suffixes = (".c",) if emit is Form.C else suffixes_of(compilation.target.machine)
        output = output or model.with_suffix(suffixes[0])
        require_destination(output, suffixes)
        say("running passes")
        compilation.target.expect_code()
        compilation.lower()
        write(compilation, output, kernels_done(say))
    _tell(compilation, explain, explain_json)
    typer.echo(f"{output}: {output.stat().st_size} bytes, {summary(compilation)}")
    if compilation.target.machine.is_bare:
        typer.echo(_memory_of(compilation, output))


def _tell(compilation: Compilation, explain: bool, file: Path | None) -> None:
    """Print and write what was decided, where asked for."""
    if explain:
        typer.echo(explanation(compilation))
    if compilation.compared is not None:
        typer.echo(f"verified: {compilation.compared}")
    if file is not None:
        write_decisions(compilation, file)


def _memory_of(compilation: Compilation, library: Path) -> Footprint:
    """The flash and memory that a library for a bare machine takes."""
    from rtcc.emission.footprint import footprint_of
    from rtcc.emission.toolchain import find_toolchain

    assert compilation.source is not None
    return footprint_of(library, compilation.source.info, find_toolchain(compilation.target.machine))


def parse_size(text: str | None) -> int | None:
    """`64M` → 67108864."""
    from rtcc.pipeline.base import Size

    try:
        return None if text is None else Size.parse(text)
    except ValueError as error:
        raise InvalidInput("bad-size", f"--max-workspace: {error}") from None


def parse_conv(texts: list[str] | None) -> dict[str, Any]:
    """`["direct", "conv1=direct_plain"]` → {"conv": "direct", "layers": {"conv1": "direct_plain"}}."""
    layers = {layer: name for layer, equals, name in (text.rpartition("=") for text in texts or []) if equals}
    everywhere = [text for text in texts or [] if "=" not in text]
    if len(everywhere) > 1:
        raise typer.BadParameter(f"--conv names {' and '.join(everywhere)} for all layers")
    return {"conv": everywhere[0] if everywhere else "auto", "layers": layers}


def write_decisions(compilation: Compilation, path: Path) -> None:
    """What was decided, as JSON."""
    from rtcc.selection.explanation import decisions_json
    from rtcc.system.files import replace_file

    assert compilation.report is not None
    replace_file(path, decisions_json(compilation.report.decisions).encode())


def summary(compilation: Compilation) -> str:
    """Target, kernels and workspace in one line."""
    assert compilation.source is not None
    info = compilation.source.info
    kernels = len(compilation.module.kernels)
    workspace = info.workspace_bytes + (info.threads - 1) * info.thread_bytes
    text = f"target {info.target}, {kernels} kernels, workspace {workspace} bytes"
    if info.device is None:
        return text
    return f"{text}; of the GPU's memory {info.device.workspace_bytes} and {info.weights_bytes} for weights"


def explanation(compilation: Compilation) -> str:
    """Each pass with its time and op counts, each decision, then each kernel with what it became."""
    from rtcc.selection.explanation import decisions_text

    module, report = compilation.module, compilation.report
    assert report is not None
    lines = [str(report), "", *([decisions_text(report.decisions), ""] if report.decisions else [])]
    lines += [f"{'kernel':44} {'algorithm':12} {'tile':10} operators"]
    for name, kernel in module.kernels.items():
        algorithm = str(kernel.attributes.get("algorithm", "")) or "generic"
        tile = "x".join(map(str, kernel.attributes.get("tile", ()))) or "-"
        operators = " ".join(op.name.split(".")[-1] for op in list(kernel.ops)[:-1])
        lines.append(f"{name[:44]:44} {algorithm:12} {tile:10} {operators}")
    assert compilation.source is not None
    if compilation.source.info.device is not None:
        lines += ["", compilation.source.info.device.table()]
    return "\n".join(lines)
