"""Ranges: each calibration against a search by NumPy on the data themselves."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.ir import DType
from rtcc.quantization.calibration.histogram import Histogram
from rtcc.quantization.calibration.ranges import choose_range, squared_error
from rtcc.quantization.scheme import Calibration, Form, parameters

Array = np.ndarray


def histogram_of(data: Array) -> Histogram:
    found = Histogram()
    for part in np.array_split(data, 7):
        found.add(part)
    return found


def heavy_tailed(seed: int = 0) -> Array:
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.standard_normal(50000), 40 * generator.standard_normal(20)])


def error_of(
    data: Array, low: float, high: float, dtype: DType = DType.U8, form: Form = Form.AFFINE
) -> float:
    """The mean squared error of really quantising the data."""
    chosen = parameters(np.array(low), np.array(high), dtype, form)
    return float(np.mean((chosen.restored(chosen.quantized(data)) - data) ** 2))


def test_min_max_is_the_extremes_with_zero() -> None:
    data = np.array([0.5, 2.0, 3.0])
    found = choose_range(histogram_of(data), Calibration.MIN_MAX, 99.99, DType.U8, Form.AFFINE)
    assert (found.low, found.high) == (0.0, 3.0)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9])
def test_percentiles_are_numpys(percentile: float) -> None:
    data = heavy_tailed()
    histogram = histogram_of(data)
    found = choose_range(histogram, Calibration.PERCENTILE, percentile, DType.U8, Form.AFFINE)
    outside = (100 - percentile) / 2
    low, high = np.percentile(data, [outside, 100 - outside])
    assert found.low == pytest.approx(low, abs=2 * histogram.width)
    assert found.high == pytest.approx(high, abs=2 * histogram.width)
    even = choose_range(histogram, Calibration.PERCENTILE, percentile, DType.I8, Form.SYMMETRIC)
    assert even.high == pytest.approx(np.percentile(np.abs(data), percentile), abs=2 * histogram.width)
    assert even.low == -even.high


@pytest.mark.parametrize(("dtype", "form"), [(DType.U8, Form.AFFINE), (DType.I8, Form.SYMMETRIC)])
@pytest.mark.parametrize("one_sided", [False, True])
def test_least_squares_is_as_good_as_a_search_on_the_data(dtype: DType, form: Form, one_sided: bool) -> None:
    data = heavy_tailed()
    data = np.maximum(data, 0) if one_sided else data
    found = choose_range(histogram_of(data), Calibration.MSE, 99.99, dtype, form)
    fractions = np.geomspace(0.02, 1, 60)
    if form is Form.AFFINE:
        limits = [(a * data.min(), b * data.max()) for a in fractions[::3] for b in fractions[::3]]
    else:
        limits = [(-f * np.abs(data).max(), f * np.abs(data).max()) for f in fractions]
    best = min(error_of(data, low, high, dtype, form) for low, high in limits)
    assert error_of(data, found.low, found.high, dtype, form) <= 1.05 * best


def test_the_expected_error_is_the_measured_one() -> None:
    data = heavy_tailed()
    found = choose_range(histogram_of(data), Calibration.MSE, 99.99, DType.U8, Form.AFFINE)
    expected = squared_error(histogram_of(data), found, (found.high - found.low) / 255)
    assert expected == pytest.approx(error_of(data, found.low, found.high), rel=0.1)


def test_entropy_clips_what_is_rare_and_keeps_what_is_not() -> None:
    rare = choose_range(histogram_of(heavy_tailed()), Calibration.ENTROPY, 99.99, DType.I8, Form.SYMMETRIC)
    assert 2.5 < rare.high < 12
    even = np.random.default_rng(0).uniform(-3, 3, 50000)
    kept = choose_range(histogram_of(even), Calibration.ENTROPY, 99.99, DType.I8, Form.SYMMETRIC)
    assert kept.high > 2.9


def test_entropy_finds_the_smallest_divergence_by_the_book() -> None:
    """On magnitudes: P is clipped at the limit; Q is its inside in 128 levels, spread over bins with some."""
    data = np.abs(heavy_tailed())
    histogram = histogram_of(data)
    counts = histogram.counts[len(histogram.counts) // 2 :].astype(float)

    def divergence(limit: int) -> float:
        inside = counts[:limit]
        p = inside.copy()
        p[-1] += counts[limit:].sum()
        q = np.zeros(limit)
        for level in range(128):
            part = slice(level * limit // 128, (level + 1) * limit // 128)
            held = inside[part] > 0
            q[part][held] = inside[part].sum() / max(held.sum(), 1)
        p, q = p / p.sum(), np.maximum(q / q.sum(), 1e-9)
        return float(np.sum(p[p > 0] * np.log(p[p > 0] / q[p > 0])))

    found = choose_range(histogram, Calibration.ENTROPY, 99.99, DType.I8, Form.SYMMETRIC)
    both = choose_range(histogram, Calibration.ENTROPY, 99.99, DType.I8, Form.AFFINE)
    assert found.high > 0
    limit = round(choose_range(histogram_of(heavy_tailed()), Calibration.ENTROPY, 99.99, DType.I8,
                               Form.SYMMETRIC).high / histogram.width)  # fmt: skip
    best = min(divergence(n) for n in range(128, int(histogram.high / histogram.width), 64))
    assert divergence(limit) <= best * 1.02 + 1e-12
    assert both.low == 0


@pytest.mark.parametrize("calibration", list(Calibration))
@pytest.mark.parametrize("data", [np.zeros(10), np.full(10, 0.7), np.full(10, -0.7), np.array([1e-30])])
def test_constants_have_a_range(calibration: Calibration, data: Array) -> None:
    found = choose_range(histogram_of(data), calibration, 99.99, DType.U8, Form.AFFINE)
    assert found.low <= data.min(initial=0) or calibration is not Calibration.MIN_MAX
    assert np.isfinite([found.low, found.high]).all()
    assert error_of(data, found.low, found.high) <= (0.01 * np.abs(data).max()) ** 2


def test_nothing_seen_is_an_empty_range() -> None:
    found = choose_range(Histogram(), Calibration.MSE, 99.99, DType.U8, Form.AFFINE)
    assert (found.low, found.high) == (0.0, 0.0)
