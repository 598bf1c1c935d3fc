"""Layers settled one after the other: weights and biases chosen on what quantised layers before them give.

The model is run op by op over some samples twice at once, as it is and as it is quantised so far. At each
layer its weights are rounded, and the mean error of its results, that of all before it included, goes into
its bias before the next layer is looked at: so errors are corrected where they arise, and what was left of
them further on.

Bias correction after M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, Data-free quantization through
weight equalization and bias correction (ICCV 2019), with means measured on samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data
from rtcc.interpreter import Environment, Run, bind_feeds
from rtcc.ir import Constant, DType, Graph, Module, Op, Return, Value
from rtcc.ir.ops.nn import Conv, ConvTranspose
from rtcc.linear.layers import Layer
from rtcc.linear.matrices import rows_of
from rtcc.linear.moments import Moments
from rtcc.quantization.calibration.collection import Collecting
from rtcc.quantization.recovery.least_squares import can_round, nearest_results, rounded
from rtcc.quantization.scheme import SMALLEST_SCALE, Parameters, Rounding, Settings
from rtcc.quantization.weights import QuantizedWeight, quantize_weight

Array = NDArray[Any]

FEWEST, MOST = 16, 64
"""Samples that layers are settled on, where there are as many: as many as `LARGEST_WORK` allows."""

LARGEST_WORK = 2e10
"""Operations of the float model over all samples, up to which more than the fewest are taken."""

LARGEST_MEMORY = 2**29
"""Bytes that the largest activation takes over all samples, up to which more than the fewest are taken."""

LARGEST_BIAS = 2.0**30
"""What an integer bias stays below in magnitude, so that the sum that it joins has as much room left."""


@dataclass(frozen=True)
class Settled:
    """A layer's weight as integers; how much too large its results are per channel, None if not measured."""

    weight: QuantizedWeight
    error: Array | None = None


@dataclass
class _Sample:
    """One sample on its way through the float model and the quantised one."""

    run: Run
    exact: Environment
    found: Environment


def settle(
    module: Module,
    layers: Sequence[Layer],
    chosen: Mapping[Value, Parameters],
    settings: Settings,
    data: Data | None,
    how: Collecting,
) -> dict[Layer, Settled]:
    """What becomes of each layer's weight and bias; chosen: parameters of the values that are quantised.

    Without data, or where the settings ask for nothing that takes any, weights are rounded to the nearest.
    Layers that share a weight share its integers, settled at the first.
    """
    weights = _Weights(layers, chosen, settings)
    measured = settings.bias_correction or settings.rounding is Rounding.LEAST_SQUARES
    if data is None or not measured or not layers:
        return {layer: Settled(weights.nearest(layer)) for layer in layers}
    return _Settling(module.main, layers, chosen, settings, weights).run(_samples(module, data, how))


class _Settling:
    def __init__(
        self,
        main: Graph,
        layers: Sequence[Layer],
        chosen: Mapping[Value, Parameters],
        settings: Settings,
        weights: _Weights,
    ) -> None:
        self._main = main
        self._open: dict[Op, Layer] = {layer.op: layer for layer in layers}
        self._chosen, self._settings, self._weights = chosen, settings, weights
        self._found: dict[Layer, Settled] = {}

    def run(self, samples: list[_Sample]) -> dict[Layer, Settled]:
        for sample in samples:
            self._quantize(sample, self._main.parameters)
        deaths = samples[0].run.deaths_in(self._main)
        for op in self._main.ops:
            if not self._open or isinstance(op, Return):
                break
            layer = self._open.pop(op, None)
            for sample in samples:
                sample.run.step(sample.exact, op)
                if layer is None:
                    _follow(sample, op)
            if layer is not None:
                self._settle(layer, samples)
            for sample in samples:
                self._quantize(sample, op.results)
                for value in deaths.get(op, ()):
                    sample.exact.pop(value, None)
                    sample.found.pop(value, None)
        return self._found

    def _quantize(self, sample: _Sample, values: Sequence[Value]) -> None:
        for value in values:
            if value in self._chosen:
                chosen = self._chosen[value]
                sample.found[value] = chosen.restored(chosen.quantized(sample.found[value]))

    def _settle(self, layer: Layer, samples: list[_Sample]) -> None:
        """Choose a layer's weight and the error to be taken out, and give its results."""
        weight = self._weight(layer, samples)
        restored = weight.restored.astype(np.float32)
        result = layer.op.result
        for sample in samples:
            operands: list[Array | None] = [
                None if v is None else _array(sample, v) for v in layer.op.operands
            ]
            operands[layer.weight_slot] = restored
            sample.found[result] = _first(layer.op.evaluate(*operands))
        error = self._error(layer, samples)
        self._found[layer] = Settled(weight, error)
        if error is None:
            return
        for sample in samples:
            shape = [1] * sample.found[result].ndim
            shape[_channel_axis(layer, len(shape))] = -1
            sample.found[result] = (sample.found[result] - error.reshape(shape)).astype(np.float32)

    def _weight(self, layer: Layer, samples: list[_Sample]) -> QuantizedWeight:
        if self._settings.rounding is Rounding.NEAREST or not can_round(layer):
            return self._weights.nearest(layer)
        moments: Moments | None = None
        for number, sample in enumerate(samples):
            exact, found = (rows_of(layer, each[layer.data], number) for each in (sample.exact, sample.found))
            moments = moments or Moments.of(len(found), found.shape[2], found.shape[2])
            moments.add(found, exact - found)
        assert moments is not None
        return self._weights.rounded(layer, moments)

    def _error(self, layer: Layer, samples: list[_Sample]) -> Array | None:
        """The mean by which a layer's results are too large, per channel."""
        if not self._settings.bias_correction or not layer.takes_bias:
            return None
        result, errors = layer.op.result, list[Array]()
        for sample in samples:
            difference = sample.found[result].astype(np.float64) - sample.exact[result]
            channel = _channel_axis(layer, difference.ndim)
            others = tuple(axis for axis in range(difference.ndim) if axis != channel)
            errors.append(np.asarray(difference.mean(axis=others)))
        return np.asarray(np.mean(errors, axis=0))


class _Weights:
    """The integers of weights, one for all layers that share one and its channels."""

    def __init__(
        self, layers: Sequence[Layer], chosen: Mapping[Value, Parameters], settings: Settings
    ) -> None:
        self._settings = settings
        self._floors = _floors(layers, chosen, settings)
        self._done: dict[tuple[Constant, int | None], QuantizedWeight] = {}

    def nearest(self, layer: Layer) -> QuantizedWeight:
        """Each weight rounded by itself."""
        key = _key(layer, self._settings)
        if key not in self._done:
            self._done[key] = self._scaled(layer, layer.weight.array)
        return self._done[key]

    def rounded(self, layer: Layer, moments: Moments) -> QuantizedWeight:
        """By least squares."""
        key = _key(layer, self._settings)
        if key not in self._done:
            weight = nearest_results(layer, moments)
            self._done[key] = rounded(layer, weight, moments, self._scaled(layer, weight))
        return self._done[key]

    def _scaled(self, layer: Layer, weight: Array) -> QuantizedWeight:
        key = _key(layer, self._settings)
        return quantize_weight(weight, DType.I8, self._settings.weights, key[1], self._floors.get(key))


def _key(layer: Layer, settings: Settings) -> tuple[Constant, int | None]:
    """What layers have in common that share a weight's integers: it, and the axis that has scales."""
    return layer.weight, layer.channel_axis if settings.per_channel else None


def _floors(
    layers: Sequence[Layer], chosen: Mapping[Value, Parameters], settings: Settings
) -> dict[tuple[Constant, int | None], Array]:
    """The least scales with which the biases of the layers that share a weight fit into 32 bits."""
    floors: dict[tuple[Constant, int | None], Array] = {}
    for layer in layers:
        data = chosen.get(layer.data)
        if layer.bias is None or data is None:
            continue
        key = _key(layer, settings)
        magnitude = np.abs(layer.bias.array.astype(np.float64))
        if key[1] is None:
            magnitude = magnitude.max(initial=0.0)
        least = np.maximum(magnitude / LARGEST_BIAS, 2 * SMALLEST_SCALE) / float(data.scale)
        floors[key] = np.maximum(floors[key], least) if key in floors else np.asarray(least)
    return floors


def _samples(module: Module, data: Data, how: Collecting) -> list[_Sample]:
    """Samples at the graph's entry."""
    count = _affordable(module.main)
    found: list[_Sample] = []
    for feeds in data.samples(most=count if how.most is None else min(how.most, count)):
        arrays, sizes = bind_feeds(module.main, feeds, "native")
        entry = dict(zip(module.main.parameters, arrays, strict=True))
        found.append(_Sample(Run(module, sizes, "native"), dict(entry), dict(entry)))
    assert found, "ranges were gathered from samples"
    return found


def _affordable(main: Graph) -> int:
    """How many samples to settle on: by the work and by the memory that they take."""
    work = sum(op.operations() for op in main.ops if _is_static(op))
    sizes = [value.type.elements * 4 for op in main.ops if _is_static(op) for value in op.results]
    allowed = min(LARGEST_WORK / max(work, 1), LARGEST_MEMORY / max(sizes, default=1))
    return int(min(max(allowed, FEWEST), MOST))


def _is_static(op: Op) -> bool:
    return all(isinstance(size, int) for value in _values(op) for size in value.type.shape)


def _values(op: Op) -> Iterator[Value]:
    yield from op.present_operands
    yield from op.results


def _follow(sample: _Sample, op: Op) -> None:
    """Run in the quantised model what the float one has run; not where both read the same."""
    reads = list(sample.found) if op.regions else [v for v in op.present_operands if v in sample.found]
    if all(sample.found[value] is sample.exact[value] for value in reads):
        sample.found.update((value, sample.exact[value]) for value in op.results)
    else:
        sample.run.step(sample.found, op)


def _array(sample: _Sample, value: Value) -> Array:
    """What the quantised model holds."""
    return np.asarray(value.array) if isinstance(value, Constant) else sample.found[value]


def _first(results: Array | tuple[Array, ...]) -> Array:
    return np.asarray(results[0] if isinstance(results, tuple) else results, np.float32)


def _channel_axis(layer: Layer, rank: int) -> int:
    """The axis of a layer's result that holds the channels."""
    return 1 if isinstance(layer.op, Conv | ConvTranspose) else rank - 1
