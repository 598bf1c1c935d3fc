"""`rtcc doctor`: which tools were found, and whether models can be compiled and run here."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import typer

from rtcc.cli.app import app
from rtcc.errors import RtccError

NEEDED = (
    "onnx",
    "onnx-graphsurgeon",
    "apache-tvm",
    "numpy",
    "lark",
    "ml-dtypes",
    "typer",
    "rich",
)
OPTIONAL = {
    "ziglang": "compiles and links C where there is no C compiler, also for other machines",
    "matplotlib": "rtcc quantize --plots",
}


@app.command("doctor", short_help="Say what was found and whether it works.")
def doctor() -> None:
    """Say which packages and tools were found, and whether a model compiles and runs here; exit 1 if not."""
    from rtcc.peers import PACKAGES
    from rtcc.target import target_class, target_names

    typer.echo(f"{'Python':22} {platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in NEEDED:
        typer.echo(f"{package:22} {_version(package) or 'not installed: pip install rtcc'}")
    for package, use in (OPTIONAL | dict.fromkeys(PACKAGES, "rtcc bench --against")).items():
        typer.echo(f"{package:22} {_version(package) or 'not installed'}  ({use})")
    tools = {tool: use for name in target_names() for tool, use in target_class(name).tools.items()}
    for tool, use in tools.items():
        found = next(filter(None, map(shutil.which, tool.split(" or "))), "not found")
        typer.echo(f"{tool:22} {found}  ({use})")
    try:
        _try_out()
    except RtccError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _try_out() -> None:
    """Find what compiling needs, then compile and run a model of one op."""
    from rtcc.compiler import compile
    from rtcc.emission.toolchain import find_toolchain
    from rtcc.system.files import cache_folder
    from rtcc.system.machine import Machine
    from rtcc.target import parse_target
    from rtcc.text import parse_module

    typer.echo(f"{'kernel cache':22} {cache_folder()}")
    typer.echo(f"{'C compiler':22} {' '.join(find_toolchain(Machine.host()).compile)}")
    typer.echo(f"{'this machine':22} {parse_target('x86')}")
    module = parse_module(
        "// rtir 1  level=graph\ngraph @main(%x: f32[4]) {\n  %y = math.relu(%x) : f32[4]\n  return(%y)\n}\n"
    )
    with compile(module) as artifact:
        artifact.run(artifact.random_inputs(0))
    typer.echo(f"{'compile and run':22} works")
