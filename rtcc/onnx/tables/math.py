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
