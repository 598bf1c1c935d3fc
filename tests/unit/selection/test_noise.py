"""What rounding in one layer is estimated to do to the results, against noise that is really added there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, Op, TensorType, Value
from rtcc.ir.ops import activation, math, movement, nn, pooling, softmax
from rtcc.selection.noise import noise_of_results

CHANNELS, SIZE = 24, 24
EPSILON = 1e-3
"""The noise that is added, relative to the root of the squared terms' sum."""

Layers = Callable[["Network", Value], Value]


class Network:
    """Convolutions of seeded weights, to the first of which noise is added by a second input."""

    def __init__(self, layers: Layers, *, centred: bool) -> None:
        self.random, self.centred = np.random.default_rng(1), centred
        self.module = Module()
        shape = (1, CHANNELS, SIZE, SIZE)
        inputs = [(name, TensorType(DType.F32, shape)) for name in ("x", "noise")]
        self.graph = self.module.add_graph(Graph("main", inputs))
        data, noise = self.graph.parameters
        first = self.conv(data)
        self.first = first.producer
        self.graph.return_(layers(self, self.add(first, noise)))

    def add(self, *values: Value) -> Value:
        return self.graph.append(math.Add(*values)).result

    def conv(self, data: Value, filters: int = CHANNELS) -> Value:
        """A convolution of 3x3, its variance that of its input; centred: each filter sums to 0."""
        shape = (filters, data.type.sizes[1], 3, 3)
        weight = self.random.standard_normal(shape)
        if self.centred:
            weight -= weight.mean((1, 2, 3), keepdims=True)
        weight *= np.sqrt(2 / np.prod(shape[1:]))
        name = f"w{len(self.module.constants)}"
        constant = self.module.add_constant(name, weight.astype(np.float32))
        return self.graph.append(nn.Conv(data, constant, pads=(1, 1, 1, 1))).result

    def relu(self, data: Value) -> Value:
        return self.graph.append(activation.Relu(data)).result

    def estimated(self) -> float:
        """The standard deviation at the result, over its root mean square."""
        assert isinstance(self.first, Op)
        return EPSILON * float(np.sqrt(noise_of_results(self.module.main, [self.first])[0, 0]))

    def measured(self) -> float:
        """The same, by adding noise; of a softmax, over each element."""
        shape = (1, CHANNELS, SIZE, SIZE)
        weight = self.module.constants["w0"].array.astype(np.float64)
        x = np.random.default_rng(2).standard_normal(shape)
        power = EPSILON**2 * (weight**2).sum((1, 2, 3)).mean()
        noise = np.sqrt(power) * np.random.default_rng(3).standard_normal(shape)
        feeds = [{"x": x, "noise": scale * noise} for scale in (0.0, 1.0)]
        exact, noisy = (next(iter(interpret(self.module, each, precision="f64").values())) for each in feeds)
        has_softmax = any(isinstance(op, softmax.Softmax) for op in self.module.main.ops)
        scale = exact if has_softmax else np.sqrt(np.mean(exact**2))
        return float(np.sqrt(np.mean(((noisy - exact) / scale) ** 2)))


def chain(network: Network, data: Value) -> Value:
    for _ in range(6):
        data = network.conv(network.relu(data))
    return data


def pooled(network: Network, data: Value) -> Value:
    for _ in range(2):
        data = network.relu(network.conv(network.relu(data)))
        data = network.graph.append(pooling.MaxPool(data, kernel_shape=(2, 2), strides=(2, 2))).result
    return network.conv(data)


def residual(network: Network, data: Value) -> Value:
    for _ in range(3):
        data = network.add(data, network.conv(network.relu(network.conv(network.relu(data)))))
    return data


def gated(network: Network, data: Value) -> Value:
    for _ in range(3):
        gate = network.graph.append(activation.HardSigmoid(data)).result
        data = network.conv(network.graph.append(math.Mul(data, gate)).result)
    return data


def joined(network: Network, data: Value) -> Value:
    for _ in range(3):
        new = network.conv(network.relu(data), 8)
        data = network.graph.append(movement.Concat(data, new, axis=1)).result
    return network.conv(network.relu(data))


def averaged(network: Network, data: Value) -> Value:
    data = network.relu(network.conv(network.relu(data)))
    return network.graph.append(pooling.GlobalAveragePool(data)).result


def probabilities(network: Network, data: Value) -> Value:
    return network.graph.append(softmax.Softmax(chain(network, data), axis=1)).result


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("layers", [chain, pooled, residual, gated, joined, averaged, probabilities])
def test_noise_grows_as_estimated(layers: Layers, centred: bool) -> None:
    network = Network(layers, centred=centred)
    assert 0.5 < network.estimated() / network.measured() < 1.5


def test_filters_that_sum_to_nothing_leave_noise_and_take_the_signal() -> None:
    usual, centred = (Network(chain, centred=centred).estimated() for centred in (False, True))
    assert usual < 1.5 * EPSILON
    assert centred > 2.2 * EPSILON


def test_what_is_not_known_leaves_noise_as_it_was() -> None:
    def unknown(network: Network, data: Value) -> Value:
        other = network.conv(network.relu(data))
        return network.graph.append(nn.MatMul(other, other)).result

    found = Network(unknown, centred=False).estimated()
    assert found == pytest.approx(EPSILON, rel=0.3)
