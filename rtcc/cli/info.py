"""`rtcc info`: what is in a model or an artefact."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from itertools import takewhile
from typing import TYPE_CHECKING

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import AnyModelArgument, Reading, with_options_of
from rtcc.errors import RtccError
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

    Of an artefact, for whatever machine: what it says of itself, as JSON.
    """
    if model.suffix in (".so", ".a"):
        from rtcc.artifact.archive import info_of
        from rtcc.artifact.library import info_of_library

        asked.require_none(model)
        found = info_of(model) if model.suffix == ".a" else info_of_library(model)
        typer.echo(json.dumps(json.loads(found.to_json()), indent=2))
        return
    module = asked.read(model)
    typer.echo(describe(module, asked.target_for(module)))


def describe(module: Module, target: Target) -> str:
    """The report on a module."""
    from rtcc.ir.dimension import LARGEST, Expression

    constants = list(module.constants.values())
    ops = [op for op in module.walk() if op.name != "return"]
    lines = [f"level       {module.level}"]
    lines += [f"input       {name_text(p.name or '')} : {p.type}" for p in module.main.parameters]
    lines += [f"output      {name_text(v.name or '')} : {v.type}" for v in module.main.returned]
    sizes = [size for p in module.main.parameters for size in p.type.shape if isinstance(size, Expression)]
    open_ones = {symbol.name for size in sizes for symbol in size.symbols}
    for name, (low, high) in module.dimensions.items():
        bounds = f"[{low},{'*' if high == LARGEST else high}]"
        option = shlex.quote(f"{name}=SIZE")
        what = f"bind it with --dim {option}" if name in open_ones else "the data decide it"
        lines.append(f"dimension   {name_text(name)} in {bounds}; {what}")
    parameters = sum(c.type.elements for c in constants if c.type.dtype.is_float)
    lines.append(
        f"parameters  {parameters:,} floating-point, "
        f"{module.weight_bytes:,} bytes in {len(constants)} constants"
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


def _before_fusion(module: Module, target: Target) -> Module:
    """A copy in the operators that kernels are made of: what the target has none for is decomposed."""
    from rtcc.compiler import remaining
    from rtcc.pipeline.run import RunOptions, run_pipeline

    if module.level != "graph":
        return module
    copy = module.clone()
    copy.target = str(target)
    passes = remaining(target.pipeline("-O0"), copy)
    run_pipeline(copy, list(takewhile(lambda each: not each.produces, passes)), RunOptions(verify=False))
    return copy


def _too_large(module: Module, target: Target) -> list[str]:
    """Why the room that a target's text names is too small for weights and workspace; code is not counted."""
    from rtcc.compiler import Options, start

    if not target.has_limits:
        return []
    compilation = start(module.clone(), Options(str(target)))
    try:
        compilation.lower()
        target.require_room(compilation.module)
    except RtccError as error:
        return [f"refused     {error.message}"]
    return []


def _refused(module: Module, target: Target) -> list[str]:
    """What the target cannot compile, by operator and reason, with some of the nodes."""
    if not all(parameter.type.is_static for parameter in module.main.parameters):
        return ["refused     not known before the dimensions are bound"]
    reasons: dict[tuple[str, str], list[str]] = {}
    whole = module
    try:
        module = _before_fusion(module, target)
    except RtccError as error:
        return [f"refused     {error.message}" + (f" ({error.where})" if error.where else "")]
    for op in module.walk():
        why = target.why_unsupported(op)
        if why is not None:
            reasons.setdefault((op.name, why), []).append(str(op.location))
    if not reasons:
        return _too_large(whole, target) or [f"refused     nothing: {target} has a kernel for every operator"]
    return [
        f"refused     {name} ({len(nodes)}: {', '.join(nodes[:NODES_SHOWN])}): {why}"
        for (name, why), nodes in reasons.items()
    ]
