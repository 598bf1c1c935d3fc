"""Bias correction: the mean error that quantisation gives a layer's results goes into its bias.

After M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, Data-free quantization through weight equalization
and bias correction (ICCV 2019), with means measured on samples. A layer is linear, so the mean error of its
results is the layer of the mean of its inputs: borders and all are exact. What reaches the layer from before
is taken to be corrected already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data
from rtcc.ir import Module, Value
from rtcc.quantization.collection import Collecting
from rtcc.quantization.placement import Layer
from rtcc.quantization.running import probe
from rtcc.quantization.scheme import Parameters

Array = NDArray[Any]

SAMPLES = 64
"""How many samples means are taken over: they settle much sooner than extremes."""


@dataclass(frozen=True)
class Means:
    """The mean over samples of a layer's input, as it is and as it is quantised."""

    exact: Array
    quantized: Array


def measure_means(
    module: Module, values: Mapping[Value, Parameters], data: Data, how: Collecting
) -> dict[Value, Means]:
    """The means of values of the float module, by value; values: with the parameters that they will have."""
    watch = probe(module, list(values), how.target)
    sums: list[list[Array]] = []
    count = 0
    for feeds in data.samples(most=SAMPLES if how.most is None else min(how.most, SAMPLES)):
        arrays = watch.watched(feeds)
        both = [
            [array.astype(np.float64), chosen.restored(chosen.quantized(array)).astype(np.float64)]
            for array, chosen in zip(arrays, values.values(), strict=True)
        ]
        if not sums:
            sums = both
        elif all(one[0].shape == other[0].shape for one, other in zip(sums, both, strict=True)):
            sums = [
                [a + b for a, b in zip(one, other, strict=True)]
                for one, other in zip(sums, both, strict=True)
            ]
        else:
            return {}  # sizes differ from sample to sample: there is no mean
        count += 1
    return {
        value: Means(*(total / count for total in pair)) for value, pair in zip(values, sums, strict=True)
    }


def mean_error(layer: Layer, means: Means, weight: Array) -> Array:
    """What a layer's results are too large by on average, per output channel, with that weight."""
    exact = _linear(layer, means.exact, layer.weight.array.astype(np.float64))
    found = _linear(layer, means.quantized, weight.astype(np.float64))
    difference = found - exact
    channel = 1 if layer.op.name.startswith("nn.conv") else difference.ndim - 1
    others = tuple(axis for axis in range(difference.ndim) if axis != channel)
    return np.asarray(difference.mean(axis=others))


def _linear(layer: Layer, data: Array, weight: Array) -> Array:
    """The layer without its bias."""
    results = layer.op.evaluate(data, weight)
    return np.asarray(results[0] if isinstance(results, tuple) else results)
