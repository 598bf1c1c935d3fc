"""Sums over the rows that a layer reads, in an exact model and a changed one: what least squares go by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DAMPING = 0.01
"""λ, of the mean square of the inputs: keeps weights where the data say nothing (GPTQ's value)."""


@dataclass
class Moments:
    """Sums over rows of inputs, per group: of q, x, q'q and q'(x - q); float64, K summands a row.

    x: what the layer reads in the exact model, q: in the changed one.
    """

    rows: int
    sum_changed: Array
    sum_difference: Array
    squares: Array
    products: Array

    @staticmethod
    def of(groups: int, summands: int) -> Moments:
        """Of no rows yet."""
        vectors, matrices = (groups, summands), (groups, summands, summands)
        return Moments(0, np.zeros(vectors), np.zeros(vectors), np.zeros(matrices), np.zeros(matrices))

    def add(self, exact: Array, changed: Array) -> None:
        """Count rows [group, row, summand]."""
        difference = exact - changed
        transposed = changed.transpose(0, 2, 1)
        self.rows += exact.shape[1]
        self.sum_changed += changed.sum(axis=1)
        self.sum_difference += difference.sum(axis=1)
        self.squares += transposed @ changed
        self.products += transposed @ difference

    def means(self) -> tuple[Array, Array]:
        """Of q and of x - q: [group, summand]."""
        return self.sum_changed / self.rows, self.sum_difference / self.rows

    def matrices(self, few: float, *, centred: bool = True) -> tuple[Array, Array]:
        """Σ q'q / n, damped, and Σ q'(x - q) / n, of what is less its mean where that is asked for.

        few: how much more of the mean square is λ for as many summands as there are rows.
        """
        squares, products = self.squares / self.rows, self.products / self.rows
        if centred:
            mean, shift = self.means()
            squares = squares - mean[:, :, None] * mean[:, None, :]
            products = products - mean[:, :, None] * shift[:, None, :]
        power = squares.diagonal(axis1=1, axis2=2).mean(axis=1)
        share = DAMPING + few * squares.shape[1] / self.rows
        damping = np.where(power > 0, share * power, 1.0)
        return squares + damping[:, None, None] * np.eye(squares.shape[1]), products
