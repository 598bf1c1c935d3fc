"""Reproducers: the IR before a pass that went wrong and the pipeline left to run, in one text module."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

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
    stem = f"reproducer-{remaining[0].name}"
    path, number = directory / f"{stem}.rtir", 1
    while path.exists():
        number += 1
        path = directory / f"{stem}-{number}.rtir"
    directory.mkdir(parents=True, exist_ok=True)
    write_module(module, path)
    header, _, body = path.read_text("utf-8").partition("\n")
    path.write_text(f"{header}\n// {command_line(path, remaining, flags)}\n{body}", "utf-8")
    return path


def command_line(path: Path, remaining: Sequence[Pass], flags: Sequence[str] = ()) -> str:
    """The shell command that runs a reproducer."""
    words = ["rtcc", "opt", str(path), "-p", print_pipeline(remaining), *flags]
    return shlex.join(words)
