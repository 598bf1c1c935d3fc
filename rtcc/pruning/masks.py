"""Which weights stay: those that matter most, as many as a sparsity leaves, or those above a threshold.

Layers compete by J. Lee et al., Layer-adaptive sparsity for the magnitude-based pruning (ICLR 2021): a
weight's score is divided by the sum of all scores of its layer that are at least as large. So small layers,
whose weights are few, lose less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput
from rtcc.linear.layers import Layer
from rtcc.pruning.choice import Scope
from rtcc.pruning.patterns import Pattern, by_taps

Array = NDArray[Any]


def scores_of(layer: Layer, power: Array | None) -> Array:
    """How much each weight matters: its square, times the mean square of what it multiplies where known.

    power: [group, summand]. M. Sun et al., A simple and effective pruning approach (Wanda, ICLR 2024).
    """
    squares = np.square(by_taps(layer, layer.weight.array.astype(np.float64)))
    return squares if power is None else squares * power[:, :, None]


def masks_of(
    scores: Mapping[Layer, Array], pattern: Pattern, sparsity: float, scope: Scope, least: float
) -> dict[Layer, Array]:
    """The mask of each layer: at least that share of all weights goes.

    least: of each layer such a share stays in any case. Raises InvalidInput `target-unreachable`.
    """
    if pattern.among:
        return {layer: pattern.best(each) for layer, each in scores.items()}
    blocks = {layer: pattern.blocks(each) for layer, each in scores.items()}
    floors = {layer: max(1, ceil(least * each.size)) for layer, each in blocks.items()}
    total = sum(each.size for each in blocks.values())
    room = int(total * (1 - sparsity) + 1e-9)
    if scope is Scope.UNIFORM:
        counts = {layer: int(each.size * (1 - sparsity) + 1e-9) for layer, each in blocks.items()}
        unreachable = any(counts[layer] < floors[layer] for layer in counts)
    else:
        counts = _compete(list(blocks.values()), list(floors.values()), room)
        counts = dict(zip(blocks, counts, strict=True))
        unreachable = sum(counts.values()) > room
    if unreachable:
        best = 1 - sum(floors.values()) / total
        message = f"at most {best:.1%} of the weights may go, asked for is {sparsity:.1%}"
        hint = "ask for less, lower --least, or let all layers compete (--scope global)"
        raise InvalidInput("target-unreachable", message, hint=hint)
    return {layer: pattern.spread(_largest(each, counts[layer])) for layer, each in blocks.items()}


def _compete(blocks: Sequence[Array], floors: Sequence[int], room: int) -> list[int]:
    """How many blocks of each layer are among the best of all; each layer's first ones are."""
    relative: list[Array] = []
    for scores, floor in zip(blocks, floors, strict=True):
        ordered = np.sort(scores, axis=None)[::-1]
        sums = np.cumsum(ordered)
        each = np.divide(ordered, sums, out=np.zeros_like(sums), where=sums > 0)
        each[:floor] = np.inf
        relative.append(each)
    owner = np.repeat(np.arange(len(blocks)), [each.size for each in relative])
    order = np.argsort(-np.concatenate(relative), kind="stable")[: max(room, sum(floors))]
    return np.bincount(owner[order], minlength=len(blocks)).tolist()


def _largest(scores: Array, count: int) -> Array:
    """The mask of the so many largest, the first of equal ones."""
    mask = np.zeros(scores.size, bool)
    mask[np.argsort(-scores, axis=None, kind="stable")[:count]] = True
    return mask.reshape(scores.shape)


def masks_above(layers: Sequence[Layer], pattern: Pattern, threshold: float) -> dict[Layer, Array]:
    """The mask of each layer's blocks whose root mean square is at least the threshold.

    InvalidInput `target-unreachable` where a layer would be left none, `nothing-to-prune` where all stay.
    """
    sizes = {layer: np.sqrt(pattern.blocks(scores_of(layer, None))) for layer in layers}
    for layer, each in sizes.items():
        if each.max() < threshold:
            message = f"no weight of it reaches {threshold}: the largest is {each.max():.3g}"
            hint = f"lower --threshold, or leave the layer dense: --dense {layer.name}"
            raise InvalidInput("target-unreachable", message, where=layer.name, hint=hint)
    smallest = min(each.min(initial=np.inf, where=each > 0) for each in sizes.values())
    if smallest >= threshold:
        message = f"no weight but zeros is below {threshold}: the smallest is {smallest:.3g}"
        raise InvalidInput("nothing-to-prune", message, hint="raise --threshold, or give --sparsity")
    return {layer: pattern.spread(each >= threshold) for layer, each in sizes.items()}
