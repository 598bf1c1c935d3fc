"""ONNX Runtime's own quantised operators (com.microsoft) mean here what they mean there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import rtcc
from rtcc.errors import InvalidModel, Unsupported
from tests.frontend.models import Array, interpreted, make_model, run_onnxruntime, value

F32, U8, I8 = np.float32, np.uint8, np.int8
DOMAIN = "com.microsoft"
Parameters = tuple[float, int]


def single(
    op: str, operands: Mapping[str, Any], inputs: Mapping[str, Array], result: Any = U8, **attributes: Any
) -> ModelProto:
    """A model of one node: operands by name, "" where absent; those named in `inputs` are inputs."""
    names = ["" if operand is None else name for name, operand in operands.items()]
    node = helper.make_node(op, names, ["y"], domain=DOMAIN, name="node", **attributes)
    constants = {n: v for n, v in operands.items() if v is not None and n not in inputs}
    infos = [value(name, array.shape, array.dtype) for name, array in inputs.items()]
    return make_model([node], infos, [value("y", None, result)], constants, domains=[DOMAIN])


def agree(model: ModelProto, feeds: Mapping[str, Array], units: int = 1) -> Array:
    """ONNX Runtime and the interpreter differ by at most `units`; the interpreter's result."""
    expected, found = run_onnxruntime(model, feeds)["y"], interpreted(model, feeds)["y"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= units
    return found


def integers(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(low, high, shape, endpoint=True).astype(dtype)


def parameters(role: str, scale: float, zero: int | None, dtype: Any = U8) -> dict[str, Any]:
    return {f"{role}s": F32(scale), f"{role}z": None if zero is None else dtype(zero)}


@pytest.mark.parametrize("dtype", [U8, I8])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_arithmetic(op: str, dtype: Any) -> None:
    """With broadcasting; ends of the range are reached."""
    a, b = integers((2, 3, 97), dtype), integers((3, 1), dtype, 1)
    zero = 7 if dtype is I8 else 120
    operands = {"a": a} | parameters("a", 0.05, zero, dtype)
    operands |= {"b": b} | parameters("b", 0.03, zero + 3, dtype) | parameters("y", 0.03, zero, dtype)
    model = single(op, operands, {"a": a, "b": b}, dtype)
    found = agree(model, {"a": a, "b": b})
    assert {np.iinfo(dtype).min, np.iinfo(dtype).max} <= set(found.reshape(-1).tolist())


@pytest.mark.parametrize("dtype", [U8, I8])
@pytest.mark.parametrize(
    ("op", "attributes", "y"),
    [
        ("QLinearSigmoid", {}, (1 / 256, 0)),
        ("QLinearLeakyRelu", {}, (0.04, 3)),
        ("QLinearLeakyRelu", {"alpha": 0.25}, (0.04, 3)),
        ("QLinearSoftmax", {"opset": 13, "axis": 1}, (1 / 256, 0)),
        ("QLinearSoftmax", {"opset": 13}, (1 / 256, 0)),
        ("QLinearSoftmax", {"opset": 12, "axis": 2}, (1 / 256, 0)),
        ("QLinearAveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}, (0.03, 20)),
        ("QLinearAveragePool", {"kernel_shape": [2, 3], "ceil_mode": 1}, (0.03, 20)),
        ("QLinearAveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "count_include_pad": 1},
         (0.03, 20)),
        ("QLinearAveragePool", {"kernel_shape": [2, 2], "channels_last": 1}, (0.03, 20)),
        ("QLinearGlobalAveragePool", {}, (0.01, 90)),
        ("QLinearGlobalAveragePool", {"channels_last": 1}, (0.01, 90)),
    ],
)  # fmt: skip
def test_operators_of_one_tensor(op: str, attributes: dict[str, Any], y: Parameters, dtype: Any) -> None:
    x = integers((2, 5, 6, 7), dtype)
    shift = 128 if dtype is I8 else 0
    operands = {"x": x, **parameters("x", 0.03, 128 - shift, dtype)}
    model = single(op, operands | parameters("y", y[0], y[1] - shift, dtype), {"x": x}, dtype, **attributes)
    assert len(np.unique(agree(model, {"x": x}))) > 2


@pytest.mark.parametrize(("axes", "keepdims"), [([2, 3], 1), ([-1], 0)])
def test_mean(axes: list[int], keepdims: int) -> None:
    """For which ONNX Runtime has a schema and no kernel."""
    x = integers((2, 5, 6, 7), U8)
    operands = {"x": x, **parameters("x", 0.03, 128), **parameters("y", 0.01, 100)}
    model = single("QLinearReduceMean", operands, {"x": x}, axes=axes, keepdims=keepdims)
    real = (x.astype(F32) - 128) * F32(0.03)
    mean = real.mean(tuple(axes), keepdims=bool(keepdims)) / F32(0.01)
    expected = np.clip(np.rint(mean) + 100, 0, 255)
    found = interpreted(model, {"x": x})["y"]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def test_absent_zero_points() -> None:
    """They are zero, and the result has the data's type."""
    x = integers((40,), I8)
    operands = {"x": x, **parameters("x", 0.03, None, I8), **parameters("y", 0.03, None, I8)}
    agree(single("QLinearLeakyRelu", operands, {"x": x}, I8), {"x": x})


def test_concat() -> None:
    parts = {name: integers((2, 3, 4), U8, seed) for seed, name in enumerate("ab")}
    operands = parameters("y", 0.05, 100)
    for name, part in parts.items():
        operands |= {name: part} | parameters(name, 0.03 if name == "a" else 0.05, 100)
    agree(single("QLinearConcat", operands, parts, axis=-2), parts)


def test_where() -> None:
    chosen = np.random.default_rng(2).random((4, 5)) < 0.5
    x, y = integers((4, 5), U8), integers((5,), U8, 1)
    operands = {"c": chosen, "x": x, **parameters("x", 0.03, 4), "y1": y, **parameters("y1", 0.05, 9)}
    inputs = {"c": chosen, "x": x, "y1": y}
    agree(single("QLinearWhere", operands | parameters("z", 0.06, 9), inputs), inputs)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("quantised", [False, True])
def test_gemm(transposed: int, per_column: bool, quantised: bool) -> None:
    """The bias counts in units of the sum, alpha included."""
    a, b = integers((5, 12), U8), integers((7, 12) if transposed else (12, 7), I8, 1)
    scale = np.linspace(0.01, 0.03, 7).astype(F32) if per_column else F32(0.02)
    bias = np.random.default_rng(3).integers(-9000, 9000, 7).astype(np.int32)
    operands = {
        "a": a, **parameters("a", 0.02, 120), "b": b, "bs": scale,
        "bz": np.zeros(7, I8) if per_column else I8(0), "c": bias,
    }  # fmt: skip
    if not quantised:
        model = single("QGemm", operands, {"a": a}, F32, transB=transposed, alpha=0.5)
        found, expected = interpreted(model, {"a": a})["y"], run_onnxruntime(model, {"a": a})["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        return
    operands |= parameters("y", 0.04, 128)
    agree(single("QGemm", operands, {"a": a}, transB=transposed, alpha=0.5), {"a": a})


@pytest.mark.parametrize("with_bias", [False, True])
def test_products_that_yield_floats(with_bias: bool) -> None:
    a, b = integers((2, 5, 12), U8), integers((12, 7), I8, 1)
    bias = np.linspace(-1, 1, 7).astype(F32) if with_bias else None
    scale = np.linspace(0.01, 0.03, 7).astype(F32)
    operands = {"a": a, "b": b, "as": F32(0.02), "bs": scale, "az": U8(120), "bz": I8(0), "c": bias}
    model = single("MatMulIntegerToFloat", operands, {"a": a}, F32)
    found, expected = interpreted(model, {"a": a})["y"], run_onnxruntime(model, {"a": a})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    data = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(F32)
    operands = {"a": data, "b": b, "bs": scale, "bz": None, "c": bias}
    model = single("DynamicQuantizeMatMul", operands, {"a": data}, F32)
    found, expected = interpreted(model, {"a": data})["y"], run_onnxruntime(model, {"a": data})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("with_zero_points", [False, True])
@pytest.mark.parametrize("depth", [64, 70])
def test_products_with_blocks(bits: int, with_zero_points: bool, depth: int) -> None:
    """Also where the last block is partial."""
    columns, block, blocks = 9, 16, -(-depth // 16)
    a = np.random.default_rng(0).standard_normal((3, depth)).astype(F32)
    packed = integers((columns, blocks, block * bits // 8), U8)
    scales = np.random.default_rng(1).uniform(0.01, 0.02, (columns, blocks)).astype(F32)
    zeros = integers((columns, -(-blocks * bits // 8)), U8, 2) if with_zero_points else None
    bias = np.linspace(-1, 1, columns).astype(F32)
    operands = {"a": a, "b": packed, "s": scales, "z": zeros, "g": None, "bias": bias}
    model = single("MatMulNBits", operands, {"a": a}, F32, K=depth, N=columns, bits=bits, block_size=block)
    found, expected = interpreted(model, {"a": a})["y"], run_onnxruntime(model, {"a": a})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("with_zero_points", [False, True])
def test_gathering_from_blocks(bits: int, with_zero_points: bool) -> None:
    data = integers((10, 32 * bits // 8), U8)
    scales = np.random.default_rng(1).uniform(0.01, 0.02, (10, 2)).astype(F32)
    zeros = integers((10, 2 * bits // 8), U8, 2) if with_zero_points else None
    indices = np.array([[0, 9], [3, 3]], np.int64)
    operands = {"d": data, "i": indices, "s": scales, "z": zeros}
    model = single(
        "GatherBlockQuantized", operands, {"i": indices}, F32, bits=bits, block_size=16, quantize_axis=1
    )
    found, expected = interpreted(model, {"i": indices})["y"], run_onnxruntime(model, {"i": indices})["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("channels_last", [0, 1])
def test_convolution(channels_last: int) -> None:
    x, w = integers((1, 8, 9, 4) if channels_last else (1, 4, 8, 9), U8), integers((6, 2, 3, 3), I8, 1)
    operands = {
        "x": x, **parameters("x", 0.02, 128), "w": w, "ws": np.linspace(0.01, 0.02, 6).astype(F32),
        "wz": np.zeros(6, I8), **parameters("y", 0.05, 128),
    }  # fmt: skip
    attributes: dict[str, Any] = {"group": 2, "pads": [1, 1, 1, 1], "channels_last": channels_last}
    model = single("QLinearConv", operands, {"x": x}, **attributes)
    agree(model, {"x": x})


def test_quantising() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype(F32)
    each = {"s": np.full(3, 0.02, F32), "z": np.arange(3, dtype=U8)}
    found = agree(single("QuantizeLinear", {"x": x, **each}, {"x": x}), {"x": x}, 0)
    operands = {"x": found, **each}
    model = single("DequantizeLinear", operands, {"x": found}, F32)
    feeds = {"x": found}
    np.testing.assert_array_equal(interpreted(model, feeds)["y"], run_onnxruntime(model, feeds)["y"])


def test_refusals() -> None:
    """What is not supported is said with the node's name; what does not fit is the model's fault."""
    x = np.zeros((1, 2, 3), F32)
    with pytest.raises(Unsupported, match="QOrderedGelu"):
        rtcc.read(single("QOrderedGelu", {"x": x}, {"x": x}, F32))
    operands = {"a": np.zeros((2, 32), F32), "b": np.zeros((4, 2, 8), U8), "s": np.ones((4, 2), F32)}
    sizes = {"K": 32, "N": 4, "bits": 4, "block_size": 16}
    with pytest.raises(Unsupported, match="bits"):
        rtcc.read(single("MatMulNBits", operands, {"a": operands["a"]}, F32, **(sizes | {"bits": 3})))
    with pytest.raises(InvalidModel, match="elements"):
        rtcc.read(single("MatMulNBits", operands, {"a": operands["a"]}, F32, **(sizes | {"N": 5})))
    given = operands | {"z": None, "g": np.zeros(32, np.int32)}
    with pytest.raises(Unsupported, match="g_idx"):
        rtcc.read(single("MatMulNBits", given, {"a": operands["a"]}, F32, **sizes))
