"""Classical machine learning operators against ONNX Runtime."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from onnx import ModelProto, helper
from onnx.numpy_helper import from_array

import rtcc
from rtcc.errors import InvalidModel, RtccError, Unsupported
from tests.frontend.models import Array, assert_same, interpreted, make_model, run_onnxruntime, value

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


def ml_model(
    op: str, outputs: list[str], rows: int | str = 5, dtype: Any = F32, version: int = 1, **attributes: Any
) -> ModelProto:
    """A model of one node over rows of features; version: of ai.onnx.ml."""
    node = helper.make_node(op, ["x"], outputs, name="node", domain="ai.onnx.ml", **attributes)
    model = make_model([node], [value("x", (rows, FEATURES), dtype)], outputs, domains=["ai.onnx.ml"])
    next(each for each in model.opset_import if each.domain == "ai.onnx.ml").version = version
    return model


def compare(model: ModelProto, rows: int = 5) -> None:
    feeds = {"x": np.random.default_rng(1).standard_normal((rows, FEATURES)).astype(F32)}
    assert_same(interpreted(model, feeds), run_onnxruntime(_typed(model, F32), feeds))


def _typed(model: ModelProto, dtype: Any) -> ModelProto:
    """The model with its outputs' types, as ONNX Runtime wants them; labels are integers."""
    typed = ModelProto.FromString(model.SerializeToString())
    names = [output.name for output in model.graph.output]
    del typed.graph.output[:]
    typed.graph.output.extend(value(n, None, np.int64 if n == "label" else dtype) for n in names)
    return typed


@pytest.mark.parametrize("function", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("rows", [5, "N"])
def test_tree_regressor(function: str, rows: int | str) -> None:
    random = np.random.default_rng(0)
    nodes = random_trees(random, 7, 4)
    weights = leaf_weights(nodes, "target", [0, 1], random)
    options: dict[str, Any] = {"n_targets": 2, "aggregate_function": function, "base_values": [0.5, -1.0]}
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


def test_too_many_targets() -> None:
    error = _error(_small_tree(n_targets=2**40))
    assert (type(error), error.code) == (Unsupported, "unsupported-form")
    assert isinstance(_error(_small_tree(n_targets=0)), InvalidModel)


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


@pytest.mark.parametrize("tracked", [False, True])
@pytest.mark.parametrize("mode", ["LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "mixed"])
def test_comparisons_of_trees(mode: str, tracked: bool) -> None:
    random = np.random.default_rng(1)
    nodes = random_trees(random, 6, 4)
    names = ["LEQ", "LT", "GTE", "GT", "EQ", "NEQ"]
    nodes["nodes_modes"] = [
        m if m == "LEAF" else f"BRANCH_{names[random.integers(6)] if mode == 'mixed' else mode}"
        for m in nodes["nodes_modes"]
    ]
    count = len(nodes["nodes_modes"])
    nodes["nodes_values"] = random.integers(-2, 3, count).astype(float).tolist()
    if tracked:
        nodes["nodes_missing_value_tracks_true"] = random.integers(0, 2, count).tolist()
    attributes: dict[str, Any] = {**nodes, **leaf_weights(nodes, "target", [0, 1], random)}
    model = ml_model("TreeEnsembleRegressor", ["y"], 9, **attributes, n_targets=2)
    x = random.integers(-2, 3, (9, FEATURES)).astype(F32)
    x[0, 1] = np.nan
    assert_same(interpreted(model, {"x": x}), run_onnxruntime(model, {"x": x}))


def _newest_tree(**changes: Any) -> ModelProto:
    """ONNX's example of set membership."""
    nan = float("nan")
    members, splits = np.array([1.2, 3.7, 8, 9, nan, 12, 7, nan], F32), np.array([11, 1e5, nan], F32)
    attributes: dict[str, Any] = {
        "n_targets": 4, "tree_roots": [0], "membership_values": members, "nodes_featureids": [0, 0, 0],
        "nodes_modes": np.array([0, 6, 6], np.uint8), "nodes_splits": splits,
        "nodes_truenodeids": [1, 0, 1], "nodes_trueleafs": [0, 1, 1], "nodes_falsenodeids": [2, 2, 3],
        "nodes_falseleafs": [1, 0, 1], "leaf_targetids": [0, 1, 2, 3],
        "leaf_weights": np.array([1, 10, 1000, 100], F32),
    }  # fmt: skip
    given = attributes | changes
    tensors = {
        k: from_array(cast("Array", v), k) if isinstance(v, np.ndarray) else v for k, v in given.items()
    }
    return ml_model("TreeEnsemble", ["y"], 7, version=5, **tensors)


@pytest.mark.parametrize("changes", [{}, {"aggregate_function": 3}, {"post_transform": 3}])
def test_members_of_sets(changes: dict[str, Any]) -> None:
    model = _newest_tree(**changes)
    x = np.zeros((7, FEATURES), F32)
    x[:, 0] = [1.2, 3.4, 0.25, 1.0, 8, 7, np.nan]
    assert_same(interpreted(model, {"x": x}), run_onnxruntime(model, {"x": x}))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"post_transform": 1}, Unsupported),
        ({"post_transform": 9}, InvalidModel),
        ({"aggregate_function": 4}, InvalidModel),
        ({"membership_values": np.array([1.0], F32)}, InvalidModel),
        ({"nodes_modes": np.array([0, 6, 7], np.uint8)}, InvalidModel),
        ({"leaf_targetids": [0, 1, 2, -1]}, InvalidModel),
    ],
    ids=str,
)
def test_newest_trees_refused(changes: dict[str, Any], error: type[RtccError]) -> None:
    assert type(_error(_newest_tree(**changes))) is error


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
@pytest.mark.parametrize("dtype", [F32, np.int64])
def test_normalizer(norm: str, dtype: Any) -> None:
    x = np.array([[1, 2, -3, 0], [0, 0, 0, 0], [-1, -2, -3, -5], [4, 5, 1, 2]], dtype)
    model = ml_model("Normalizer", ["y"], 4, dtype, norm=norm)
    assert_same(interpreted(model, {"x": x}), run_onnxruntime(_typed(model, F32), {"x": x}))


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
def test_transforms(transform: str) -> None:
    coefficients = (np.random.default_rng(0).standard_normal(8) / 10).astype(F32).tolist()
    options: dict[str, Any] = {"intercepts": [0.4, 0.6], "targets": 2, "post_transform": transform}
    compare(ml_model("LinearRegressor", ["y"], coefficients=coefficients, **options))


def test_linear_classifier_with_one_row() -> None:
    options: dict[str, Any] = {"coefficients": [0.1, -0.2, 0.3, 0.4], "intercepts": [0.1]}
    options |= {"classlabels_ints": [4, 7]}
    compare(ml_model("LinearClassifier", ["label", "scores"], **options, post_transform="LOGISTIC"))
    refused = ml_model("LinearClassifier", ["label", "scores"], **options, post_transform="SOFTMAX")
    assert isinstance(_error(refused), Unsupported)
    options |= {"classlabels_ints": [4]}
    wrong = ml_model("LinearClassifier", ["label", "scores"], **options)
    assert isinstance(_error(wrong), InvalidModel)


@pytest.mark.parametrize(("ids", "transform"), [([1], "NONE"), ([0], "SOFTMAX")])
def test_one_score_of_two_classes_refused(ids: list[int], transform: str) -> None:
    random = np.random.default_rng(3)
    nodes = random_trees(random, 4, 3)
    weights = leaf_weights(nodes, "class", ids, random)
    options: dict[str, Any] = {"classlabels_int64s": [0, 1], "post_transform": transform}
    error = _error(ml_model("TreeEnsembleClassifier", ["label", "scores"], **nodes, **weights, **options))
    assert isinstance(error, Unsupported)


KERNELS = ["LINEAR", "POLY", "RBF", "SIGMOID"]


@pytest.mark.parametrize("one_class", [0, 1])
@pytest.mark.parametrize("kernel", [*KERNELS, None])
def test_svm_regressor(kernel: str | None, one_class: int) -> None:
    random = np.random.default_rng(0)
    options: dict[str, Any] = {"coefficients": random.standard_normal(4).tolist(), "rho": [0.1]}
    options |= {"kernel_params": [0.3, 0.5, 3.0]}
    if kernel is not None:
        vectors = random.standard_normal(4 * FEATURES).tolist()
        options |= {"kernel_type": kernel, "n_supports": 4, "support_vectors": vectors}
    compare(ml_model("SVMRegressor", ["y"], one_class=one_class, **options))


@pytest.mark.parametrize("counts", [[2, 3], [2, 1, 3], [1, 2, 2, 3]])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_svm_classifier(kernel: str, transform: str, counts: list[int]) -> None:
    random, vectors, classes = np.random.default_rng(0), sum(counts), len(counts)
    options: dict[str, Any] = {
        "kernel_type": kernel, "kernel_params": [0.3, 0.5, 3.0], "vectors_per_class": counts,
        "support_vectors": random.standard_normal(FEATURES * vectors).tolist(),
        "coefficients": (0.3 * random.standard_normal(vectors * (classes - 1))).tolist(),
        "rho": (0.1 * random.standard_normal(classes * (classes - 1) // 2)).tolist(),
        "classlabels_ints": list(range(5, 5 + classes)), "post_transform": transform,
    }  # fmt: skip
    model = ml_model("SVMClassifier", ["label", "scores"], **options)
    if classes == 2 and transform == "SOFTMAX":
        assert isinstance(_error(model), Unsupported)
    else:
        compare(model)


@pytest.mark.parametrize(
    ("op", "options", "error"),
    [
        ("SVMRegressor", {"coefficients": [1.0], "rho": [0.1]}, InvalidModel),
        (
            "SVMRegressor",
            {"coefficients": [1.0] * 4, "rho": [0.1], "post_transform": "LOGISTIC"},
            Unsupported,
        ),
        ("SVMClassifier", {"coefficients": [1.0] * 8, "rho": [0.1], "classlabels_ints": [0, 1]}, Unsupported),
        (
            "SVMClassifier",
            {
                "coefficients": [1.0] * 2,
                "rho": [0.1],
                "classlabels_ints": [0, 1],
                "vectors_per_class": [1, 2],
            },
            InvalidModel,
        ),
    ],
)
def test_svm_refused(op: str, options: dict[str, Any], error: type[RtccError]) -> None:
    outputs = ["y"] if op == "SVMRegressor" else ["label", "scores"]
    assert type(_error(ml_model(op, outputs, **options))) is error


def test_compiled() -> None:
    """What this file holds against ONNX Runtime by the interpreter, in machine code."""
    model = _newest_tree()
    x = np.zeros((7, FEATURES), F32)
    x[:, 0] = [1.2, 3.4, 0.25, 1.0, 8, 7, np.nan]
    assert_same(rtcc.compile(model).run({"x": x}), run_onnxruntime(model, {"x": x}))


def test_lists_of_another_kind() -> None:
    """Of which damaged files have some."""
    model = ml_model("LinearRegressor", ["y"], coefficients=["a", "b"], targets=1)
    assert "should be of kind floats" in _error(model).message
