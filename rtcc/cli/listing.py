"""`rtcc passes`, `rtcc targets`: what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import LoadOption, load_plugins
from rtcc.errors import InvalidInput

if TYPE_CHECKING:
    from rtcc.pipeline.base import Pass
    from rtcc.target import Target


@app.command("passes", short_help="List the passes and their options.")
def passes(load: LoadOption = None) -> None:
    """List the passes: name, how exact each is, what it does, its options; then the named pipelines."""
    from rtcc.pipeline.catalogue import NAMED_PIPELINES, find_pass, pass_names

    load_plugins(load)
    for name in pass_names():
        try:
            pass_class = find_pass(name)
        except InvalidInput as error:
            typer.echo(f"{name:20} does not load: {error.message}")
            continue
        assert pass_class is not None
        typer.echo(f"{name:20} {pass_class.exactness!s:24} {pass_class.description()}")
        for line in _options(pass_class):
            typer.echo(f"{'':20} {line}")
    for name, pipeline in NAMED_PIPELINES.items():
        typer.echo(f"\n{name} at graph level:\n  {pipeline}")


def _options(pass_class: type[Pass]) -> list[str]:
    """One line per option of a pass: name, default, type."""
    from rtcc.pipeline.options import describe_type, option_defaults, option_types, write_option

    defaults = option_defaults(pass_class)
    return [
        f"{name}={write_option(defaults[name]) if name in defaults else '…'}: {describe_type(kind)}"
        for name, kind in option_types(pass_class).items()
    ]


def _shown(fact: object) -> str:
    return " ".join(map(str, cast("list[object]", fact))) if isinstance(fact, list | tuple) else str(fact)


@app.command("targets", short_help="List the targets, or describe one.")
def targets(
    name: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="A target, for its CPUs, options and facts.")
    ] = None,
    synthesize: Annotated[
        bool, typer.Option("--synthesize", help="What its hardware takes of an FPGA, by Yosys: minutes.")
    ] = False,
) -> None:
    """List the targets, or what one target is."""
    from rtcc.target import class_of, parse_target, target_class, target_names

    if name is None:
        for each in target_names():
            try:
                description = (target_class(each).__doc__ or "").strip().split("\n")[0]
            except InvalidInput as error:
                description = f"does not load: {error.message}"
            typer.echo(f"{each:12} {description}")
        return
    if synthesize:
        typer.echo(parse_target(name).synthesis(), nl=False)
        return
    kind, target = class_of(name), _named(name)
    typer.echo(name if target is None else f"{target}")
    if kind.cpus:
        typer.echo(f"  CPUs: {', '.join(kind.cpus)}")
    for option, meaning in kind.options.items():
        typer.echo(f"  {option}=…  {meaning}")
    if target is not None:
        for fact, value in target.facts.items():
            typer.echo(f"  {fact}: {_shown(value)}")
    for algorithm, meaning in kind.algorithms.items():
        typer.echo(f"  algorithm {algorithm}: {meaning}")
    if target is None:
        typer.echo(f"  facts and pipelines: name a CPU, as in `rtcc targets {kind.name}:{kind.cpus[0]}`")
        return
    for level in ("-O0", "-O1", "-O2"):
        typer.echo(f"  {level}: {target.pipeline(level)}")


def _named(text: str) -> Target | None:
    """The target of a text; None where it takes the name of a CPU, which is not given."""
    from rtcc.target import parse_target

    try:
        return parse_target(text)
    except InvalidInput as error:
        if error.code != "target-needs-cpu":
            raise
        return None
