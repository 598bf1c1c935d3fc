"""Classical machine learning operators against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import rtcc
from rtcc.errors import InvalidModel, RtccError, Unsupported
from tests.frontend.models import assert_same, interpreted, make_model, run_onnxruntime, value

FEATURES = 4
F32 = np.float32


def random_trees(random: np.random.Generator, count: int, depth: int) -> dict[str, list[Any]]:
    """The nodes of trees of uneven depth, as the ids that tree ensembles list."""
    names = ("treeids", "nodeids", "featureids", "values", "truenodeids", "falsenodeids", "modes")
    nodes: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    for tree in range(count):
        pending, following = [(0, 0)], 1
        while pending:
            number, level = pending.pop()
            leaf = level == depth or (level > 0 and random.random() < 0.3)
            true, false = (0, 0) if leaf else (following, following + 1)
            feature, split = int(random.integers(FEATURES)), float(F32(random.standard_normal()))
            row = (tree, number, feature, split, true, false, "LEAF" if leaf else "BRANCH_LEQ")
            for name, entry in zip(names, row, strict=True):
                nodes[f"nodes_{name}"].append(entry)
            if not leaf:
                pending += [(following, level + 1), (following + 1, level + 1)]
                following += 2
    return nodes


def leaf_weights(
    nodes: dict[str, list[Any]], kind: str, targets: list[int], random: Any
) -> dict[str, list[Any]]:
    """One positive weight per leaf and target."""
    found: dict[str, list[Any]] = {f"{kind}_{n}": [] for n in ("treeids", "nodeids", "ids", "weights")}
    rows = zip(nodes["nodes_treeids"], nodes["nodes_nodeids"], nodes["nodes_modes"], strict=True)
    for tree, number, mode in rows:
        for target in targets if mode == "LEAF" else ():
            entries = (tree, number, target, float(F32(random.random() / 10)))
            for name, entry in zip(("treeids", "nodeids", "ids", "weights"), entries, strict=True):
                found[f"{kind}_{name}"].append(entry)
    return found


def ml_model(op: str, outputs: list[str], rows: int | str = 5, **attributes: Any) -> ModelProto:
    node = helper.make_node(op, ["x"], outputs, name="node", domain="ai.onnx.ml", **attributes)
    return make_model([node], [value("x", (rows, FEATURES))], outputs, domains=["ai.onnx.ml"])


def compare(model: ModelProto, rows: int = 5) -> None:
    feeds = {"x": np.random.default_rng(1).standard_normal((rows, FEATURES)).astype(F32)}
    infos = {"label": value("label", None, np.int64)}
    typed = ModelProto.FromString(model.SerializeToString())
    names = [o.name for o in model.graph.output]
    del typed.graph.output[:]
    typed.graph.output.extend(infos.get(n, value(n)) for n in names)
    assert_same(interpreted(model, feeds), run_onnxruntime(typed, feeds))


@pytest.mark.parametrize("function", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("rows", [5, "N"])
def test_tree_regressor(function: str, rows: int | str) -> None:
    random = np.random.default_rng(0)
    nodes = random_trees(random, 7, 4)
    weights = leaf_weights(nodes, "target", [0, 1], random)
    options = {"n_targets": 2, "aggregate_function": function, "base_values": [0.5, -1.0]}
    compare(ml_model("TreeEnsembleRegressor", ["y"], rows, **nodes, **weights, **options))


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_tree_classifier(transform: str) -> None:
    random = np.random.default_rng(2)
    nodes = random_trees(random, 5, 3)
    weights = leaf_weights(nodes, "class", [0, 1, 2], random)
    options: dict[str, Any] = {"classlabels_int64s": [10, 20, 30], "post_transform": transform}
    compare(ml_model("TreeEnsembleClassifier", ["label", "scores"], **nodes, **weights, **options))


@pytest.mark.parametrize(("shift", "transform"), [(0.0, "NONE"), (-0.05, "NONE"), (-0.05, "LOGISTIC")])
def test_binary_tree_classifier_with_one_score(shift: float, transform: str) -> None:
    random = np.random.default_rng(3)
    nodes = random_trees(random, 10, 3)
    weights = leaf_weights(nodes, "class", [0], random)
    weights["class_weights"] = [float(F32(w + shift)) for w in weights["class_weights"]]
    options: dict[str, Any] = {"classlabels_int64s": [0, 1], "post_transform": transform}
    compare(ml_model("TreeEnsembleClassifier", ["label", "scores"], **nodes, **weights, **options))


def test_scaler() -> None:
    compare(ml_model("Scaler", ["y"], offset=[1.0, 2.0, 3.0, 4.0], scale=[0.5, 1.0, 2.0, 4.0]))


def test_linear_regressor() -> None:
    coefficients = np.random.default_rng(0).standard_normal(8).astype(F32).tolist()
    compare(ml_model("LinearRegressor", ["y"], coefficients=coefficients, intercepts=[1.0, -1.0], targets=2))


def test_linear_classifier() -> None:
    coefficients = np.random.default_rng(0).standard_normal(12).astype(F32).tolist()
    options: dict[str, Any] = {
        "intercepts": [0.1, 0.2, 0.3],
        "classlabels_ints": [3, 4, 5],
        "post_transform": "SOFTMAX",
    }
    compare(ml_model("LinearClassifier", ["label", "scores"], coefficients=coefficients, **options))


def _error(model: ModelProto) -> RtccError:
    with pytest.raises(RtccError) as raised:
        rtcc.read(model)
    assert raised.value.where == "node"
    return raised.value


def _small_tree(**changes: Any) -> ModelProto:
    attributes: dict[str, Any] = {
        "nodes_treeids": [0, 0, 0], "nodes_nodeids": [0, 1, 2], "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.0, 0.0, 0.0], "nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "target_treeids": [0], "target_nodeids": [1], "target_ids": [0], "target_weights": [1.0],
        "n_targets": 1,
    }  # fmt: skip
    return ml_model("TreeEnsembleRegressor", ["y"], **{**attributes, **changes})


def test_small_tree() -> None:
    compare(_small_tree())


@pytest.mark.parametrize(
    "changes",
    [
        {"nodes_truenodeids": [7, 0, 0]},
        {"nodes_truenodeids": [0, 0, 0]},
        {"nodes_featureids": [9, 0, 0]},
        {"nodes_featureids": [0]},
        {"target_nodeids": [5]},
        {"target_ids": [3]},
        {"nodes_modes": ["BRANCH_LEQ"]},
    ],
)
def test_damaged_trees(changes: dict[str, Any]) -> None:
    error = _error(_small_tree(**changes))
    assert (type(error), error.code) == (InvalidModel, "invalid-operator")


def test_text_labels_are_refused() -> None:
    node = ml_model(
        "LinearClassifier", ["label", "s"], coefficients=[1.0] * 8, classlabels_strings=["a", "b"]
    )
    error = _error(node)
    assert (type(error), error.code) == (Unsupported, "unsupported-type")
