"""Support vector machines of ai.onnx.ml: kernels with all support vectors, then one product."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from rtcc.ir import DType, Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.ml import as_float, class_labels, floats, label_of_highest, transformed
from rtcc.onnx.tables.rules import Table
from rtcc.onnx.tensors import Array

TABLE = Table()


@TABLE.rule("SVMRegressor")
def regressor(node: Node, build: Builder) -> Sequence[Value]:
    """kernel(x, vectors)·coefficients + rho; for one class its sign. Without vectors x·coefficients + rho."""
    coefficients, count = floats(node, "coefficients"), node.int("n_supports", 0)
    if node.string("post_transform", "NONE") != "NONE":
        raise node.unsupported("post_transform is not supported")
    features = _features(node)
    rho = floats(node, "rho")
    if count < 0 or rho.size != 1 or coefficients.size != (count or features):
        raise node.fail(
            f"{coefficients.size} coefficients and {rho.size} rho do not fit {count} vectors of {features}"
        )
    data = as_float(node.operand(0), build)
    kernels = _kernels(node, build, data, count) if count else data
    column = build.constant("coefficients", coefficients.reshape(-1, 1))
    scores = build.op("MatMul", kernels, column).result
    scores = build.op("Add", scores, build.constant("rho", rho)).result
    if not node.int("one_class", 0):
        return (scores,)
    zero, one, other = (
        build.constant(n, np.array(v, np.float32)) for n, v in (("0", 0), ("1", 1), ("-1", -1))
    )
    return build.op("Where", build.op("Greater", scores, zero).result, one, other).results


@TABLE.rule("SVMClassifier")
def classifier(node: Node, build: Builder) -> Sequence[Value]:
    """The class that wins most of the comparisons of two; the scores are those of the comparisons."""
    labels = class_labels(node, "classlabels_ints")
    counts = node.ints("vectors_per_class", ())
    coefficients, rho = floats(node, "coefficients"), floats(node, "rho")
    if not counts:
        raise node.unsupported("the linear form without support vectors is not supported", hint=_LINEAR)
    if node.has("prob_a") and floats(node, "prob_a").size:
        raise node.unsupported("probabilities are not supported", hint="export without probabilities")
    pairs, vectors = list(combinations(range(len(counts)), 2)), sum(counts)
    if len(labels) != len(counts) or not pairs or min(counts) < 0:
        raise node.fail(f"{len(labels)} labels do not fit vectors of {len(counts)} classes")
    if coefficients.size != (len(counts) - 1) * vectors or rho.size != len(pairs):
        raise node.fail(
            f"{coefficients.size} coefficients and {rho.size} rho do not fit {vectors} vectors of "
            f"{len(counts)} classes"
        )
    _check_two_classes(node, labels, coefficients)
    kernels = _kernels(node, build, as_float(node.operand(0), build), vectors)
    weight = build.constant("coefficients", _pairwise(coefficients.reshape(-1, vectors), counts, pairs))
    scores = build.op("Add", build.op("MatMul", kernels, weight).result, build.constant("rho", rho)).result
    label = label_of_highest(_votes(scores, pairs, len(counts), build), labels, build)
    if len(pairs) == 1:
        scores = build.op("Concat", build.op("Neg", scores).result, scores, axis=1).result
    return label, transformed(scores, node, build)


_LINEAR = "export it as LinearClassifier"


def _check_two_classes(node: Node, labels: Sequence[int], coefficients: Array) -> None:
    """Refuse what ONNX's reference and ONNX Runtime disagree about."""
    transform = node.string("post_transform", "NONE")
    if len(labels) == 2 and ((coefficients >= 0).all() or transform not in ("NONE", "LOGISTIC")):
        raise node.unsupported(
            f"runtimes disagree about two classes with post_transform {transform}, or with positive "
            "coefficients only",
            hint="export with post_transform NONE",
        )


def _pairwise(coefficients: Array, counts: Sequence[int], pairs: Sequence[tuple[int, int]]) -> Array:
    """[vector, pair]: what each vector counts in the comparison of two classes; 0 for those of others."""
    ends = np.cumsum([0, *counts])
    found = np.zeros((int(ends[-1]), len(pairs)), np.float32)
    for index, (i, j) in enumerate(pairs):
        of_i, of_j = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
        found[of_i, index] = coefficients[j - 1, of_i]
        found[of_j, index] = coefficients[i, of_j]
    return found


def _votes(scores: Value, pairs: Sequence[tuple[int, int]], classes: int, build: Builder) -> Value:
    """[row, class]: how many comparisons each class wins; the first of two where the score is positive."""
    each = np.eye(classes, dtype=np.float32)
    first, second = (each[[pair[side] for pair in pairs]] for side in (0, 1))
    zero = build.constant("zero", np.array(0, np.float32))
    wins = build.op("Cast", build.op("Greater", scores, zero).result, to=DType.F32.value).result
    moved = build.op("MatMul", wins, build.constant("won", first - second)).result
    return build.op("Add", moved, build.constant("lost", second.sum(0))).result


def _features(node: Node) -> int:
    data = node.operand(0).type
    if data.rank != 2 or not isinstance(data.shape[1], int):
        raise node.fail(f"expected rows of features, found {data}")
    return data.shape[1]


def _kernels(node: Node, build: Builder, data: Value, count: int) -> Value:
    """[row, vector]: the kernel function of each row with each support vector."""
    features, vectors = _features(node), floats(node, "support_vectors")
    if vectors.size != count * features:
        raise node.fail(f"{vectors.size} numbers are not {count} vectors of {features}")
    vectors = vectors.reshape(count, features)
    gamma, offset, degree = (*floats(node, "kernel_params").tolist(), 0.0, 0.0, 0.0)[:3]
    factor = build.constant("gamma", np.array(gamma, np.float32))
    kind = node.string("kernel_type", "LINEAR")
    if kind == "RBF":
        column = build.op("Unsqueeze", data, build.integers("axes", (1,))).result
        apart = build.op("Sub", column, build.constant("vectors", vectors)).result
        axes = build.integers("features", (2,))
        squares = build.op("ReduceSumSquare", apart, axes, keepdims=0).result
        negated = build.constant("gamma", np.array(-gamma, np.float32))
        return build.op("Exp", build.op("Mul", squares, negated).result).result
    turned = build.constant("vectors", np.ascontiguousarray(vectors.T))
    products = build.op("MatMul", data, turned).result
    if kind == "LINEAR":
        return products
    scaled = build.op("Mul", products, factor).result
    shifted = build.op("Add", scaled, build.constant("coef0", np.array(offset, np.float32))).result
    if kind == "SIGMOID":
        return build.op("Tanh", shifted).result
    if kind != "POLY":
        raise node.fail(f"kernel_type {kind!r} is none of LINEAR, POLY, RBF, SIGMOID")
    return build.op("Pow", shifted, build.constant("degree", np.array(degree, np.float32))).result
