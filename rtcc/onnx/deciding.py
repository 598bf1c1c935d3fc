"""Which inputs of a model decide shapes, or what code an operator becomes (the axes of a reduction, say)."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto

from rtcc.onnx.names import operator_class
from rtcc.onnx.topology import nested_graphs

_NEWER_NAMES = {"Upsample": "Split"}
"""Operators without a class of their own, and one whose second operand is known in the same way."""

LOOP_CONTROLS = 2
"""Inputs of Loop that are not carried: the trip count and the condition."""

_POSITIONS = {"SequenceAt": 1, "SequenceInsert": 2, "SequenceErase": 1, "SplitToSequence": 1}
"""Which input of an operator on sequences decides how they are built."""

_DECIDED = {"If": 1, "Loop": LOOP_CONTROLS}
"""How many inputs decide what runs, which must be known where sequences come or go."""


def deciding_inputs(model: ModelProto) -> list[str]:
    """Names of the inputs whose values reach an operand that must be known to compile; sorted.

    The value of Shape and Size depends on types alone, so nothing is followed through them.
    """
    producers: dict[str, NodeProto] = {}
    pending: list[str] = []
    for node in _all_nodes(model.graph):
        producers.update((name, node) for name in node.output if name)
        kind = operator_class(node.domain, _NEWER_NAMES.get(node.op_type, node.op_type))
        slots = kind.operand_slots if kind else ()
        pending.extend(name for name, slot in zip(node.input, slots, strict=False) if slot.static and name)
        place = _POSITIONS.get(node.op_type)
        pending.extend(node.input[place : place + 1] if place is not None else ())
        if node.op_type in _DECIDED and any(map(_holds_sequences, nested_graphs(node))):
            pending.extend(node.input[: _DECIDED[node.op_type]])
        if node.op_type == "Loop" and len(node.output) > len(node.input) - LOOP_CONTROLS:
            pending.extend(node.input[:1])  # a stacked result has a slice for each round
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        producer = producers.get(name)
        if name not in seen and producer is not None and producer.op_type not in ("Shape", "Size"):
            pending.extend(n for n in producer.input if n)
            pending.extend(output.name for graph in nested_graphs(producer) for output in graph.output)
        seen.add(name)
    return sorted(seen & {value.name for value in model.graph.input})


def _holds_sequences(graph: GraphProto) -> bool:
    """Whether an input or output is a sequence or an optional value."""
    return any(
        info.type.WhichOneof("value") in ("sequence_type", "optional_type")
        for info in (*graph.input, *graph.output)
    )


def _all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of those nested in it."""
    pending = [graph]
    while pending:
        nodes = pending.pop().node
        yield from nodes
        pending.extend(inner for node in nodes for inner in nested_graphs(node))
