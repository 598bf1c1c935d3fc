"""Encoders of ai.onnx.ml over numbers: labels from tables, categories as ones, missing values filled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.errors import RtccError, Unsupported
from rtcc.ir import DType, Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table
from rtcc.onnx.tensors import Array

TABLE = Table()

_NAN_IS_A_KEY = 4
"""The first version of LabelEncoder whose keys may be NaN."""


@TABLE.rule("LabelEncoder", before=2)
@TABLE.rule("CategoryMapper")
def text_encoder(node: Node, build: Builder) -> Sequence[Value]:
    """Between text and numbers only."""
    raise _text(node)


@TABLE.rule("ZipMap", "DictVectorizer", "CastMap")
def maps(node: Node, build: Builder) -> Sequence[Value]:
    """Dictionaries, of which the C interface has none."""
    raise Unsupported(
        "unsupported-type",
        f"{node.op_type}: dictionaries are not supported",
        where=node.where,
        hint="export tensors: skl2onnx takes options={'zipmap': False}, onnxmltools' converters zipmap=False",
    )


@TABLE.rule("LabelEncoder")
def label_encoder(node: Node, build: Builder) -> Sequence[Value]:
    """values[i] where the element is keys[i], else the default: a binary search among the sorted keys.

    From version 4 on NaN is a key that NaN equals; before, nothing did.
    """
    keys, values, data = _numbers(node, "keys"), _numbers(node, "values"), node.operand(0)
    if keys.shape != values.shape:
        raise node.fail(f"{len(keys)} keys do not fit {len(values)} values")
    if data.type.dtype.numpy != keys.dtype:
        raise node.fail(f"the keys are {keys.dtype}, the data {data.type.dtype.value}")
    default = _default(node, values.dtype)
    missing = build.constant("default", default)
    keys, values, of_nan = _sorted(keys, values)
    if len(keys):
        at = _place(data, keys, build)
        found = build.op("Equal", build.op("Gather", build.constant("keys", keys), at).result, data).result
        value = build.op("Gather", build.constant("values", values), at).result
        result = build.op("Where", found, value, missing).result
    else:
        shape = build.op("Shape", data).result
        result = build.op("Expand", missing, shape).result
    if of_nan is None or node.opset < _NAN_IS_A_KEY:
        return (result,)
    nan = build.op("IsNaN", data).result
    return build.op("Where", nan, build.constant("value_of_nan", of_nan), result).results


@TABLE.rule("OneHotEncoder")
def one_hot_encoder(node: Node, build: Builder) -> Sequence[Value]:
    """1 for the category that an element is, on a new last axis; none where it is another."""
    if node.has("cats_strings"):
        raise _text(node)
    if not node.int("zeros", 1):
        raise node.unsupported(
            "zeros = 0 (fail for unknown categories) is not supported", hint="export with zeros = 1"
        )
    categories = build.integers("categories", node.ints("cats_int64s"))
    data = node.operand(0)
    numbers = build.op("Cast", data, to=DType.I64.value).result
    column = build.op("Unsqueeze", numbers, build.integers("axes", (-1,))).result
    return build.op("Cast", build.op("Equal", column, categories).result, to=DType.F32.value).results


@TABLE.rule("Imputer")
def imputer(node: Node, build: Builder) -> Sequence[Value]:
    """Another value, one for all features or one for each, in place of the one that means missing."""
    data = node.operand(0)
    kind = "float" if data.type.dtype.is_float else "int64"
    name = f"imputed_value_{kind}s"
    given = node.floats(name) if kind == "float" else node.ints(name)
    features = data.type.shape[-1] if data.type.rank else 1
    if len(given) not in (1, features):
        raise node.fail(f"{len(given)} values do not fit {features} features")
    dtype = data.type.dtype.numpy
    values = build.constant("imputed", np.array(given).astype(dtype))
    name = f"replaced_value_{kind}"
    replaced = node.float(name, 0.0) if kind == "float" else node.int(name, 0)
    if np.isnan(replaced):
        absent = build.op("IsNaN", data).result
    else:
        absent = build.op("Equal", data, build.constant("replaced", np.array(replaced).astype(dtype))).result
    return build.op("Where", absent, values, data).results


def _numbers(node: Node, role: str) -> Array:
    """The one list or tensor of keys or of values that the node has."""
    if node.has(f"{role}_strings"):
        raise _text(node)
    found = [
        *([np.array(node.ints(f"{role}_int64s"), np.int64)] if node.has(f"{role}_int64s") else []),
        *([np.array(node.floats(f"{role}_floats"), np.float32)] if node.has(f"{role}_floats") else []),
        *([node.tensor(f"{role}_tensor").reshape(-1)] if node.has(f"{role}_tensor") else []),
    ]
    if len(found) != 1:
        raise node.fail(f"expected one of {role}_int64s, {role}_floats and {role}_tensor, found {len(found)}")
    return found[0]


def _default(node: Node, dtype: np.dtype[np.generic]) -> Array:
    """What an element that is no key becomes: -1, or -0.0 of floats, where the node does not say."""
    if node.has("values_tensor") and node.has("default_tensor"):
        given = node.tensor("default_tensor")
        if given.size != 1 or given.dtype != dtype:
            raise node.fail(f"default_tensor must be one {dtype}, found {given.size} of {given.dtype}")
        return given.reshape(())
    number = node.int("default_int64", -1) if dtype.kind == "i" else node.float("default_float", -0.0)
    return np.array(number).astype(dtype)


def _sorted(keys: Array, values: Array) -> tuple[Array, Array, Array | None]:
    """Each key once, in order, with its last value; the value of NaN apart, None where it is no key."""
    nan = np.isnan(keys) if keys.dtype.kind == "f" else np.zeros(keys.shape, np.bool_)
    of_nan = values[nan]
    unique, last = np.unique(keys[~nan][::-1], return_index=True)
    return unique, values[~nan][::-1][last], of_nan[-1] if len(of_nan) else None


def _place(data: Value, keys: Array, build: Builder) -> Value:
    """The index of the last of the sorted keys that is not above each element, 0 where all are."""
    count = 1 << (len(keys) - 1).bit_length()
    padded = build.constant("sorted", np.concatenate([keys, np.repeat(keys[-1:], count - len(keys))]))
    at = build.op(
        "Expand", build.constant("first", np.array(0, np.int64)), build.op("Shape", data).result
    ).result
    step = count // 2
    while step:
        further = build.op("Add", at, build.constant("step", np.array(step, np.int64))).result
        reached = build.op("LessOrEqual", build.op("Gather", padded, further).result, data).result
        at = build.op("Where", reached, further, at).result
        step //= 2
    last = build.constant("last", np.array(len(keys) - 1, np.int64))
    return build.op("Min", at, last).result


def _text(node: Node) -> RtccError:
    return Unsupported(
        "unsupported-type", f"{node.op_type}: text is not supported", where=node.where,
        hint="encode text outside the model",
    )  # fmt: skip
