"""Reproducers: the IR before what went wrong, and the command that goes on from there, in one text module."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rtcc.errors import RtccError
from rtcc.ir import Module
from rtcc.pipeline.base import Pass
from rtcc.pipeline.text import print_pipeline
from rtcc.text import write_module


def write_reproducer(
    module: Module, remaining: Sequence[Pass], directory: Path, *, flags: Sequence[str] = ()
) -> Path:
    """Write `reproducer-PASS.rtir`, numbered where that exists, into the directory; its path.

    module: the IR before the pass. remaining: that pass and those after it. flags: options of `rtcc opt`
    that show the fault, such as --verify-each. The second line of the file is the command to run.
    """
    path = _new_path(directory, f"reproducer-{remaining[0].name}")
    _write(module, path, command_line(path, remaining, flags))
    return path


@contextmanager
def reproducible(module: Module, directory: Path) -> Generator[None]:
    """Where a planned module becomes an artefact: an internal fault gets a note that names a reproducer."""
    try:
        yield
    except (RtccError, OSError, MemoryError, RecursionError):
        raise
    except Exception as fault:
        path = _new_path(directory, "reproducer-artefact")
        command = shlex.join(["rtcc", "compile", str(path)])
        try:
            _write(module, path, command)
        except (OSError, RtccError) as error:
            fault.add_note(f"no reproducer could be written: {error}")
        else:
            fault.add_note(f"reproduce with: {command}")
        raise


def _new_path(directory: Path, stem: str) -> Path:
    path, number = directory / f"{stem}.rtir", 1
    while path.exists():
        number += 1
        path = directory / f"{stem}-{number}.rtir"
    return path


def _write(module: Module, path: Path, command: str) -> None:
    """The module, with the command as its second line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_module(module, path, note=command)


def command_line(path: Path, remaining: Sequence[Pass], flags: Sequence[str] = ()) -> str:
    """The shell command that runs a reproducer."""
    words = ["rtcc", "opt", str(path), "-p", print_pipeline(remaining), *flags]
    return shlex.join(words)
