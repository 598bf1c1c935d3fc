"""What samples say: statistics of layers, and factors fitted to what the layers computed before.

The exact model and the factorised one run over the samples op by op. With x what a layer reads now and y what
it gave, its two layers become those with which x gives most nearly y. By `channel` that is solved at once:
with M the least-squares weights of y by x and V the main components of x·M, they are M·V and V' (reduced-rank
regression, A. Izenman 1975; for convolutions X. Zhang et al., TPAMI 2016). By the other schemes the first
layer keeps its vectors, and the second is fitted to what that gives. Biases take the means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.data import Data
from rtcc.factorization.spectra import Statistics, main_vectors
from rtcc.interpreter import interpret
from rtcc.ir import Module, Op, Value
from rtcc.ir.ops.nn import Conv
from rtcc.linear.layers import Layer
from rtcc.linear.matrices import as_matrices, rows_of
from rtcc.linear.moments import LARGEST_SUM, Moments
from rtcc.linear.running import Sample

Array = NDArray[Any]


def statistics(module: Module, layers: Sequence[Layer], data: Data, most: int) -> dict[Op, Statistics]:
    """The power of what layers read, and the covariance of what they give, over some samples."""
    readers: dict[Value, list[Layer]] = {}
    for layer in layers:
        readers.setdefault(layer.data, []).append(layer)
    sums: dict[Op, _Sums] = {layer.op: _Sums() for layer in layers}
    number = -1

    def note(value: Value, array: Array) -> None:
        for layer in readers.get(value, ()):
            rows = rows_of(layer, array, number)[0]
            sums[layer.op].add(rows, rows @ as_matrices(layer, layer.weight.array)[0])

    for feeds in data.some(most):
        number += 1
        interpret(module, feeds, observe=note)
    return {layer.op: sums[layer.op].statistics(layer) for layer in layers}


@dataclass
class _Sums:
    """Over rows: how many, the squares of what is read, the results and their products."""

    rows: int = 0
    squares: Array = field(default_factory=lambda: np.zeros(1))
    results: Array = field(default_factory=lambda: np.zeros(1))
    products: Array = field(default_factory=lambda: np.zeros((1, 1)))

    def add(self, read: Array, given: Array) -> None:
        self.rows += len(read)
        self.squares = self.squares + np.square(read).sum(0)
        self.results = self.results + given.sum(0)
        self.products = self.products + given.T @ given

    def statistics(self, layer: Layer) -> Statistics:
        """Where the bias can take the mean, what varies counts alone."""
        mean = self.results / self.rows
        covariance = self.products / self.rows
        if layer.takes_bias:
            covariance = covariance - np.outer(mean, mean)
        each = self.squares / self.rows
        taps = int(np.prod(layer.weight.type.sizes[2:])) if isinstance(layer.op, Conv) else 1
        return Statistics(each.reshape(-1, taps).mean(1), covariance)


@dataclass(frozen=True)
class Fitted:
    """Weights of a layer as matrices [summand, output], and what is added to the results' bias."""

    weight: Array
    shift: Array | None


class Regression:
    """Least squares of results y by rows x, starting from a weight: sums over rows, then the weight.

    Weights of longer sums than are solved for stay as they are; what counts of their rows is x·weight.
    """

    def __init__(self, start: Array, *, bias: bool) -> None:
        """start: [summand, output], kept where the rows say nothing. bias: means are taken out."""
        summands, outputs = start.shape
        self.start, self.bias, self.solves = start, bias, summands <= LARGEST_SUM
        self._moments = Moments.of(1, summands if self.solves else outputs, outputs)

    def add(self, read: Array, wanted: Array) -> None:
        """Count rows x [row, summand] and y [row, output]."""
        given = read @ self.start
        self._moments.add((read if self.solves else given)[None], (wanted - given)[None])

    def fitted(self) -> Fitted:
        """The weight with which x gives most nearly y."""
        if not self.solves:
            return Fitted(self.start, self._moments.means()[1][0] if self.bias else None)
        change, shift = self._moments.solved(bias=self.bias)
        return Fitted(self.start + change[0], None if shift is None else shift[0])

    def components(self, fitted: Fitted, count: int) -> tuple[Array, Array | None]:
        """The main components [output, component] of x·weight, and what their bias is beside the weight's."""
        covariance, mean = self._moments.covariances(centred=self.bias)[0][0], self._moments.means()[0][0]
        if self.solves:
            covariance, mean = fitted.weight.T @ covariance @ fitted.weight, mean @ fitted.weight
        main = main_vectors(covariance, count)
        return main, None if fitted.shift is None else fitted.shift + mean - main @ (main.T @ mean)


def results(layer: Layer, samples: Sequence[Sample]) -> Iterator[Array]:
    """Some rows of what a layer of the exact model sums up to, sample by sample: [row, output]."""
    weight = as_matrices(layer, layer.weight.array.astype(np.float64))[0]
    for number, sample in enumerate(samples):
        yield rows_of(layer, sample.large[layer.data], number)[0] @ weight


def fit_channel(
    layer: Layer, data: Value, rank: int, samples: Sequence[Sample]
) -> tuple[Array, Array, Array | None]:
    """Both factors of a layer that reads `data` in the factorised model, and the shift of its bias."""
    weight = as_matrices(layer, layer.weight.array.astype(np.float64))[0]
    found = Regression(weight, bias=layer.takes_bias)
    for number, wanted in enumerate(results(layer, samples)):
        found.add(rows_of(layer, samples[number].small[data], number)[0], wanted)
    fitted = found.fitted()
    main, shift = found.components(fitted, rank)
    return (fitted.weight @ main)[None], main.T[None], shift


def fit_second(layer: Layer, second: Layer, reads: Sequence[Array], samples: Sequence[Sample]) -> Fitted:
    """The second layer's weight, for what the first one gives of each sample."""
    start = as_matrices(second, second.weight.array.astype(np.float64))[0]
    found = Regression(start, bias=layer.takes_bias)
    for number, wanted in enumerate(results(layer, samples)):
        found.add(rows_of(second, reads[number], number)[0], wanted)
    return found.fitted()
