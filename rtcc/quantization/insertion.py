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

from rtcc.ir import Constant, DType, Location, Module, Op, Return, Value
from rtcc.ir.ops.quant import DequantizeLinear, QuantizeLinear
from rtcc.pipeline import Rewriter
from rtcc.quantization.least_squares import Moments, nearest_results, rounded
from rtcc.quantization.means import Means, mean_error
from rtcc.quantization.placement import Layer, Placed
from rtcc.quantization.ranges import Range
from rtcc.quantization.scheme import SMALLEST_SCALE, Parameters, Settings
from rtcc.quantization.weights import QuantizedWeight, quantize_weight

LARGEST_BIAS = 2.0**30
"""What an integer bias stays below in magnitude, so that the sum that it joins has as much room left."""


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


@dataclass(frozen=True)
class Measured:
    """What was measured of layers' inputs on samples: means by value, products by layer."""

    means: Mapping[Value, Means] = field(default_factory=dict[Value, Means])
    moments: Mapping[Layer, Moments] = field(default_factory=dict[Layer, Moments])


@dataclass
class Inserted:
    """What was quantised, in the order of the graph."""

    tensors: list[QuantizedTensor] = field(default_factory=list[QuantizedTensor])
    layers: list[QuantizedLayer] = field(default_factory=list[QuantizedLayer])


def insert_pairs(
    module: Module,
    placed: Placed,
    chosen: Mapping[Value, tuple[Range, Parameters]],
    settings: Settings,
    pass_name: str,
    measured: Measured | None = None,
) -> Inserted:
    """Quantise what is placed, in place; chosen: what became of one value of each group at least.

    measured: of inputs of layers, by which weights are rounded and biases corrected.
    """
    return _Insertion(module, settings, pass_name, measured or Measured()).run(placed, chosen)


class _Insertion:
    def __init__(self, module: Module, settings: Settings, pass_name: str, measured: Measured) -> None:
        self._measured = measured
        self._rewriter = Rewriter(module, pass_name)
        self._main = module.main
        self._settings = settings
        self._parameters: dict[Value, Parameters] = {}
        self._weights: dict[tuple[Constant, int | None], tuple[Value, QuantizedWeight]] = {}
        self._found = Inserted()

    def run(self, placed: Placed, chosen: Mapping[Value, tuple[Range, Parameters]]) -> Inserted:
        order = {value: number for number, value in enumerate(placed.values)}
        for group in placed.groups:
            self._insert_group(group, *next(chosen[value] for value in group if value in chosen))
        self._found.tensors.sort(key=lambda each: order[_source(each.restored)])
        floors = self._floors(placed.layers)
        for layer in placed.layers:
            self._quantize_layer(layer, floors.get((layer.weight, self._axis(layer))))
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
        place(self._rewriter, restored, before=self._after(value))
        for use in uses:
            self._rewriter.set_operand(use.op, use.slot, restored.result)
        return restored.result

    def _after(self, value: Value) -> Op:
        """The first op that stands after a value is there."""
        following = next(self._main.ops) if value.producer is None else value.producer.next
        assert following is not None
        return following

    def _axis(self, layer: Layer) -> int | None:
        return layer.channel_axis if self._settings.per_channel else None

    def _floors(self, layers: list[Layer]) -> dict[tuple[Constant, int | None], NDArray[Any]]:
        """The least scales with which the biases of the layers that share a weight fit into 32 bits."""
        floors: dict[tuple[Constant, int | None], NDArray[Any]] = {}
        for layer in layers:
            data = self._parameters.get(layer.op.operands[0] or layer.data)
            if layer.bias is None or data is None:
                continue
            magnitude = np.abs(layer.bias.array.astype(np.float64))
            if self._axis(layer) is None:
                magnitude = magnitude.max(initial=0.0)
            least = np.maximum(magnitude / LARGEST_BIAS, 2 * SMALLEST_SCALE) / float(data.scale)
            key = (layer.weight, self._axis(layer))
            floors[key] = np.maximum(floors[key], least) if key in floors else np.asarray(least)
        return floors

    def _quantize_layer(self, layer: Layer, floor: NDArray[Any] | None) -> None:
        weight, found = self._weight(layer, floor)
        self._rewriter.set_operand(layer.op, layer.weight_slot, weight)
        data = self._parameters.get(layer.op.operands[0] or layer.data)
        bias = self._corrected_bias(layer, found)
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

    def _corrected_bias(self, layer: Layer, weight: QuantizedWeight) -> Constant | None:
        """The bias less the mean error of the layer's results, where means are known; else as it is."""
        means = self._measured.means.get(layer.data)
        if means is None or not layer.takes_bias:
            return layer.bias
        error = mean_error(layer, means, weight.restored)
        name = layer.bias.symbol if layer.bias is not None else f"{layer.weight.symbol}.bias"
        old = 0.0 if layer.bias is None else layer.bias.array.astype(np.float64)
        return self._rewriter.constant(np.asarray(old - error, np.float32), name=name)

    def _weight(self, layer: Layer, floor: NDArray[Any] | None) -> tuple[Value, QuantizedWeight]:
        """The dequantised weight, one for all layers that share it."""
        key = (layer.weight, self._axis(layer))
        if key not in self._weights:
            moments = self._measured.moments.get(layer)
            weight = layer.weight.array if moments is None else nearest_results(layer, moments)
            found = quantize_weight(weight, DType.I8, self._settings.weights, self._axis(layer), floor)
            if moments is not None:
                found = rounded(layer, weight, moments, found)
            value = dequantized_weight(self._rewriter, layer.weight, found, before=layer.op)
            self._weights[key] = value, found
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
        return place(rw, op, before=layer.op)


def place(rw: Rewriter, op: Op, *, before: Op) -> Value:
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
    return place(rw, op, before=before)


def _source(restored: Value) -> Value:
    """The value that a pair was put on."""
    assert restored.producer is not None
    quantized = next(restored.producer.present_operands).producer
    assert quantized is not None
    return next(quantized.present_operands)
