# pyright: basic
"""Integer sums: offsets that stand for zero points and padding, what may overflow, what is rounded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.errors import RtccError
from rtcc.ir import DType, TensorType, Value
from rtcc.ir.ops.integer import AddToSum, ConvSum, QuantizedAdd, Requantize, add_factor, masked, padded_offset
from rtcc.ir.ops.quant import ConvInteger
from rtcc.ir.ops.sum_range import MOST_TERMS, columns_of, may_overflow, terms_may_overflow
from rtcc.ir.ops.window import Window


def value(array: np.ndarray) -> Value:
    return Value(TensorType(DType.of(array.dtype), array.shape))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_offset_stands_for_zero_point_and_padding(data: st.DataObject) -> None:
    """conv_sum of raw data is conv_integer of data less their zero point, at every edge."""
    draw = data.draw
    axes = draw(st.integers(1, 2))
    spatial = tuple(draw(st.integers(1, 9)) for _ in range(axes))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(axes))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(axes))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    before = [draw(st.integers(0, 3)) for _ in range(axes)]
    after = [
        draw(st.integers(max(0, r - s - b), max(0, r - s - b) + 3))
        for r, s, b in zip(reach, spatial, before, strict=True)
    ]
    group, zero = draw(st.sampled_from([1, 2])), draw(st.integers(0, 255))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    x = random.integers(0, 256, (2, 2 * group, *spatial), np.uint8)
    w = random.integers(-128, 128, (2 * group, 2, *kernel), np.int8)
    bias = random.integers(-1000, 1000, 2 * group)
    window = Window(kernel, strides, dilations, (*before, *after))
    offset = padded_offset(w, bias, zero, window, spatial).astype(np.int32)
    attributes: dict[str, Any] = {
        "pads": (*before, *after), "strides": strides, "dilations": dilations, "group": group,
    }  # fmt: skip
    raw = ConvSum(value(x), value(w), value(offset), **attributes)
    z = np.array(zero, np.uint8)
    plain = ConvInteger(value(x), value(w), value(z), None, **attributes)
    expected = plain.evaluate(x, w, z, None)[0] + bias.reshape(-1, *(1,) * axes)
    np.testing.assert_array_equal(raw.evaluate(x, w, offset)[0], expected)


def test_a_sum_that_reaches_the_limit_is_refused() -> None:
    weights = np.full((1, 66_311), 127, np.int8)
    assert 255 * int(weights.sum(dtype=np.int64)) < 2**31
    assert not may_overflow(weights, np.zeros(1, np.int64))
    assert may_overflow(weights, np.array([200_000], np.int64))
    assert may_overflow(np.full((1, 66_400), 127, np.int8), np.zeros(1, np.int64))
    assert may_overflow(np.full((1, 66_400), -127, np.int8), np.array([10_000_000], np.int64))
    assert may_overflow(np.zeros((1, 1), np.int8), np.array([2**31], np.int64))


def test_an_offset_counts_for_its_own_filter_and_place() -> None:
    weights = np.zeros((2, 66_000), np.int8)
    weights[0] = 127
    room = 2**31 - 1 - 255 * 127 * 66_000
    assert not may_overflow(weights, np.array([room, 2**31 - 1]))
    assert may_overflow(weights, np.array([room + 1, 0]))
    assert not may_overflow(weights, np.array([[0, room], [0, -(2**31)]]))
    assert may_overflow(weights, np.array([[0, room + 1], [0, 0]]))
    assert may_overflow(weights, np.array([0, -(2**31) - 1]))


@given(st.lists(st.integers(-128, 127), min_size=1, max_size=4), st.integers(-9, 9))
def test_sums_of_centred_data_are_those_of_any_zero_point(values: list[int], beyond: int) -> None:
    """With the offset that brings the largest sum of some zero point to the edge of int32."""
    weights = np.array(values, np.int8)[None]
    above, below = (255 * sum(max(sign * each, 0) for each in values) for sign in (1, -1))
    tops = [(255 - z) * above // 255 + z * below // 255 for z in range(256)]
    offset = np.array([2**31 - 1 - max(tops) + beyond])
    assert may_overflow(weights, offset, is_centred=True) == (beyond > 0)
    assert may_overflow(-weights.astype(np.int32), offset, is_centred=True) == (beyond > 0)


def test_how_many_products_fit_whatever_the_weights() -> None:
    assert MOST_TERMS == 65_793
    assert not terms_may_overflow(MOST_TERMS)
    assert terms_may_overflow(MOST_TERMS + 1)
    assert terms_may_overflow(MOST_TERMS, offset=2**31 - 255 * 128 * MOST_TERMS)
    assert may_overflow(np.full((1, MOST_TERMS + 1), -128, np.int8))


def test_filters_of_a_product_are_its_columns() -> None:
    matrix = np.arange(24).reshape(2, 3, 4)
    assert columns_of(matrix).tolist() == [matrix[i, :, j].tolist() for i in range(2) for j in range(4)]
    assert columns_of(np.arange(3)).tolist() == [[0, 1, 2]]
    assert columns_of(np.zeros((0, 5))).shape == (5, 0)
    assert columns_of(np.zeros((5, 0))).shape == (0, 5)
    assert not may_overflow(np.zeros((0, 5), np.int8), np.zeros(0, np.int32))


def test_requantising_rounds_half_to_even_and_saturates() -> None:
    data = np.array([1, 3, 5, -1, -3, 1000, -1000, 2**31 - 1], np.int32)
    factor, zero = np.array(0.5, np.float32), np.array(3, np.uint8)
    op = Requantize(value(data), value(factor), value(zero))
    assert op.evaluate(data, factor, zero)[0].tolist() == [3, 5, 5, 3, 1, 255, 0, 255]
    nothing = np.array(np.nan, np.float32)
    assert op.evaluate(data, nothing, zero)[0].tolist() == [0] * 8


def test_products_of_an_addition_are_exact() -> None:
    """A factor times a difference of bytes has 24 bits: fused or not, the sum is rounded once."""
    random = np.random.default_rng(1)
    factors = random.standard_normal(1000).astype(np.float32)
    for factor in (masked(factors), np.array([add_factor(float(f)) for f in factors])):
        np.testing.assert_allclose(factor, factors, rtol=2.0**-15)
        for difference in (255, -255, 131, 77):
            exact = factor.astype(np.float64) * difference
            np.testing.assert_array_equal(exact.astype(np.float32).astype(np.float64), exact)


def test_an_addition_rounds_once() -> None:
    left, right = np.array([10, 255, 0], np.uint8), np.array([-4, 127, -128], np.int8)
    factors = np.array(0.5, np.float32), np.array(0.25, np.float32)
    zeros = np.array(1, np.uint8), np.array(-2, np.int8), np.array(7, np.uint8)
    operands = (left, factors[0], zeros[0], right, factors[1], zeros[1], zeros[2])
    op = QuantizedAdd(*map(value, operands))
    # 4.5 - 0.5, 127 + 32.25, -0.5 - 31.5
    assert op.evaluate(*operands)[0].tolist() == [11, 166, 0]


def test_an_addition_to_a_sum_rounds_its_product_first() -> None:
    data, right = np.array([1000, 3, 2**24 + 1], np.int32), np.array([10, 255, 0], np.uint8)
    factors = np.array([0.125, 0.5, 2.0**-18], np.float32), np.array(0.25, np.float32)
    zeros = np.array(2, np.uint8), np.array(7, np.uint8)
    operands = (data, factors[0], right, factors[1], zeros[0], zeros[1])
    op = AddToSum(*map(value, operands))
    # 125 + 2, 1.5 + 63.25, 64 - 0.5 (to even)
    assert op.evaluate(*operands)[0].tolist() == [134, 72, 71]


@pytest.mark.parametrize(
    "offset", [TensorType(DType.I32, (4,)), TensorType(DType.I32, (3, 2, 1)), TensorType(DType.F32, (3,))]
)
def test_an_offset_that_does_not_fit_is_refused(offset: TensorType) -> None:
    data, weight = TensorType(DType.U8, (1, 2, 8, 8)), TensorType(DType.I8, (3, 2, 3, 3))
    with pytest.raises(RtccError, match="offset"):
        ConvSum(Value(data), Value(weight), Value(offset), pads=(1, 1, 1, 1))


def test_floats_are_rounded_half_to_even_and_nan_is_the_zero_point() -> None:
    x = np.array([0.5, 1.5, -0.5, 2.5, 1e9, -1e9, np.inf, -np.inf, np.nan, 126.5, -128.5, 3.2], np.float32)
    one, zero = np.array(1, np.float32), np.array(1, np.int8)
    op = Requantize(value(x), value(one), value(zero))
    (found,) = op.evaluate(x, one, zero)
    assert found.tolist() == [1, 3, 1, 3, 127, -128, 127, -128, 1, 127, -127, 4]
