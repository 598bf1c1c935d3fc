"""Classical machine learning (ai.onnx.ml), in terms of tensor operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir import DType, Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table
from rtcc.onnx.tables.trees import Forest, classifier_forest, plain_forest, regressor_forest
from rtcc.onnx.tensors import Array

TABLE = Table()


@TABLE.rule("Scaler")
def scaler(node: Node, build: Builder) -> Sequence[Value]:
    """(x - offset) · scale, per feature."""
    offset, scale = (build.constant(name, floats(node, name)) for name in ("offset", "scale"))
    shifted = build.op("Sub", as_float(node.operand(0), build), offset).result
    return build.op("Mul", shifted, scale).results


@TABLE.rule("ArrayFeatureExtractor")
def extract_features(node: Node, build: Builder) -> Sequence[Value]:
    """Elements of the last axis; a vector counts as one row."""
    data, indices = node.operand(0), node.operand(1)
    flat = build.op("Reshape", indices, build.integers("flat", (-1,))).result
    if data.type.rank == 1:
        data = build.op("Unsqueeze", data, build.integers("axes", (0,))).result
    return build.op("Gather", data, flat, axis=-1).results


@TABLE.rule("Binarizer")
def binarizer(node: Node, build: Builder) -> Sequence[Value]:
    """1 above the threshold, else 0."""
    data = node.operand(0)
    dtype = data.type.dtype
    threshold = build.constant("threshold", np.array(node.float("threshold", 0.0)).astype(dtype.numpy))
    above = build.op("Greater", data, threshold).result
    return build.op("Cast", above, to=dtype.value).results


@TABLE.rule("LinearRegressor")
def linear_regressor(node: Node, build: Builder) -> Sequence[Value]:
    """x · coefficientsᵀ + intercepts."""
    scores = _linear(node, build, node.int("targets", 1))
    return (transformed(scores, node, build),)


@TABLE.rule("LinearClassifier")
def linear_classifier(node: Node, build: Builder) -> Sequence[Value]:
    """Scores as for LinearRegressor; the label is that of the highest one."""
    labels = class_labels(node, "classlabels_ints")
    if len(labels) * node.operand(0).type.shape[-1] != floats(node, "coefficients").size:
        raise node.unsupported("only one row of coefficients per class is supported")
    scores = _linear(node, build, len(labels))
    return label_of_highest(scores, labels, build), transformed(scores, node, build)


@TABLE.rule("TreeEnsembleRegressor")
def tree_regressor(node: Node, build: Builder) -> Sequence[Value]:
    """The leaves' weights, aggregated over the trees."""
    scores = _aggregated(regressor_forest(node), node.string("aggregate_function", "SUM"), node, build)
    return (transformed(scores, node, build),)


@TABLE.rule("TreeEnsemble")
def tree_ensemble(node: Node, build: Builder) -> Sequence[Value]:
    """The newest form of tree ensembles: arrays of nodes and of leaves."""
    names = ("AVERAGE", "SUM", "MIN", "MAX")
    if node.int("post_transform", 0) != 0:
        raise node.unsupported("post_transform is not supported")
    scores = _aggregated(plain_forest(node), names[node.int("aggregate_function", 1) % 4], node, build)
    return (scores,)


@TABLE.rule("TreeEnsembleClassifier")
def tree_classifier(node: Node, build: Builder) -> Sequence[Value]:
    """Class scores from the leaves; the label is that of the highest one."""
    labels = class_labels(node, "classlabels_int64s")
    forest = classifier_forest(node, len(labels))
    used = set(node.ints("class_ids"))
    scores = _aggregated(forest, "SUM", node, build)
    if len(labels) == 2 and len(used) == 1:
        return _binary(scores, forest, labels, node, build)
    return label_of_highest(scores, labels, build), transformed(scores, node, build)


def _binary(
    scores: Value, forest: Forest, labels: Sequence[int], node: Node, build: Builder
) -> tuple[Value, Value]:
    """Two classes but one score, that of the second class: a probability where all weights are positive."""
    column = build.constant("column", np.array([max(node.ints("class_ids"))]))
    score = build.op("Gather", scores, column, axis=1).result
    is_probability = bool((forest.weights >= 0).all())
    limit = build.constant("limit", np.array(0.5 if is_probability else 0.0, np.float32))
    chosen = build.op("Greater", score, limit).result
    chosen = build.op("Squeeze", chosen, build.integers("axes", (1,))).result
    first, second = (build.constant(f"label{i}", np.array(labels[i], np.int64)) for i in (0, 1))
    label = build.op("Where", chosen, second, first).result
    if is_probability:
        one = build.constant("one", np.array(1, np.float32))
        return label, build.op("Concat", build.op("Sub", one, score).result, score, axis=1).result
    both = build.op("Concat", build.op("Neg", score).result, score, axis=1).result
    return label, transformed(both, node, build)


def _aggregated(forest: Forest, function: str, node: Node, build: Builder) -> Value:
    """One row of scores per row of the data."""
    weights = forest.leaf_weights(node, build)
    axes = build.integers("trees", (1,))
    reductions = {"SUM": "ReduceSum", "AVERAGE": "ReduceMean", "MIN": "ReduceMin", "MAX": "ReduceMax"}
    if function not in reductions:
        raise node.fail(f"aggregate_function {function!r} is none of {', '.join(reductions)}")
    scores = build.op(reductions[function], weights, axes, keepdims=0).result
    base = floats(node, "base_values") if node.has("base_values") else np.zeros(0, np.float32)
    return build.op("Add", scores, build.constant("base_values", base)).result if base.size else scores


def _linear(node: Node, build: Builder, targets: int) -> Value:
    coefficients = floats(node, "coefficients")
    if targets < 1 or coefficients.size % targets:
        raise node.fail(f"{coefficients.size} coefficients do not fit {targets} targets")
    weight = build.constant("coefficients", np.ascontiguousarray(coefficients.reshape(targets, -1).T))
    scores = build.op("MatMul", as_float(node.operand(0), build), weight).result
    if not node.has("intercepts"):
        return scores
    return build.op("Add", scores, build.constant("intercepts", floats(node, "intercepts"))).result


def transformed(scores: Value, node: Node, build: Builder) -> Value:
    """The scores after `post_transform`."""
    match node.string("post_transform", "NONE"):
        case "NONE":
            return scores
        case "LOGISTIC":
            return build.op("Sigmoid", scores).result
        case "SOFTMAX":
            return build.op("Softmax", scores, axis=-1).result
        case other:
            raise node.unsupported(f"post_transform {other} is not supported")


def label_of_highest(scores: Value, labels: Sequence[int], build: Builder) -> Value:
    """The label of the highest score in each row."""
    index = build.op("ArgMax", scores, axis=1, keepdims=0).result
    return build.op("Gather", build.integers("labels", labels), index).result


def class_labels(node: Node, name: str) -> tuple[int, ...]:
    """The integer labels of the classes; text is refused."""
    if node.has("classlabels_strings"):
        raise Unsupported(
            "unsupported-type", f"{node.op_type}: text labels are not supported", where=node.where,
            hint="train the classifier with integer labels",
        )  # fmt: skip
    return node.ints(name)


def floats(node: Node, name: str) -> Array:
    """A list of floats as an array."""
    return np.array(node.plain(name) if node.has(name) else (), np.float32)


def as_float(value: Value, build: Builder) -> Value:
    """The value as float32, which these operators compute in."""
    return value if value.type.dtype is DType.F32 else build.op("Cast", value, to="f32").result
