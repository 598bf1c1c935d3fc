"""Resize and GridSample where exact positions, ties and infinities decide."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from rtcc.errors import InvalidModel
from rtcc.ir import Constant, DType, TensorType, Value
from rtcc.ir.op import Array
from rtcc.ir.ops.resize import Resize, scaled_size, simplest_fraction
from rtcc.ir.ops.sampling import GridSample


def resized(data: Array, size: int, **attributes: Any) -> list[Any]:
    """A vector resized to `size` elements."""
    value = Value(TensorType(DType.of(data.dtype), data.shape), "x")
    op = Resize(value, None, None, Constant("sizes", np.array([size])), **attributes)
    found = op.evaluate(data, None, None, np.array([size]))
    return (found[0] if isinstance(found, tuple) else found).tolist()


def test_scales_are_the_simplest_fractions() -> None:
    assert simplest_fraction(float(np.float32(0.6))) == Fraction(3, 5)
    assert simplest_fraction(float(np.float32(4 / 3))) == Fraction(4, 3)
    assert simplest_fraction(2.0) == 2
    assert scaled_size(10, float(np.float32(0.7))) == 7


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("floor", [0, 3]), ("ceil", [0, 4]), ("round_prefer_floor", [0, 3]), ("round_prefer_ceil", [0, 4])],
)
def test_ties_fall_as_exact_numbers_do(mode: str, expected: list[int]) -> None:
    """Seven elements to two: the second lies at exactly 3.5."""
    data = np.arange(7, dtype=np.float32)
    found = resized(data, 2, coordinate_transformation_mode="asymmetric", nearest_mode=mode)
    assert found == expected


def test_nearest_moves_any_element_type_and_linear_saturates() -> None:
    assert resized(np.array([True, False]), 4) == [True, True, False, False]
    assert resized(np.array([0, 255], np.uint8), 4, mode="linear") == [0, 63, 191, 255]
    found = resized(np.array([np.inf, 1, 2], np.float32), 3)
    assert found == [np.inf, 1, 2]


def test_an_empty_axis_cannot_grow() -> None:
    with pytest.raises(InvalidModel):
        resized(np.zeros(0, np.float32), 2)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(("padding", "expected"), [("zeros", [0, 0, 0]), ("border", [4, 1, 1])])
def test_coordinates_far_outside(mode: str, padding: str, expected: list[float]) -> None:
    data = np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 4)
    grid = np.array([np.inf, -np.inf, np.nan], np.float32).reshape(1, 3, 1)
    values = [Value(TensorType(DType.F32, a.shape), "x") for a in (data, grid)]
    found = GridSample(*values, mode=mode, padding_mode=padding).evaluate(data, grid)
    found = found[0] if isinstance(found, tuple) else found
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-6)
