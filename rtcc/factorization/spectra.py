"""How much of a layer each rank keeps: singular values of its weight, or of what it computes on samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.factorization.schemes import RULES, Scheme
from rtcc.ir.ops.nn import Conv
from rtcc.linear.layers import Layer
from rtcc.linear.matrices import as_matrices

Array = NDArray[Any]


@dataclass(frozen=True)
class Spectrum:
    """Of one layer by one scheme. kept: by rank less one, the share of energy that so many vectors keep.

    Energy is the sum of the squares of singular values: of the weight without samples, its channels weighted
    by the power of what they read where that is known; by `channel`, of the results themselves.
    """

    kept: Array

    @property
    def full(self) -> int:
        """The rank of the layer as it is."""
        return len(self.kept)

    def rank(self, energy: float) -> int:
        """The smallest rank that keeps such a share."""
        return min(int(np.searchsorted(self.kept, energy)) + 1, self.full)

    @staticmethod
    def of(squares: Array) -> Spectrum:
        """squares: of singular values, largest first."""
        sums = np.cumsum(np.maximum(squares, 0))
        whole = sums[-1] if len(sums) and sums[-1] > 0 else 1.0
        return Spectrum(np.minimum(sums / whole, 1.0))


@dataclass(frozen=True)
class Statistics:
    """What samples say of a layer. power: mean square of each channel that it reads. covariance: of its
    results.
    """

    power: Array
    covariance: Array


def spectrum(layer: Layer, scheme: Scheme, known: Statistics | None) -> Spectrum:
    """What each rank keeps."""
    if scheme is Scheme.CHANNEL and known is not None:
        return Spectrum.of(np.linalg.eigvalsh(known.covariance)[::-1])
    matrices = _weighted(layer, scheme, known)[0]
    return Spectrum.of(sum((np.linalg.eigvalsh(_gram(each))[::-1] for each in matrices), np.zeros(1)))


def _gram(matrix: Array) -> Array:
    """The products of rows or of columns with each other, whichever are fewer."""
    return matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix


def vectors(layer: Layer, scheme: Scheme, rank: int, known: Statistics | None) -> tuple[Array, Array]:
    """The factors [one or more, rows, r] and [one or more, r, columns] that keep most.

    By `channel` with samples these are projections of the results on their main components; a weight that
    reads other inputs than exact ones is fitted afterwards (`rtcc.factorization.fitting`).
    """
    if scheme is Scheme.CHANNEL and known is not None:
        main = main_vectors(known.covariance, rank)
        weight = as_matrices(layer, layer.weight.array.astype(np.float64))[0]
        return (weight @ main)[None], main.T[None]
    weighted, factors = _weighted(layer, scheme, known)
    pairs = [_main_factors(matrix, rank) for matrix in weighted]
    return np.stack([left for left, _ in pairs]) / factors, np.stack([right for _, right in pairs])


def main_vectors(symmetric: Array, count: int) -> Array:
    """The eigenvectors [row, vector] of the largest eigenvalues, the largest element of each positive."""
    found = np.linalg.eigh(symmetric)[1][:, ::-1][:, :count]
    largest = np.take_along_axis(found, np.abs(found).argmax(0)[None], 0)
    return found * np.where(largest < 0, -1.0, 1.0)


def _main_factors(matrix: Array, rank: int) -> tuple[Array, Array]:
    """The factors of a rank whose product is nearest to a matrix, of like size each."""
    main = main_vectors(_gram(matrix), rank)
    if matrix.shape[0] <= matrix.shape[1]:
        left, right = main, main.T @ matrix
        roots = np.sqrt(np.linalg.norm(right, axis=1))
        return left * roots, right / np.where(roots > 0, roots, 1)[:, None]
    left, right = matrix @ main, main.T
    roots = np.sqrt(np.linalg.norm(left, axis=0))
    return left / np.where(roots > 0, roots, 1), right * roots[:, None]


def _weighted(layer: Layer, scheme: Scheme, known: Statistics | None) -> tuple[Array, Array]:
    """The matrices of a scheme, each row times the root of the power of what it reads; and those factors."""
    weight = layer.weight.array.astype(np.float64)
    rules = RULES[scheme]
    matrices = rules.matrices(layer, weight)
    if known is None or not isinstance(layer.op, Conv):
        return matrices, np.ones((len(matrices), matrices.shape[1], 1))
    power = np.sqrt(known.power + 1e-6 * (known.power.mean() or 1.0))
    spread = np.broadcast_to(power.reshape(1, -1, *[1] * (weight.ndim - 2)), weight.shape)
    factors = rules.matrices(layer, spread)[:, :, :1]
    return matrices * factors, factors
