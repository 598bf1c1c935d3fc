"""How large an error bound layers may have, so that rounding noise at a graph's results stays small.

Layers are chosen by time, and an algorithm's error bound holds for one layer. Behind a layer noise may grow
(`noise`). Where it would exceed the budget, each layer is to have the offer that makes

    seconds + λ · (its share of the noise's variance at the result)

least, λ as small as the budget allows: more exact algorithms go where they save the most noise for their
time. Graphs within the budget are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Graph, Op
from rtcc.selection.decision import Offer
from rtcc.selection.noise import noise_of_results
from rtcc.target import Candidate

BOUND_OVER_DEVIATION = 30.0
"""An error bound over the standard deviation that is measured: 23 to 25 for direct sums and F(2x2, 3x3), 30
for F(3x3, 3x3), 40 for F(4x4, 3x3)."""

BUDGET = 1e-4
"""Of the standard deviation of noise at a result, over its root mean square; of a softmax, at each number."""

NEED_NOT_BE_NEARER = 1.5
"""Noise may be so many times that of the most exact algorithms, whatever it is: other layers make it too, and
the estimate is no better than that."""

STEPS = 60
"""Of the search for λ."""


@dataclass(frozen=True)
class Layer:
    """A layer that adds noise: its operator, the offers open to it, and the one taken for its time."""

    op: Op
    offers: Sequence[Offer]
    taken: Offer


def largest_errors(graph: Graph, layers: Sequence[Layer], budget: float) -> dict[Op, float]:
    """The largest error bound that an offer may have, of layers that must do better than the one taken.

    budget: of the noise's standard deviation at a result, relative to its root mean square.
    """
    if all(each.taken.candidate.error <= _exactest(each).candidate.error for each in layers):
        return {}
    noise = noise_of_results(graph, [each.op for each in layers])
    limit = max(budget, NEED_NOT_BE_NEARER * deviation(noise, map(_exactest, layers)))
    if deviation(noise, (each.taken for each in layers)) <= limit:
        return {}
    shares = noise.max(0)
    low, high = 0.0, 1.0
    while deviation(noise, _picked(layers, high * shares)) > limit:
        low, high = high, high * 1e3
    for _ in range(STEPS):
        middle = (low + high) / 2
        is_within = deviation(noise, _picked(layers, middle * shares)) <= limit
        low, high = (low, middle) if is_within else (middle, high)
    return {
        layer.op: offer.candidate.error
        for layer, offer in zip(layers, _picked(layers, high * shares), strict=True)
        if offer.candidate.error < layer.taken.candidate.error
    }


def refusal_of_noise(candidate: Candidate, limit: float) -> str:
    """Why a candidate may not be taken by a layer whose error bound is limited, or ""."""
    if candidate.error <= limit:
        return ""
    return f"its error bound {candidate.error:.1e} is above {limit:.1e}: noise grows behind this layer"


def deviation(noise: NDArray[np.float64], offers: Iterable[Offer]) -> float:
    """The largest standard deviation of a result's noise, in parts of its root mean square."""
    variances = np.array([(offer.candidate.error / BOUND_OVER_DEVIATION) ** 2 for offer in offers])
    return float(np.sqrt((noise @ variances).max(initial=0.0)))


def _exactest(layer: Layer) -> Offer:
    """The offer with the smallest error bound; of several, the fastest."""
    return min(layer.offers, key=lambda offer: (offer.candidate.error, offer.candidate.seconds))


def _picked(layers: Sequence[Layer], prices: NDArray[np.float64]) -> list[Offer]:
    """Each layer's cheapest offer, where an error bound costs so many seconds times its square."""
    return [_cheapest(layer, float(price)) for layer, price in zip(layers, prices, strict=True)]


def _cheapest(layer: Layer, price: float) -> Offer:
    taken = layer.taken.candidate
    exacter = [offer for offer in layer.offers if offer.candidate.error < taken.error]
    return min(
        (layer.taken, *exacter),
        key=lambda offer: (
            max(0.0, offer.candidate.seconds - taken.seconds) + price * offer.candidate.error**2,
            offer.candidate.seconds,
        ),
    )
