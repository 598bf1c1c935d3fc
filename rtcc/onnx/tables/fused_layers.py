"""Layers that ONNX Runtime's optimiser joins (domain com.microsoft), taken apart again.

What is worth joining on a target `fuse` joins. Semantics:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rtcc.ir import DType, Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table

TABLE = Table()
WITHOUT_DOMAIN = Table()
"""Those that ONNX Runtime has in ONNX's own domain."""

_EPSILON = 1e-5
_SKIP_EPSILON = 1e-12
"""What normalisations of sums and embeddings add to the variance unless an attribute says otherwise."""
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_PARAMETERS = {
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}
"""Activations that join a layer, and the attributes that their parameters are."""


@TABLE.rule("Gelu")
def gelu(node: Node, build: Builder) -> Sequence[Value]:
    """gelu(x), by the error function"""
    return build.op("Gelu", node.operand(0)).results


@TABLE.rule("BiasGelu")
def gelu_of_sum(node: Node, build: Builder) -> Sequence[Value]:
    """gelu(x + bias)"""
    return build.op("Gelu", build.op("Add", node.operand(0), node.operand(1)).result).results


@TABLE.rule("FastGelu")
def gelu_by_tanh(node: Node, build: Builder) -> Sequence[Value]:
    """gelu(x + bias), by tanh"""
    data = _sum(build, node.operand(0), node.optional(1))
    return build.op("Gelu", data, approximate="tanh").results


@TABLE.rule("QuickGelu")
def gelu_by_sigmoid(node: Node, build: Builder) -> Sequence[Value]:
    """x · sigmoid(alpha · x)"""
    return build.op("Swish", node.operand(0), alpha=node.float("alpha", 1.702)).results


@TABLE.rule("FusedMatMul", "TransposeMatMul")
def scaled_product(node: Node, build: Builder) -> Sequence[Value]:
    """alpha · a · b, either with its last two axes exchanged"""
    if node.int("transBatchA", 0) or node.int("transBatchB", 0):
        raise node.unsupported("transBatchA and transBatchB are not supported", hint="export without them")
    sides = [_exchanged(node, build, index, name) for index, name in enumerate(("transA", "transB"))]
    product = build.op("MatMul", *sides).result
    alpha = node.float("alpha", 1.0)
    if alpha == 1:
        return (product,)
    factor = build.constant("alpha", np.array(alpha, product.type.dtype.numpy))
    return build.op("Mul", product, factor).results


@TABLE.rule("FusedGemm")
def activated_gemm(node: Node, build: Builder) -> Sequence[Value]:
    """activation(gemm(a, b, c))"""
    attributes: dict[str, Any] = {
        name: node.plain(name) for name in ("alpha", "beta", "transA", "transB") if node.has(name)
    }
    data = build.op("Gemm", node.operand(0), node.operand(1), node.optional(2), **attributes).result
    names = [name for name in ("alpha", "beta") if node.has(f"activation_{name}")]
    return (_activated(node, build, data, {name: node.float(f"activation_{name}") for name in names}),)


@TABLE.rule("FusedConv")
def activated_convolution(node: Node, build: Builder) -> Sequence[Value]:
    """activation(conv(x, w, b) + z)"""
    attributes: dict[str, Any] = {name: node.plain(name) for name in _CONV if node.has(name)}
    data = build.op("Conv", node.operand(0), node.operand(1), node.optional(2), **attributes).result
    names, given = _PARAMETERS.get(node.string("activation", ""), ()), node.floats("activation_params", ())
    if len(given) > len(names):
        raise node.unsupported(f"{len(given)} parameters of an activation that takes {len(names)}")
    total = _sum(build, data, node.optional(3))
    return (_activated(node, build, total, dict(zip(names, given, strict=False))),)


@WITHOUT_DOMAIN.rule("SimplifiedLayerNormalization")
@TABLE.rule("SimplifiedLayerNormalization")
def root_mean_square(node: Node, build: Builder) -> Sequence[Value]:
    """rms_normalization(x)"""
    _inference_only(node, (1,))
    axis, epsilon = node.int("axis", -1), node.float("epsilon", _EPSILON)
    return build.op("RMSNormalization", node.operand(0), node.operand(1), axis=axis, epsilon=epsilon).results


@TABLE.rule("SkipLayerNormalization")
def normalized_sum(node: Node, build: Builder) -> Sequence[Value]:
    """layer_normalization(x + skip + bias), and the sum"""
    _inference_only(node, (1, 2))
    total = _sum(build, build.op("Add", node.operand(0), node.operand(1)).result, node.optional(4))
    return _of_sum(node, build, "LayerNormalization", total, node.operand(2), node.optional(3))


@TABLE.rule("SkipSimplifiedLayerNormalization")
def root_mean_square_of_sum(node: Node, build: Builder) -> Sequence[Value]:
    """rms_normalization(x + skip + bias), and the sum"""
    _inference_only(node, (1, 2))
    total = _sum(build, build.op("Add", node.operand(0), node.operand(1)).result, node.optional(3))
    return _of_sum(node, build, "RMSNormalization", total, node.operand(2))


@TABLE.rule("EmbedLayerNormalization")
def embedding(node: Node, build: Builder) -> Sequence[Value]:
    """layer_normalization(words[ids] + positions + segments[segment_ids]), how many ids count, and the sum"""
    ids = node.operand(0)
    if ids.type.rank != 2 or not ids.type.is_static:
        raise node.unsupported(
            f"expected ids [batch, length] of known sizes, found {ids.type}",
            hint="bind symbolic dimensions with --shape",
        )
    batch, length = ids.type.sizes
    places = node.optional(8)
    if places is None:
        _within_table(node, length, node.operand(3))
        places = build.integers("places", range(length))
    total = build.op("Gather", node.operand(2), ids, axis=0).result
    total = _sum(build, total, build.op("Gather", node.operand(3), places, axis=0).result)
    if (segments := node.optional(1)) is not None:
        total = _sum(build, total, build.op("Gather", node.operand(4), segments, axis=0).result)
    normal, *_ = _of_sum(node, build, "LayerNormalization", total, node.operand(5), node.optional(6))
    counts: Value = build.constant("counts", np.zeros(batch, np.int32))
    if (mask := node.optional(7)) is not None:
        ones = build.op("Equal", mask, build.constant("one", np.array(1, mask.type.dtype.numpy))).result
        numbers = build.op("Cast", ones, to=DType.I32.value).result  # other numbers than 1 do not count
        counts = build.op("ReduceSum", numbers, build.integers("axes", (1,)), keepdims=0).result
    return normal, counts, total


@TABLE.rule("RotaryEmbedding")
def rotary(node: Node, build: Builder) -> Sequence[Value]:
    """ONNX's, whose positions come last; one position is where each sequence begins"""
    data, places = node.operand(0), node.operand(1)
    if node.int("is_packed_batching", 0) or node.float("scale", 1.0) != 1:
        raise node.unsupported("packed batches and scales are not supported", hint="export without them")
    if data.type.rank not in (3, 4) or not data.type.is_static:
        raise node.unsupported(
            f"expected data of three or four known sizes, found {data.type}",
            hint="bind symbolic dimensions with --shape",
        )
    steps = data.type.sizes[-2]
    _within_table(node, steps, node.operand(2))
    if places.type.shape == (1,):
        rows = build.constant("rows", np.arange(steps, dtype=np.int64)[None].repeat(data.type.sizes[0], 0))
        places = build.op("Add", rows, places).result
    names = ("interleaved", "num_heads", "rotary_embedding_dim")
    attributes: dict[str, Any] = {name: node.int(name) for name in names if node.has(name)}
    columns = node.operand(2).type.shape[-1]
    if data.type.rank == 3 and not attributes.get("num_heads") and isinstance(columns, int) and columns:
        attributes["num_heads"] = data.type.sizes[-1] // (2 * columns)  # heads as wide as the caches say
    return build.op("RotaryEmbedding", data, node.operand(2), node.operand(3), places, **attributes).results


def _within_table(node: Node, steps: int, table: Value) -> None:
    """InvalidModel where a sequence has more steps than a table has rows."""
    rows = table.type.shape[0] if table.type.rank else 0
    if isinstance(rows, int) and steps > rows:
        raise node.fail(f"{steps} steps need as many rows, found {table.type}")


def _sum(build: Builder, data: Value, other: Value | None) -> Value:
    return data if other is None else build.op("Add", data, other).result


def _of_sum(
    node: Node, build: Builder, op_type: str, total: Value, *parameters: Value | None
) -> Sequence[Value]:
    """The sum normalised; what inference does not need, in whose place the sum stands; the sum."""
    epsilon = node.float("epsilon", _SKIP_EPSILON)
    normal = build.op(op_type, total, *parameters, axis=-1, epsilon=epsilon).result
    return normal, total, total, total


def _inference_only(node: Node, places: Sequence[int]) -> None:
    """Unsupported where an output is asked for that only training needs."""
    if any(index < len(node.outputs) and node.outputs[index] for index in places):
        raise node.unsupported("outputs for training are not supported", hint="export for inference")


def _exchanged(node: Node, build: Builder, index: int, attribute: str) -> Value:
    value = node.operand(index)
    rank = value.type.rank
    if not node.int(attribute, 0) or rank < 2:
        return value
    return build.op("Transpose", value, perm=(*range(rank - 2), rank - 1, rank - 2)).result


def _activated(node: Node, build: Builder, data: Value, parameters: Mapping[str, float]) -> Value:
    """What the attribute `activation` names, of the data; parameters not given are ONNX's own."""
    name = node.string("activation", "")
    if not name:
        return data
    if name not in _PARAMETERS:
        raise node.unsupported(f"the activation {name!r} is none of {', '.join(_PARAMETERS)}")
    if name != "Clip":
        attributes: dict[str, Any] = dict(parameters)
        return build.op(name, data, **attributes).result
    if len(parameters) < len(_PARAMETERS[name]):
        raise node.unsupported(f"the activation Clip takes 2 parameters, found {len(parameters)}")
    bounds = {role: np.array(bound, data.type.dtype.numpy) for role, bound in parameters.items()}
    return build.op("Clip", data, *(build.constant(role, bounds[role]) for role in ("min", "max"))).result
