"""How the rounding noise of layers grows on the way to a graph's results: an estimate from the weights alone.

A layer whose sums err by ε, relative to the root of the sum of their squared terms, adds noise of variance
ε²·Σw²·E[x²] to its results. The layers behind treat it as any other white noise: a convolution multiplies its
variance by Σw² of a filter, a function by its squared slope. They treat the signal otherwise: weights that
sum to nearly zero take its mean away and leave all of the noise. So how a layer's noise compares with the
result in the end follows from how both grow, and this module follows both through the graph.

A value is described by a sample of its elements, as if they were independent of each other: results of sums
are normal, functions are applied to the sample, inputs are standard normal. Operators that nothing is known
of leave noise as large as it was, compared with their results, and so do functions of these.
docs/algorithms.md sets the estimate against measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, Graph, Op, Value
from rtcc.ir.dimension import upper_bound
from rtcc.ir.ops import nn
from rtcc.ir.ops.elementwise import Elementwise
from rtcc.ir.ops.fused import Fused
from rtcc.ir.ops.movement import Concat
from rtcc.ir.ops.pooling import AveragePool, GlobalAveragePool, MaxPool
from rtcc.ir.ops.softmax import Softmax
from rtcc.ir.regions import outer_value
from rtcc.ir.roles import Role

Array = NDArray[np.float64]

SAMPLE = 256
"""Numbers that stand for a value's elements."""

MOST_READ = 1 << 14
"""Elements of a constant that its sample is taken from, at most."""

MOST_POWER_OF_LOGITS = 100.0
"""Mean square of what a softmax reads, at most: of larger numbers it makes zeros and ones, which err less."""

NORMAL: Array = np.array([NormalDist().inv_cdf((i + 0.5) / SAMPLE) for i in range(SAMPLE)])


@dataclass(frozen=True)
class Signal:
    """What is known of a value: a sample of its elements [SAMPLE], and the variance of each one's noise that
    is a layer's share, over the layer's ε² [layers, SAMPLE]. is_known: whether the sample says anything."""

    sample: Array
    noise: Array
    is_known: bool = True

    @property
    def power(self) -> float:
        """The mean square; 1 where the sample is too few to have one."""
        return float(np.mean(self.sample**2)) or 1.0

    @property
    def relative_noise(self) -> Array:
        """[layers]: the mean of the noise, over the mean square."""
        return self.noise.mean(1) / self.power

    def spread_evenly(self, noise: Array, random: np.random.Generator) -> Signal:
        """This sample in any order, each element as noisy."""
        each = np.repeat(noise[:, None], SAMPLE, 1)
        return replace(self, sample=random.permutation(self.sample), noise=each)


def noise_of_results(graph: Graph, layers: Sequence[Op]) -> Array:
    """[results, layers]: the variance of a result's noise over the layer's ε² and the result's mean square.

    layers: the operators that add noise, of this graph or of its regions.
    """
    walk = _Walk({op: number for number, op in enumerate(layers)})
    walk.through(graph)
    terminator = graph.terminator
    assert terminator is not None
    results = [walk.of(value) for value in terminator.present_operands if value.type.dtype.is_float]
    return np.array([result.relative_noise for result in results]).reshape(len(results), len(layers))


class _Walk:
    """Follows the signals of a graph in order."""

    def __init__(self, layers: Mapping[Op, int]) -> None:
        self.layers = layers
        self.known: dict[Value, Signal] = {}
        self.random = np.random.default_rng(0)
        self.silence = np.zeros((len(layers), SAMPLE))

    def of(self, value: Value) -> Signal:
        """What is known of a value: of inputs, that they are standard normal."""
        if value in self.known:
            return self.known[value]
        outer = outer_value(value)
        if outer is not value:
            return self.of(outer)
        noise = self.silence
        if isinstance(value, Constant):
            return Signal(self._sampled(value.array), noise)
        return Signal(NORMAL, noise)

    def through(self, graph: Graph) -> None:
        """All operators of a graph, and of its fused regions."""
        for op in graph.ops:
            if op is graph.terminator:
                continue
            if isinstance(op, Fused):
                self.through(op.body)
                ends = op.body.terminator
                assert ends is not None
                found = [self.of(value) for value in ends.present_operands]
            else:
                found = [self._result(op)] * len(op.results)
            self.known |= dict(zip(op.results, found, strict=False))

    def _result(self, op: Op) -> Signal:
        floats = [value for value in op.present_operands if value.type.dtype.is_float]
        if not floats or not op.results or not op.results[0].type.dtype.is_float:
            return Signal(NORMAL, self.silence, is_known=False)
        if rows := _filters(op):
            return self._sums(op, self.of(floats[0]), *rows)
        data = self.of(floats[0])
        match op:
            case Elementwise():
                return self._function(op)
            case MaxPool():
                return self._largest(data, prod(op.kernel_shape))
            case Concat():
                return self._joined([(self.of(value), _elements(value)) for value in floats])
            case AveragePool() | GlobalAveragePool():
                return self._averaged(data, _elements_read(op) // _elements(op.results[0]))
            case Softmax():  # an error of its operand is a relative error of its result
                power = min(data.power, MOST_POWER_OF_LOGITS)
                ones = Signal(np.ones(SAMPLE), self.silence, data.is_known)
                return ones.spread_evenly(data.relative_noise * power, self.random)
            case _ if op.role is Role.MOVEMENT:
                return data
            case _:
                return self._unknown(op, floats)

    # ---- sums

    def _sums(self, op: Op, data: Signal, filters: NDArray[Any], bias: Value | None) -> Signal:
        """Each filter's sum over independent terms is normal; filters: [M, terms]."""
        filters = filters.astype(np.promote_types(filters.dtype, np.float32), copy=False)
        totals = filters.sum(1, dtype=np.float64)
        squares = np.einsum("mk,mk->m", filters, filters).astype(np.float64)
        means = totals * data.sample.mean()
        offsets = outer_value(bias) if bias is not None else None
        if isinstance(offsets, Constant) and offsets.array.size == means.size:
            means = means + offsets.array.reshape(-1)
        variance = means.var() + squares.mean() * data.sample.var()
        noise = data.noise.mean(1)
        if op in self.layers:
            noise[self.layers[op]] += data.power
        result = Signal(means.mean() + np.sqrt(variance) * NORMAL, self.silence)
        return result.spread_evenly(squares.mean() * noise, self.random)

    # ---- functions

    def _function(self, op: Elementwise) -> Signal:
        signals = [None if value is None else self.of(value) for value in op.operands]
        samples = [None if each is None else each.sample for each in signals]
        is_known = all(each is None or each.is_known for each in signals)
        exact = _applied(op, samples) if is_known else None
        if exact is None:
            return self._unknown(op, list(op.present_operands))
        noise = self.silence
        for slot, signal in enumerate(signals):
            if signal is None or not signal.noise.any():
                continue
            step = 1e-3 * (float(signal.sample.std()) or 1.0)
            moved = list(samples)
            moved[slot] = signal.sample + step
            found = _applied(op, moved)
            slope = (found - exact) / step if found is not None else np.ones(SAMPLE)
            noise = noise + slope**2 * signal.noise
        return Signal(exact, noise)

    def _unknown(self, op: Op, operands: Sequence[Value]) -> Signal:
        """A result as noisy as the noisiest operand."""
        each = [self.of(value).relative_noise for value in operands if value.type.dtype.is_float]
        noise = np.max(each, axis=0)
        if op in self.layers:
            noise[self.layers[op]] += 1.0
        return Signal(NORMAL, self.silence, is_known=False).spread_evenly(noise, self.random)

    # ---- elements taken together

    def _largest(self, data: Signal, count: int) -> Signal:
        """The largest of so many independent elements, each with its own noise."""
        drawn = np.array([self.random.permutation(SAMPLE) for _ in range(count)])
        taken = drawn[data.sample[drawn].argmax(0), np.arange(SAMPLE)]
        return replace(data, sample=data.sample[taken], noise=data.noise[:, taken])

    def _averaged(self, data: Signal, count: int) -> Signal:
        """The mean of so many independent elements."""
        mean = data.sample.mean()
        result = replace(data, sample=mean + (data.sample - mean) / np.sqrt(count))
        return result.spread_evenly(data.noise.mean(1) / count, self.random)

    def _joined(self, parts: Sequence[tuple[Signal, int]]) -> Signal:
        """Elements of several values, from each as many as it has."""
        shares = np.array([count for _, count in parts], np.float64)
        source = self.random.permutation(
            np.searchsorted(np.cumsum(shares) / shares.sum(), (np.arange(SAMPLE) + 0.5) / SAMPLE)
        )
        places = np.arange(SAMPLE)
        samples = np.array([part.sample for part, _ in parts])
        noises = np.array([part.noise for part, _ in parts])
        is_known = all(part.is_known for part, _ in parts)
        return Signal(samples[source, places], noises[source, :, places].T, is_known)

    def _sampled(self, array: NDArray[Any]) -> Array:
        """A sample of a constant's elements; one number stands for itself."""
        flat = array.reshape(-1)
        if flat.size == 0 or flat.dtype.kind not in "fiu":
            return np.zeros(SAMPLE)
        if flat.size == 1:
            return np.full(SAMPLE, float(flat[0]))
        read = flat[:: -(-flat.size // MOST_READ)].astype(np.float64)
        return self.random.permutation(np.quantile(read, (np.arange(SAMPLE) + 0.5) / SAMPLE))


def _filters(op: Op) -> tuple[NDArray[Any], Value | None] | None:
    """[M, terms] and the bias of a layer with constant weights, or None."""
    if not isinstance(op, nn.Conv | nn.Gemm | nn.MatMul):
        return None
    weight = op.operands[1]
    outer = outer_value(weight) if weight is not None else None
    if not isinstance(outer, Constant) or 0 in outer.array.shape:
        return None
    array, bias = outer.array, op.operands[2] if len(op.operands) > 2 else None
    if isinstance(op, nn.Conv):
        return array.reshape(array.shape[0], -1), bias
    if array.ndim != 2:
        return None
    return (array if isinstance(op, nn.Gemm) and op.transB else array.T), bias


def _applied(op: Elementwise, samples: Sequence[Array | None]) -> Array | None:
    """The function of samples; None where it is not finite."""
    found = op.evaluate(*samples)
    array = np.asarray(found[0] if isinstance(found, tuple) else found, np.float64)
    return array if array.shape == (SAMPLE,) and np.isfinite(array).all() else None


def _elements_read(op: Op) -> int:
    """How many elements the pool's windows read, in all."""
    result = _elements(op.results[0])
    if isinstance(op, AveragePool):
        return result * prod(op.kernel_shape)
    return _elements(next(iter(op.present_operands)))


def _elements(value: Value) -> int:
    return prod(upper_bound(size) for size in value.type.shape)
