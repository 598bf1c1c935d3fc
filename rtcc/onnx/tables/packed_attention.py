"""ONNX Runtime's attention over products for queries, keys and values (domain com.microsoft).

Where one product gives all three, its columns are those of all heads' queries, then keys, then values; what
follows it is ONNX's Attention with a mask that adds. Semantics:
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

LARGEST_MASK = 2**28
"""Scores of one head."""


@TABLE.rule("QAttention")
def quantized_attention(node: Node, build: Builder) -> Sequence[Value]:
    """attention(q, k, v) of (q, k, v) = mat_mul_integer(x, w) · (x_scale · w_scale) + bias"""
    left, right = (node.operand(0), node.optional(6)), (node.operand(1), node.optional(7))
    product = scaled_product(build, left, right, (node.operand(3), node.operand(4)))
    projected = build.op("Add", product, node.operand(2)).result
    return _of_one_product(node, build, projected, node.optional(5), node.optional(8))


@TABLE.rule("Attention")
def attention(node: Node, build: Builder) -> Sequence[Value]:
    """attention(q, k, v) of (q, k, v) = x · w + bias"""
    _without(node, 6)
    sizes = set(node.ints("qkv_hidden_sizes", ()))
    if len(sizes) > 1:
        raise node.unsupported("queries, keys and values must have one size, found several")
    projected = build.op("MatMul", node.operand(0), node.operand(1)).result
    if (bias := node.optional(2)) is not None:
        projected = build.op("Add", projected, bias).result
    return _of_one_product(node, build, projected, node.optional(3), node.optional(4), node.optional(5))


@TABLE.rule("MultiHeadAttention")
def attention_of_three(node: Node, build: Builder) -> Sequence[Value]:
    """attention(q + bias, k + bias, v + bias), each [batch, steps, features]"""
    _without(node, 8)
    heads, parts = node.int("num_heads"), [node.operand(i) for i in range(3)]
    for index, part in enumerate(parts):
        if part.type.rank != 3 or not part.type.is_static:
            raise node.unsupported(
                f"input {index} must be [batch, steps, features] of known sizes, found {part.type}",
                hint="bind symbolic dimensions with --shape, and export without packed keys and values",
            )
    widths = [part.type.sizes[2] for part in parts]
    if heads < 1 or any(width % heads for width in widths):
        raise node.fail(f"{widths} features are not those of {heads} heads")
    if (bias := node.optional(3)) is not None:
        pieces = build.op("Split", bias, build.integers("widths", widths), axis=0, results=3).results
        pairs = zip(parts, pieces, strict=True)
        parts = [build.op("Add", part, piece).result for part, piece in pairs]
    past = [value for i in (6, 7) if (value := node.optional(i)) is not None]
    before = past[0].type.shape[2] if len(past) == 2 and past[0].type.rank == 4 else 0
    if len(past) == 1 or not isinstance(before, int):
        raise node.unsupported("past keys and values must come together, with known sizes")
    batch, steps = parts[0].type.sizes[:2]
    sizes = (batch, steps, before, parts[1].type.sizes[1])
    masks = _bias(node, build, sizes, node.optional(4), node.optional(5))
    return build.op("Attention", *parts, masks, *past, scale=node.float("scale", 0.0) or None,
                    q_num_heads=heads, kv_num_heads=heads, results=3).results  # fmt: skip


def _without(node: Node, first: int) -> None:
    """Unsupported where there are inputs from one on, or attributes, that change what is computed."""
    for name in ("do_rotary", "past_present_share_buffer"):
        if node.int(name, 0):
            raise node.unsupported(f"the attribute {name} is not supported", hint="export without it")
    if any(each is not None for each in node.inputs[first:]):
        raise node.unsupported(f"inputs from {first} on are not supported", hint="export without buffers")


def _of_one_product(
    node: Node,
    build: Builder,
    projected: Value,
    mask: Value | None,
    past: Value | None,
    added: Value | None = None,
) -> Sequence[Value]:
    """The results where one product has all columns; what is added to the scores may be an operand."""
    _without(node, len(node.inputs))
    heads, width = _heads(node, projected)
    parts = build.op("Split", projected, axis=2, num_outputs=3, results=3).results
    if not projected.type.is_static:
        raise node.unsupported(
            f"its sizes must be known, found {projected.type}", hint="bind symbolic dimensions with --shape"
        )
    batch, steps = projected.type.sizes[:2]
    both = _past(node, build, past, (batch, heads, width))
    before = both[0].type.sizes[2] if both else 0
    bias = _bias(node, build, (batch, steps, before, steps), mask, added)
    output, *present = build.op("Attention", *parts, bias, *both, scale=node.float("scale", 0.0) or None,
                                q_num_heads=heads, kv_num_heads=heads, results=3).results  # fmt: skip
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


def _past(node: Node, build: Builder, both: Value | None, sizes: tuple[int, int, int]) -> tuple[Value, ...]:
    """Keys and values of earlier steps, each [batch, heads, steps, size], out of one tensor."""
    if both is None:
        return ()
    batch, heads, width = sizes
    shape = both.type.shape
    if both.type.rank != 5 or (*shape[:3], shape[4]) != (2, batch, heads, width) or not both.type.is_static:
        raise node.fail(f"past must be [2, {batch}, {heads}, length, {width}], found {both.type}")
    parts = build.op("Split", both, axis=0, num_outputs=2, results=2).results
    axes = build.integers("first", (0,))
    return tuple(build.op("Squeeze", part, axes).result for part in parts)


def _bias(
    node: Node, build: Builder, sizes: tuple[int, int, int, int], mask: Value | None, added: Value | None
) -> Value | None:
    """What is added to the scores [batch, heads, steps, length], None for nothing.

    sizes: of the batch, the steps, the past, and the keys that come with the steps.
    """
    batch, steps, past, keys = sizes
    length = past + keys
    if steps * length > LARGEST_MASK:
        raise node.unsupported(f"{steps} steps by {length} keys are more than {LARGEST_MASK} scores")
    hidden = None if mask is None else _hidden(node, build, mask, (batch, steps, length))
    found = added
    if hidden is not None:
        amount = np.array(node.float("mask_filter_value", _FILTERED), np.float32)
        zero = build.constant("seen", np.array(0, np.float32))
        found = build.op("Where", hidden, build.constant("filtered", amount), zero).result
        found = found if added is None else build.op("Add", found, added).result
    if not node.int("unidirectional", 0) or steps == 1:
        return found
    later = np.arange(length) > past + np.arange(steps)[:, None]
    if found is None:
        return build.constant("mask", np.where(later, _NEVER, 0).astype(np.float32)[None, None])
    never = build.constant("never", np.array(_NEVER, np.float32))
    return build.op("Where", build.constant("later", later[None, None]), never, found).result


def _hidden(node: Node, build: Builder, mask: Value, sizes: tuple[int, int, int]) -> Value | None:
    """Which keys the mask hides, [batch, 1, 1 or steps, length]; None where it hides none.

    It gives each sequence's end, all ends and then all beginnings, or for each key a number above 0 where it
    is seen.
    """
    batch, steps, length = sizes
    if mask.type.shape in ((batch, 1), (1, 1)):
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
