"""Quantised operators."""

from __future__ import annotations

from collections.abc import Sequence

from rtcc.ir import Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table

TABLE = Table()


@TABLE.rule("QuantizeLinear", "DequantizeLinear", before=13)
def one_scale_per_tensor(node: Node, build: Builder) -> Sequence[Value]:
    """There was one scale for the whole tensor."""
    scale = node.operand(1)
    if scale.type.rank > 0 and scale.type.shape != (1,):
        raise node.fail(f"before opset 13 the scale is a scalar, found {scale.type}")
    return build.op(node.op_type, node.operand(0), scale, node.optional(2)).results
