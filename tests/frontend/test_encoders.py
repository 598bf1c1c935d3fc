"""ai.onnx.ml's encoders over numbers, against ONNX Runtime and, where it has no kernel, ONNX's reference."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from onnx import ModelProto, helper
from onnx.numpy_helper import from_array
from onnx.reference import ReferenceEvaluator

import rtcc
from rtcc.errors import InvalidModel, RtccError, Unsupported
from tests.frontend.models import Array, assert_same, interpreted, make_model, run_onnxruntime, value

F32, F64, I64, I32, I16 = np.float32, np.float64, np.int64, np.int32, np.int16
NAN = float("nan")
NUMBERS = np.array([[1, 2.5, -0.0, NAN], [3, 7, 1e9, -5]], F32)
INTEGERS = np.array([[1, 2, 3], [-7, 9, 10**12]], I64)


def encoder(op: str, x: Array, result: Any, version: int = 1, **attributes: Any) -> ModelProto:
    """A model of one node; version: of ai.onnx.ml."""
    tensors: dict[str, Any] = {
        name: from_array(cast("Array", given), name) if isinstance(given, np.ndarray) else given
        for name, given in attributes.items()
    }
    node = helper.make_node(op, ["x"], ["y"], domain="ai.onnx.ml", name="node", **tensors)
    inputs, outputs = [value("x", x.shape, x.dtype)], [value("y", None, result)]
    model = make_model([node], inputs, outputs, domains=["ai.onnx.ml"])
    next(each for each in model.opset_import if each.domain == "ai.onnx.ml").version = version
    return model


@pytest.mark.parametrize("version", [2, 4])
@pytest.mark.parametrize(
    ("x", "result", "attributes"),
    [
        (NUMBERS, I64, {"keys_floats": [1.0, 2.5, 0.0], "values_int64s": [5, 6, 7]}),
        (NUMBERS, I64, {"keys_floats": [1.0, 2.5], "values_int64s": [5, 6], "default_int64": 9}),
        (NUMBERS, F32, {"keys_floats": [1.0, NAN, 0.0], "values_floats": [5.0, 6.0, 7.0]}),
        (NUMBERS, F32, {"keys_floats": [NAN], "values_floats": [5.0]}),
        (NUMBERS, F32, {"keys_floats": [7.0], "values_floats": [NAN], "default_float": 0.5}),
        (INTEGERS, F32, {"keys_int64s": [9, 1, 3, 10**12, 4], "values_floats": [1.0, 2, 3, 4, 5]}),
        (INTEGERS, I64, {"keys_int64s": [9, 1, 3, 10**12, 4, -7], "values_int64s": [1, 2, 3, 4, 5, 6]}),
        (np.array(1), I64, {"keys_int64s": [9, 1], "values_int64s": [1, 2]}),
    ],
    ids=str,
)
def test_labels(x: Array, result: Any, attributes: dict[str, Any], version: int) -> None:
    """NaN is a key from version 4 on."""
    model = encoder("LabelEncoder", x, result, version, **attributes)
    assert_same(interpreted(model, {"x": x}), run_onnxruntime(model, {"x": x}))


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.parametrize("to", [I64, I32, I16, F32, F64])
@pytest.mark.parametrize("of", [I64, I32, I16, F32, F64])
def test_labels_in_tensors(of: Any, to: Any, default: bool) -> None:
    x = np.array([[1, 2, 3, 4], [-7, 5, 6, 100]], of)
    keys, labels = np.array([5, 1, -7, 3], of), np.array([50, 10, -70, 30], to)
    given = {"default_tensor": np.array([-3], to)} if default else {}
    model = encoder("LabelEncoder", x, to, 4, keys_tensor=keys, values_tensor=labels, **given)
    found = interpreted(model, {"x": x})
    other = -3 if default else -1 if np.dtype(to).kind == "i" else -0.0
    table = dict(zip(keys.tolist(), labels.tolist(), strict=True))
    expected = np.array([[table.get(each, other) for each in row] for row in x.tolist()], to)
    assert_same(found, {"y": expected})
    if default:
        evaluator: Any = ReferenceEvaluator(model)
        (reference,) = evaluator.run(None, {"x": x})
        assert_same(found, {"y": np.asarray(reference)})


def test_many_labels_compiled() -> None:
    """Keys in no order, some of them twice: the last counts, as ONNX has it."""
    random = np.random.default_rng(0)
    keys = random.integers(-1000, 1000, 777)
    labels = random.standard_normal(777).astype(F32)
    x = random.integers(-1100, 1100, (50, 7))
    attributes = {"keys_int64s": keys.tolist(), "values_floats": labels.tolist(), "default_float": 0.5}
    model = encoder("LabelEncoder", x, F32, 4, **attributes)
    table = dict(zip(keys.tolist(), labels, strict=True))
    expected = np.array([[table.get(each, F32(0.5)) for each in row] for row in x.tolist()], F32)
    np.testing.assert_array_equal(interpreted(model, {"x": x})["y"], expected)
    np.testing.assert_array_equal(rtcc.compile(model).run({"x": x})["y"], expected)


@pytest.mark.parametrize(
    ("x", "attributes"),
    [
        (NUMBERS, {"imputed_value_floats": [9.0], "replaced_value_float": NAN}),
        (NUMBERS, {"imputed_value_floats": [9.0, 8, 7, 6], "replaced_value_float": NAN}),
        (NUMBERS, {"imputed_value_floats": [9.0, 8, 7, 6], "replaced_value_float": 0.0}),
        (INTEGERS, {"imputed_value_int64s": [9, 8, 7], "replaced_value_int64": 3}),
    ],
)
def test_missing_values(x: Array, attributes: dict[str, Any]) -> None:
    model = encoder("Imputer", x, x.dtype, **attributes)
    assert_same(interpreted(model, {"x": x}), run_onnxruntime(model, {"x": x}))


@pytest.mark.parametrize("x", [INTEGERS, INTEGERS[0], NUMBERS[1:]])
def test_categories(x: Array) -> None:
    model = encoder("OneHotEncoder", x, F32, cats_int64s=[9, 1, 3, 7])
    assert_same(interpreted(model, {"x": x}), run_onnxruntime(model, {"x": x}))


@pytest.mark.parametrize(
    ("op", "version", "attributes", "error"),
    [
        ("LabelEncoder", 1, {"classes_strings": ["a"]}, Unsupported),
        ("LabelEncoder", 2, {"keys_strings": ["a"], "values_int64s": [1]}, Unsupported),
        ("LabelEncoder", 2, {"keys_int64s": [1], "values_strings": ["a"]}, Unsupported),
        ("LabelEncoder", 2, {"keys_int64s": [1, 2], "values_int64s": [1]}, InvalidModel),
        ("LabelEncoder", 2, {"keys_int64s": [1]}, InvalidModel),
        ("LabelEncoder", 2, {"keys_floats": [1.0], "values_int64s": [1]}, InvalidModel),
        ("LabelEncoder", 4, {"keys_int64s": [1], "keys_floats": [1.0], "values_int64s": [1]}, InvalidModel),
        (
            "LabelEncoder",
            4,
            {"keys_int64s": [1], "values_tensor": np.array([1]), "default_tensor": np.array([1.0])},
            InvalidModel,
        ),
        ("CategoryMapper", 1, {"cats_strings": ["a"], "cats_int64s": [1]}, Unsupported),
        ("ZipMap", 1, {"classlabels_int64s": [0, 1, 2]}, Unsupported),
        ("OneHotEncoder", 1, {"cats_strings": ["a"]}, Unsupported),
        ("OneHotEncoder", 1, {"cats_int64s": [1], "zeros": 0}, Unsupported),
        ("Imputer", 1, {"imputed_value_int64s": [1, 2]}, InvalidModel),
        ("Imputer", 1, {"imputed_value_floats": [1.0]}, InvalidModel),
    ],
    ids=str,
)
def test_refusals(op: str, version: int, attributes: dict[str, Any], error: type[RtccError]) -> None:
    with pytest.raises(error) as raised:
        rtcc.read(encoder(op, INTEGERS, I64, version, **attributes))
    assert raised.value.where == "node"
