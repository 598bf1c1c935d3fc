"""Every scheme: constants that layers share, constants that no scale fits, layers that are left alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtcc
from rtcc.errors import InvalidInput, InvalidModel
from rtcc.ir import Constant, DType, Module, TensorType, Value
from rtcc.ir.ops.nn import MatMul
from rtcc.ir.ops.quant import MatMulInteger
from rtcc.quantization.reporting.report import make_report
from rtcc.quantization.scheme import Form, Settings
from rtcc.quantization.weights import signal_to_noise
from rtcc.text import parse_module

SCHEMES = ["int8", "dynamic", "weights-int8", "weights-int4", "float16", "bfloat16", "half"]


def tied_embedding(**given: Any) -> Module:
    """A table that rows are gathered from and that the last layer multiplies by, and a layer between."""
    module = parse_module(
        "// rtir 1  level=graph\nconst #table : f32[40,16] = splat(0.0)\nconst #w : f32[16,16] = splat(0.0)\n"
        "graph @main(%ids: i64[5]) {\n"
        '  %e = tensor.gather(%ids.table) {axis = 0} : f32[5,16] loc("embedding")\n'
        '  %h = nn.mat_mul(%e, #w) : f32[5,16] loc("hidden")\n'
        "  %r = math.relu(%h) : f32[5,16]\n"
        '  %y = nn.gemm(%r, #table) {transB = 1} : f32[5,40] loc("head")\n'
        "  return(%y)\n}\n".replace("%ids.table", "#table, %ids")
    )
    return filled(module, given)


def filled(module: Module, given: dict[str, Any]) -> Module:
    """The module, its constants given or of random elements."""
    generator = np.random.default_rng(3)
    for name, constant in list(module.constants.items()):
        data = given.get(name, generator.standard_normal(constant.type.sizes) / 3)
        constant.replace_uses(module.add_constant(f"{name}.filled", np.asarray(data, np.float32)))
        del module.constants[name]
    return module


def two_layers(**given: Any) -> Module:
    """Two products with biases, the first weight #a, the second #b."""
    module = parse_module(
        "// rtir 1  level=graph\nconst #a : f32[16,32] = splat(0.0)\nconst #c : f32[32] = splat(0.0)\n"
        "const #b : f32[32,16] = splat(0.0)\n"
        "graph @main(%x: f32[2,16]) {\n"
        '  %h = nn.gemm(%x, #a, #c) : f32[2,32] loc("first")\n'
        "  %r = math.relu(%h) : f32[2,32]\n"
        '  %y = nn.mat_mul(%r, #b) : f32[2,16] loc("second")\n'
        "  return(%y)\n}\n"
    )
    return filled(module, given)


def samples(count: int = 4) -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((count, 2, 16)).astype(np.float32)}


def damaged(shape: tuple[int, ...], element: float) -> Any:
    data = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    data[1, 2] = element
    return data


@pytest.mark.parametrize("scheme", ["weights-int8", "weights-int4"])
def test_a_tied_embedding_is_restored_once_before_both_readers(scheme: str) -> None:
    quantized = rtcc.quantize(tied_embedding(), scheme=scheme)
    names = [op.name for op in quantized.module.main.ops]
    assert names.index("quant.dequantize_linear") < names.index("tensor.gather")
    assert names.count("quant.dequantize_linear") == 2
    feeds = {"ids": np.arange(5)}
    exact, found = (rtcc.interpret(m, feeds)["y"] for m in (quantized.float_module, quantized.module))
    assert signal_to_noise(float((exact**2).sum()), float(((exact - found) ** 2).sum())) > 15


@pytest.mark.parametrize("element", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scheme", ["int8", "dynamic", "weights-int8", "weights-int4"])
def test_a_weight_that_no_scale_fits_is_refused_by_name(scheme: str, element: float) -> None:
    module = two_layers(b=damaged((32, 16), element))
    with pytest.raises(InvalidInput) as raised:
        rtcc.quantize(module, samples(), scheme=scheme)
    assert raised.value.code == "weight-not-finite"
    assert "#b.filled[1, 2]" in str(raised.value)
    assert "layer second" in str(raised.value)


def test_a_bias_that_no_scale_fits_is_refused_and_a_layer_left_alone_may_hold_it() -> None:
    bias = np.where(np.arange(32) == 3, np.nan, 1.0)
    with pytest.raises(InvalidInput, match="weight-not-finite"):
        rtcc.quantize(two_layers(c=bias), samples())
    quantized = rtcc.quantize(
        two_layers(b=damaged((32, 16), np.nan)), scheme="dynamic", keep_float=("second",)
    )
    assert len(quantized.outcome.inserted.layers) == 1


def test_products_that_read_each_other_are_quantised_as_they_come() -> None:
    module = parse_module(
        "// rtir 1  level=graph\nconst #a : f32[16,32] = splat(0.0)\nconst #b : f32[32,16] = splat(0.0)\n"
        "graph @main(%x: f32[2,16]) {\n"
        '  %h = nn.mat_mul(%x, #a) : f32[2,32] loc("first")\n'
        "  %r = math.relu(%h) : f32[2,32]\n"
        '  %y = nn.mat_mul(%r, #b) : f32[2,16] loc("second")\n'
        "  return(%y)\n}\n"
    )
    feeds = {"x": samples(1)["x"][0]}
    quantized = rtcc.quantize(filled(module, {}), scheme="dynamic")
    assert [layer.name for layer in quantized.outcome.inserted.layers] == ["first", "second"]
    exact, found = (rtcc.interpret(m, feeds)["y"] for m in (quantized.float_module, quantized.module))
    assert signal_to_noise(float((exact**2).sum()), float(((exact - found) ** 2).sum())) > 30


def test_elements_finite_in_one_model_alone_are_failures_of_the_report() -> None:
    quantized = rtcc.quantize(two_layers(), samples(), scheme="dynamic")
    scale = quantized.module.constants["b.filled.scale"]
    scale.replace_uses(quantized.module.add_constant("broken", scale.array * np.float32(np.nan)))
    (output,) = (report := make_report(quantized)).outputs
    assert output.sqnr == -np.inf
    assert output.not_finite == 4 * 2 * 16
    assert "128 elements not finite in one model alone" in "\n".join(report.summary())


def test_dynamic_quantisation_takes_no_weights_of_16_bits() -> None:
    with pytest.raises(InvalidInput, match="quantize-option"):
        rtcc.quantize(two_layers(), scheme="dynamic", weights="normalized")
    left, right = Value(TensorType(DType.U8, (2, 3)), "x"), Value(TensorType(DType.I16, (3, 4)), "w")
    with pytest.raises(InvalidModel, match="right operand must be i8 or u8, found i16"):
        MatMulInteger(left, right)


@pytest.mark.parametrize(
    ("factor", "reason"), [(1e-9, "too small for f16"), (1e6, "beyond the range of f16")]
)
def test_constants_that_float16_would_not_keep_stay_float32(factor: float, reason: str) -> None:
    weight = np.random.default_rng(2).standard_normal((32, 16)) * factor
    quantized = rtcc.quantize(two_layers(b=weight), samples(), scheme="float16")
    names = {name: constant.type.dtype for name, constant in quantized.module.constants.items()}
    assert names["b.filled"] is DType.F32
    assert names["a.filled.f16"] is DType.F16
    report = make_report(quantized)
    assert list(report.kept) == ["b.filled"]
    assert f"#b.filled as f32: {reason}" in "\n".join(report.summary())
    assert report.outputs[0].sqnr is not None
    assert report.outputs[0].sqnr > 60
    with pytest.raises(InvalidInput, match=r"nothing-to-quantize(.|\n)*" + reason):
        rtcc.quantize(two_layers(a=weight.T, b=weight), scheme="float16")


@pytest.mark.parametrize("scheme", ["weights-int8", "weights-int4", "float16", "bfloat16"])
def test_a_model_of_small_constants_is_told_that_they_are_too_small(scheme: str) -> None:
    module = parse_module(
        "// rtir 1  level=graph\nconst #w : f32[15,17] = splat(0.5)\n"
        "graph @main(%x: f32[2,15]) {\n  %y = nn.mat_mul(%x, #w) : f32[2,17]\n  return(%y)\n}\n"
    )
    with pytest.raises(InvalidInput, match=r"nothing-to-quantize(.|\n)*at least 256 elements"):
        rtcc.quantize(module, scheme=scheme)


def test_a_few_tiny_elements_are_no_reason_to_keep_a_constant() -> None:
    weight = np.random.default_rng(2).standard_normal((32, 16))
    weight[:, 3] *= 1e-9
    weight[7] = 0
    assert not rtcc.quantize(two_layers(b=weight), scheme="float16").outcome.kept
    assert not rtcc.quantize(two_layers(b=weight * 1e-9), scheme="bfloat16").outcome.kept


@pytest.mark.parametrize(("factor", "kept"), [(1e-9, ["table.filled"]), (1e-4, [])])
def test_a_row_of_a_table_that_float16_would_not_keep_keeps_the_table(factor: float, kept: list[str]) -> None:
    table = np.random.default_rng(2).standard_normal((40, 16))
    table[3] *= factor
    found = rtcc.quantize(tied_embedding(table=table), scheme="float16").outcome.kept
    assert list(found) == kept
    assert all("in row 3" in reason for reason in found.values())


def test_a_row_of_a_weight_counts_beside_the_largest() -> None:
    weight = np.random.default_rng(2).standard_normal((32, 16))
    weight[3] *= 1e-9
    assert not rtcc.quantize(two_layers(b=weight), scheme="float16").outcome.kept


@pytest.mark.parametrize("scheme", SCHEMES)
def test_layers_kept_float_keep_their_constants_and_must_exist(scheme: str) -> None:
    quantized = rtcc.quantize(two_layers(), samples(), scheme=scheme, keep_float=("second",))
    (product,) = (op for op in quantized.module.main.ops if "second" in op.location.nodes)
    assert isinstance(product, MatMul)
    assert isinstance(product.right, Constant)
    assert product.right.type.dtype is DType.F32
    with pytest.raises(InvalidInput, match="no-such-layer"):
        rtcc.quantize(two_layers(), samples(), scheme=scheme, keep_float=("third",))


@pytest.mark.parametrize(
    ("scheme", "form"),
    [
        (s, f)
        for s in SCHEMES
        for f in Form
        if (s, f) != ("dynamic", Form.NORMALIZED)
        and (not s.endswith(("float16", "half")) or f is Settings.weights)
    ],
)
def test_onnxruntime_loads_every_scheme_and_form_and_agrees(scheme: str, form: Form, tmp_path: Path) -> None:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    data = {"ids": np.random.default_rng(4).integers(0, 40, (6, 5))}
    quantized = rtcc.quantize(tied_embedding(), data, scheme=scheme, weights=form)
    quantized.write(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for ids in data["ids"]:
        found = rtcc.interpret(quantized.module, {"ids": ids})["y"]
        (answer,) = session.run(None, {"ids": ids})
        assert signal_to_noise(float((found**2).sum()), float(((found - answer) ** 2).sum())) > 38
        exact = rtcc.interpret(quantized.float_module, {"ids": ids})["y"]
        assert signal_to_noise(float((exact**2).sum()), float(((exact - found) ** 2).sum())) > 15
