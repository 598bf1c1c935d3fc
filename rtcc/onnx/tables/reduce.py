"""Reductions: the axes were an attribute before they became an operand."""

from __future__ import annotations

from collections.abc import Sequence

from rtcc.ir import Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table

TABLE = Table()


@TABLE.rule("ReduceSum", before=13)
@TABLE.rule(
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
    before=18,
)
def axes_as_attribute(node: Node, build: Builder) -> Sequence[Value]:
    """Absent axes mean all of them, then as now."""
    axes = build.integers("axes", node.ints("axes")) if node.has("axes") else None
    return build.op(node.op_type, node.operand(0), axes, keepdims=node.int("keepdims", 1)).results
