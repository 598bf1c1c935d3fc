"""outline-kernels: equal fused regions become one `kernel`, compiled once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rtcc.ir import Constant, Graph, KernelRef, Module, Op, Value, clone_graph
from rtcc.ir.ops.fused import Call, Fused
from rtcc.ir.roles import Role
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import exact

LONGEST_NAME = 80
"""Characters of a kernel's name; it becomes a symbol of the artefact."""


@dataclass(frozen=True)
class OutlineKernels(Pass):
    """Move fused regions out into kernels; regions equal but for provenance share one.

    `control.fused` → `control.call {kernel = @name}`; the name comes from the first instance's ONNX node.
    """

    exactness = exact
    requires = ("fused",)
    produces = "kernels"

    def run(self, module: Module) -> bool:
        known: dict[object, str] = {}
        for op in list(module.walk()):
            if isinstance(op, Fused):
                inputs = _parted_inputs(op)
                key = (op.algorithm, op.tile, structure(op.body))
                if key not in known:
                    known[key] = _add_kernel(module, op)
                _replace_by_call(op, inputs, known[key])
        return bool(known)


def _parted_inputs(fused: Fused) -> list[Value]:
    """What to pass to the kernel, once each operand of an anchor is a parameter that nothing else reads.

    %x: add(conv(%x, %w), %x)  →  %x, %y: add(conv(%x, %w), %y), called with the same value twice: a
    micro-kernel reads its operands in its own order, its epilogue those of the result.
    """
    body, inputs = fused.body, list[Value](fused.inputs)
    for op in list(body.ops):
        if op.role is Role.ELEMENTWISE:
            continue  # what runs behind the anchor may share operands: a zero point, say
        if op.role is not Role.ANCHOR and "algorithm" not in fused.attributes:
            continue
        for slot in range(len(op.operands)):
            value = op.operands[slot]
            if value not in body.parameters:
                continue
            others = [use for use in value.uses if use != (op, slot)]
            if others:
                inputs.append(inputs[body.parameters.index(value)])
                again = body.add_parameter(value.type)
                for use in others:
                    use.op.set_operand(use.slot, again)
    return inputs


def structure(graph: Graph) -> tuple[object, ...]:
    """What a graph computes, as a hashable value: equal for graphs alike but for names and locations."""
    numbers: dict[Value, int] = {}
    for parameter in graph.parameters:
        numbers[parameter] = len(numbers)
    rows: list[object] = [tuple(p.type for p in graph.parameters)]
    for op in graph.ops:
        operands = tuple(_operand_key(value, numbers) for value in op.operands)
        attributes = tuple(sorted((name, repr(value)) for name, value in op.attributes.items()))
        regions = tuple(structure(region) for region in op.regions)
        rows.append((op.name, operands, attributes, regions, tuple(r.type for r in op.results)))
        for result in op.results:
            numbers[result] = len(numbers)
    return tuple(rows)


def _operand_key(value: Value | None, numbers: dict[Value, int]) -> object:
    match value:
        case None:
            return None
        case Constant():
            return value.content
        case _:
            return numbers[value]


def _add_kernel(module: Module, fused: Fused) -> str:
    kernel = clone_graph(fused.body, {})
    kernel.name = _fresh_name(module, fused)
    kernel.attributes = _choices(fused)
    module.kernels[kernel.name] = kernel
    return kernel.name


def _choices(fused: Fused) -> dict[str, Any]:
    """What the target chose for this instance; lowering reads it from the kernel."""
    chosen: dict[str, Any] = {}
    if fused.algorithm:
        chosen["algorithm"] = fused.algorithm
    if fused.tile:
        chosen["tile"] = fused.tile
    return chosen


def _fresh_name(module: Module, op: Op) -> str:
    node = op.location.nodes[0] if op.location.nodes else op.name
    stem = re.sub(r"[^A-Za-z0-9]+", "_", node).strip("_")[:LONGEST_NAME] or "kernel"
    if stem[0].isdigit():
        stem = f"k{stem}"
    name, count = stem, 0
    while name in module.kernels:
        count += 1
        name = f"{stem}_{count}"
    return name


def _replace_by_call(fused: Fused, inputs: list[Value], kernel: str) -> None:
    graph = fused.graph
    assert graph is not None
    call = Call(
        *inputs,
        kernel=KernelRef(kernel),
        types=[result.type for result in fused.results],
        location=fused.location.by("outline-kernels"),
    )
    graph.insert_before(fused, call)
    for old, new in zip(fused.results, call.results, strict=True):
        new.name = old.name
        old.replace_uses(new)
    graph.erase(fused)
