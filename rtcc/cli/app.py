"""The command table, and what every command shares: how errors look and which exit code they give."""

from __future__ import annotations

import errno
import signal
import sys
import threading
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rtcc import __version__
from rtcc.errors import RtccError
from rtcc.system.limits import within_limits

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the signal's number, as shells have it."""

INTERNAL = 70
"""Exit code of a fault in rtcc itself: EX_SOFTWARE of sysexits.h."""

COMMANDS = (
    "compile", "run", "bench", "info", "opt", "passes", "targets", "quantize", "prune", "distill", "tune",
    "bisect", "doctor", "demo",
)  # fmt: skip
"""Every command, in the order in which help lists them."""


class _Commands(TyperGroup):
    """The commands, in the order in which one meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=COMMANDS.index)


app = typer.Typer(
    name="rtcc",
    cls=_Commands,
    help="Compile neural networks (ONNX) into small, dependency-free, real-time artefacts.",
    epilog="New here? `rtcc demo` shows it all on a small model, `rtcc compile model.onnx` is the main job. "
    "Every command takes -h, and -v anywhere on the line to add the traceback to an error. "
    "Exit codes: 0 done, 1 an error, 2 wrong usage, 70 a fault in rtcc itself, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"rtcc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before the command's name."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 a typed error, 2 wrong usage, 70 a fault of rtcc, 130 interrupted.

    arguments: the words after `rtcc`, by default those of this process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    verbose = "-v" in arguments or "--verbose" in arguments
    rest = [word for word in arguments if word not in ("-v", "--verbose")]
    try:
        from rtcc.cli import commands as commands  # registers every command

        with within_limits("this command"), _leaving_on_sigterm():
            app(rest, prog_name="rtcc")
    except (RtccError, OSError) as error:
        if verbose:
            traceback.print_exc()
        typer.echo(str(error) if isinstance(error, RtccError) else _system_error(error), err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except Exception as fault:
        if verbose:
            traceback.print_exc()
        typer.echo(_internal_error(fault, verbose), err=True)
        raise SystemExit(INTERNAL) from None


@contextmanager
def _leaving_on_sigterm() -> Generator[None]:
    """Answer SIGTERM with the exit code that shells have for it, once temporary files are deleted."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _internal_error(fault: Exception, verbose: bool) -> str:
    """A fault of ours, with what helps to report it: where it is, and the reproducer if one was written."""
    place = traceback.extract_tb(fault.__traceback__)[-1]
    said = f"{type(fault).__name__}: {fault}" if str(fault) else type(fault).__name__
    notes: list[str] = getattr(fault, "__notes__", [])
    hints = [
        "this is a fault in rtcc: please report it",
        *notes,
        *([] if verbose else ["-v shows the traceback"]),
    ]
    where = f"{place.filename}:{place.lineno}, in {place.name}"
    return str(RtccError("internal", said, where=where, hint="; ".join(hints)))


def _system_error(error: OSError) -> str:
    """A file that cannot be read or written, in the form of our own errors."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    where = str(error.filename) if error.filename else None
    hint = "free some space and run the command again; nothing half written was left" if full else None
    message = error.strerror or str(error)
    return str(RtccError("disk-full" if full else "system", message, where=where, hint=hint))
