"""`rtcc info`: what is in a model or an artefact."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import AnyModelArgument, Reading, is_artifact, with_options_of
from rtcc.quoting import name_text

if TYPE_CHECKING:
    from rtcc.ir import Module
    from rtcc.target import Target

NODES_SHOWN = 3
"""How many refused nodes of one operator are named."""


@app.command("info", short_help="Say what is in a model or an artefact.")
@with_options_of(Reading)
def info(model: AnyModelArgument, asked: Reading) -> None:
    """Inputs, outputs, operators, parameters, operations, symbolic dimensions; what the target would refuse.

    Of an artefact: what it says of itself, as JSON.
    """
    if is_artifact(model):
        from rtcc.artifact import load

        asked.require_none(model)
        typer.echo(json.dumps(json.loads(load(model).info.to_json()), indent=2))
        return
    module = asked.read(model)
    typer.echo(describe(module, asked.target_for(module)))


def describe(module: Module, target: Target) -> str:
    """The report on a module."""
    from rtcc.ir.dimension import LARGEST

    constants = list(module.constants.values())
    ops = [op for op in module.walk() if op.name != "return"]
    lines = [f"level       {module.level}"]
    lines += [f"input       {name_text(p.name or '')} : {p.type}" for p in module.main.parameters]
    lines += [f"output      {name_text(v.name or '')} : {v.type}" for v in module.main.returned]
    for name, (low, high) in module.dimensions.items():
        bounds = f"[{low},{'*' if high == LARGEST else high}]"
        lines.append(f"dimension   {name} in {bounds}; bind it with --dim {name}=SIZE")
    parameters = sum(c.type.elements for c in constants if c.type.dtype.is_float)
    weights = sum(c.type.storage_bytes for c in constants)
    lines.append(
        f"parameters  {parameters:,} floating-point, {weights:,} bytes in {len(constants)} constants"
    )
    if not module.dimensions:
        activations = [result.type.storage_bytes for op in ops for result in op.results]
        lines.append(f"operations  {sum(op.operations() for op in ops):,} per run")
        lines.append(
            f"activations {sum(activations):,} bytes in all, the largest {max(activations, default=0):,}"
        )
    lines.append(f"operators   {len(ops)}")
    for name, count in Counter(op.name for op in ops).most_common():
        lines.append(f"  {count:6} {name}")
    return "\n".join(lines + _refused(module, target))


def _refused(module: Module, target: Target) -> list[str]:
    """What the target cannot compile, by operator and reason, with some of the nodes."""
    if not all(parameter.type.is_static for parameter in module.main.parameters):
        return ["refused     not known before the dimensions are bound"]
    reasons: dict[tuple[str, str], list[str]] = {}
    for op in module.walk():
        why = target.why_unsupported(op)
        if why is not None:
            reasons.setdefault((op.name, why), []).append(str(op.location))
    if not reasons:
        return [f"refused     nothing: {target} has a kernel for every operator"]
    return [
        f"refused     {name} ({len(nodes)}: {', '.join(nodes[:NODES_SHOWN])}): {why}"
        for (name, why), nodes in reasons.items()
    ]
