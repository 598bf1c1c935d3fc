"""Pairs of QuantizeLinear and DequantizeLinear put into a module, and weights replaced by integers.

What comes out is what reading an exported QDQ model gives:

    %x.q  = quant.quantize_linear(%x, #x.scale, #x.zero_point)
    %x.dq = quant.dequantize_linear(%x.q, #x.scale, #x.zero_point)          every reader of %x reads %x.dq
    %w    = quant.dequantize_linear(#w.q, #w.scale, #w.zero_point) {axis = 0}
    %b    = quant.dequantize_linear(#b.q, #b.scale) {axis = 0}              i32, scale(x) · scale(w)
    %y    = nn.conv(%x.dq, %w, %b)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, Location, Module, Op, Return, Value
from rtcc.ir.ops.quant import DequantizeLinear, QuantizeLinear
from rtcc.linear.layers import Layer
from rtcc.pipeline import Rewriter
from rtcc.quantization.calibration.ranges import Range
from rtcc.quantization.placement import Placed
from rtcc.quantization.recovery.settling import Settled
from rtcc.quantization.scheme import SMALLEST_SCALE, Parameters
from rtcc.quantization.weights import QuantizedWeight


@dataclass(frozen=True)
class QuantizedTensor:
    """What became of an activation: its range and parameters, and the value that readers read now."""

    name: str
    range: Range
    parameters: Parameters
    restored: Value


@dataclass(frozen=True)
class QuantizedLayer:
    """What became of a layer's weight; output: the name of the layer's result."""

    name: str
    operator: str
    weight: str
    output: str
    before: NDArray[Any]
    after: QuantizedWeight

    is_transposed: bool = False
    """Whether the integers are those of the transposed weight."""

    @property
    def restored(self) -> NDArray[Any]:
        """The weight that the integers stand for, in the layer's own order of axes."""
        return self.after.restored.T if self.is_transposed else self.after.restored


@dataclass
class Inserted:
    """What was quantised, in the order of the graph."""

    tensors: list[QuantizedTensor] = field(default_factory=list[QuantizedTensor])
    layers: list[QuantizedLayer] = field(default_factory=list[QuantizedLayer])


def insert_pairs(
    module: Module,
    placed: Placed,
    chosen: Mapping[Value, tuple[Range, Parameters]],
    settled: Mapping[Layer, Settled],
    pass_name: str,
) -> Inserted:
    """Quantise what is placed, in place.

    chosen: what became of one value of each group at least. settled: of each layer's weight and bias.
    """
    return _Insertion(module, settled, pass_name).run(placed, chosen)


class _Insertion:
    def __init__(self, module: Module, settled: Mapping[Layer, Settled], pass_name: str) -> None:
        self._settled = settled
        self._rewriter = Rewriter(module, pass_name)
        self._main = module.main
        self._parameters: dict[Value, Parameters] = {}
        self._weights: dict[tuple[Constant, int | None], Value] = {}
        self._found = Inserted()

    def run(self, placed: Placed, chosen: Mapping[Value, tuple[Range, Parameters]]) -> Inserted:
        order = {value: number for number, value in enumerate(placed.values)}
        for group in placed.groups:
            self._insert_group(group, *next(chosen[value] for value in group if value in chosen))
        self._found.tensors.sort(key=lambda each: order[_source(each.restored)])
        for layer in placed.layers:
            self._quantize_layer(layer)
        self._rewriter.tidy_constants()
        return self._found

    def _insert_group(self, group: list[Value], found: Range, chosen: Parameters) -> None:
        """Pairs on the values that have one scale."""
        stem = group[0].name or "activation"
        scale = self._rewriter.constant(chosen.scale, name=f"{stem}.scale")
        zero = self._rewriter.constant(chosen.zero_point, name=f"{stem}.zero_point")
        for value in group:
            restored = self._insert_pair(value, scale, zero)
            self._parameters[restored] = chosen
            self._found.tensors.append(QuantizedTensor(value.name or stem, found, chosen, restored))

    def _insert_pair(self, value: Value, scale: Constant, zero: Constant) -> Value:
        uses = [use for use in value.uses if not isinstance(use.op, Return)]
        quantized = QuantizeLinear(value, scale, zero)
        restored = DequantizeLinear(quantized.result, scale, zero)
        quantized.result.name, restored.result.name = f"{value.name}.q", f"{value.name}.dq"
        insert_op(self._rewriter, restored, before=self._after(value))
        for use in uses:
            self._rewriter.set_operand(use.op, use.slot, restored.result)
        return restored.result

    def _after(self, value: Value) -> Op:
        """The first op that stands after a value is there."""
        following = next(self._main.ops) if value.producer is None else value.producer.next
        assert following is not None
        return following

    def _quantize_layer(self, layer: Layer) -> None:
        found = self._settled[layer].weight
        self._rewriter.set_operand(layer.op, layer.weight_slot, self._weight(layer, found))
        data = self._parameters.get(layer.data)
        bias = self._corrected_bias(layer)
        self._found.layers.append(
            QuantizedLayer(
                layer.name,
                layer.op.name,
                layer.weight.symbol,
                layer.op.result.name or "",
                layer.weight.array,
                found,
            )
        )
        if bias is None or (data is None and bias is layer.bias):
            return
        addend = bias if data is None else self._bias(layer, bias, data, found)
        if len(layer.op.operands) > 2:
            self._rewriter.set_operand(layer.op, 2, addend)
        else:
            self._rewriter.replace(layer.op, type(layer.op)(*layer.op.operands[:2], addend, like=layer.op))

    def _corrected_bias(self, layer: Layer) -> Constant | None:
        """The bias less the mean error of the layer's results, where that is known; else as it is."""
        error = self._settled[layer].error
        if error is None:
            return layer.bias
        name = layer.bias.symbol if layer.bias is not None else f"{layer.weight.symbol}.bias"
        old = 0.0 if layer.bias is None else layer.bias.array.astype(np.float64)
        return self._rewriter.constant(np.asarray(old - error, np.float32), name=name)

    def _weight(self, layer: Layer, found: QuantizedWeight) -> Value:
        """The dequantised weight, one for all layers that share it."""
        key = (layer.weight, found.axis)
        if key not in self._weights:
            self._weights[key] = dequantized_weight(self._rewriter, layer.weight, found, before=layer.op)
        return self._weights[key]

    def _bias(self, layer: Layer, bias: Constant, data: Parameters, weight: QuantizedWeight) -> Value:
        """The bias in 32 bits, in the scale of the sum that it joins; as it is where it does not fit."""
        scale = np.asarray(data.scale * weight.parameters.scale, np.float32)
        if scale.min() < SMALLEST_SCALE:
            return bias
        integers = np.rint(bias.array.astype(np.float64) / scale)
        if np.abs(integers).max(initial=0.0) > np.iinfo(np.int32).max:
            return bias
        rw = self._rewriter
        op = DequantizeLinear(
            rw.constant(integers.astype(np.int32), name=f"{bias.symbol}.q"),
            rw.constant(scale, name=f"{bias.symbol}.scale"),
            axis=0,
        )
        op.result.name = f"{bias.symbol}.dq"
        return insert_op(rw, op, before=layer.op)


def insert_op(rw: Rewriter, op: Op, *, before: Op) -> Value:
    """Insert an op, and the one that makes its operand, as of no ONNX node: nodes keep their names."""
    made = [op, *(v.producer for v in op.present_operands if v.producer and v.producer.graph is None)]
    rw.insert(op, before=before)
    for each in made:
        each.location = Location().by(rw.pass_name)
    return op.result


def dequantized_weight(rw: Rewriter, weight: Constant, found: QuantizedWeight, *, before: Op) -> Value:
    """A constant's integers and the op that makes real numbers of them."""
    stem = weight.symbol
    chosen = found.parameters
    attributes: dict[str, Any] = {} if found.axis is None else {"axis": found.axis}
    if found.block:
        attributes["block_size"] = found.block
    is_splat = weight.is_splat and bool((found.data == found.data.flat[0]).all())
    integers = np.asarray(found.data.flat[0] if is_splat else found.data, chosen.dtype.numpy)
    op = DequantizeLinear(
        rw.constant(integers, weight.type.with_dtype(chosen.dtype), name=f"{stem}.q"),
        rw.constant(chosen.scale, name=f"{stem}.scale"),
        rw.constant(chosen.zero_point, name=f"{stem}.zero_point"),
        **attributes,
    )
    op.result.name = f"{stem}.dq"
    return insert_op(rw, op, before=before)


def _source(restored: Value) -> Value:
    """The value that a pair was put on."""
    assert restored.producer is not None
    quantized = next(restored.producer.present_operands).producer
    assert quantized is not None
    return next(quantized.present_operands)
