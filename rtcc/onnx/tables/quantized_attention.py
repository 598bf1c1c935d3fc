"""ONNX Runtime's attention over one product for queries, keys and values (domain com.microsoft).

The product's columns are those of all heads' queries, then keys, then values; what follows it is ONNX's
Attention with a mask that adds. Semantics:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.ir import Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.quantized import scaled_product
from rtcc.onnx.tables.rules import Table

TABLE = Table()

_FILTERED = -10000.0
"""What is added to the score of a key that the mask hides, unless an attribute says otherwise."""
_NEVER = float(np.finfo(np.float32).min)
"""What is added to the score of a key that comes after its query."""


@TABLE.rule("QAttention")
def quantized_attention(node: Node, build: Builder) -> Sequence[Value]:
    """attention(q, k, v) of (q, k, v) = mat_mul_integer(x, w) · (x_scale · w_scale) + bias"""
    left, right = (node.operand(0), node.optional(6)), (node.operand(1), node.optional(7))
    product = scaled_product(build, left, right, (node.operand(3), node.operand(4)))
    projected = build.op("Add", product, node.operand(2)).result
    for name in ("do_rotary", "past_present_share_buffer"):
        if node.int(name, 0):
            raise node.unsupported(f"the attribute {name} is not supported", hint="export without it")
    heads, width = _heads(node, projected)
    parts = build.op("Split", projected, axis=2, num_outputs=3, results=3).results
    if not projected.type.is_static:
        raise node.unsupported(
            f"its sizes must be known, found {projected.type}", hint="bind symbolic dimensions with --shape"
        )
    past = _past(node, build, (projected.type.sizes[0], heads, width))
    before = past[0].type.sizes[2] if past else 0
    bias = _bias(node, build, projected.type.sizes[:2], before)
    output, *present = build.op(
        "Attention", *parts, bias, *past, q_num_heads=heads, kv_num_heads=heads, results=3
    ).results
    if node.results < 2:
        return (output,)
    axes = build.integers("axes", (0,))
    stacked = (build.op("Unsqueeze", each, axes).result for each in present)
    return output, build.op("Concat", *stacked, axis=0).result


def _heads(node: Node, projected: Value) -> tuple[int, int]:
    """How many heads there are, and the size of each."""
    heads, size = node.int("num_heads"), projected.type.shape[-1]
    if projected.type.rank != 3:
        raise node.fail(f"expected data [batch, length, features], found {node.operand(0).type}")
    if heads < 1 or not isinstance(size, int) or size % (3 * heads):
        raise node.fail(f"{size} columns are not those of queries, keys and values of {heads} heads")
    return heads, size // (3 * heads)


def _past(node: Node, build: Builder, sizes: tuple[int, int, int]) -> tuple[Value, ...]:
    """Keys and values of earlier steps, each [batch, heads, steps, size], out of one tensor."""
    both = node.optional(8)
    if both is None:
        return ()
    batch, heads, width = sizes
    shape = both.type.shape
    if both.type.rank != 5 or (*shape[:3], shape[4]) != (2, batch, heads, width) or not both.type.is_static:
        raise node.fail(f"past must be [2, {batch}, {heads}, length, {width}], found {both.type}")
    parts = build.op("Split", both, axis=0, num_outputs=2, results=2).results
    axes = build.integers("first", (0,))
    return tuple(build.op("Squeeze", part, axes).result for part in parts)


def _bias(node: Node, build: Builder, sizes: tuple[int, ...], past: int) -> Value | None:
    """What is added to the scores [batch, heads, steps, length], None for nothing."""
    steps, length = sizes[1], past + sizes[1]
    hidden = _hidden(node, build, sizes[0], steps, length)
    found: Value | None = None
    if hidden is not None:
        amount = np.array(node.float("mask_filter_value", _FILTERED), np.float32)
        zero = build.constant("seen", np.array(0, np.float32))
        found = build.op("Where", hidden, build.constant("filtered", amount), zero).result
    if not node.int("unidirectional", 0) or steps == 1:
        return found
    later = np.arange(length) > past + np.arange(steps)[:, None]
    if found is None:
        return build.constant("mask", np.where(later, _NEVER, 0).astype(np.float32)[None, None])
    never = build.constant("never", np.array(_NEVER, np.float32))
    return build.op("Where", build.constant("later", later[None, None]), never, found).result


def _hidden(node: Node, build: Builder, batch: int, steps: int, length: int) -> Value | None:
    """Which keys the mask hides, [batch, 1, 1 or steps, length]; None where it hides none.

    It gives each sequence's end, all ends and then all beginnings, or for each key a number above 0 where it
    is seen.
    """
    mask = node.optional(5)
    if mask is None or mask.type.shape in ((batch, 1), (1, 1)):
        return None
    zero = build.constant("zero", np.array(0, mask.type.dtype.numpy))
    match mask.type.shape:
        case (count,) if count in (batch, 2 * batch):
            keys = build.constant("keys", np.arange(length, dtype=mask.type.dtype.numpy)[None])
            bounds = build.op("Reshape", mask, build.integers("bounds", (-1, batch, 1))).result
            each = 2 if count != batch else 1
            ends, *begins = build.op("Split", bounds, axis=0, num_outputs=each, results=each).results
            hidden = build.op("GreaterOrEqual", keys, ends).result
            for begin in begins:
                hidden = build.op("Or", hidden, build.op("Less", keys, begin).result).result
            shape = (batch, 1, 1, length)
        case (rows, columns) if (rows, columns) == (batch, length):
            hidden, shape = build.op("LessOrEqual", mask, zero).result, (batch, 1, 1, length)
        case (rows, columns, last) if (rows, columns, last) == (batch, steps, length):
            hidden, shape = build.op("LessOrEqual", mask, zero).result, (batch, 1, steps, length)
        case _:
            raise node.unsupported(
                f"a mask {mask.type} does not fit {batch} sequences of {length} keys",
                hint="give ends, ends and beginnings, or a number for each key",
            )
    return build.op("Reshape", hidden, build.integers("shape", shape)).result
