"""ONNX Runtime's operators over weights in blocks that share a scale (domain com.microsoft).

They become dequantize_linear with a block size before the product or the gathering. Several elements lie in
one byte, the first in its low bits; here each is an element of a u4 or u8 constant. Semantics:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.ir import Constant, DType, Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table
from rtcc.onnx.tensors import Array

TABLE = Table()

_ELEMENTS = {2: DType.U4, 4: DType.U4, 8: DType.U8}
"""What elements of so many bits are stored as."""


@TABLE.rule("MatMulNBits")
def product(node: Node, build: Builder) -> Sequence[Value]:
    """mat_mul(a, dequantize_linear(#b)) + bias, b turned to [K, N] with blocks along K."""
    depth, columns, block = (node.int(name) for name in ("K", "N", "block_size"))
    if min(depth, columns, block) < 1:
        raise node.fail(f"K, N and block_size must be positive, found {depth}, {columns} and {block}")
    if node.optional(4) is not None:
        raise node.unsupported("g_idx is not supported", hint="export without reordering of columns")
    if node.int("weight_prepacked", 0):
        raise node.unsupported("weights packed for one processor are not supported")
    bits, blocks = _bits(node, 4), -(-depth // block)
    elements = _unpacked(_known(node, 1), bits, (columns, blocks * block), node)[:, :depth]
    zeros = _zero_points(node, 3, bits, (columns, blocks))
    scale = build.constant("scale", _scales(node, (columns, blocks)).T.copy())
    matrix = _constant(build, "weight", elements.T, bits)
    zero = _constant(build, "zero_point", zeros.T, bits)
    weight = build.op("DequantizeLinear", matrix, scale, zero, axis=0, block_size=block).result
    result = build.op("MatMul", node.operand(0), weight).result
    bias = node.optional(5)
    return (result,) if bias is None else build.op("Add", result, bias).results


@TABLE.rule("GatherBlockQuantized")
def gather(node: Node, build: Builder) -> Sequence[Value]:
    """gather(dequantize_linear(data), indices)"""
    data, scales, zeros = node.operand(0), node.operand(2), node.optional(3)
    axis = node.int("quantize_axis", 1)
    if data.type.dtype is DType.U8:
        bits = _bits(node, 4)
        shape = (*data.type.sizes[:-1], data.type.sizes[-1] * (8 // bits))
        data = _constant(build, "data", _unpacked(_known(node, 0), bits, shape, node), bits)
        zeros = _constant(build, "zero_point", _zero_points(node, 3, bits, scales.type.sizes), bits)
    table = build.op(
        "DequantizeLinear", data, scales, zeros, axis=axis, block_size=node.int("block_size", 128)
    ).result
    return build.op("Gather", table, node.operand(1), axis=node.int("gather_axis", 0)).results


def _bits(node: Node, default: int) -> int:
    bits = node.int("bits", default)
    if bits not in _ELEMENTS:
        hint = "export with 2, 4 or 8 bits"
        raise node.unsupported(f"elements of {bits} bits are not supported", hint=hint)
    return bits


def _known(node: Node, index: int) -> Array:
    """A packed operand, which must be a constant of bytes."""
    value = node.operand(index)
    if not isinstance(value, Constant):
        raise node.unsupported(f"input {index} depends on the data", hint="make it an initialiser")
    if value.type.dtype is not DType.U8:
        raise node.unsupported(f"input {index} must be u8, found {value.type}", hint="export integers")
    return value.array


def _scales(node: Node, shape: tuple[int, ...]) -> Array:
    value = node.operand(2)
    if not isinstance(value, Constant):
        raise node.unsupported("the scales depend on the data", hint="make them an initialiser")
    if value.type.elements != np.prod(shape):
        raise node.fail(f"the scales must be of shape {shape}, found {value.type}")
    return value.array.reshape(shape)


def _zero_points(node: Node, index: int, bits: int, shape: tuple[int, ...]) -> Array:
    """Zero points of blocks, each row packed by itself; half the range where there are none."""
    if node.optional(index) is None:
        return np.full(shape, 1 << (bits - 1), np.uint8)
    packed, each = _known(node, index), 8 // bits
    width = -(-shape[-1] // each) * each
    return _unpacked(packed, bits, (*shape[:-1], width), node)[..., : shape[-1]]


def _unpacked(packed: Array, bits: int, shape: tuple[int, ...], node: Node) -> Array:
    """The elements of bytes, the low bits first, in a shape that they must fill."""
    each = 8 // bits
    if packed.size * each != np.prod(shape):
        raise node.fail(f"{packed.size} bytes hold {packed.size * each} elements, expected those of {shape}")
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed.reshape(-1, 1) >> shifts) & (2**bits - 1)).reshape(shape)


def _constant(build: Builder, role: str, elements: Array, bits: int) -> Constant:
    return build.constant(role, np.ascontiguousarray(elements).astype(_ELEMENTS[bits].numpy))
