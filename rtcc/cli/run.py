"""`rtcc run`: run an artefact, or a model compiled on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import (
    AnyModelArgument,
    Compiling,
    DeviceOption,
    InputOption,
    RemoteOption,
    SeedOption,
    is_artifact,
    read_arrays,
    with_options_of,
)
from rtcc.cli.opening import open_or_compile, open_remote, run_emulated
from rtcc.errors import InvalidInput
from rtcc.quoting import name_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray


LONGEST_STEM = 50
"""Characters of an output's name that its file keeps; a name in a folder has at most 255 bytes."""

EXAMPLES = """
\b
Examples:
  rtcc run model.so --input x=x.npy --output results      writes results/NAME.npy
  rtcc run model.onnx --random 7                          seeded inputs, compiled on the spot
  rtcc run ir/20-fuse.rtir --interpret                    what the maths say at that stage
  rtcc run model.so --simulate functional                 compiled for the FPGA, on no board
  rtcc run model.so --emulate                             compiled for ARM, under QEMU; .a for Cortex-M
  rtcc run model.so --device 1                            compiled for CUDA, on the second GPU
  rtcc run model.onnx --target arm:cortex-a76 --remote pi@raspberrypi     on the board itself
"""


@app.command("run", short_help="Run an artefact or a model once.", epilog=EXAMPLES)
@with_options_of(Compiling)
def run(
    model: AnyModelArgument,
    asked: Compiling,
    interpret: Annotated[
        bool, typer.Option("--interpret", help="Use the interpreter: slow, the reference.")
    ] = False,
    input: InputOption = None,
    random: SeedOption = 0,
    simulate: Annotated[
        str | None,
        typer.Option("--simulate", metavar="ENGINE", help="Simulate the device: functional, rtl (FPGA)."),
    ] = None,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="Run what is for AArch64 or Cortex-M under QEMU.")
    ] = False,
    emulated_cpu: Annotated[
        str | None,
        typer.Option("--emulated-cpu", metavar="NAME", help="Emulate another CPU, by QEMU's name of it."),
    ] = None,
    remote: RemoteOption = None,
    device: DeviceOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Write one .npy per output there.")
    ] = None,
) -> None:
    """Run once and print a line per output: name, type, range, where the largest element is."""
    given, note = read_arrays(input), ""
    places = {
        "--simulate": simulate, "--emulate": emulate or emulated_cpu, "--remote": remote,
        "--device": device is not None,
    }  # fmt: skip
    if interpret:
        asked.require_interpretable({**places, "--emulate": emulate, "--emulated-cpu": emulated_cpu})
        outputs = _interpret(model, asked, given, random)
    elif remote is not None:
        require_one_place(places)
        with open_remote(model, asked, random, given, remote) as (there, feeds):
            outputs = there.run(feeds)
    elif emulate or emulated_cpu is not None:
        require_one_place(places)
        outputs, note = run_emulated(model, asked, random, given, emulated_cpu)
    else:
        require_one_place(places)
        artifact, feeds = open_or_compile(model, asked, random, given, device)
        with artifact:
            if simulate is not None:
                artifact.simulate(simulate)
            outputs = artifact.run(feeds)
    for name, array in outputs.items():
        typer.echo(describe(name, array))
    if note:
        typer.echo(note)
    if output is not None:
        save(outputs, output)


def require_one_place(options: Mapping[str, object]) -> None:
    """Refuse more than one option that says where a model runs, by what they hold."""
    given = [option for option, value in options.items() if value]
    if len(given) > 1:
        message = f"{' and '.join(given)} name different places to run in"
        raise InvalidInput("run-places", message, hint="leave all but one out")


def _interpret(
    path: Path, asked: Compiling, given: Mapping[str, NDArray[Any]], seed: int
) -> dict[str, NDArray[Any]]:
    from rtcc.interpreter import interpret
    from rtcc.pipeline.inputs import random_inputs

    if is_artifact(path):
        raise InvalidInput("artefact-options", f"{path.name} is compiled: it holds no graph to interpret",
                           hint="give the model it was made from")  # fmt: skip
    module = asked.read(path, {name: array.shape for name, array in given.items()})
    return interpret(module, {**random_inputs(module, seed), **given})


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

    from rtcc.system.files import replace_file

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
