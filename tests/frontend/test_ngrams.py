"""Counted sequences of numbers (TfIdfVectorizer), as ONNX Runtime counts them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import rtcc
from rtcc.errors import InvalidModel, RtccError, Unsupported
from tests.frontend.models import assert_same, interpreted, make_model, run_onnxruntime, value

POOL: dict[str, Any] = {
    "mode": "TF", "min_gram_length": 1, "max_gram_length": 3, "max_skip_count": 2,
    "ngram_counts": [0, 3, 9], "ngram_indexes": [4, 0, 1, 6, 2, 3, 7],
    "pool_int64s": [5, 6, 7, 5, 6, 6, 7, 7, 7, 5, 5, 6],
}  # fmt: skip
ROWS = np.array([[5, 6, 7, 5, 6, 7, 7], [7, 7, 7, 5, 1, 6, 5], [5, 5, 6, 5, 5, 6, 0]])


def vectorizer(rows: tuple[int, ...] = ROWS.shape, **changes: Any) -> ModelProto:
    node = helper.make_node("TfIdfVectorizer", ["x"], ["y"], name="node", **{**POOL, **changes})
    return make_model([node], [value("x", rows, np.int64)], ["y"], opset=9)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mode": "IDF"},
        {"mode": "IDF", "weights": [0.5, 1.5, 2, 3, 4, 5, 6]},
        {"mode": "TFIDF", "weights": [0.5, 1.5, 2, 3, 4, 5, 6]},
        {"min_gram_length": 2, "max_gram_length": 2, "max_skip_count": 0},
        {"max_gram_length": 1},
        {"max_skip_count": 9},
    ],
    ids=str,
)
def test_counts(changes: dict[str, Any]) -> None:
    model, row = vectorizer(**changes), vectorizer((7,), **changes)
    assert_same(interpreted(model, {"x": ROWS}), run_onnxruntime(typed(model), {"x": ROWS}))
    assert_same(interpreted(row, {"x": ROWS[0]}), run_onnxruntime(typed(row), {"x": ROWS[0]}))


def test_numbers_that_32_bits_cannot_hold_are_in_no_row() -> None:
    node = helper.make_node(
        "TfIdfVectorizer", ["x"], ["y"], mode="TF", min_gram_length=1, max_gram_length=1, max_skip_count=0,
        ngram_counts=[0], ngram_indexes=[0, 1], pool_int64s=[(1 << 32) + 5, 7],
    )  # fmt: skip
    model = make_model([node], [value("x", (4,), np.int32)], ["y"], opset=9)
    assert interpreted(model, {"x": np.array([5, 5, 7, 0], np.int32)})["y"].tolist() == [0, 1]


def typed(model: ModelProto) -> ModelProto:
    copy = ModelProto.FromString(model.SerializeToString())
    copy.graph.output[0].CopyFrom(value("y", None))
    return copy


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"mode": "BM25"}, InvalidModel),
        ({"ngram_counts": [0, 3, 8]}, InvalidModel),
        ({"ngram_indexes": [0, 1, 2]}, InvalidModel),
        ({"ngram_indexes": [4, 0, 1, 6, 2, 3, 3]}, Unsupported),
        ({"mode": "IDF", "weights": [1.0]}, InvalidModel),
        ({"pool_strings": ["a"]}, Unsupported),
        ({"rows": ("N", 7)}, Unsupported),
        ({"rows": (200_000, 7)}, Unsupported),
        ({"rows": (1, 2**31)}, Unsupported),
        ({"max_skip_count": 2**31, "rows": (1, 10_000)}, Unsupported),
        ({"ngram_indexes": [4, 0, 1, 6, 2, 3, 2**40]}, Unsupported),
    ],
)
def test_refused(changes: dict[str, Any], error: type[RtccError]) -> None:
    with pytest.raises(error) as raised:
        rtcc.read(vectorizer(**changes))
    assert raised.value.where == "node"
