"""ONNX Runtime's quantised operators (domain com.microsoft), by what they stand for.

Most are dequantize_linear, the operator of the same name over floats, and quantize_linear: integers are what
`lower-quantization` makes of that. Products that yield floats are integer sums times a scale. Semantics:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rtcc.ir import DType, Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.nn import over_rows
from rtcc.onnx.tables.rules import Table

TABLE = Table()

_WINDOW = ("kernel_shape", "pads", "strides", "dilations")


@TABLE.rule("QuantizeLinear", "DequantizeLinear")
def standard_form(node: Node, build: Builder) -> Sequence[Value]:
    """The same operator, which had more element types before ONNX's own had them."""
    axis = node.int("axis", 1)
    return build.op(node.op_type, *(node.operand(i) for i in (0, 1)), node.optional(2), axis=axis).results


@TABLE.rule("QLinearAdd", "QLinearMul")
def arithmetic(node: Node, build: Builder) -> Sequence[Value]:
    """quantize(dequantize(a) ∘ dequantize(b))"""
    left, right = _real(node, build, 0), _real(node, build, 3)
    result = build.op(node.op_type.removeprefix("QLinear"), left, right).result
    return _quantized(node, build, result, 6)


@TABLE.rule("QLinearSigmoid")
def sigmoid(node: Node, build: Builder) -> Sequence[Value]:
    """quantize(sigmoid(dequantize(x)))"""
    return _quantized(node, build, build.op("Sigmoid", _real(node, build, 0)).result, 3)


@TABLE.rule("QLinearLeakyRelu")
def leaky_relu(node: Node, build: Builder) -> Sequence[Value]:
    """quantize(leaky_relu(dequantize(x)))"""
    alpha = node.float("alpha", 0.01)
    return _quantized(node, build, build.op("LeakyRelu", _real(node, build, 0), alpha=alpha).result, 3)


@TABLE.rule("QLinearSoftmax")
def softmax(node: Node, build: Builder) -> Sequence[Value]:
    """quantize(softmax(dequantize(x))); before opset 13 over all axes from the given one on."""
    data, axis = _real(node, build, 0), node.int("axis", -1)
    if node.int("opset") < 13:
        result = over_rows("Softmax", data, axis, node, build)
    else:
        result = build.op("Softmax", data, axis=axis).result
    return _quantized(node, build, result, 3)


@TABLE.rule("QLinearReduceMean")
def mean(node: Node, build: Builder) -> Sequence[Value]:
    """quantize(reduce_mean(dequantize(x)))"""
    axes = build.integers("axes", node.ints("axes")) if node.has("axes") else None
    result = build.op("ReduceMean", _real(node, build, 0), axes, keepdims=node.int("keepdims", 1)).result
    return _quantized(node, build, result, 3)


@TABLE.rule("QLinearAveragePool", "QLinearGlobalAveragePool")
def average_pool(node: Node, build: Builder) -> Sequence[Value]:
    """quantize(average_pool(dequantize(x)))"""
    names = (*_WINDOW, "auto_pad", "ceil_mode", "count_include_pad")
    attributes: dict[str, Any] = {name: node.plain(name) for name in names if node.has(name)}
    op_type = node.op_type.removeprefix("QLinear")

    def pooled(data: Value) -> Value:
        return build.op(op_type, _dequantized(node, build, data, 1), **attributes).result

    return _quantized(node, build, _channels_second(node, build, pooled), 3)


@TABLE.rule("QLinearConv")
def convolution(node: Node, build: Builder) -> Sequence[Value]:
    """ONNX's own, but for data whose channels may come last."""
    names = (*_WINDOW, "auto_pad", "group")
    attributes: dict[str, Any] = {name: node.plain(name) for name in names if node.has(name)}
    rest = [*(node.operand(i) for i in range(1, 8)), node.optional(8)]
    return (
        _channels_second(
            node, build, lambda data: build.op("QLinearConv", data, *rest, **attributes).result
        ),
    )  # fmt: skip


@TABLE.rule("QLinearConcat")
def concat(node: Node, build: Builder) -> Sequence[Value]:
    """quantize(concat(dequantize(x), …)); the result's parameters come first."""
    count = len(node.operands) - 2
    if count < 3 or count % 3:
        raise node.fail(f"takes a scale, a zero point and three inputs for each tensor, found {count + 2}")
    parts = [_real(node, build, 2 + 3 * i) for i in range(count // 3)]
    return _quantized(node, build, build.op("Concat", *parts, axis=node.int("axis")).result, 0)


@TABLE.rule("QLinearWhere")
def where(node: Node, build: Builder) -> Sequence[Value]:
    """quantize(where(condition, dequantize(x), dequantize(y)))"""
    chosen = build.op("Where", node.operand(0), _real(node, build, 1), _real(node, build, 4)).result
    return _quantized(node, build, chosen, 7)


@TABLE.rule("QGemm")
def gemm(node: Node, build: Builder) -> Sequence[Value]:
    """gemm(dequantize(a), dequantize(b), c · scales), c being i32 in units of the sum; quantised or not."""
    alpha, transposed = node.float("alpha", 1.0), node.int("transB", 0)
    left_scale, right_scale = node.operand(1), node.operand(4)
    if alpha != 1:
        factor = build.constant("alpha", DType.F32.numpy.type(alpha))
        left_scale = _scales_product(build, left_scale, factor)
    left = build.op("DequantizeLinear", node.operand(0), left_scale, node.optional(2)).result
    right = build.op(
        "DequantizeLinear", node.operand(3), right_scale, node.optional(5), axis=0 if transposed else 1
    ).result
    addend = node.optional(6)
    if addend is not None:
        unit = _scales_product(build, left_scale, right_scale)
        addend = build.op("DequantizeLinear", addend, unit, axis=-1).result
    result = build.op("Gemm", left, right, addend, transA=node.int("transA", 0), transB=transposed).result
    return (result,) if node.optional(7) is None else _quantized(node, build, result, 7)


@TABLE.rule("MatMulIntegerToFloat")
def product_as_floats(node: Node, build: Builder) -> Sequence[Value]:
    """mat_mul_integer(a, b) · (a_scale · b_scale) + bias"""
    scales = node.operand(2), node.operand(3)
    return _product(node, build, (node.operand(0), node.optional(4)), node.optional(5), scales, 6)


@TABLE.rule("DynamicQuantizeMatMul")
def dynamic_product(node: Node, build: Builder) -> Sequence[Value]:
    """a quantised by its own range, then as MatMulIntegerToFloat"""
    data, scale, zero = build.op("DynamicQuantizeLinear", node.operand(0)).results
    return _product(node, build, (data, zero), node.optional(3), (scale, node.operand(2)), 4)


def _product(
    node: Node,
    build: Builder,
    left: tuple[Value, Value | None],
    right_zero: Value | None,
    scales: tuple[Value, Value],
    bias: int,
) -> Sequence[Value]:
    """An integer product of `left` (integers, zero point) with operand 1, times both scales, plus a bias."""
    result = scaled_product(build, left, (node.operand(1), right_zero), scales)
    addend = node.optional(bias)
    return (result,) if addend is None else build.op("Add", result, addend).results


def scaled_product(
    build: Builder,
    left: tuple[Value, Value | None],
    right: tuple[Value, Value | None],
    scales: tuple[Value, Value],
) -> Value:
    """mat_mul_integer(left, right) · (scale · scale): two operands with their zero points, as floats."""
    total = build.op("MatMulInteger", left[0], right[0], left[1], right[1]).result
    numbers = build.op("Cast", total, to=DType.F32.value).result
    return build.op("Mul", numbers, _scales_product(build, *scales)).result


def _scales_product(build: Builder, left: Value, right: Value) -> Value:
    """A product of scales, a constant where both are: what makes integer kernels asks for constants."""
    product = build.op("Mul", left, right)
    known = build.evaluated(product.result)
    if known is None:
        return product.result
    build.graph.erase(product)
    return build.constant("scale", known)


def _real(node: Node, build: Builder, first: int) -> Value:
    """Operand `first` dequantised by the scale and zero point that follow it."""
    return _dequantized(node, build, node.operand(first), first + 1)


def _dequantized(node: Node, build: Builder, data: Value, scale: int) -> Value:
    return build.op("DequantizeLinear", data, node.operand(scale), node.optional(scale + 1)).result


def _quantized(node: Node, build: Builder, value: Value, scale: int) -> Sequence[Value]:
    """A value quantised by the operand `scale` and the zero point after it; without that, as operand 0 is."""
    zero = node.optional(scale + 1)
    dtype: dict[str, Any] = {} if zero is not None else {"output_dtype": node.operand(0).type.dtype.value}
    return build.op("QuantizeLinear", value, node.operand(scale), zero, **dtype).results


def _channels_second(node: Node, build: Builder, compute: Callable[[Value], Value]) -> Value:
    """What `compute` makes of operand 0, [N, C, spatial…], where the node has its channels last."""
    data = node.operand(0)
    if not node.int("channels_last", 0):
        return compute(data)
    spatial = range(2, data.type.rank)
    inner = build.op("Transpose", data, perm=(0, data.type.rank - 1, *(axis - 1 for axis in spatial))).result
    return build.op("Transpose", compute(inner), perm=(0, *spatial, 1)).result
