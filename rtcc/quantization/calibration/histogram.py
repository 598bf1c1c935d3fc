"""How a tensor's elements are distributed: bins of fixed number that widen as larger elements come.

Edges are multiples of a power of two, so a widened histogram is exactly what it would have been had it been
that wide from the start: the order of the samples does not matter, and two histograms can be merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 4096
"""Bins on each side of zero; at least half of one side's lie within the largest magnitude."""

SMALLEST_EXPONENT = -126
"""Bins reach at least to 2 to this; what is smaller counts as of the first bin."""


def _no_counts() -> NDArray[np.int64]:
    return np.zeros(2 * BINS, np.int64)


@dataclass
class Histogram:
    """Counts of the elements that are not zero, by bins of width 2^exponent / BINS from -2^exponent on.

    zeros: elements that are zero, which every quantisation keeps. low, high: the extremes. total, squares:
    sums of all elements and of their squares. Memory is the bins, however many elements there are.
    """

    counts: NDArray[np.int64] = field(default_factory=_no_counts)
    exponent: int = SMALLEST_EXPONENT
    zeros: int = 0
    low: float = np.inf
    high: float = -np.inf
    total: float = 0.0
    squares: float = 0.0

    @property
    def count(self) -> int:
        """Elements seen."""
        return int(self.counts.sum()) + self.zeros

    @property
    def width(self) -> float:
        """Of one bin."""
        return float(np.ldexp(1.0, self.exponent)) / BINS

    @property
    def edges(self) -> NDArray[np.float64]:
        """The 2·BINS + 1 edges."""
        return np.arange(-BINS, BINS + 1, dtype=np.float64) * self.width

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return (np.arange(-BINS, BINS, dtype=np.float64) + 0.5) * self.width

    def add(self, array: NDArray[Any]) -> None:
        """Count the elements of an array, all finite."""
        data = np.asarray(array, np.float64).reshape(-1)
        if not data.size:
            return
        low, high = float(data.min()), float(data.max())
        assert np.isfinite([low, high]).all(), "the caller checks that data are finite"
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.total += float(data.sum())
        self.squares += float(data @ data)
        if low < 0 or high > 0:
            self.widen(int(np.frexp(max(-low, high))[1]))
        index = np.floor(data * (1 / self.width)).astype(np.int64) + BINS
        zeros = int(np.count_nonzero(data == 0))
        counts = np.bincount(index, minlength=2 * BINS)
        counts[BINS] -= zeros
        self.counts += counts
        self.zeros += zeros

    def widen(self, exponent: int) -> None:
        """Make the bins reach to 2^exponent at least, by joining neighbours."""
        while self.exponent < exponent:
            if not self.counts.any():
                self.exponent = exponent
                return
            pairs = self.counts.reshape(BINS, 2).sum(axis=1)
            self.counts = np.zeros_like(self.counts)
            self.counts[BINS // 2 : BINS // 2 + BINS] = pairs
            self.exponent += 1

    def merge(self, other: Histogram) -> None:
        """Count what another histogram has counted."""
        wider = Histogram(other.counts.copy(), other.exponent)
        exponent = max(self.exponent, other.exponent)
        self.widen(exponent)
        wider.widen(exponent)
        self.counts = self.counts + wider.counts
        self.zeros += other.zeros
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self.squares += other.squares

    def quantile(self, share: float) -> float:
        """The number below which that share of the elements lies; off by at most one bin's width."""
        counts = self.counts.astype(np.float64)
        below: NDArray[Any] = np.zeros(2 * BINS + 1)
        below[1:] = np.cumsum(counts)
        edges: NDArray[Any] = self.edges
        if self.zeros:  # a step at zero, between the bins on its two sides
            below = np.append(below[: BINS + 1], below[BINS:] + self.zeros)
            edges = np.append(edges[: BINS + 1], edges[BINS:])
        found = float(np.interp(share * self.count, below, edges))
        return min(max(found, self.low), self.high)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything in it, as arrays for a file."""
        numbers = np.array([self.low, self.high, self.total, self.squares])
        return {"counts": self.counts, "whole": np.array([self.exponent, self.zeros]), "numbers": numbers}

    @staticmethod
    def of_arrays(arrays: Mapping[str, NDArray[Any]]) -> Histogram:
        """The histogram that `arrays` gave; ValueError where they are none."""
        counts, whole, numbers = arrays["counts"], arrays["whole"], arrays["numbers"]
        if counts.shape != (2 * BINS,) or whole.shape != (2,) or numbers.shape != (4,):
            raise ValueError("arrays of a histogram have other shapes")
        return Histogram(counts.astype(np.int64), int(whole[0]), int(whole[1]), *map(float, numbers))
