"""ONNX models to modules at the graph level."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, ValueInfoProto

from rtcc.errors import InvalidInput, InvalidModel, Unsupported
from rtcc.ir import Constant, Expression, Graph, Location, Module, TensorType, Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.declared_types import check_declared
from rtcc.onnx.functions import (
    DEEPEST_CALLS,
    actual_attributes,
    check_expansion,
    local_functions,
    recursive,
    schema_function,
)
from rtcc.onnx.held import (
    Absent,
    Held,
    Items,
    Structure,
    element_name,
    flattened,
    structure_of,
)
from rtcc.onnx.inputs import absent_inputs, element_inputs, fixed_values, input_types
from rtcc.onnx.load import Source, imported, load_model, opset_versions
from rtcc.onnx.mechanical import is_known, mechanical, unknown_operator
from rtcc.onnx.names import operator_class
from rtcc.onnx.node import Node
from rtcc.onnx.operand_types import check_operand_types
from rtcc.onnx.tables import find_rule, is_runtimes_own
from rtcc.onnx.tensors import Array, sparse_array, tensor_array
from rtcc.onnx.topology import node_name, ordered
from rtcc.system.limits import within_limits

LARGEST_NESTED = 50_000
"""Nodes that may be read in nested graphs, each time that one is read: loops that are written out read their
body once a round, and others until the sizes of what they carry settle."""


def read(
    source: Source,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, int] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Module:
    """A module at the graph level from the path, bytes or protobuf of an ONNX model of opset 6 or newer.

    shapes: sizes (or names) for an input's dimensions, or for those of an output or inner value whose
    declared shape is wrong; dims: sizes for symbolic dimensions; values: inputs to fix as constants, as
    arrays, numbers or lists of numbers. An initialiser that is also an input is a constant, unless `shapes`
    names it. An input `x` that is a sequence becomes inputs x_0, x_1…, as many as `shapes` names; the value
    [] says that it is empty, None that an optional input is absent. Operators come out in their newest form.
    The outputs' names are main's attribute `outputs`; of an output that is a sequence, each tensor has one.
    InvalidModel, Unsupported or InvalidInput name the node, the input or the file.
    """
    try:
        with within_limits("reading the model"):
            return _Reader(source, shapes, dims, values or {}).module
    except UnicodeDecodeError as error:
        raise InvalidModel(
            "not-a-model", "a name in the model is not UTF-8 text", hint="export it again"
        ) from error


def value_arrays(source: Source, values: Mapping[str, Any]) -> dict[str, Array]:
    """The arrays that `values` of `read` stand for, by input."""
    present = {name: value for name, value in values.items() if value is not None}
    return fixed_values(load_model(source).model.graph.input, present)


@dataclass(frozen=True)
class _Scope:
    """What names mean in one graph or function body. path: the nodes around it, for locations.

    Declared types are checked in the main graph only: a branch that never runs may contradict its own.
    """

    graph: Graph
    values: ChainMap[str, Held | None]
    opsets: Mapping[str, int]
    actual: Mapping[str, AttributeProto]
    declared: Mapping[str, ValueInfoProto]
    path: str
    calls: tuple[tuple[str, str, str], ...]

    def nested(self, graph: GraphProto, path: str, target: Graph) -> _Scope:
        """The scope of a nested graph whose ops go to `target`: it sees the names around it."""
        values, declared = self.values.new_child(), {info.name: info for info in graph.value_info}
        return _Scope(target, values, self.opsets, self.actual, declared, path, self.calls)


class _Reader:
    def __init__(
        self,
        source: Source,
        shapes: Mapping[str, Sequence[int | str]] | None,
        dims: Mapping[str, int] | None,
        values: Mapping[str, Any],
    ) -> None:
        loaded = load_model(source)
        model, self._external = loaded.model, loaded.external
        self._weights = loaded.weights
        self._nested = 0
        self._functions = local_functions(model)
        check_expansion(model, self._functions)
        self.module = Module(metadata={p.key: p.value for p in model.metadata_props})
        graph = model.graph
        stored = _initialiser_names(graph)
        _check_unique((value.name for value in graph.input), "input")
        _check_unique((value.name for value in graph.output), "output")
        wanted = [i for i in graph.input if i.name not in stored or i.name in {*(shapes or ()), *values}]
        absent = absent_inputs(wanted, values)
        wanted, sequences = element_inputs([i for i in wanted if i.name not in absent], shapes or {}, values)
        settled = {*absent, *sequences}
        fixed = fixed_values(wanted, {name: value for name, value in values.items() if name not in settled})
        given = {name: array.shape for name, array in fixed.items()}
        declared = {info.name: info for info in graph.value_info}
        results = {*declared, *(output.name for output in graph.output)} - {info.name for info in wanted}
        self._stated = {name: sizes for name, sizes in (shapes or {}).items() if name in results}
        of_inputs = {name: sizes for name, sizes in (shapes or {}).items() if name not in results}
        types, bindings = input_types(wanted, of_inputs | given, dims)
        main = self.module.add_graph(Graph("main"))
        names: ChainMap[str, Held | None] = ChainMap({})
        for name, type in types:
            names[name] = (
                self._fixed(name, type, fixed[name]) if name in fixed else main.add_parameter(type, name)
            )
        names.update(dict.fromkeys(absent, Absent()))
        for name, elements in sequences.items():
            names[name] = Items(
                tuple(tensor for each in elements if isinstance(tensor := names[each], Value))
            )
        scope = _Scope(main, names, opset_versions(model), {}, declared, "", ())
        results = self._read_body(graph, scope)
        main.return_(*flattened(results))
        main.attributes["outputs"] = _output_names(graph, results)
        self.module.drop_unused_constants()
        self.module.dimensions = bindings.bounds | _symbol_bounds(self.module)

    def _fixed(self, name: str, type: TensorType, array: Array) -> Constant:
        """An input that is a constant from now on."""
        if array.dtype != type.dtype.numpy:
            raise InvalidInput(
                "wrong-dtype",
                f"the input is {type.dtype.value}, found {array.dtype}",
                where=f"input {name!r}",
            )
        return self.module.add_constant(name, np.array(array))

    def _read_body(self, graph: GraphProto, scope: _Scope) -> list[Value | Items]:
        """Initialisers and nodes of a graph whose inputs are already in the scope; its results."""
        self._read_initialisers(graph, scope)
        self._read_nodes(graph.node, scope)
        results: list[Value | Items] = []
        for output in graph.output:
            value = scope.values.get(output.name)
            if value is None:
                raise InvalidModel(
                    "undefined-value",
                    f"nothing defines the output {output.name!r}",
                    where=scope.path or f"graph {graph.name!r}",
                )
            if isinstance(value, Absent):
                raise Unsupported(
                    "unsupported-type",
                    f"the result {output.name!r} is an optional value that is absent",
                    where=scope.path or f"output {output.name!r}",
                    hint="leave it out when exporting",
                )
            if not scope.path:
                check_declared(value, output, f"output {output.name!r}", self._stated.get(output.name))
            results.append(value)
        return results

    def _read_initialisers(self, graph: GraphProto, scope: _Scope) -> None:
        own = scope.values.maps[0]
        _check_unique(_initialiser_list(graph), "initialiser")
        for index, tensor in enumerate(graph.initializer):
            if tensor.name not in own:
                raw = self._weights.get(index) if scope.path == "" else None
                array = tensor_array(tensor, self._external, f"initialiser {tensor.name!r}", raw)
                own[tensor.name] = self.module.add_constant(tensor.name, array)
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            if name not in own:
                array = sparse_array(sparse, self._external, f"initialiser {name!r}")
                own[name] = self.module.add_constant(name, array)

    def _read_nodes(self, nodes: Sequence[NodeProto], scope: _Scope) -> None:
        order = ordered(nodes, scope.values.maps[0].keys(), scope.values.parents, scope.path)
        for index in order:
            self._read_node(nodes[index], index, scope)

    def _read_node(self, proto: NodeProto, index: int, scope: _Scope) -> None:
        node = self._resolved(proto, index, scope)
        results = self._translated(node, proto, scope)
        if len(results) < node.results:
            raise node.fail(f"expected at most {len(results)} outputs, found {node.results}")
        for name, value in zip(node.outputs, results, strict=False):
            if name:
                scope.values[name] = value
                if isinstance(value, Value) and value.producer is not None and value not in node.inputs:
                    value.name = name
                if name in scope.declared and not scope.path:
                    check_declared(value, scope.declared[name], node.where, self._stated.get(name))

    def _translated(self, node: Node, proto: NodeProto, scope: _Scope) -> Sequence[Held]:
        key = (proto.domain, proto.op_type, proto.overload)
        if key in self._functions:
            return self._expand(self._functions[key], key, node, scope)
        build = Builder(
            self.module,
            scope.graph,
            node.location,
            lambda graph, types, label: self._region(graph, types, f"{node.where}/{label}", scope),
            lambda graph, label, arguments: self._inlined(graph, f"{node.where}/{label}", arguments, scope),
        )
        rule = find_rule(node.domain, node.op_type, node.opset)
        if not is_known(node) and not is_runtimes_own(node.domain, node.op_type):
            raise unknown_operator(node)
        check_operand_types(node)
        if rule is not None:
            return rule(node, build)
        kind = operator_class(node.domain, node.op_type)
        if kind is not None:
            return mechanical(node, build, kind)
        body = schema_function(node)
        if body is None:
            raise unknown_operator(node)
        return self._expand(body, ("", node.op_type, ""), node, scope)

    def _resolved(self, proto: NodeProto, index: int, scope: _Scope) -> Node:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        where = node_name(proto, index, scope.path)
        is_local = (proto.domain, proto.op_type, proto.overload) in self._functions
        if domain not in scope.opsets and not is_local:
            listed = ", ".join(sorted(map(repr, scope.opsets))) or "none"
            raise InvalidModel(
                "unknown-domain",
                f"{proto.op_type} belongs to the domain {domain!r}, which the model "
                f"does not import (it imports: {listed})",
                where=where,
                hint="export the model with its opset_import complete",
            )
        attributes: dict[str, AttributeProto] = {}
        for attribute in proto.attribute:
            actual = scope.actual.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if actual is not None:
                attributes[attribute.name] = actual
        inputs = tuple(scope.values[name] if name else None for name in proto.input)
        return Node(
            proto.op_type,
            domain,
            scope.opsets.get(domain, 1),
            inputs,
            tuple(proto.output),
            attributes,
            Location((where,)),
        )

    def _expand(
        self, body: FunctionProto, key: tuple[str, str, str], node: Node, scope: _Scope
    ) -> Sequence[Held]:
        """The results of a function body read in place of the node."""
        if key in scope.calls or len(scope.calls) >= DEEPEST_CALLS:
            raise recursive((*scope.calls, key), node.where)
        if len(node.inputs) > len(body.input):
            raise node.fail(f"the function takes {len(body.input)} inputs, found {len(node.inputs)}")
        values: dict[str, Held | None] = dict.fromkeys(body.input)
        values.update(zip(body.input, node.inputs, strict=False))
        opsets = imported(body.opset_import)
        inner = _Scope(
            scope.graph,
            ChainMap(values),
            {**scope.opsets, **opsets},
            actual_attributes(body, node),
            {info.name: info for info in body.value_info},
            node.where,
            (*scope.calls, key),
        )
        self._read_nodes(body.node, inner)
        results = [inner.values.get(name) for name in body.output[: node.results]]
        for name, value in zip(body.output, results, strict=False):
            if value is None:
                raise node.fail(f"its function defines no output {name!r}")
        return [value for value in results if value is not None]

    def _inlined(
        self, graph: GraphProto, path: str, arguments: Sequence[Held], scope: _Scope
    ) -> Sequence[Held]:
        """The results of a nested graph read in place."""
        self._count(graph, path)
        _check_count(graph, len(arguments), path)
        inner = scope.nested(graph, path, scope.graph)
        for info, held in zip(graph.input, arguments, strict=True):
            if isinstance(held, Value):
                check_declared(held, info, f"{path} input {info.name!r}")
            inner.values[info.name] = held
        return self._read_body(graph, inner)

    def _region(
        self, graph: GraphProto, types: Sequence[TensorType], path: str, scope: _Scope
    ) -> tuple[Graph, Structure]:
        """A nested graph whose inputs have the given types; it sees the names around it."""
        self._count(graph, path)
        _check_count(graph, len(types), path)
        region = Graph(graph.name)
        inner = scope.nested(graph, path, region)
        for info, type in zip(graph.input, types, strict=True):
            value = region.add_parameter(type, info.name)
            check_declared(value, info, f"{path} input {info.name!r}")
            inner.values[info.name] = value
        results = self._read_body(graph, inner)
        region.return_(*flattened(results))
        return region, structure_of(results)

    def _count(self, graph: GraphProto, path: str) -> None:
        """Unsupported where nested graphs are read so often that it would take minutes."""
        self._nested += len(graph.node) + 1
        if self._nested > LARGEST_NESTED:
            raise Unsupported(
                "expansion-too-large",
                f"more than {LARGEST_NESTED} nodes were read in nested graphs, those of each round counted",
                where=path,
                hint="loops in loops that carry sequences, or tensors that grow, are read once a round: have "
                "them carry one tensor of a constant size, or fix a smaller trip count (--value NAME=NUMBER)",
            )


def _check_count(graph: GraphProto, count: int, path: str) -> None:
    if count != len(graph.input):
        raise InvalidModel(
            "invalid-operator",
            f"the nested graph has {len(graph.input)} inputs, expected {count}",
            where=path,
        )


def _output_names(graph: GraphProto, results: Sequence[Value | Items]) -> tuple[str, ...]:
    """Names of the tensors that are returned, those of a sequence counted."""
    names: list[str] = []
    for output, result in zip(graph.output, results, strict=True):
        if isinstance(result, Items):
            names.extend(element_name(output.name, index) for index in range(len(result.values)))
        else:
            names.append(output.name)
    _check_unique(names, "output")
    if not names:
        raise Unsupported(
            "unsupported-type", "all outputs are sequences without elements", where=f"graph {graph.name!r}"
        )
    return tuple(names)


def _initialiser_list(graph: GraphProto) -> list[str]:
    return [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]


def _initialiser_names(graph: GraphProto) -> frozenset[str]:
    return frozenset(_initialiser_list(graph))


def _symbol_bounds(module: Module) -> dict[str, tuple[int, int]]:
    """Bounds of the symbols for sizes that data decides."""
    types = (r.type for op in module.walk() for r in op.results if not r.type.is_static)
    sizes = (size for type in types for size in type.shape if isinstance(size, Expression))
    return {s.name: (s.lower, s.upper) for size in sizes for s in size.symbols}


def _check_unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen or not name:
            found = f"two {what}s are called {name!r}" if name else f"an {what} has no name"
            raise InvalidModel("duplicate-name", found, where=f"{what} {name!r}")
        seen.add(name)
