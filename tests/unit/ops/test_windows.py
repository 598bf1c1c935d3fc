"""Convolutions and pools against sums written out, for every combination of their attributes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from rtcc.ir import DType, Op, TensorType, Value
from rtcc.ir.op import Array
from rtcc.ir.ops import nn, pooling, regions_of_interest, window


def values(*arrays: Array) -> list[Value]:
    return [Value(TensorType(DType.of(a.dtype), a.shape), "x") for a in arrays]


def run(op: type[Op], *arrays: Array, **attributes: Any) -> tuple[Array, ...]:
    made = op(*values(*arrays), **attributes)
    found = made.evaluate(*arrays)
    found = found if isinstance(found, tuple) else (found,)
    assert found[0].shape == made.type.shape
    return found


def written_out(data: Array, weight: Array, w: window.Window, group: int) -> Array:
    """A two-dimensional convolution, one multiplication at a time."""
    padded = np.pad(data, [(0, 0), (0, 0), (w.pads[0], w.pads[2]), (w.pads[1], w.pads[3])])
    rows, columns = w.output_sizes(data.shape[2:])
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    result = np.zeros((data.shape[0], weight.shape[0], rows, columns))
    per_group = weight.shape[0] // group
    for n, m, y, x in np.ndindex(*result.shape):
        for c, i, j in np.ndindex(*weight.shape[1:]):
            source = padded[n, m // per_group * weight.shape[1] + c]
            at = (y * w.strides[0] + i * w.dilations[0], x * w.strides[1] + j * w.dilations[1])
            result[n, m, y, x] += source[at] * weight[m, c, i, j]
    return result


GEOMETRIES = list(product([1, 2, 4], [(1, 1), (2, 3)], [(1, 1), (2, 1)], [(0, 0, 0, 0), (2, 1, 0, 3)]))


@pytest.mark.parametrize(("group", "strides", "dilations", "pads"), GEOMETRIES)
def test_convolution_is_the_sum_written_out(
    group: int, strides: tuple[int, ...], dilations: tuple[int, ...], pads: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(7)
    data, weight = rng.standard_normal((2, 4, 7, 6)), rng.standard_normal((8, 4 // group, 3, 2))
    (found,) = run(nn.Conv, data, weight, group=group, strides=strides, dilations=dilations, pads=pads)
    expected = written_out(data, weight, window.Window((3, 2), strides, dilations, pads), group)
    np.testing.assert_allclose(found, expected, 1e-12, 1e-12)


@pytest.mark.parametrize(("group", "strides", "dilations", "pads"), GEOMETRIES)
def test_transposed_convolution_is_the_adjoint(
    group: int, strides: tuple[int, ...], dilations: tuple[int, ...], pads: tuple[int, ...]
) -> None:
    """<conv(x), y> = <x, conv_transpose(y)> where the convolution leaves no element over."""
    rng = np.random.default_rng(7)
    geometry = {"group": group, "strides": strides, "dilations": dilations, "pads": pads}
    weight, y = rng.standard_normal((8, 4 // group, 3, 2)), rng.standard_normal((2, 8, 4, 5))
    (transposed,) = run(nn.ConvTranspose, y, weight, **geometry)
    x = rng.standard_normal(transposed.shape)
    (convolved,) = run(nn.Conv, x, weight, **geometry)
    np.testing.assert_allclose(np.vdot(convolved, y), np.vdot(x, transposed), 1e-10)


def test_convolution_in_several_steps_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    data, weight = rng.standard_normal((1, 3, 9, 9)), rng.standard_normal((5, 3, 3, 3))
    (whole,) = run(nn.Conv, data, weight, pads=(1, 1, 1, 1))
    monkeypatch.setattr(window, "_COLUMNS_BYTES", 1)
    (steps,) = run(nn.Conv, data, weight, pads=(1, 1, 1, 1))
    np.testing.assert_allclose(whole, steps, 1e-12, 1e-12)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_max_pool_indices_name_the_values(order: int, ceil_mode: int) -> None:
    data = np.random.default_rng(7).permutation(2 * 3 * 5 * 6).reshape(2, 3, 5, 6).astype(np.float32)
    made = pooling.MaxPool(
        *values(data), results=2, kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 1, 0), dilations=(1, 2),
        storage_order=order, ceil_mode=ceil_mode,
    )  # fmt: skip
    found, indices = made.evaluate(data)
    flat = data.swapaxes(2, 3) if order else data
    np.testing.assert_array_equal(flat.reshape(-1)[indices], found)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_lp_pool(p: int) -> None:
    data = np.random.default_rng(7).standard_normal((2, 3, 4, 5))
    (found,) = run(pooling.GlobalLpPool, data, p=p)
    np.testing.assert_allclose(found[:, :, 0, 0], (np.abs(data) ** p).sum((2, 3)) ** (1 / p))


def test_max_roi_pool() -> None:
    data = np.arange(2 * 36, dtype=np.float32).reshape(2, 1, 6, 6)
    rois = np.array([[0, 0, 0, 3, 3], [1, 2, 2, 20, 20], [0, 8, 8, 9, 9]], np.float32)
    (found,) = run(regions_of_interest.MaxRoiPool, data, rois, pooled_shape=(2, 2))
    np.testing.assert_array_equal(found[0, 0], [[7, 9], [19, 21]])
    assert found[1, 0, 0, 0] == 71
    np.testing.assert_array_equal(found[2], 0)


def test_pads_are_resolved_as_onnx_says() -> None:
    given = {"spatial": (5, 6), "extents": (3, 3), "strides": (2, 2)}
    assert window.resolved_pads("NOTSET", **given, pads=(1, 2, 3, 4)) == (1, 2, 3, 4)
    assert window.resolved_pads("NOTSET", **given, pads=()) == (0, 0, 0, 0)
    assert window.resolved_pads("VALID", **given, pads=()) == (0, 0, 0, 0)
    assert window.resolved_pads("SAME_UPPER", **given, pads=()) == (1, 0, 1, 1)
    assert window.resolved_pads("SAME_LOWER", **given, pads=()) == (1, 1, 1, 0)
