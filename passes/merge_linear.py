"""merge-linear: one layer for several that follow each other, or are added up, without a function between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rtcc.ir import Constant, Module, Op, Value
from rtcc.ir.ops.math import Add, Mul
from rtcc.ir.ops.nn import Conv, Gemm, MatMul
from rtcc.linear.maps import Applied, Array, ConvMap, Map, applied, per_channel
from rtcc.pipeline import Pass, Rewriter, apply, reassociates, rewrite
from rtcc.selection.layer_time import layers_seconds
from rtcc.target import parse_target

LONGEST = 4
"""Layers that one branch of a sum may consist of."""


@dataclass(frozen=True)
class MergeLinear(Pass):
    """Make one layer of linear layers that follow each other or are added up, where that saves work.

    conv(conv(x, #w 1x1), #v)           →  conv(x, #v∘w)         products likewise
    conv(x, #w) + conv(x, #v 1x1) + x   →  conv(x, #w + v + 1)   products likewise, and products of products

    Layers follow each other as one where one of both convolutions is 1x1, the groups are the same, and no
    border is padded that a bias would have filled. Branches join where the taps of all lie on one lattice,
    as they do in RepVGG (X. Ding et al., CVPR 2021), for which it is called structural reparameterisation.
    What is merged has no other reader, its weights are constants that no other op reads, and neither
    multiply-adds nor, where a target is known, its predicted time grow. New weights are computed in float64.
    """

    exactness = reassociates(1e-6)

    def run(self, module: Module) -> bool:
        return apply(module, RULES, self.name)


@rewrite(Conv, MatMul, Gemm)
def merge_chain(op: Conv | MatMul | Gemm, rw: Rewriter) -> None:
    """mat_mul(mat_mul(x, #w), #v)  →  mat_mul(x, #wv)"""
    second = applied(op.result)
    if second is None or not second.data.has_one_use:
        return
    first = applied(second.data)
    if first is None or not (first.is_alone and second.is_alone):
        return
    summands = first.map.summands_then(second.map)
    if summands is None or summands * op.type.elements >= first.multiply_adds + second.multiply_adds:
        return
    merged = first.then(second) if first.is_finite and second.is_finite else None
    if merged is None:
        return
    new = _written(merged.map, merged.data, (first, second), op, rw)
    if new is not None:
        rw.replace(op, new)


@rewrite(Add)
def merge_branches(op: Add, rw: Rewriter) -> None:
    """add(conv(x, #w), conv(x, #v))  →  conv(x, #w + v), and further branches of the same sum"""
    if not op.type.dtype.is_float or _is_inner(op) or applied(op.result) is not None:
        return
    addends = _addends(op)
    for source in dict.fromkeys(path.data for addend in addends for path in addend.paths):
        found = _joined(addends, source, op)
        if found is None:
            continue
        new = _written(found.map, source, found.parts, op, rw)
        if new is None:
            continue
        for number, addend in enumerate(addends):
            if number not in found.used:
                new = Add(new.result, addend.value, location=op.location)
        rw.replace(op, new)
        return


@dataclass(frozen=True)
class _Addend:
    """What is added up somewhere in a tree of additions. paths: the maps that it is of values further up.

    What broadcasts to the sum has no paths: its map gives fewer results than the others'.
    """

    value: Value
    paths: tuple[Applied, ...]

    def path(self, source: Value) -> Applied | None:
        """The map that it is of a value."""
        return next((each for each in self.paths if each.data is source), None)

    def factors(self, source: Value, axis: int) -> Array | None:
        """Where it is a multiple of a value, channel by channel: the factors."""
        channels = source.type.shape[axis] if source.type.rank > 1 else None
        if self.value is source and isinstance(channels, int):
            return np.ones(channels)
        op = self.value.producer
        if not isinstance(op, Mul) or not self.value.has_one_use:
            return None
        for data, factor in ((op.left, op.right), (op.right, op.left)):
            if data is source and isinstance(factor, Constant) and self.value.type == source.type:
                return per_channel(factor, source, axis)
        return None


@dataclass(frozen=True)
class _Joined:
    """One map in place of some of the addends, by their numbers."""

    map: Map
    parts: tuple[Applied, ...]
    used: frozenset[int]


def _is_inner(op: Add) -> bool:
    """Whether the result goes into another addition of the same tree."""
    user = next(op.result.users, None)
    return op.result.has_one_use and isinstance(user, Add) and user.type == op.type


def _addends(root: Add) -> list[_Addend]:
    """The leaves of a tree of additions that nothing else reads, from left to right."""
    found: list[_Addend] = []
    open_ = [root.right, root.left]
    while open_:
        value = open_.pop()
        is_whole = value.type == root.type
        op, linear = value.producer, applied(value) if is_whole else None
        if isinstance(op, Add) and linear is None and value.has_one_use and is_whole:
            open_ += [op.right, op.left]
            continue
        paths: list[Applied] = []
        while linear is not None and linear.ops[-1].result.has_one_use and linear.is_alone:
            paths.append(linear)
            further = applied(linear.data) if linear.data.has_one_use else None
            linear = None if further is None or len(paths) == LONGEST else further.then(paths[-1])
        found.append(_Addend(value, tuple(paths)))
    return found


def _joined(addends: Sequence[_Addend], source: Value, root: Add) -> _Joined | None:
    """The addends that are of a value and make one map, where that takes no more multiply-adds."""
    numbered = [(n, path) for n, each in enumerate(addends) if (path := each.path(source)) is not None]
    if not all(path.is_finite for _, path in numbered):
        return None
    (first, path), *others = numbered
    map, parts, used = path.map, [path], {first}
    for number, path in others:
        joined = map.plus(path.map)
        if joined is not None:
            map, parts = joined, [*parts, path]
            used.add(number)
    axis = 1 if isinstance(map, ConvMap) else -1
    for number, addend in enumerate(addends):
        factors = None if number in used else addend.factors(source, axis)
        unit = None if factors is None or source.type != root.type else map.unit(factors)
        joined = None if unit is None else map.plus(unit)
        if joined is not None:
            map = joined
            used.add(number)
    if len(used) < 2 or map.summands * root.type.elements > sum(part.multiply_adds for part in parts):
        return None
    for number, addend in enumerate(addends):
        constant = addend.value
        shift = per_channel(constant, root.result, axis) if isinstance(constant, Constant) else None
        if shift is not None and number not in used:
            map = map.shifted(shift)
            used.add(number)
    return _Joined(map, tuple(parts), frozenset(used))


def _written(map: Map, data: Value, parts: Sequence[Applied], place: Op, rw: Rewriter) -> Op | None:
    """The op of a map in place of several, standing nowhere yet. place: the op before which it shall stand.

    None where it would enter a loop, weights are too large for the data's type, or it is predicted slower.
    """
    dtype = data.type.dtype.numpy
    if any(op.graph is not place.graph for part in parts for op in part.ops) or not _fits(map, dtype):
        return None
    named = rw.stem(max(parts, key=lambda part: part.multiply_adds).weights[0])

    def keep(array: Array, what: str) -> Constant:
        return rw.constant(array.astype(dtype), name=named if what == "weight" else f"{named}.{what}")

    ops = [op for part in parts for op in part.ops]
    first, *others = (op.location for op in ops)
    new = map.write(data, keep, first.merge(*others))
    if rw.module.target:
        target = parse_target(rw.module.target)
        if layers_seconds(_anchors([new, *_producers(new)]), target) > layers_seconds(_anchors(ops), target):
            return None
    return new


def _fits(map: Map, dtype: np.dtype[Any]) -> bool:
    """Whether all numbers of a map are finite in a type."""
    arrays = [map.weight if isinstance(map, ConvMap) else map.matrix]
    arrays += [] if map.bias is None else [map.bias]
    with np.errstate(over="ignore"):
        return all(bool(np.isfinite(each.astype(dtype)).all()) for each in arrays)


def _producers(op: Op) -> list[Op]:
    """Ops that an op reads and that stand nowhere yet."""
    return [v.producer for v in op.present_operands if v.producer is not None and v.producer.graph is None]


def _anchors(ops: Sequence[Op]) -> list[Op]:
    return [op for op in ops if isinstance(op, Conv | Gemm | MatMul)]


RULES = (merge_chain, merge_branches)
