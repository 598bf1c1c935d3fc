"""The weights under a mask with which a layer gives most nearly what it gave, by least squares.

With W* the weights that would be best without a mask and H what the inputs' products come to on the mean, the
masked weights N of each output are those that make (N - W*)' H (N - W*) least: what the optimal brain surgeon
(B. Hassibi, D. Stork, 1993) and SparseGPT (E. Frantar, D. Alistarh, ICML 2023) come to when all that is left
may make up for all that went. All outputs are solved for together, by conjugate gradients within the mask.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_ROUNDS = 200
ENOUGH = 1e-5
"""Of the first residual: where conjugate gradients stop."""


def masked_least_squares(squares: Array, wanted: Array, mask: Array) -> Array:
    """N of each group; squares: H [group, summand, summand], wanted: W* [group, summand, output]."""
    return np.stack([_solved(*each) for each in zip(squares, wanted, mask, strict=True)])


def _solved(squares: Array, wanted: Array, mask: Array) -> Array:
    """Conjugate gradients, each column its own, preconditioned by the diagonal."""
    scale = 1 / squares.diagonal()[:, None]
    found = wanted * mask
    residual = mask * (squares @ (wanted - found))
    turned = scale * residual
    direction, weight = turned, (residual * turned).sum(0)
    goal = ENOUGH**2 * weight
    for _ in range(MOST_ROUNDS):
        if (weight <= goal).all():
            break
        product = mask * (squares @ direction)
        step = _ratio(weight, (direction * product).sum(0))
        found = found + step * direction
        residual = residual - step * product
        turned = scale * residual
        following = (residual * turned).sum(0)
        direction = turned + _ratio(following, weight) * direction
        weight = following
    return found


def _ratio(upper: Array, lower: Array) -> Array:
    """upper / lower, 0 where nothing is left of either."""
    return np.divide(upper, lower, out=np.zeros_like(upper), where=lower > 0)


def rescaled(weights: Array, mask: Array) -> Array:
    """Masked weights [group, summand, output] of which each output has the mean and variance it had.

    What is left of an output becomes a·w + b. Where so few are left that no a does (their mean alone has more
    than the squares' sum), they keep the sum of squares, by b = 0.
    """
    count = np.maximum(mask.sum(1), 1)
    left = weights * mask
    mean, power = left.sum(1) / count, np.square(left).sum(1) / count
    wanted_mean, wanted_power = weights.sum(1) / count, np.square(weights).sum(1) / count
    spread, wanted_spread = power - mean**2, wanted_power - wanted_mean**2
    both = (spread > 1e-12 * power) & (wanted_spread >= 0)
    factor = np.where(both, _ratio(np.abs(wanted_spread), spread), _ratio(wanted_power, power)) ** 0.5
    shift = np.where(both, wanted_mean - factor * mean, 0.0)
    return mask * (factor[:, None] * left + shift[:, None])
