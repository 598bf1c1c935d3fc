"""Shape and data movement: what was an attribute is an operand in the newest form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rtcc.ir import Constant, Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.external import ExternalData
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table
from rtcc.onnx.tensors import Array, sparse_array

TABLE = Table()


@TABLE.rule("Constant")
def constant(node: Node, build: Builder) -> Sequence[Value]:
    """Every form of value becomes a constant of the module, named as the output."""
    return (
        build.module.add_constant(node.outputs[0] if node.outputs else node.where, _constant_array(node)),
    )


def _constant_array(node: Node) -> Array:
    if node.has("value"):
        return node.tensor("value")
    if node.has("value_int"):
        return np.array(node.int("value_int"), np.int64)
    if node.has("value_ints"):
        return np.array(node.ints("value_ints"), np.int64)
    if node.has("value_float"):
        return np.array(node.float("value_float"), np.float32)
    if node.has("value_floats"):
        return np.array(node.floats("value_floats"), np.float32)
    if node.has("sparse_value"):
        return sparse_array(node.attributes["sparse_value"].sparse_tensor, ExternalData(None), node.where)
    if node.has("value_string") or node.has("value_strings"):
        raise node.unsupported("strings are not supported")
    raise node.fail("it has none of the attributes value, value_int, value_float… that give its value")


@TABLE.rule("Squeeze", "Unsqueeze", before=13)
def axes_as_attribute(node: Node, build: Builder) -> Sequence[Value]:
    """The axes were an attribute, optional for Squeeze."""
    optional = node.op_type == "Squeeze" and not node.has("axes")
    axes = None if optional else build.integers("axes", node.ints("axes"))
    return build.op(node.op_type, node.operand(0), axes).results


@TABLE.rule("Split")
def split(node: Node, build: Builder) -> Sequence[Value]:
    """Sizes were an attribute before opset 13; without sizes, the number of outputs says how many parts."""
    sizes = node.optional(1)
    if node.opset < 13 and node.has("split"):
        sizes = build.integers("split", node.ints("split"))
    attributes: dict[str, Any] = {"axis": node.int("axis", 0)}
    if sizes is None:
        attributes["num_outputs"] = node.int("num_outputs", len(node.outputs))
    return build.op("Split", node.operand(0), sizes, results=len(node.outputs), **attributes).results


@TABLE.rule("Slice", before=10)
def slice_by_attributes(node: Node, build: Builder) -> Sequence[Value]:
    """starts, ends and axes were attributes; there were no steps."""
    starts = build.integers("starts", node.ints("starts"))
    ends = build.integers("ends", node.ints("ends"))
    axes = build.integers("axes", node.ints("axes")) if node.has("axes") else None
    return build.op("Slice", node.operand(0), starts, ends, axes).results


@TABLE.rule("Pad", before=11)
def pad_by_attributes(node: Node, build: Builder) -> Sequence[Value]:
    """pads and value were attributes."""
    data = node.operand(0)
    pads = build.integers("pads", node.ints("pads"))
    value = None
    if node.float("value", 0.0) != 0.0:
        value = build.constant("value", np.array(node.float("value"), data.type.dtype.numpy))
    return build.op("Pad", data, pads, value, mode=node.string("mode", "constant")).results


@TABLE.rule("TopK", before=10)
def top_k_by_attribute(node: Node, build: Builder) -> Sequence[Value]:
    """k was an attribute."""
    k = build.integers("k", (node.int("k"),))
    return build.op("TopK", node.operand(0), k, axis=node.int("axis", -1), results=2).results


@TABLE.rule("Scatter")
def scatter(node: Node, build: Builder) -> Sequence[Value]:
    """The older name of ScatterElements."""
    operands = (node.operand(i) for i in range(3))
    return build.op("ScatterElements", *operands, axis=node.int("axis", 0)).results


def without_empty(value: Value | None) -> Value | None:
    """The operand, or None for a constant without elements, which older exporters wrote for absent ones."""
    return None if isinstance(value, Constant) and value.type.elements == 0 else value
