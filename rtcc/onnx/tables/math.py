"""Elementwise operators whose older or special forms differ from ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rtcc.ir import Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table

TABLE = Table()


@TABLE.rule("Clip", before=11)
def clip_bounds_as_attributes(node: Node, build: Builder) -> Sequence[Value]:
    """min and max were attributes; an absent one did not limit."""
    data = node.operand(0)
    dtype = data.type.dtype.numpy
    bounds = [
        build.constant(name, np.array(node.float(name), dtype)) if node.has(name) else None
        for name in ("min", "max")
    ]
    return build.op("Clip", data, *bounds).results


@TABLE.rule("CastLike")
def cast_like(node: Node, build: Builder) -> Sequence[Value]:
    """A cast to the element type of the second operand."""
    saturate: dict[str, Any] = {"saturate": node.int("saturate")} if node.has("saturate") else {}
    to = node.operand(1).type.dtype.value
    return build.op("Cast", node.operand(0), to=to, **saturate).results


@TABLE.rule(
    "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "Greater", before=7
)  # fmt: skip
def broadcast_along_axis(node: Node, build: Builder) -> Sequence[Value]:
    """The right operand was broadcast on request, from the given axis (default: aligned at the end)."""
    left, right = node.operand(0), node.operand(1)
    if not node.int("broadcast", 0) and left.type.shape != right.type.shape:
        raise node.fail(f"without broadcast the shapes must agree, found {left.type} and {right.type}")
    if node.has("axis"):
        axis = node.int("axis")
        start = axis + left.type.rank if axis < 0 else axis
        right = _with_trailing_axes(right, left.type.rank - start - right.type.rank, node, build)
    return build.op(node.op_type, left, right).results


@TABLE.rule("PRelu", before=7)
def slope_per_channel(node: Node, build: Builder) -> Sequence[Value]:
    """A vector of slopes belonged to axis 1, the channels."""
    data, slope = node.operand(0), node.operand(1)
    if slope.type.rank == 1 and slope.type.shape != (1,):
        slope = _with_trailing_axes(slope, data.type.rank - 2, node, build)
    return build.op("PRelu", data, slope).results


def _with_trailing_axes(value: Value, count: int, node: Node, build: Builder) -> Value:
    if count < 0:
        raise node.fail(f"{value.type} does not fit the axis it is broadcast from")
    if count == 0:
        return value
    rank = value.type.rank
    return build.op("Unsqueeze", value, build.integers("axes", range(rank, rank + count))).result
