"""`rtcc passes`, `rtcc targets`, `rtcc doctor`: what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import LoadOption, load_plugins
from rtcc.errors import RtccError


@app.command("passes")
def passes(load: LoadOption = None) -> None:
    """List the passes: name, exactness, what each does, its options."""
    from rtcc.pipeline.catalogue import find_pass, pass_names
    from rtcc.pipeline.options import describe_options

    load_plugins(load)
    for name in pass_names():
        pass_class = find_pass(name)
        assert pass_class is not None
        typer.echo(f"{name:20} {pass_class.exactness!s:26} {pass_class.description()}")
        for line in describe_options(pass_class):
            typer.echo(f"{'':20} {line}")


@app.command("targets")
def targets(name: Annotated[str | None, typer.Argument(help="A target, for its CPUs, options and facts.")] = None) -> None:
    """List the targets, or what one target is."""
    from rtcc.target import parse_target, target_names

    if name is None:
        for each in target_names():
            description = (type(parse_target(each)).__doc__ or "").strip().splitlines()[0]
            typer.echo(f"{each:12} {description}")
        return
    target = parse_target(name)
    typer.echo(f"{target}")
    typer.echo(f"  CPUs: {', '.join(target.cpus)}")
    for option, meaning in target.options.items():
        typer.echo(f"  {option}=…  {meaning}")
    for fact, value in target.facts.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        typer.echo(f"  {fact}: {shown}")


@app.command("doctor")
def doctor() -> None:
    """Say which tools were found, and whether code can be compiled and run here. Exit 1 where it cannot."""
    from importlib.metadata import PackageNotFoundError, version

    from rtcc.artifact.toolchain import find_toolchain
    from rtcc.target import parse_target
    from rtcc.targets.tvm.cache import cache_folder

    for package in ("onnx", "onnx-graphsurgeon", "apache-tvm", "numpy", "lark", "ziglang", "onnxruntime", "openvino", "torch"):
        try:
            typer.echo(f"{package:18} {version(package)}")
        except PackageNotFoundError:
            typer.echo(f"{package:18} not installed")
    typer.echo(f"{'kernel cache':18} {cache_folder()}")
    failed = False
    try:
        target = parse_target("x86")
        typer.echo(f"{'this machine':18} {target}")
        toolchain = find_toolchain(target.machine)
        typer.echo(f"{'C compiler':18} {' '.join(toolchain.compile)}")
    except RtccError as error:
        typer.echo(str(error), err=True)
        failed = True
    if failed:
        raise typer.Exit(1)
