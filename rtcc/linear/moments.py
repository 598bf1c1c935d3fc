"""Sums over the rows that a layer reads, and the damped least squares that they are solved by.

With x the rows that a layer reads and d what its results lack, its weights change by

    (Σ x'x + λ)⁻¹ Σ x'd

with the means taken out of x and d first where a bias takes them. λ keeps weights where the data say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DAMPING = 0.01
"""λ, of the mean square of the inputs (GPTQ's value)."""

FEW = 0.1
"""How much more of it λ is for as many summands as there are rows: few rows say little of many summands."""

LARGEST_SUM = 4608
"""Summands of a result up to which this is done: the matrix of their products is held in memory."""


@dataclass
class Moments:
    """Sums over rows, per group: of x, d, x'x and x'd; float64, K summands a row.

    x: what a layer reads; d: what its results lack, or x itself of what was read in an exact model.
    """

    rows: int
    read: Array
    missing: Array
    squares: Array
    products: Array

    @staticmethod
    def of(groups: int, summands: int, lacking: int) -> Moments:
        """Of no rows yet; lacking: elements of a d."""
        return Moments(
            0, np.zeros((groups, summands)), np.zeros((groups, lacking)),
            np.zeros((groups, summands, summands)), np.zeros((groups, summands, lacking)),
        )  # fmt: skip

    def add(self, read: Array, missing: Array) -> None:
        """Count rows [group, row, summand] and [group, row, lacking]."""
        transposed = read.transpose(0, 2, 1)
        self.rows += read.shape[1]
        self.read += read.sum(axis=1)
        self.missing += missing.sum(axis=1)
        self.squares += transposed @ read
        self.products += transposed @ missing

    def means(self) -> tuple[Array, Array]:
        """Of x and of d, by group."""
        return self.read / self.rows, self.missing / self.rows

    def covariances(self, *, centred: bool) -> tuple[Array, Array]:
        """Σ x'x / n and Σ x'd / n, of what is less its mean where that is asked for."""
        squares, products = self.squares / self.rows, self.products / self.rows
        if centred:
            mean, shift = self.means()
            squares = squares - mean[:, :, None] * mean[:, None, :]
            products = products - mean[:, :, None] * shift[:, None, :]
        return squares, products

    def matrices(self, few: float = FEW, *, centred: bool = True) -> tuple[Array, Array]:
        """The same, Σ x'x / n damped. few: as `FEW` is."""
        squares, products = self.covariances(centred=centred)
        power = squares.diagonal(axis1=1, axis2=2).mean(axis=1)
        share = DAMPING + few * squares.shape[1] / self.rows
        damping = np.where(power > 0, share * power, 1.0)
        return squares + damping[:, None, None] * np.eye(squares.shape[1]), products

    def solved(self, *, bias: bool) -> tuple[Array, Array | None]:
        """By what weights change, [group, summand, lacking], and by what a bias does where there is one."""
        squares, products = self.matrices(centred=bias)
        change = np.linalg.solve(squares, products)
        read, missing = self.means()
        return change, missing - (read[:, None, :] @ change)[:, 0] if bias else None
