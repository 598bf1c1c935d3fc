"""Function bodies: those a model brings along, and those ONNX defines operators by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, TypeProto, helper

from rtcc.errors import InvalidModel, Unsupported
from rtcc.ir import Expression, Value
from rtcc.onnx.load import NEWEST_OPSET
from rtcc.onnx.node import Node
from rtcc.onnx.tensors import code_of
from rtcc.onnx.topology import nested_graphs

Key = tuple[str, str, str]

DEEPEST_CALLS = 40
"""Functions that call functions beyond this are refused."""
LARGEST_EXPANSION = 500_000
"""Nodes a model may have once its functions are expanded."""


def local_functions(model: ModelProto) -> dict[Key, FunctionProto]:
    """The model's own functions by (domain, name, overload); InvalidModel when two share a key."""
    found: dict[Key, FunctionProto] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in found:
            raise InvalidModel(
                "duplicate-name",
                f"the function {function.domain}::{function.name} is defined twice",
                where="functions",
            )
        found[key] = function
    return found


def check_expansion(model: ModelProto, functions: Mapping[Key, FunctionProto]) -> None:
    """InvalidModel where functions call themselves, Unsupported where a model gets too large by them."""
    sizes: dict[Key, int] = {}
    total = _expanded(model.graph.node, functions, sizes, ())
    if total > LARGEST_EXPANSION:
        raise Unsupported(
            "expansion-too-large",
            f"the model has {total} nodes once its functions are expanded",
            hint=f"at most {LARGEST_EXPANSION} are supported",
        )


def _expanded(
    nodes: Sequence[NodeProto],
    functions: Mapping[Key, FunctionProto],
    sizes: dict[Key, int],
    calls: tuple[Key, ...],
) -> int:
    """How many nodes a body has once all calls are expanded."""
    total = len(nodes)
    for node in nodes:
        key = (node.domain, node.op_type, node.overload)
        if key in functions:
            if key in calls or len(calls) >= DEEPEST_CALLS:
                raise recursive((*calls, key), node.name)
            if key not in sizes:
                sizes[key] = _expanded(functions[key].node, functions, sizes, (*calls, key))
            total += sizes[key]
        for graph in nested_graphs(node):
            total += _expanded(graph.node, functions, sizes, calls)
    return total


def recursive(calls: Sequence[Key], where: str) -> InvalidModel:
    """The error for functions that call each other without end."""
    chain = " → ".join(name for _, name, _ in calls)
    return InvalidModel(
        "recursive-function",
        f"functions call each other too deeply: {chain}",
        where=where or None,
        hint="ONNX functions must not be recursive",
    )


def schema_function(node: Node) -> FunctionProto | None:
    """The body by which ONNX defines the operator, for the node's operand types; None where it has none."""
    try:
        found = onnx.defs.get_schema(node.op_type, min(node.opset, NEWEST_OPSET), node.domain)
    except onnx.defs.SchemaError:
        return None
    schema: Any = found  # the type stubs lack the functions of several versions
    body = FunctionProto()
    versions = [v for v in schema.all_function_opset_versions if v <= max(node.opset, schema.since_version)]
    if not versions:
        return None
    version = max(versions)
    if version in schema.function_opset_versions:
        body.ParseFromString(schema.get_function_with_opset_version(version))
        return body
    types = [_type_proto(value).SerializeToString() for value in node.operands]
    proto = _node_proto(node)
    content = schema.get_context_dependent_function_with_opset_version(
        version, proto.SerializeToString(), types
    )
    if not content:
        return None
    body.ParseFromString(content)
    return body


def actual_attributes(body: FunctionProto, node: Node) -> dict[str, AttributeProto]:
    """What references in the body stand for: the node's own attributes, else the function's or ONNX's."""
    actual = {a.name: a for a in body.attribute_proto}
    if not body.attribute_proto and onnx.defs.has(node.op_type, node.domain):
        actual = dict(schema_defaults(node))
    actual.update(node.attributes)
    return actual


def schema_defaults(node: Node) -> Mapping[str, AttributeProto]:
    """ONNX's own default values of an operator's attributes."""
    try:
        schema = onnx.defs.get_schema(node.op_type, min(node.opset, NEWEST_OPSET), node.domain)
    except onnx.defs.SchemaError:
        return {}
    return {n: a.default_value for n, a in schema.attributes.items() if a.default_value.type}


def _node_proto(node: Node) -> NodeProto:
    names = ["" if v is None else f"operand{i}" for i, v in enumerate(node.operands)]
    proto = NodeProto(op_type=node.op_type, domain=node.domain, input=names, output=node.outputs)
    proto.attribute.extend(node.attributes.values())
    return proto


def _type_proto(value: Value | None) -> TypeProto:
    if value is None:
        return TypeProto()
    shape = [str(d) if isinstance(d, Expression) else d for d in value.type.shape]
    return helper.make_tensor_type_proto(code_of(value.type.dtype), shape)
