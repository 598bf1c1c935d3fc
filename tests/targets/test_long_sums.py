# pyright: basic
"""Sums of extreme numbers: none wraps or saturates on its way; what i32 cannot hold is refused."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import Unsupported
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from tests.frontend.models import make_model, value

DEPTHS = (4, 1024, 65_792, 70_000)
"""The third is the longest whose sums of 255 · -128 int32 holds; the last leaves it."""


def product_model(depth: int, left: int, right: int) -> tuple[ModelProto, np.ndarray]:
    """qlinear_mat_mul of a row of `left` by two columns, one of `right` throughout, one of its opposite."""
    weight = np.empty((depth, 2), np.int8)
    weight[:, 0], weight[:, 1] = right, -right if right > -128 else 127
    constants = {
        "as": np.float32(1), "az": np.uint8(0), "b": weight, "bs": np.float32(1), "bz": np.int8(0),
        "ys": np.float32(depth * 300), "yz": np.uint8(128),
    }  # fmt: skip
    node = helper.make_node("QLinearMatMul", ["a", *constants], ["y"], name="product")
    model = make_model([node], [value("a", (1, depth), np.uint8)], [value("y", (1, 2), np.uint8)], constants)
    return model, np.full((1, depth), left, np.uint8)


@pytest.mark.parametrize("right", [-128, 127])
@pytest.mark.parametrize("depth", DEPTHS)
def test_products(depth: int, right: int) -> None:
    """The result is that of the true sum, 108 units from the middle; in integers where 32 bits hold it."""
    model, data = product_model(depth, 255, right)
    other = -right if right > -128 else 127
    expected = [[round(255 * right / 300) + 128, round(255 * other / 300) + 128]]
    np.testing.assert_array_equal(rtcc.interpret(rtcc.read(model), {"a": data})["y"], expected)
    compilation = start(model, Options())
    compilation.lower()
    ops = [op for kernel in compilation.module.kernels.values() for op in kernel.ops]
    assert any(isinstance(op, MatMulSum) for op in ops) == (depth <= 65_792)
    for pipeline in ("-O1", "-O2"):  # -O1 takes the operator as `legalize` writes it
        with rtcc.compile(model, pipeline=pipeline) as artifact:
            np.testing.assert_array_equal(artifact.run({"a": data})["y"], expected)


@pytest.mark.parametrize(("channels", "bias"), [(32, 0), (32, 2**31 - 1), (7_400, 0)])
def test_convolutions(channels: int, bias: int) -> None:
    """A bias may leave int32 too."""
    constants = {
        "xs": np.float32(1), "xz": np.uint8(0), "w": np.full((4, channels, 3, 3), 127, np.int8),
        "ws": np.float32(1), "wz": np.int8(0), "ys": np.float32(2.0**25), "yz": np.uint8(0),
        "b": np.full(4, bias, np.int32),
    }  # fmt: skip
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"], name="conv")
    shape = (1, channels, 3, 3)
    model = make_model([node], [value("x", shape, np.uint8)], [value("y", (1, 4, 1, 1), np.uint8)], constants)
    data = {"x": np.full(shape, 255, np.uint8)}
    total = 255 * 127 * 9 * channels + bias
    assert (total >= 2**31) == (channels > 32 or bias > 0)
    assert (rtcc.interpret(rtcc.read(model), data)["y"] == round(total / 2**25)).all()
    for pipeline in ("-O1", "-O2"):
        with rtcc.compile(model, pipeline=pipeline) as artifact:
            assert (artifact.run(data)["y"] == round(total / 2**25)).all()


@pytest.mark.parametrize("pipeline", ["-O0", "-O1", "-O2"])
@pytest.mark.parametrize("is_constant", [True, False])
@pytest.mark.parametrize("depth", [65_792, 65_794])
def test_integer_products(depth: int, is_constant: bool, pipeline: str) -> None:
    """Whose result is i32 itself: refused by the node's name where some data make it wrap."""
    weight = np.full((depth, 1), -128, np.int8)
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"], name="long_product")
    inputs = {"a": np.full((1, depth), 255, np.uint8)} | ({} if is_constant else {"b": weight})
    model = make_model(
        [node], [value(name, array.shape, array.dtype) for name, array in inputs.items()],
        [value("y", (1, 1), np.int32)], {"b": weight} if is_constant else {},
    )  # fmt: skip
    if depth > 65_793:
        with pytest.raises(Unsupported, match="leave int32") as caught:
            start(model, Options(pipeline=pipeline)).lower()
        assert "long_product" in str(caught.value.where)
        return
    with rtcc.compile(model, pipeline=pipeline) as artifact:
        assert artifact.run(inputs)["y"] == -255 * 128 * depth


@pytest.mark.parametrize("weight", [-128, 2])
def test_integer_convolutions(weight: int) -> None:
    """What weights make of the sum decides, not how many there are."""
    weights = np.full((2, 7_400, 3, 3), weight, np.int8)
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"], name="long_sum")
    model = make_model(
        [node], [value("x", (1, 7_400, 3, 3), np.uint8)], [value("y", (1, 2, 1, 1), np.int32)], {"w": weights}
    )
    if weight == -128:
        with pytest.raises(Unsupported, match="long_sum"):
            start(model, Options()).lower()
        return
    with rtcc.compile(model) as artifact:
        found = artifact.run({"x": np.full((1, 7_400, 3, 3), 255, np.uint8)})["y"]
    assert (found == 255 * 2 * 9 * 7_400).all()


@pytest.mark.parametrize("weight", [2, -3, 127])
def test_convolutions_of_many_products_are_summed_in_integers_where_they_fit(weight: int) -> None:
    """66,600 products: of small weights in int32, of large ones in floats wide enough."""
    channels, factor = 7_400, 2.0**25 if weight == 127 else 2.0**19
    constants = {
        "xs": np.float32(1), "xz": np.uint8(0), "w": np.full((4, channels, 3, 3), weight, np.int8),
        "ws": np.float32(1), "wz": np.int8(0), "ys": np.float32(factor), "yz": np.uint8(128),
    }  # fmt: skip
    constants["w"][1:, ::2] *= -1
    node = helper.make_node("QLinearConv", ["x", *constants], ["y"], name="conv")
    shape = (1, channels, 3, 3)
    model = make_model([node], [value("x", shape, np.uint8)], [value("y", (1, 4, 1, 1), np.uint8)], constants)
    data = np.random.default_rng(weight + 3).integers(0, 256, shape, np.uint8)
    totals = constants["w"].reshape(4, -1).astype(np.int64) @ data.reshape(-1).astype(np.int64)
    expected = np.clip(np.rint(totals / factor) + 128, 0, 255).astype(np.uint8).reshape(1, 4, 1, 1)
    compilation = start(model, Options(target="x86:cascadelake"))
    compilation.lower()
    ops = [op for kernel in compilation.module.kernels.values() for op in kernel.ops]
    assert any(isinstance(op, ConvSum) for op in ops) == (weight != 127)
    for pipeline in ("-O1", "-O2"):
        with rtcc.compile(model, pipeline=pipeline) as artifact:
            np.testing.assert_array_equal(artifact.run({"x": data})["y"], expected)
