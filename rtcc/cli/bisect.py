"""`rtcc bisect`: the pass after which a compiled model gives other results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import (
    Compiling,
    InputOption,
    LoadOption,
    ModelArgument,
    O0Option,
    O1Option,
    O2Option,
    SeedOption,
    load_plugins,
    optimisation_level,
    read_arrays,
    with_options_of,
)
from rtcc.cli.progress import progress
from rtcc.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from rtcc.compiler import Compilation
    from rtcc.ir import Module

    Arrays = Mapping[str, NDArray[Any]]

TOLERANCE = 1e-3
"""What results may be off, as a part of their own size, where nobody says."""

EXAMPLES = """
\b
Examples:
  rtcc bisect model.onnx --input x=x.npy                  which pass makes the artefact answer otherwise?
  rtcc bisect int8.onnx --tolerance 0.05                  a quantised model rounds by design
"""


@app.command("bisect", short_help="Find the pass that breaks a result.", epilog=EXAMPLES)
@with_options_of(Compiling)
def bisect(
    model: ModelArgument,
    asked: Compiling,
    o0: O0Option = False,
    o1: O1Option = False,
    o2: O2Option = False,
    pipeline: Annotated[
        str | None, typer.Option("-p", "--pipeline", help="Passes to search in place of those of -O2.")
    ] = None,
    input: InputOption = None,
    random: SeedOption = 0,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0, help="What a result may be off, as a part of its own size."),
    ] = TOLERANCE,
    load: LoadOption = None,
) -> None:
    """Compile MODEL as some of the passes leave it, again and again, and compare with the interpreter.

    Exit 1 where a pass is found.
    """
    from rtcc.compiler import start
    from rtcc.interpreter import interpret
    from rtcc.pipeline.bisect import AlreadyWrong, first_wrong_pass
    from rtcc.pipeline.inputs import random_inputs
    from rtcc.pipeline.text import print_pass

    load_plugins(load)
    given = read_arrays(input)
    shapes = asked.shapes_of(model, {name: array.shape for name, array in given.items()})
    level = optimisation_level(o0, o1, o2, pipeline)
    with progress(f"reading {model.name}") as say:
        compilation = start(model, asked.options(shapes=shapes, pipeline=level))
        compilation.require_static_inputs()
        feeds = {**random_inputs(compilation.module, random), **given}
        say("interpreting")
        expected = interpret(compilation.module, feeds)
        is_wrong = _judge(compilation, feeds, expected, tolerance, say)
        try:
            found = first_wrong_pass(compilation.module, compilation.passes(), is_wrong)
        except AlreadyWrong:
            message = f"results are off by more than {tolerance:g} before any of these passes"
            hint = "--verify-kernels compares each kernel, and --tolerance says what may be off"
            raise InvalidInput("wrong-before", message, hint=hint) from None
    if found is None:
        typer.echo(f"no pass moves a result by more than {tolerance:g} of its size")
        return
    typer.echo(f"{print_pass(found)}: the first pass after which a result is off by more than {tolerance:g}")
    raise typer.Exit(1)


def _judge(
    compilation: Compilation, feeds: Arrays, expected: Arrays, tolerance: float, say: Callable[[str], None]
) -> Callable[[Module], bool]:
    """Whether a module, lowered from where it is as -O0 does it, computes something else than expected."""
    from rtcc.compiler import compile_with, remaining
    from rtcc.pipeline.text import print_pass

    lowering = compilation.target.pipeline("-O0")

    def is_wrong(module: Module) -> bool:
        say(f"compiling after {module.after[-1] if module.after else 'no pass'}")
        module.left = [print_pass(each) for each in remaining(lowering, module)]
        with compile_with(module, compilation.rest()) as artifact:
            found = artifact.run(feeds)
        return any(distance(found[name], array) > tolerance for name, array in expected.items())

    return is_wrong


def distance(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """‖found - expected‖ / ‖expected‖, infinite where shapes or non-finite numbers differ; texts: 0 or 1."""
    import numpy as np

    if found.dtype.kind not in "fiub":
        return float(not np.array_equal(found, expected))
    if found.shape != expected.shape:
        return float("inf")
    one, other = found.astype(np.float64).reshape(-1), expected.astype(np.float64).reshape(-1)
    finite = np.isfinite(one) & np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return float("inf")
    size = float(np.linalg.norm(other[finite]))
    moved = float(np.linalg.norm(one[finite] - other[finite]))
    return moved / size if size else float(moved > 0)
