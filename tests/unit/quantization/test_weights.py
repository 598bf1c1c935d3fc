"""Scales, zero points and integers of ranges and weights."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.errors import InvalidInput
from rtcc.ir import DType
from rtcc.quantization.scheme import SMALLEST_SCALE, Form, Settings, parameters
from rtcc.quantization.weights import quantize_blocks, quantize_weight

WEIGHT = np.random.default_rng(0).standard_normal((6, 5, 3, 3)).astype(np.float32)


def of(low: float, high: float, dtype: DType, form: Form) -> tuple[float, int, DType]:
    found = parameters(np.array(low), np.array(high), dtype, form)
    return float(found.scale), int(found.zero_point), found.dtype


def test_forms() -> None:
    assert of(-1, 3, DType.U8, Form.AFFINE) == (pytest.approx(4 / 255), 64, DType.U8)
    assert of(-1, 3, DType.I8, Form.AFFINE) == (pytest.approx(4 / 255), -64, DType.I8)
    assert of(1, 3, DType.U8, Form.AFFINE) == (pytest.approx(3 / 255), 0, DType.U8)
    assert of(-1, 3, DType.I8, Form.SYMMETRIC) == (pytest.approx(3 / 127), 0, DType.I8)
    assert of(-1, 3, DType.U8, Form.SYMMETRIC) == (pytest.approx(3 / 127), 128, DType.U8)
    assert of(-1, 3, DType.I16, Form.SYMMETRIC) == (pytest.approx(3 / 32767), 0, DType.I16)
    assert of(0, 3, DType.U8, Form.LINEAR) == (pytest.approx(3 / 255), 0, DType.U8)
    assert of(-1, 3, DType.U8, Form.LINEAR) == (pytest.approx(3 / 127), 0, DType.I8)


def test_nothing_but_zero_has_scale_one_and_tiny_ranges_no_denormal_scale() -> None:
    assert of(0, 0, DType.U8, Form.AFFINE)[:2] == (1.0, 0)
    assert of(0, 1e-42, DType.U8, Form.AFFINE)[0] == pytest.approx(SMALLEST_SCALE)


@pytest.mark.parametrize("form", [Form.SYMMETRIC, Form.AFFINE, Form.LINEAR])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_weights_are_within_half_a_step(form: Form, axis: int | None) -> None:
    found = quantize_weight(WEIGHT, DType.I8, form, axis)
    assert found.data.dtype == np.int8
    shape = [-1 if a == axis else 1 for a in range(4)]
    step = found.parameters.scale if axis is None else found.parameters.scale.reshape(shape)
    slack = 1.001 if form is not Form.AFFINE else 2.001  # the zero point is rounded too
    assert (np.abs(found.restored - WEIGHT) <= step / 2 * slack).all()


def test_normalised_weights_are_multiples_of_the_deviation_over_255() -> None:
    found = quantize_weight(WEIGHT, DType.I8, Form.NORMALIZED, None)
    normalised = (WEIGHT - WEIGHT.mean()) / WEIGHT.std()
    expected = np.rint(normalised * 255)
    centred = found.data.astype(int) - int(found.parameters.zero_point)
    shift = np.rint(WEIGHT.mean() / (WEIGHT.std() / 255))
    assert np.abs(centred - (expected + shift)).max() <= 1
    assert np.abs(found.restored - WEIGHT).max() <= WEIGHT.std() / 255


def test_a_channel_of_zeros_takes_the_largest_scale() -> None:
    weight = WEIGHT.copy()
    weight[2] = 0
    found = quantize_weight(weight, DType.I8, Form.SYMMETRIC, 0)
    assert found.parameters.scale[2] == found.parameters.scale.max()
    assert not found.data[2].any()
    assert quantize_weight(np.zeros((2, 3)), DType.I8, Form.SYMMETRIC, 0).parameters.scale.tolist() == [1, 1]


def test_scales_are_at_least_the_floor() -> None:
    floor = np.array([0, 1.0, 0, 0, 0, 0])
    found = quantize_weight(WEIGHT, DType.I8, Form.SYMMETRIC, 0, floor)
    assert found.parameters.scale[1] == pytest.approx(1.0)
    assert found.parameters.scale[0] == pytest.approx(np.abs(WEIGHT[0]).max() / 127)
    assert np.array_equal(found.data[1], np.rint(WEIGHT[1]).astype(np.int8))


@pytest.mark.parametrize(("dtype", "steps"), [(DType.I8, 127), (DType.I4, 7)])
def test_blocks_have_their_own_scales_and_the_last_may_be_short(dtype: DType, steps: int) -> None:
    weight = np.random.default_rng(1).standard_normal((10, 3))
    weight[4:8] *= 100
    found = quantize_blocks(weight, dtype, Form.SYMMETRIC, 0, 4)
    assert found.parameters.scale.shape == (3, 3)
    assert found.parameters.scale[2] == pytest.approx(np.abs(weight[8:]).max(axis=0) / steps)
    step = np.repeat(found.parameters.scale, 4, axis=0)[:10]
    assert (np.abs(found.restored - weight) <= step / 2 * 1.001).all()


@pytest.mark.parametrize("wrong", [{"percentile": 40.0}, {"percentile": 101.0}, {"block": 1}, {"block": -2},
                                   {"form": Form.NORMALIZED}])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="quantize-option"):
        Settings(**wrong)  # pyright: ignore[reportArgumentType]


def test_a_channel_that_hardly_is_a_number_keeps_its_floor() -> None:
    """Its bias, though small, would otherwise leave 32 bits, and the layer stay float."""
    weight = np.array([[0.5, -1.0], [3e-38, -1e-39]], np.float32)
    floor = np.array([1e-20, 7.9e-22])
    found = quantize_weight(weight, DType.I8, Form.SYMMETRIC, 0, floor)
    assert np.all(found.parameters.scale >= floor.astype(np.float32))
    assert found.parameters.scale[0] == np.float32(1 / 127)
