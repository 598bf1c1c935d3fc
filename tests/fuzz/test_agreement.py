"""The fuzzers' own judgement: what it lets pass, and what it must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.fuzz.agreement import RTOL, disagreement


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("part", "passes"), [(0.5, True), (3.0, False)])
def test_floats_may_be_off_by_rounding_only(dtype: type[np.floating[Any]], part: float, passes: bool) -> None:
    expected = np.linspace(1, 2, 8, dtype=dtype)
    off = expected.copy()
    off[3] += 2 * part * RTOL[off.itemsize]
    exact = {"y": expected.astype(np.float64)}
    assert (disagreement({"y": off}, {"y": expected}, exact) == "") is passes


def test_as_much_error_as_the_declared_precision_has_is_none() -> None:
    exact = np.array([1.0])
    expected, found = np.array([1.01], np.float32), np.array([0.9], np.float32)
    assert not disagreement({"y": found}, {"y": expected}, {"y": exact})
    assert disagreement({"y": found - 0.1}, {"y": expected}, {"y": exact})


def test_an_integer_is_free_only_where_a_rounding_decides_it() -> None:
    expected, exact = np.array([1, 2, 3]), np.array([1, 2, 4])
    assert not disagreement({"y": np.array([1, 2, 9])}, {"y": expected}, {"y": exact})
    assert disagreement({"y": np.array([1, 9, 3])}, {"y": expected}, {"y": exact})


def test_infinities_must_be_where_they_are() -> None:
    expected = np.array([1, np.inf], np.float32)
    assert not disagreement({"y": np.array([1, np.nan], np.float32)}, {"y": expected}, {"y": expected})
    assert disagreement({"y": np.array([1, 3], np.float32)}, {"y": expected}, {"y": expected})
