"""`rtcc bench` of a model for a microcontroller: flash, memory and instructions on an emulated board."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rtcc.cli.arguments import Compiling, is_artifact
from rtcc.cli.opening import built
from rtcc.errors import InvalidInput
from rtcc.system.files import replace_file
from rtcc.target import parse_target

if TYPE_CHECKING:
    from rtcc.emulation import EmulatedBoard

NOTE = """\
Of a board that QEMU emulates; nothing was timed. Instructions are those of one run, in steps of 40; bytes
are those of the program as it is linked there, without the caller's inputs and outputs."""


def is_on_board(path: Path, asked: Compiling) -> bool:
    """Whether a model, compiled or to be, is for a machine without an operating system; `static-library` for
    one of a machine with one, which only programs can link."""
    if path.suffix == ".a":
        from rtcc.artifact.archive import info_of

        return info_of(path).is_bare or is_artifact(path)
    return path.suffix != ".so" and asked.target is not None and parse_target(asked.target).machine.is_bare


def bench_on_board(path: Path, asked: Compiling, timing: list[str], json_file: Path | None) -> None:
    """Print what a model takes of a microcontroller; timing: options that time it."""
    from rtcc.emulation import EmulatedBoard

    if timing:
        message = f"{path.name} is for a microcontroller: its instructions are counted, no time is measured"
        raise InvalidInput("bench-estimates", message, hint=f"leave {' and '.join(timing)} out")
    with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
        if path.suffix == ".a":
            asked.require_none(path)
            board = EmulatedBoard(path, threads=asked.threads)
        else:
            board = EmulatedBoard(built(path, asked, {}, Path(folder)))
        size = board.path.stat().st_size
    board.run(board.random_inputs())
    _tell(board, path, size)
    if json_file is not None:
        replace_file(json_file, json.dumps(_figures(board, path, size), indent=2).encode() + b"\n")


def _tell(board: EmulatedBoard, path: Path, size: int) -> None:
    linked = board.linked
    counted = f"{linked.instructions:,}" if linked.instructions else "more than the board's clock counts"
    typer.echo(f"model            {path.name}")
    typer.echo(f"target           {board.info.target}")
    typer.echo(f"artefact bytes   {size:,}")
    typer.echo(f"flash bytes      {linked.flash:,}, {linked.library:,} of it library functions")
    typer.echo(f"RAM bytes        {linked.ram:,}: workspace {linked.workspace:,}, stack {linked.stack:,}")
    typer.echo(f"instructions     {counted}")
    typer.echo(NOTE)


def _figures(board: EmulatedBoard, path: Path, size: int) -> dict[str, object]:
    """What a JSON file has; it says that nothing was measured on hardware."""
    linked = board.linked
    return {
        "measured_on": f"a {board.cpu} that QEMU emulates", "model": path.name, "target": board.info.target,
        "artefact_bytes": size, "flash_bytes": linked.flash, "library_bytes": linked.library,
        "ram_bytes": linked.ram, "workspace_bytes": linked.workspace, "stack_bytes": linked.stack,
        "instructions": linked.instructions or None,
    }  # fmt: skip
