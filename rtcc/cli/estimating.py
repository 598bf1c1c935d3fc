"""`rtcc bench` of a model for another machine: instructions by QEMU, hot loops by llvm-mca."""

from __future__ import annotations

import json
import mmap
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from rtcc.cli.arguments import Compiling, is_artifact
from rtcc.cli.progress import progress
from rtcc.errors import ArtifactError, InvalidInput
from rtcc.system.files import replace_file
from rtcc.system.machine import Machine
from rtcc.target import parse_target

if TYPE_CHECKING:
    from rtcc.emulation.estimates import Estimates

MOST_FUNCTIONS = 20
"""Told on the screen; the JSON file has all."""

NOTE = """\
Estimates; nothing was timed. Instructions were counted under QEMU (-cpu {cpu}), on one thread, after
the first run. Cycles are llvm-mca's by LLVM's model of the {model}, with every operand in the first cache
and every jump foreseen. Bytes are of one round of a loop; misses are of simulated caches that fetch nothing
ahead."""


def is_elsewhere(path: Path, asked: Compiling) -> bool:
    """Whether a model, compiled or to be, is for another machine that is emulated here."""
    from rtcc.emulation.emulator import PROGRAMS

    if is_artifact(path):
        architecture = _architecture(path)
    else:
        architecture = parse_target(asked.target).machine.architecture if asked.target else ""
    return architecture in PROGRAMS and architecture != Machine.host().architecture


def _architecture(path: Path) -> str:
    """What a library is for; "" where it is none, which opening it says."""
    from rtcc.artifact.elf import Elf

    with (
        suppress(OSError, ValueError, ArtifactError),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return Elf(data, str(path)).machine
    return ""


def bench_elsewhere(path: Path, asked: Compiling, timing: list[str], json_file: Path | None) -> None:
    """Print what one run executes, by kernels, and what its hot loops take; timing: options that time it."""
    if timing:
        message = f"{path.name} is for another machine: its instructions are counted, and no time is measured"
        hint = f"leave {' and '.join(timing)} out, or measure there with --remote USER@HOST"
        raise InvalidInput("bench-estimates", message, hint=hint)
    estimates, size = _estimated(path, asked)
    typer.echo(f"model            {path.name}")
    typer.echo(f"target           {estimates.target}")
    typer.echo(f"artefact bytes   {size:,}")
    typer.echo(f"instructions     {estimates.instructions:,}")
    typer.echo(f"multiply-adds    {estimates.products:,}")
    typer.echo(f"of peak          {estimates.of_peak:.1%} in loops with {estimates.covered:.1%} of them")
    console = Console(width=160)
    console.print(_functions(estimates))
    console.print(loops_table(estimates))
    typer.echo(NOTE.format(cpu=estimates.cpu, model=estimates.scheduling_model))
    if json_file is not None:
        rows = {"model": path.name, "artefact_bytes": size, **figures(estimates)}
        replace_file(json_file, json.dumps(rows, indent=2).encode() + b"\n")


def figures(estimates: Estimates) -> dict[str, object]:
    """What a JSON file has of estimates; it says that they are such."""
    whole = {"of_peak": estimates.of_peak, "covered": estimates.covered}
    return {"estimates": "instructions by QEMU, cycles by llvm-mca", **asdict(estimates), **whole}


def _estimated(path: Path, asked: Compiling) -> tuple[Estimates, int]:
    """Of an artefact, given or compiled on the spot, and its bytes."""
    from rtcc.emulation import Emulated
    from rtcc.emulation.estimates import estimate

    with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
        library = path
        if is_artifact(path):
            asked.require_none(path)
        else:
            from rtcc.compiler import build

            with progress(f"compiling {path.name}"):
                library = build(path, Path(folder), asked.options(shapes=asked.shapes_of(path)))
        artifact = Emulated(library, threads=1)
        with progress(f"counting {path.name} under QEMU"):
            return estimate(artifact, artifact.random_inputs(0)), library.stat().st_size


def _functions(estimates: Estimates) -> Table:
    """Functions by what they execute."""
    table = Table()
    for column in ("function", "instructions", "%", "multiply-adds", "instructions each"):
        table.add_column(column, justify="left" if column == "function" else "right")
    for each in estimates.functions[:MOST_FUNCTIONS]:
        share = f"{each.instructions / estimates.instructions:.1%}"
        ratio = f"{each.instructions / each.products:.2f}" if each.products else ""
        table.add_row(each.name, f"{each.instructions:,}", share, f"{each.products:,}", ratio)
    return table


def loops_table(estimates: Estimates) -> Table:
    """Hot loops, with bytes of one round: what they load and store, and what each cache has not."""
    table = Table()
    levels = max((len(each.missed) for each in estimates.loops), default=0)
    misses = [f"L{level} misses" for level in range(1, levels + 1)]
    numbers = ("at", "insns", "multiply", "rounds", "% of all", "est. cycles", "est. of peak")
    for column in ("hot loop of", *numbers, "B loaded", "B stored", *misses):
        left = column == "hot loop of"
        table.add_column(column, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for each in estimates.loops:
        table.add_row(
            each.function, f"{each.address:x}", str(each.instructions), str(each.multiplying),
            f"{each.rounds:,}", f"{each.share:.1%}", f"{each.cycles:.1f}", f"{each.of_peak:.1%}",
            *(f"{bytes:.0f}" for bytes in (each.loaded, each.stored, *each.missed)),
        )  # fmt: skip
    return table
