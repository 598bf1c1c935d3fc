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


@TABLE.rule("Normalizer")
def normalizer(node: Node, build: Builder) -> Sequence[Value]:
    """Each row divided by its largest element (MAX), its sum of magnitudes (L1) or its length (L2).

    A row whose divisor is 0 stays.
    """
    reductions = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}
    norm = node.string("norm", "MAX")
    if norm not in reductions:
        raise node.fail(f"norm {norm!r} is none of {', '.join(reductions)}")
    data = as_float(node.operand(0), build)
    if data.type.rank not in (1, 2):
        raise node.fail(f"expected a row or rows of features, found {data.type}")
    zero, one = (build.constant(name, np.array(n, np.float32)) for name, n in (("zero", 0), ("one", 1)))
    found = build.op(reductions[norm], data, build.integers("axes", (-1,)), keepdims=1).result
    divisor = build.op("Where", build.op("Equal", found, zero).result, one, found).result
    return build.op("Div", data, divisor).results


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
    rows, left = divmod(floats(node, "coefficients").size, node.operand(0).type.sizes[-1])
    if left or len(labels) < 2 or rows not in (1, len(labels)):
        raise node.fail(f"{rows} rows of coefficients do not fit {len(labels)} labels")
    scores = _linear(node, build, rows)
    if rows == 1:
        if len(labels) != 2 or node.string("post_transform", "NONE") != "LOGISTIC":
            raise node.unsupported(
                "one row of coefficients is supported for two classes with post_transform LOGISTIC alone",
                hint="export a row for each class",
            )
        scores = build.op("Concat", build.op("Neg", scores).result, scores, axis=1).result
    return label_of_highest(scores, labels, build), transformed(scores, node, build)


@TABLE.rule("TreeEnsembleRegressor")
def tree_regressor(node: Node, build: Builder) -> Sequence[Value]:
    """The leaves' weights, aggregated over the trees."""
    scores = _aggregated(regressor_forest(node), node.string("aggregate_function", "SUM"), node, build)
    return (transformed(scores, node, build),)


@TABLE.rule("TreeEnsemble")
def tree_ensemble(node: Node, build: Builder) -> Sequence[Value]:
    """The newest form of tree ensembles: arrays of nodes and of leaves."""
    function = _named(node, "aggregate_function", ("AVERAGE", "SUM", "MIN", "MAX"), 1)
    name = _named(node, "post_transform", ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"), 0)
    if name in ("SOFTMAX", "LOGISTIC"):
        raise node.unsupported(
            "ONNX Runtime takes the numbers of the post_transforms SOFTMAX and LOGISTIC for each other's",
            hint="export without it, and with a Softmax or Sigmoid after it",
        )
    return (transform(_aggregated(plain_forest(node), function, node, build), name, node, build),)


def _named(node: Node, name: str, names: Sequence[str], default: int) -> str:
    """What a number in place of a name stands for."""
    number = node.int(name, default)
    if not 0 <= number < len(names):
        raise node.fail(f"{name} must be 0 to {len(names) - 1}, found {number}")
    return names[number]


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
    """Two classes, one score: a probability of the second where all weights are positive, else its margin."""
    is_probability = bool((forest.weights >= 0).all())
    known = ("NONE",) if is_probability else ("NONE", "LOGISTIC")
    name = node.string("post_transform", "NONE")
    if name not in known or set(node.ints("class_ids")) != {0}:
        raise node.unsupported(
            "runtimes disagree about two classes with one score, that of class_ids "
            f"{node.ints('class_ids')[:1]}, and post_transform {name}",
            hint="export with a score for each class",
        )
    score = build.op("Gather", scores, build.integers("column", (0,)), axis=1).result
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
    return transform(scores, node.string("post_transform", "NONE"), node, build)


def transform(scores: Value, name: str, node: Node, build: Builder) -> Value:
    """The scores after what ONNX calls so."""
    match name:
        case "NONE":
            return scores
        case "LOGISTIC":
            return build.op("Sigmoid", scores).result
        case "SOFTMAX":
            return build.op("Softmax", scores, axis=-1).result
        case "SOFTMAX_ZERO":
            return _softmax_zero(scores, build)
        case "PROBIT":
            return _probit(scores, build)
        case other:
            raise node.fail(
                f"post_transform {other!r} is none of NONE, LOGISTIC, SOFTMAX, SOFTMAX_ZERO, PROBIT"
            )


def _softmax_zero(scores: Value, build: Builder) -> Value:
    """A softmax in which scores of 0 (within 1e-7) stay 0 but count as what they are times exp(-max)."""
    highest = build.op("ReduceMax", scores, build.integers("axes", (-1,)), keepdims=1).result
    away = build.op("Exp", build.op("Sub", scores, highest).result).result
    near = build.op("Mul", scores, build.op("Exp", build.op("Neg", highest).result).result).result
    limit = build.constant("limit", np.array(1e-7, np.float32))
    is_away = build.op("Greater", build.op("Abs", scores).result, limit).result
    parts = build.op("Where", is_away, away, near).result
    return build.op("Div", parts, build.op("ReduceSum", parts, build.integers("axes", (-1,))).result).result


def _probit(scores: Value, build: Builder) -> Value:
    """√2 · erf⁻¹(2p - 1), by Winitzki's approximation with a = 0.147, as ONNX's reference has it."""

    def number(value: float) -> Value:
        return build.constant("number", np.array(value, np.float32))

    x = build.op("Sub", build.op("Mul", scores, number(2)).result, number(1)).result
    product = build.op("Mul", build.op("Sub", number(1), x).result, build.op("Add", number(1), x).result)
    log = build.op("Log", product.result).result
    half = build.op("Mul", log, number(0.5)).result
    v = build.op("Add", half, number(2 / (np.pi * 0.147))).result
    rest = build.op("Sub", build.op("Mul", v, v).result, build.op("Mul", log, number(1 / 0.147)).result)
    root = build.op("Sqrt", build.op("Sub", build.op("Sqrt", rest.result).result, v).result).result
    signed = build.op("Where", build.op("Less", x, number(0)).result, build.op("Neg", root).result, root)
    return build.op("Mul", signed.result, number(1.41421356)).result


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
    return np.array(node.floats(name, ()), np.float32)


def as_float(value: Value, build: Builder) -> Value:
    """The value as float32, which these operators compute in."""
    return value if value.type.dtype is DType.F32 else build.op("Cast", value, to="f32").result
