"""Counting which sequences of numbers occur in rows (ONNX TfIdfVectorizer)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir import DType, Value
from rtcc.onnx.builder import Builder
from rtcc.onnx.node import Node
from rtcc.onnx.tables.rules import Table
from rtcc.onnx.tensors import Array

TABLE = Table()

LARGEST_COMPARISON = 2**24
"""Numbers that may be compared for the sequences of one length."""


@TABLE.rule("TfIdfVectorizer")
def counted(node: Node, build: Builder) -> Sequence[Value]:
    """For each sequence of the pool, how often it occurs in a row, weighted; its numbers may be some places
    apart, all by the same distance. Of one number the distance is nothing, and it counts once.
    """
    data, mode = _rows(node, build), node.string("mode")
    if mode not in ("TF", "IDF", "TFIDF"):
        raise node.fail(f"mode must be TF, IDF or TFIDF, found {mode!r}")
    columns = np.array(node.ints("ngram_indexes"), np.int64)
    pools = _pools(node, len(columns))
    if len(np.unique(columns)) < len(columns) or columns.min(initial=0) < 0:
        raise node.unsupported("two sequences count in one column", hint="give each a column of its own")
    counts = build.op("Concat", *(_occurrences(node, build, data, pool) for pool in pools), axis=1).result
    nothing = build.constant("nothing", np.zeros((data.type.sizes[0], 1), np.float32))
    everything = build.op("Concat", _weighted(node, build, counts, mode), nothing, axis=1).result
    width = int(columns.max(initial=-1)) + 1
    if width > LARGEST_COMPARISON:
        raise node.unsupported(f"its result has {width} columns, of at most {LARGEST_COMPARISON}")
    places = np.full(width, len(columns), np.int64)
    places[columns] = np.arange(len(columns))
    result = build.op("Gather", everything, build.constant("columns", places), axis=1).result
    if node.operand(0).type.rank == 2:
        return (result,)
    return build.op("Reshape", result, build.integers("shape", (width,))).results


def _rows(node: Node, build: Builder) -> Value:
    data = node.operand(0)
    if data.type.dtype not in (DType.I32, DType.I64) or node.has("pool_strings"):
        raise Unsupported(
            "unsupported-type",
            f"{node.op_type}: only whole numbers are counted, found {data.type}",
            where=node.where,
            hint="number the words outside the model",
        )
    if data.type.rank not in (1, 2) or not data.type.is_static:
        raise node.unsupported(
            f"expected rows of a known size, found {data.type}", hint="bind symbolic dimensions with --shape"
        )
    if data.type.dtype is DType.I32:  # sequences may have numbers that no element of the data is
        data = build.op("Cast", data, to=DType.I64.value).result
    if data.type.rank == 2:
        return data
    return build.op("Reshape", data, build.integers("row", (1, data.type.sizes[0]))).result


def _pools(node: Node, count: int) -> list[Array]:
    """The sequences of each length, [how many, length], together as many as have a column."""
    numbers = np.array(node.ints("pool_int64s"), np.int64)
    starts = [*node.ints("ngram_counts"), len(numbers)]
    pools: list[Array] = []
    for length, (start, end) in enumerate(pairwise(starts), 1):
        if not 0 <= start <= end <= len(numbers) or (end - start) % length:
            raise node.fail(f"the pool from {start} to {end} holds no sequences of {length} numbers")
        pools.append(numbers[start:end].reshape(-1, length))
    if sum(map(len, pools)) != count:
        raise node.fail(f"{sum(map(len, pools))} sequences do not fit {count} columns")
    return pools


def _occurrences(node: Node, build: Builder, data: Value, pool: Array) -> Value:
    """How often each sequence of one length occurs in each row, f32[rows, sequences]."""
    (rows, size), (count, length) = data.type.sizes, pool.shape
    role = f"pool{length}"
    distances = range(1, 2 if length == 1 else min(node.int("max_skip_count") + 2, size + 1))
    wanted = node.int("min_gram_length") <= length <= node.int("max_gram_length")
    if max(1, len(distances)) * size * max(1, count) * length * rows > LARGEST_COMPARISON:
        raise node.unsupported(f"more than {LARGEST_COMPARISON} numbers would be compared")
    windows = [np.arange(max(0, size - (length - 1) * d))[:, None] + d * np.arange(length) for d in distances]
    if not wanted or not count or not sum(map(len, windows)):
        return build.constant(role, np.zeros((rows, count), np.float32))
    places = build.constant(f"{role}.places", np.concatenate(windows)[:, None])
    found = build.op("Gather", data, places, axis=1).result
    equal = build.op("Equal", found, build.constant(role, pool)).result
    parts = build.op("Split", equal, axis=3, num_outputs=length, results=length).results
    every = reduce(lambda one, other: build.op("And", one, other).result, parts)
    number = build.op("Cast", every, to=DType.F32.value).result
    return build.op("ReduceSum", number, build.integers("axes", (1, 3)), keepdims=0).result


def _weighted(node: Node, build: Builder, counts: Value, mode: str) -> Value:
    """The counts, or whether there are any, times a weight for each sequence."""
    weights, size = node.floats("weights", ()), counts.type.sizes[1]
    if weights and len(weights) != size:
        raise node.fail(f"{len(weights)} weights do not fit {size} sequences")
    if mode == "IDF":
        some = build.op("Greater", counts, build.constant("none", np.array(0, np.float32))).result
        counts = build.op("Cast", some, to=DType.F32.value).result
    if mode == "TF" or not weights:
        return counts
    return build.op("Mul", counts, build.constant("weights", np.array(weights, np.float32))).result
