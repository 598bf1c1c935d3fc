"""Neural network operators whose older forms differ from the newest one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rtcc.ir import Value, constants
from rtcc.onnx.builder import Builder
from rtcc.onnx.mechanical import mechanical, plain_attributes, unknown_operator
from rtcc.onnx.names import operator_class
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table
from rtcc.onnx.tables.tensor import without_empty

TABLE = Table()


@TABLE.rule("Softmax", "LogSoftmax", "Hardmax", before=13)
def coerced_to_matrix(node: Node, build: Builder) -> Sequence[Value]:
    """The axis split the shape in two; each row of that matrix was normalised, not one axis."""
    return (over_rows(node.op_type, node.operand(0), node.int("axis", 1), node, build),)


def over_rows(op_type: str, data: Value, axis: int, node: Node, build: Builder) -> Value:
    """A normalisation of data over all axes from the given one on."""
    rank = data.type.rank
    if not -rank <= axis <= rank:
        raise node.fail(f"axis {axis} is outside {data.type}")
    axis = axis + rank if axis < 0 else axis
    if axis < rank and all(size == 1 for size in data.type.shape[axis + 1 :]):
        return build.op(op_type, data, axis=axis).result
    matrix = build.op("Flatten", data, axis=axis).result
    rows = build.op(op_type, matrix, axis=1).result
    if data.type.is_static:
        shape: Value = build.integers("shape", data.type.sizes)
    else:
        shape = build.op("Shape", data).result
    return build.op("Reshape", rows, shape, allowzero=1).result


@TABLE.rule("Gemm", before=7)
def gemm_with_broadcast(node: Node, build: Builder) -> Sequence[Value]:
    """Broadcasting the third operand had to be asked for; it meant what it means now."""
    attributes: dict[str, Any] = {name: node.float(name) for name in ("alpha", "beta") if node.has(name)}
    attributes |= {name: node.int(name) for name in ("transA", "transB") if node.has(name)}
    return build.op("Gemm", *(node.operand(i) for i in range(3)), **attributes).results


@TABLE.rule("Dropout", before=12)
def dropout_without_mode(node: Node, build: Builder) -> Sequence[Value]:
    """The ratio was an attribute, and nothing is dropped in inference; the mask had the data's type once."""
    data = node.operand(0)
    results = build.op("Dropout", data, results=node.results).results
    if node.results < 2 or node.opset >= 10:
        return results
    return results[0], build.op("Cast", results[1], to=data.type.dtype.value).result


@TABLE.rule("BatchNormalization", before=14)
def inference_batch_norm(node: Node, build: Builder) -> Sequence[Value]:
    """Further outputs meant training; the oldest form could normalise each element by itself."""
    if node.results > 1:
        raise node.unsupported(
            "the training form (with running statistics as outputs) is not supported",
            hint="export the model in inference mode",
        )
    if node.int("spatial", 1) != 1:
        raise node.unsupported("spatial = 0 is not supported", hint="export the model with opset 9 or newer")
    operands = [node.operand(i) for i in range(5)]
    return build.op(
        "BatchNormalization", *operands, epsilon=node.float("epsilon", float(np.float32(1e-5)))
    ).results


@TABLE.rule("BatchNormalization")
def batch_norm(node: Node, build: Builder) -> Sequence[Value]:
    """By given statistics; in training mode by those of the batch, which then move the given ones."""
    kind = operator_class("", node.op_type)
    assert kind is not None
    if not node.int("training_mode", 0):
        return mechanical(node, build, kind)
    data, scale, bias, mean, variance = (node.operand(i) for i in range(5))
    rank, dtype = data.type.rank, mean.type.dtype
    axes = build.integers("axes", [axis for axis in range(rank) if axis != 1])
    wide = data if data.type.dtype is dtype else build.op("Cast", data, to=dtype.value).result
    centre = build.op("ReduceMean", wide, axes, keepdims=1).result
    apart = build.op("Sub", wide, centre).result
    square = build.op("Mul", apart, apart).result
    spread = build.op("ReduceMean", square, axes, keepdims=0).result
    found = (build.op("Squeeze", centre, axes).result, spread)
    epsilon = node.float("epsilon", float(np.float32(1e-5)))
    result = build.op(node.op_type, data, scale, bias, *found, epsilon=epsilon).result
    kept = np.float32(node.float("momentum", 0.9))
    old_part, new_part = (
        build.constant(role, np.array(part, dtype.numpy))
        for role, part in (("kept", kept), ("new", 1 - kept))
    )
    moved = (
        build.op("Add", build.op("Mul", old, old_part).result, build.op("Mul", new, new_part).result).result
        for old, new in zip((mean, variance), found, strict=True)
    )
    return (result, *moved)


@TABLE.rule("GroupNormalization", before=21)
def one_scale_per_group(node: Node, build: Builder) -> Sequence[Value]:
    """Scale and bias had one element per group; now they have one per channel."""
    data, groups = node.operand(0), node.int("num_groups")
    channels = data.type.shape[1] if data.type.rank > 1 else None
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        raise node.fail(f"{groups} groups do not divide the channels of {data.type}")
    each = channels // groups
    scale, bias = (_repeated(node.operand(i), each, name, build) for i, name in ((1, "scale"), (2, "bias")))
    epsilon = node.float("epsilon", float(np.float32(1e-5)))
    return build.op("GroupNormalization", data, scale, bias, epsilon=epsilon, num_groups=groups).results


def _repeated(value: Value, times: int, role: str, build: Builder) -> Value:
    """Every element of a vector `times` times in a row."""
    known = constants(value)
    if known is not None:
        return build.constant(role, np.repeat(known[0], times))
    column = build.op("Unsqueeze", value, build.integers("axes", (1,))).result
    tiled = build.op("Tile", column, build.integers("repeats", (1, times))).result
    return build.op("Reshape", tiled, build.integers("shape", (-1,))).result


@TABLE.rule("Upsample")
def upsample(node: Node, build: Builder) -> Sequence[Value]:
    """The ancestor of Resize: sizes grow, coordinates are divided by the scale."""
    data = node.operand(0)
    if node.opset < 7:
        raise node.unsupported("the form of opset 6 is not supported", hint="export with opset 7 or newer")
    if node.has("scales"):
        scales: Value = build.constant("scales", np.array(node.floats("scales"), np.float32))
    else:
        scales = node.operand(1)
    return _resize_by_scales(node, build, data, scales)


@TABLE.rule("Resize", before=11)
def resize_without_modes(node: Node, build: Builder) -> Sequence[Value]:
    """Two operands; coordinates are divided by the scale."""
    return _resize_by_scales(node, build, node.operand(0), node.operand(1))


def _resize_by_scales(node: Node, build: Builder, data: Value, scales: Value) -> Sequence[Value]:
    """Nearest took the floor where it enlarges and the ceiling where it shrinks, so both in turn."""
    mode = node.string("mode", "nearest")
    mode = "linear" if mode == "bilinear" else mode
    factors = build.evaluated(scales)
    if factors is None:
        raise node.unsupported("the scales depend on the data", hint="make them a constant in the exporter")
    if factors.shape != (data.type.rank,) or not (factors > 0).all():
        raise node.fail(f"scales {factors.tolist()} do not fit {data.type}")
    common: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "mode": mode}
    if mode != "nearest":
        return build.op("Resize", data, None, scales, **common).results
    for role, part, rounding in (
        ("shrink", np.minimum(factors, 1), "ceil"),
        ("enlarge", np.maximum(factors, 1), "floor"),
    ):
        if (part != 1).any() or (role == "enlarge" and (factors == 1).all()):
            values = build.constant(role, part.astype(np.float32))
            data = build.op("Resize", data, None, values, nearest_mode=rounding, **common).result
    return (data,)


@TABLE.rule("Resize")
def resize(node: Node, build: Builder) -> Sequence[Value]:
    """Empty tensors stood for absent operands; tf_half_pixel_for_nn went away with opset 13."""
    operands = [node.operand(0), *(without_empty(node.optional(i)) for i in (1, 2, 3))]
    attributes = _attributes(node)
    if attributes.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        if attributes.get("mode", "nearest") != "nearest" or attributes.get("nearest_mode") != "floor":
            raise node.unsupported("tf_half_pixel_for_nn is supported with nearest_mode = floor only")
        attributes |= {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    if attributes.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        operands[1] = None
    return build.op("Resize", *operands, **attributes).results


@TABLE.rule("GridSample", before=20)
def grid_sample_modes(node: Node, build: Builder) -> Sequence[Value]:
    """The modes had other names."""
    attributes = _attributes(node)
    mode = attributes.get("mode", "bilinear")
    attributes["mode"] = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    return build.op("GridSample", node.operand(0), node.operand(1), **attributes).results


@TABLE.rule("RoiAlign", before=16)
def roi_align_without_offset(node: Node, build: Builder) -> Sequence[Value]:
    """Coordinates were not moved by half a pixel."""
    attributes: dict[str, Any] = _attributes(node) | {"coordinate_transformation_mode": "output_half_pixel"}
    return build.op("RoiAlign", *(node.operand(i) for i in range(3)), **attributes).results


@TABLE.rule("DFT", before=20)
def dft_axis_as_attribute(node: Node, build: Builder) -> Sequence[Value]:
    """The axis was an attribute, by default 1."""
    axis = build.constant("axis", np.array(node.int("axis", 1), np.int64))
    attributes: dict[str, Any] = {name: node.int(name) for name in ("inverse", "onesided") if node.has(name)}
    return build.op("DFT", node.operand(0), node.optional(1), axis, **attributes).results


def _attributes(node: Node) -> dict[str, Any]:
    """The node's attributes under the slots of the class of the same name."""
    kind = operator_class("", node.op_type)
    if kind is None:
        raise unknown_operator(node)
    return plain_attributes(node, kind)
