# pyright: basic
"""The order in which nodes can run, from onnx-graphsurgeon's view of who produces and reads what.

The only file that imports onnx-graphsurgeon, which has no types. It gets the nodes and names alone:
weights, attributes and types stay in the ModelProto, because it would drop some of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence

from onnx import GraphProto, NodeProto
from onnx_graphsurgeon.importers.onnx_importer import OnnxImporter
from onnx_graphsurgeon.ir.graph import Graph as SurgeonGraph

from rtcc.errors import InvalidModel, Unsupported

DEEPEST_NESTING = 24
"""Graphs nested in graphs (If, Loop, Scan) beyond this are refused."""


def ordered(
    nodes: Sequence[NodeProto], defined: Collection[str], visible: Collection[str], where: str
) -> list[int]:
    """Indices of the nodes such that each comes after those whose results it reads; stable.

    defined: names of the graph's own inputs and initialisers; visible: names of outer graphs.
    InvalidModel: a name produced twice, a name nobody produces, a cycle.
    """
    produced = Counter(name for node in nodes for name in node.output if name)
    for name, count in produced.items():
        if count > 1 or name in defined:
            raise InvalidModel(
                "duplicate-name",
                f"the value {name!r} is defined more than once",
                where=where,
                hint="every value of a graph must have one producer",
            )
    reads = [_reads(node) for node in nodes]
    for index, (node, names) in enumerate(zip(nodes, reads, strict=True)):
        for name in names:
            if name not in produced and name not in defined and name not in visible:
                raise InvalidModel(
                    "undefined-value",
                    f"{node.op_type} reads {name!r}, which nothing defines",
                    where=node_name(node, index, where),
                    hint="the model is incomplete: export it again",
                )
    return _sorted(_surgeon_graph(nodes, reads), nodes, where)


def node_name(node: NodeProto, index: int, where: str) -> str:
    """How a node is called in messages and locations: its name, else its type and place."""
    name = node.name or f"{node.op_type}_{index}"
    return f"{where}/{name}" if where else name


def nested_graphs(node: NodeProto) -> list[GraphProto]:
    """The graphs among a node's attributes."""
    return [
        graph
        for attribute in node.attribute
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ()))
    ]


def _surgeon_graph(nodes: Sequence[NodeProto], reads: Sequence[Iterable[str]]) -> SurgeonGraph:
    skeleton = GraphProto()
    for node, names in zip(nodes, reads, strict=True):
        skeleton.node.add(op_type=node.op_type, name=node.name, input=list(names), output=node.output)
    return OnnxImporter.import_graph(skeleton)


def _sorted(graph: SurgeonGraph, nodes: Sequence[NodeProto], where: str) -> list[int]:
    place = {id(node): index for index, node in enumerate(graph.nodes)}
    readers: list[list[int]] = [[] for _ in graph.nodes]
    waiting = [0] * len(readers)
    for index, node in enumerate(graph.nodes):
        for tensor in node.inputs:
            for producer in tensor.inputs:
                readers[place[id(producer)]].append(index)
                waiting[index] += 1
    if all(first < second for first, following in enumerate(readers) for second in following):
        return list(range(len(readers)))
    ready = deque(index for index, count in enumerate(waiting) if count == 0)
    order: list[int] = []
    while ready:
        index = ready.popleft()
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                ready.append(reader)
    if len(order) < len(readers):
        stuck = next(index for index, count in enumerate(waiting) if count)
        raise InvalidModel(
            "cyclic-graph",
            "a node depends on its own result",
            where=node_name(nodes[stuck], stuck, where),
            hint="ONNX graphs must be acyclic; use Loop or Scan",
        )
    return order


def _reads(node: NodeProto) -> dict[str, None]:
    """The names a node reads, those that its nested graphs take from outside included."""
    names = dict.fromkeys(name for name in node.input if name)
    for graph in nested_graphs(node):
        names |= _captured(graph, 1)
    return names


def _captured(graph: GraphProto, depth: int) -> dict[str, None]:
    """The outer names that a nested graph reads."""
    if depth > DEEPEST_NESTING:
        raise Unsupported(
            "nested-too-deep", f"graphs are nested more than {DEEPEST_NESTING} deep", where=graph.name or None
        )
    own = {value.name for value in graph.input}
    own |= {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    names: dict[str, None] = {}
    for node in graph.node:
        names |= dict.fromkeys(name for name in node.input if name)
        for inner in nested_graphs(node):
            names |= _captured(inner, depth + 1)
    names |= dict.fromkeys(output.name for output in graph.output)
    return {name: None for name in names if name not in own}
