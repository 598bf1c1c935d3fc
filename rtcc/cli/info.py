"""`rtcc info`: what is in a model or an artefact."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rtcc.cli.app import app
from rtcc.cli.arguments import DimOption, ShapeOption, TargetOption, parse_dims, parse_shapes

if TYPE_CHECKING:
    from rtcc.ir import Module


@app.command("info")
def info(
    model: Annotated[Path, typer.Argument(help="An artefact (.so), an ONNX model, or a .rtir file.")],
    target: TargetOption = "x86",
    shape: ShapeOption = None,
    dim: DimOption = None,
) -> None:
    """Inputs, outputs, operators, parameters, operations, symbolic dimensions; what the target would refuse."""
    if model.suffix == ".so":
        from rtcc.artifact import load

        typer.echo(json.dumps(json.loads(load(model).info.to_json()), indent=2))
        return
    from rtcc.compiler import read_model

    typer.echo(describe(read_model(model, parse_shapes(shape), parse_dims(dim)), target))


def describe(module: Module, target: str) -> str:
    """The report on a module."""
    from rtcc.ir import Constant
    from rtcc.ir.work import operations
    from rtcc.target import parse_target

    constants = list(module.constants.values())
    lines = [f"level       {module.level}"]
    lines += [f"input       {p.name} : {p.type}" for p in module.main.parameters]
    lines += [f"output      {v.name} : {v.type}" for v in module.main.returned]
    for name, (low, high) in module.dimensions.items():
        lines.append(f"dimension   {name} in [{low},{high}]  (bind it: --dim {name}=SIZE)")
    parameters = sum(c.data.size for c in constants if c.type.dtype.is_float)
    weights = sum(c.data.nbytes for c in constants)
    lines.append(f"parameters  {parameters:,} in {len(constants)} constants, {weights:,} bytes")
    lines.append(f"operations  {sum(map(operations, module.walk())):,} per run")
    activations = [r.type.storage_bytes for op in module.walk() for r in op.results if not isinstance(r, Constant)]
    lines.append(f"activations {sum(activations):,} bytes in all, the largest {max(activations, default=0):,}")
    for name, count in Counter(op.name for op in module.walk() if op.name != "return").most_common():
        lines.append(f"  {count:6} {name}")
    return "\n".join(lines + _refused(module, parse_target(target)))


def _refused(module: Module, target: object) -> list[str]:
    from rtcc.target import Target

    assert isinstance(target, Target)
    reasons: dict[tuple[str, str], list[str]] = {}
    for op in module.walk():
        why = target.why_unsupported(op)
        if why is not None:
            reasons.setdefault((op.name, why), []).append(str(op.location))
    if not reasons:
        return [f"target      {target} compiles all of it"]
    return [f"refused     {name} ({len(nodes)}: {', '.join(nodes[:3])}): {why}" for (name, why), nodes in reasons.items()]
