"""Tree ensembles as tensor operators: all trees take one step at a time, from the roots to the leaves.

A tree's nodes stand in flat arrays; a leaf's two successors are itself, so that trees of different
depth can walk together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from rtcc.ir import Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tensors import LARGEST_DENSE, Array

DEEPEST_TREE = 200

_COMPARISONS = {
    "BRANCH_LEQ": "LessOrEqual", "BRANCH_LT": "Less", "BRANCH_GTE": "GreaterOrEqual", "BRANCH_GT": "Greater",
    "BRANCH_EQ": "Equal", "BRANCH_NEQ": "Equal",
}  # fmt: skip
_EQUAL, _UNEQUAL, _MEMBER = "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER"
_MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", _EQUAL, _UNEQUAL, _MEMBER)
_LEAF = "LEAF"


@dataclass(frozen=True)
class Forest:
    """feature, split, true, false, missing, modes: per node; weights: [node, target]; roots: per tree."""

    feature: Array
    split: Array
    true: Array
    false: Array
    missing: Array
    weights: Array
    roots: Array
    modes: Array

    def leaf_weights(self, node: Node, build: Builder) -> Value:
        """[row, tree, target]: the weights of the leaf that each row reaches in each tree."""
        data = node.operand(0)
        if data.type.rank != 2:
            raise node.fail(f"expected rows of features, found {data.type}")
        if not data.type.dtype.is_float:
            data = build.op("Cast", data, to="f32").result
        dtype = data.type.dtype.numpy
        feature, true, false = (build.constant(n, getattr(self, n)) for n in ("feature", "true", "false"))
        split = build.constant("split", self.split.astype(dtype))
        missing = build.constant("missing", self.missing) if self.missing.any() else None
        at = self._roots(data, build)
        for _ in range(self.depth(node)):
            wanted = build.op("Gather", feature, at).result
            value = build.op("GatherElements", data, wanted, axis=1).result
            holds = self._holds(value, build.op("Gather", split, at).result, at, build)
            if missing is not None:
                tracked = build.op("Gather", missing, at).result
                absent = build.op("And", build.op("IsNaN", value).result, tracked).result
                holds = build.op("Or", holds, absent).result
            following = (build.op("Gather", table, at).result for table in (true, false))
            at = build.op("Where", holds, *following).result
        return build.op("Gather", build.constant("weights", self.weights), at).result

    def _holds(self, value: Value, split: Value, at: Value, build: Builder) -> Value:
        """Whether the comparisons of the nodes `at` hold; of several kinds, each counts for its own nodes."""
        kinds = [mode for mode in _COMPARISONS if (self.modes == mode).any()] or ["BRANCH_LEQ"]
        found: list[Value] = []
        for mode in kinds:
            holds = build.op(_COMPARISONS[mode], value, split).result
            holds = build.op("Not", holds).result if mode == _UNEQUAL else holds
            if len(kinds) > 1:
                own = build.constant("is_" + mode.lower(), self.modes == mode)
                holds = build.op("And", holds, build.op("Gather", own, at).result).result
            found.append(holds)
        return reduce(lambda one, other: build.op("Or", one, other).result, found)

    def depth(self, node: Node) -> int:
        """How many steps the longest path takes; InvalidModel for cycles."""
        level, reached = 0, self.roots
        while (inner := reached[self.true[reached] != reached]).size:
            level += 1
            if level > min(DEEPEST_TREE, len(self.true)):
                raise node.fail(f"a tree is deeper than {DEEPEST_TREE}, or its nodes form a cycle")
            reached = np.unique(np.concatenate([self.true[inner], self.false[inner]]))
        return level

    def _roots(self, data: Value, build: Builder) -> Value:
        """[row, tree]: every row starts at every root."""
        rows, roots = data.type.shape[0], build.constant("roots", self.roots[None])
        if isinstance(rows, int):
            return build.op("Expand", roots, build.integers("rows", (rows, len(self.roots)))).result
        count = build.op("Shape", data, end=1).result
        shape = build.op("Concat", count, build.integers("trees", (len(self.roots),)), axis=0).result
        return build.op("Expand", roots, shape).result


def regressor_forest(node: Node) -> Forest:
    """The forest of a TreeEnsembleRegressor."""
    return _forest_of_ids(node, "target", node.int("n_targets", 1))


def classifier_forest(node: Node, classes: int) -> Forest:
    """The forest of a TreeEnsembleClassifier."""
    return _forest_of_ids(node, "class", classes)


@dataclass(frozen=True)
class _Successor:
    """A node or leaf by its number."""

    number: int
    is_leaf: bool

    def place(self, nodes: int) -> int:
        """Where it stands when the leaves follow all nodes."""
        return self.number + nodes * self.is_leaf


@dataclass(frozen=True)
class _Inner:
    """A node of a TreeEnsemble that is no leaf."""

    feature: int
    split: float
    mode: str
    tracks_true: bool
    true: _Successor
    false: _Successor


def plain_forest(node: Node) -> Forest:
    """The forest of a TreeEnsemble: leaves have arrays of their own and follow the nodes here."""
    inner, weights = _inner_nodes(node), node.tensor("leaf_weights")
    count, leaves = len(inner), len(weights)
    targets, own = np.array(node.ints("leaf_targetids")), np.arange(count, count + leaves)
    table = _table(node, count + leaves, node.int("n_targets", 1), weights.dtype)
    fits = len(targets) == leaves and bool(((targets >= 0) & (targets < table.shape[1])).all())
    _check(node, fits, "leaf_targetids")
    table[own, targets] = weights
    return _forest(
        node,
        feature=np.array([*(each.feature for each in inner), *[0] * leaves], np.int64),
        split=np.array([*(each.split for each in inner), *[0] * leaves], np.float64).astype(weights.dtype),
        true=np.array([*(each.true.place(count) for each in inner), *own], np.int64),
        false=np.array([*(each.false.place(count) for each in inner), *own], np.int64),
        missing=np.array([*(each.tracks_true for each in inner), *[False] * leaves], np.bool_),
        weights=table,
        roots=np.array(node.ints("tree_roots"), np.int64),
        modes=np.array([*(each.mode for each in inner), *[_LEAF] * leaves]),
    )


def _inner_nodes(node: Node) -> list[_Inner]:
    """The nodes; one that asks for members of a set asks for the first, nodes at the end for the others."""
    splits, numbers = node.tensor("nodes_splits"), node.tensor("nodes_modes")
    count = len(splits)
    _check(node, len(numbers) == count and bool((numbers < len(_MODES)).all()), "nodes_modes")
    features, missing = _lists(node, count, "nodes_featureids"), _missing(node, count)
    true, false = (
        [
            _Successor(int(number), bool(is_leaf))
            for number, is_leaf in zip(
                _lists(node, count, f"nodes_{s}nodeids"), _lists(node, count, f"nodes_{s}leafs"), strict=True
            )
        ]
        for s in ("true", "false")
    )
    found = [
        _Inner(
            int(features[i]), float(splits[i]), _MODES[int(numbers[i])], bool(missing[i]), true[i], false[i]
        )
        for i in range(count)
    ]
    asking = [i for i in range(count) if found[i].mode == _MEMBER]
    sets = _sets(node) if asking else []
    _check(node, len(sets) == len(asking), "membership_values")
    for index, members in zip(asking, sets, strict=True):
        whole, place = found[index], index
        for member in members[:-1]:
            following = _Successor(len(found), is_leaf=False)
            found[place] = replace(whole, mode=_EQUAL, split=member, false=following)
            place = len(found)
            found.append(whole)
        found[place] = replace(whole, mode=_EQUAL, split=members[-1])
    return found


def _sets(node: Node) -> list[list[float]]:
    """The members of each set, which NaN ends; of an empty one, NaN, which nothing equals."""
    values = np.asarray(node.tensor("membership_values"), np.float64)
    if values.size and not np.isnan(values[-1]):
        values = np.append(values, np.nan)
    ends = np.flatnonzero(np.isnan(values))
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(int)
    return [values[start:end].tolist() or [np.nan] for start, end in zip(starts, ends, strict=True)]


def _forest_of_ids(node: Node, kind: str, targets: int) -> Forest:
    """Nodes named by (tree, number); weights listed by such names."""
    names = list(zip(node.ints("nodes_treeids"), node.ints("nodes_nodeids"), strict=False))
    count = len(names)
    place = {name: i for i, name in enumerate(names)}
    modes = node.strings("nodes_modes")
    _check(node, len(modes) == count == len(place), "nodes_modes or nodes_nodeids")
    leaf = np.array([mode == _LEAF for mode in modes], np.bool_)
    trees = _lists(node, count, "nodes_treeids")
    following = [
        np.array([i if leaf[i] else place.get((trees[i], ids[i]), -1) for i in range(count)], np.int64)
        for ids in (_lists(node, count, "nodes_truenodeids"), _lists(node, count, "nodes_falsenodeids"))
    ]
    weights = _table(node, count, targets, np.dtype(np.float32))
    given = zip(
        zip(node.ints(f"{kind}_treeids"), node.ints(f"{kind}_nodeids"), strict=False),
        node.ints(f"{kind}_ids"),
        _numbers(node, f"{kind}_weights").tolist(),
        strict=False,
    )
    for name, target, weight in given:
        _check(node, name in place and 0 <= target < targets, f"{kind}_nodeids or {kind}_ids")
        weights[place[name], target] += weight
    reached = set(np.concatenate([side[~leaf] for side in following]).tolist())
    roots = np.array([i for i in range(count) if i not in reached], np.int64)
    loops = any((side[~leaf] == np.flatnonzero(~leaf)).any() for side in following)
    _check(node, len(roots) == len(set(trees.tolist())) and not loops, "the roots of its trees")
    return _forest(
        node,
        feature=np.where(leaf, 0, _lists(node, count, "nodes_featureids")),
        split=_numbers(node, "nodes_values"),
        true=following[0],
        false=following[1],
        missing=_missing(node, count),
        weights=weights,
        roots=roots,
        modes=np.array(modes),
    )


def _forest(node: Node, **arrays: Array) -> Forest:
    """A forest whose comparisons, features and successors are checked."""
    unknown = set(arrays["modes"].tolist()) - {_LEAF, *_COMPARISONS}
    if unknown:
        raise node.unsupported(f"comparisons {', '.join(sorted(unknown))} are not supported")
    features = node.operand(0).type.shape[-1] if node.operand(0).type.rank else 0
    count = len(arrays["true"])
    for name in ("true", "false", "roots"):
        _check(node, bool(((arrays[name] >= 0) & (arrays[name] < count)).all()), f"its nodes ({name})")
    if isinstance(features, int):
        _check(node, bool((arrays["feature"] < features).all()), f"nodes_featureids for {features} features")
    return Forest(**arrays)


def _table(node: Node, nodes: int, targets: int, dtype: np.dtype[np.generic]) -> Array:
    """Zeros for the weights of each node and target."""
    _check(node, targets > 0, f"{targets} targets")
    if nodes * targets * dtype.itemsize > LARGEST_DENSE:
        raise node.unsupported(f"weights of {nodes} nodes and {targets} targets are too many")
    return np.zeros((nodes, targets), dtype)


def _missing(node: Node, count: int) -> Array:
    name = "nodes_missing_value_tracks_true"
    return _lists(node, count, name).astype(np.bool_) if node.has(name) else np.zeros(count, np.bool_)


def _lists(node: Node, count: int, name: str) -> Array:
    values = node.ints(name)
    _check(node, len(values) == count, name)
    return np.array(values, np.int64)


def _numbers(node: Node, name: str) -> Array:
    """Floats given as a list or, since version 3, as a tensor."""
    if node.has(f"{name}_as_tensor"):
        return node.tensor(f"{name}_as_tensor")
    return np.array(node.floats(name, ()), np.float32)


def _check(node: Node, fits: bool | np.bool_, what: str) -> None:
    if not fits:
        raise node.fail(f"{what} do not fit its other attributes")
