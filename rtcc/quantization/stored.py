"""Schemes that need no data: weights stored in fewer bits, and matrix products quantised as they run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, DType, Graph, Module, Op, Value
from rtcc.ir.ops.cast import Cast
from rtcc.ir.ops.indexing import Gather
from rtcc.ir.ops.math import Add, Mul
from rtcc.ir.ops.nn import Gemm, MatMul
from rtcc.ir.ops.quant import DynamicQuantizeLinear, MatMulInteger
from rtcc.linear.layers import Layer, is_named, linear_layers, name_of
from rtcc.pipeline import Rewriter
from rtcc.quantization.insertion import Inserted, QuantizedLayer, dequantized_weight, insert_op
from rtcc.quantization.placement import require_finite
from rtcc.quantization.scheme import Form, Scheme, Settings
from rtcc.quantization.weights import QuantizedWeight, quantize_blocks, quantize_weight

SMALLEST_STORED = 256
"""Elements from which a weight is stored in fewer bits: smaller ones save less than their scales cost."""

ROW_PRECISION = 2.0**-7
"""By what share of itself each row of a table (along the first axis) may err in 16 bits at most, of a layer's
weight by what share of its largest row."""


def store_weights(module: Module, settings: Settings, pass_name: str) -> Inserted:
    """Store weights of linear layers, and tables that rows are gathered from, in 8 or 4 bits, in place."""
    rw, found = Rewriter(module, pass_name), Inserted()
    dtype = DType.I8 if settings.scheme is Scheme.WEIGHTS_INT8 else DType.I4
    done: dict[tuple[Constant, int | None, int], Value] = {}
    for op, weight, slot, channel, summed in stored_weights(module.main):
        if weight.type.elements < SMALLEST_STORED or is_named(op, settings.keep_float):
            continue
        key = (weight, channel, summed)
        if key not in done:
            require_finite(name_of(op), weight)
            made = _stored_weight(weight, dtype, settings, channel, summed)
            done[key] = dequantized_weight(rw, weight, made, before=op)
            found.layers.append(
                QuantizedLayer(name_of(op), op.name, weight.symbol, op.result.name or "", weight.array, made)
            )
        rw.set_operand(op, slot, done[key])
    rw.tidy_constants()
    return found


def _stored_weight(
    weight: Constant, dtype: DType, settings: Settings, channel: int | None, summed: int
) -> QuantizedWeight:
    """Blocks along the sum where it is longer than one, else a scale per channel."""
    block = settings.block
    if block and settings.weights is not Form.NORMALIZED and weight.type.sizes[summed] > block:
        return quantize_blocks(weight.array, dtype, settings.weights, summed, block)
    axis = channel if settings.per_channel else None
    return quantize_weight(weight.array, dtype, settings.weights, axis)


def stored_weights(main: Graph) -> list[tuple[Op, Constant, int, int | None, int]]:
    """Linear layers and gathers of rows, with their weights, in the order of the graph.

    So the first is the first reader of a weight. With each the operand's slot, the axes of channels and sum.
    """
    layers: dict[Op, Layer] = {each.op: each for each in linear_layers(main)}
    found: list[tuple[Op, Constant, int, int | None, int]] = []
    for op in main.ops:
        if (layer := layers.get(op)) is not None:
            found.append((op, layer.weight, layer.weight_slot, layer.channel_axis, layer.sum_axis))
        elif isinstance(op, Gather) and isinstance(op.data, Constant) and op.data.type.dtype is DType.F32:
            rank = op.data.type.rank
            if rank >= 2 and op.axis in (0, -rank):
                found.append((op, op.data, 0, 0, rank - 1))
    return found


@dataclass(frozen=True)
class Narrowed:
    """Whether any constant was narrowed, and why others that were to be stayed float32, by name."""

    changed: bool
    kept: dict[str, str]


def narrow_floats(module: Module, settings: Settings, pass_name: str) -> Narrowed:
    """Store float32 constants as float16 or bfloat16, cast where they are read.

    Those beyond the range of the type stay float32, and those so small that it keeps less than its usual
    precision of them.
    """
    rw = Rewriter(module, pass_name)
    dtype = DType.F16 if settings.scheme is Scheme.FLOAT16 else DType.BF16
    weights: dict[Op, Constant] = {each.op: each.weight for each in linear_layers(module.main)}
    done: dict[Constant, Value] = {}
    kept: dict[Constant, str] = {}
    for op, slot, value in list(narrowable_operands(module.main)):
        if value in kept or value.type.elements < SMALLEST_STORED or is_named(op, settings.keep_float):
            continue
        if value not in done:
            is_weight = all(weights.get(use.op) is value for use in value.uses)
            reason = reason_to_keep(value, dtype, is_weight=is_weight)
            if reason is not None:
                kept[value] = reason
                continue
            narrow = rw.constant(value.data.astype(dtype.numpy), value.type.with_dtype(dtype),
                                 name=f"{value.symbol}.{dtype.value}")  # fmt: skip
            cast = Cast(narrow, to="f32")
            cast.result.name = f"{value.symbol}.f32"
            done[value] = insert_op(rw, cast, before=op)
        rw.set_operand(op, slot, done[value])
    rw.tidy_constants()
    return Narrowed(bool(done), {value.symbol: reason for value, reason in kept.items()})


def narrowable_operands(main: Graph) -> Iterator[tuple[Op, int, Constant]]:
    """Reads of float32 constants as data: the op, the operand's slot, the constant."""
    for op in main.ops:
        for slot, value in enumerate(op.operands):
            if (
                isinstance(value, Constant)
                and value.type.dtype is DType.F32
                and not op.is_static_operand(slot)
            ):
                yield op, slot, value


def reason_to_keep(value: Constant, dtype: DType, *, is_weight: bool) -> str | None:
    """Why a constant does not survive narrowing, if it does not.

    is_weight: layers alone read it, all of it at once; else (a table) rows are read by themselves.
    """
    limit, precision = (65504.0, 2.0**-10) if dtype is DType.F16 else (3.3e38, 2.0**-7)
    data = value.data.astype(np.float64)
    if not np.abs(data).max(initial=0.0) <= limit:
        return f"beyond the range of {dtype.value}"
    difference = data - value.data.astype(dtype.numpy).astype(np.float64)
    error, norm = np.linalg.norm(difference), np.linalg.norm(data)
    if error > precision * norm:
        return f"too small for {dtype.value}, which would err by {error / norm:.2g} of it"
    rows = data.reshape(len(data), -1) if data.ndim > 1 else data.reshape(1, -1)
    errors = np.linalg.norm(difference.reshape(rows.shape), axis=1)
    norms = np.linalg.norm(rows, axis=1)
    if is_weight:
        norms[:] = norms.max(initial=0.0)
    shares = errors / np.where(norms > 0, norms, 1.0)
    worst = int(shares.argmax())
    if shares[worst] <= ROW_PRECISION:
        return None
    return f"too small for {dtype.value} in row {worst}, which would err by {shares[worst]:.2g} of itself"


def quantize_dynamically(module: Module, settings: Settings, pass_name: str) -> Inserted:
    """Make matrix products with constant weights integer products, of activations quantised as they come.

        mat_mul(x, #w)  →  cast(mat_mul_integer(xq, #wq, x zero)) · (x scale · #w scale)

    with xq, x scale, x zero = dynamic_quantize_linear(x), as ONNX Runtime's dynamic quantisation has it.
    """
    rw, found = Rewriter(module, pass_name), Inserted()
    quantized: dict[Value, DynamicQuantizeLinear] = {}
    for layer in list(linear_layers(module.main)):
        if not _is_plain_product(layer) or is_named(layer.op, settings.keep_float):
            continue
        require_finite(layer.name, layer.weight)
        if layer.data not in quantized:
            dynamic = DynamicQuantizeLinear(layer.data)
            insert_op(rw, dynamic, before=layer.op)
            quantized[layer.data] = dynamic
        weight = _dynamic_weight(layer, settings)
        found.layers.append(
            QuantizedLayer(
                layer.name,
                layer.op.name,
                layer.weight.symbol,
                layer.op.result.name or "",
                layer.weight.array,
                weight,
                is_transposed=layer.channel_axis == 0,
            )
        )
        _replace_product(rw, layer, quantized[layer.data], weight)
    rw.tidy_constants()
    return found


def _is_plain_product(layer: Layer) -> bool:
    op = layer.op
    if isinstance(op, Gemm):
        return op.alpha == 1 and op.beta == 1
    return isinstance(op, MatMul) and layer.weight.type.rank == 2


def _dynamic_weight(layer: Layer, settings: Settings) -> QuantizedWeight:
    """The weight [K, N] in 8 bits."""
    array = layer.weight.array
    if layer.channel_axis == 0:
        array = array.T
    return quantize_weight(array, DType.I8, settings.weights, 1 if settings.per_channel else None)


def _replace_product(
    rw: Rewriter, layer: Layer, dynamic: DynamicQuantizeLinear, weight: QuantizedWeight
) -> None:
    op, stem, chosen = layer.op, layer.weight.symbol, weight.parameters
    data, scale, zero = dynamic.results
    integers = rw.constant(np.ascontiguousarray(weight.data), name=f"{stem}.q")
    weight_zero = rw.constant(chosen.zero_point, name=f"{stem}.zero_point")
    weight_scale = rw.constant(chosen.scale, name=f"{stem}.scale")
    total = MatMulInteger(data, integers, zero, weight_zero, location=op.location)
    real = Cast(total.result, to="f32", location=op.location)
    factor = Mul(scale, weight_scale, location=op.location)
    product = Mul(real.result, factor.result, location=op.location)
    addend = op.addend if isinstance(op, Gemm) else None
    rw.replace(op, product if addend is None else Add(product.result, addend, location=op.location))
