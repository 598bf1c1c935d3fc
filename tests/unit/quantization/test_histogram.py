"""Histograms: what they count is what NumPy counts, in whatever order the data come."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.quantization.calibration.histogram import BINS, Histogram


def filled(*arrays: np.ndarray) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


@given(st.integers(0, 2**32), st.lists(st.integers(-20, 20), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_counts_are_numpys(seed: int, exponents: list[int]) -> None:
    generator = np.random.default_rng(seed)
    arrays = [generator.standard_normal(50) * 2.0**exponent for exponent in exponents]
    found, everything = filled(*arrays), np.concatenate(arrays)
    expected, _ = np.histogram(everything, found.edges)
    assert np.array_equal(found.counts, expected)
    assert (found.low, found.high) == (everything.min(), everything.max())
    assert found.squares == pytest.approx(float(everything @ everything))
    largest = max(-found.low, found.high)
    assert largest <= found.width * BINS < 2 * largest + 1e-30


def test_the_order_of_the_data_does_not_matter() -> None:
    arrays = [np.random.default_rng(n).standard_normal(100) * 10.0**n for n in range(4)]
    one, other = filled(*arrays), filled(*arrays[::-1])
    assert np.array_equal(one.counts, other.counts)
    assert one.exponent == other.exponent


def test_merging_counts_both() -> None:
    left, right = np.linspace(-1, 3, 77), np.linspace(-200, 5, 33)
    merged, whole = filled(left), filled(left, right)
    merged.merge(filled(right))
    assert np.array_equal(merged.counts, whole.counts)
    assert (merged.low, merged.high, merged.count) == (whole.low, whole.high, 110)


def test_zeros_are_counted_apart() -> None:
    found = filled(np.array([0.0, -0.0, 1.0, -1.0, 0.0]))
    assert found.zeros == 3
    assert found.counts.sum() == 2


def test_zeros_alone_do_not_coarsen_what_comes_later() -> None:
    found = filled(np.zeros(5), np.array([1e-6]))
    assert found.width < 1e-9


@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.5, 0.9, 0.999, 1.0])
def test_quantiles_are_numpys_within_a_bin(share: float) -> None:
    data = np.maximum(np.random.default_rng(3).standard_normal(20000), -0.5)
    data[:4000] = 0.0
    found = filled(data)
    assert found.quantile(share) == pytest.approx(np.quantile(data, share), abs=2 * found.width + 1e-3)


def test_arrays_give_the_histogram_back() -> None:
    found = filled(np.random.default_rng(1).standard_normal(1000))
    again = Histogram.of_arrays(found.arrays())
    assert np.array_equal(found.counts, again.counts)
    assert [found.low, found.total, found.exponent] == [again.low, again.total, again.exponent]
    with pytest.raises(ValueError, match="other shapes"):
        Histogram.of_arrays({**found.arrays(), "counts": np.zeros(3)})
