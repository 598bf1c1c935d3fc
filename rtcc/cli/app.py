"""The command table, and what every command shares: how errors look and which exit code they give."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import click
import typer

from rtcc import __version__
from rtcc.errors import RtccError

app = typer.Typer(
    name="rtcc",
    help="Compile neural networks (ONNX) into small, dependency-free, real-time artefacts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"rtcc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Add the traceback to errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    context.obj = {"verbose": verbose}


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0 done, 1 a typed error, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verbose = "-v" in arguments or "--verbose" in arguments
    raise SystemExit(_run([a for a in arguments if a not in ("-v", "--verbose")], verbose))


def _run(arguments: list[str], verbose: bool) -> int:
    from rtcc.cli import commands as commands  # registers every command

    try:
        result: Any = app(arguments, standalone_mode=False)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        typer.echo("interrupted", err=True)
        return 130
    except RtccError as error:
        if verbose:
            traceback.print_exc()
        typer.echo(str(error), err=True)
        return 1
    except OSError as error:
        if verbose:
            traceback.print_exc()
        typer.echo(_system_error(error), err=True)
        return 1
    return result if isinstance(result, int) else 0


def _system_error(error: OSError) -> str:
    """A file that cannot be read or written, in the form of our own errors."""
    where = f"\n  at: {error.filename}" if error.filename else ""
    return f"error[system]: {error.strerror or error}{where}"
