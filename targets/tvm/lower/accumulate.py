# pyright: basic
"""Accumulation: loops that combine many terms into one value, in an order fixed at compile time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tvm import tirx

from rtcc.ir import DType, TensorType
from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder
from rtcc.targets.tvm.lower.kernel import (
    Index,
    Lowering,
    computing_type,
    integer,
    literal,
    storage_type,
    widened,
)
from rtcc.targets.tvm.lower.scalar import maximum, minimum

LANES = 16
"""Partial results that a sum over a contiguous axis keeps, so that it runs in vector registers."""
COLUMN_BLOCK = 64
"""Neighbouring result elements that are accumulated together where another axis is summed."""

Extent: TypeAlias = "int | Expr"
Term = Callable[[Index], Expr]


@dataclass(frozen=True)
class Combine:
    """An associative combination of terms, and what it starts from."""

    start: Callable[[TensorType], Expr]
    join: Callable[[TensorType, Expr, Expr], Expr]


def _lowest(type: TensorType) -> Expr:
    if type.dtype is DType.BOOL:
        return tirx.const(0, "uint8")
    low = -np.inf if type.dtype.is_float else np.iinfo(type.dtype.numpy).min
    return literal(low, type)


def _highest(type: TensorType) -> Expr:
    if type.dtype is DType.BOOL:
        return tirx.const(1, "uint8")
    high = np.inf if type.dtype.is_float else np.iinfo(type.dtype.numpy).max
    return literal(high, type)


SUM = Combine(lambda t: literal(0, t), lambda t, a, b: a + b)
PRODUCT = Combine(lambda t: literal(1, t), lambda t, a, b: a * b)
MAXIMUM = Combine(_lowest, lambda t, a, b: maximum(a, b))
MINIMUM = Combine(_highest, lambda t, a, b: minimum(a, b))


def accumulate(
    lowering: Lowering, type: TensorType, extents: Sequence[Extent], term: Term, combine: Combine
) -> Expr:
    """Combine term(index) over an index space inside the current loop body; returns the value, loaded.

    Narrow floats are combined in float32, and stay so. A contiguous last axis of fixed extent is combined
    in LANES partial results that are joined at the end.
    """
    builder, type = lowering.builder, computing_type(type)
    *outer, last = extents or (1,)
    lanes = LANES if isinstance(last, int) and last >= 2 * LANES else 1
    partial = builder.local("partial", (lanes,), storage_type(type))
    with builder.serial("lane", lanes) as lane:
        builder.store(partial, [lane], combine.start(type))
    with ExitStack() as stack:
        index = tuple(stack.enter_context(builder.serial(f"r{n}", e)) for n, e in enumerate(outer))
        if lanes == 1:
            with builder.serial("r", last) as r:
                _join(lowering, type, partial, integer(0), combine, lambda: term((*index, r)))
        else:
            _join_lanes(lowering, type, partial, int(last), combine, lambda r: term((*index, r)))
    for lane in range(1, lanes):
        builder.store(partial, [integer(0)], combine.join(type, partial[0], partial[lane]))
    return _loaded(type, partial[0])


def _loaded(type: TensorType, stored: Expr) -> Expr:
    return tirx.NE(stored, tirx.const(0, "uint8")) if type.dtype is DType.BOOL else stored


def accumulate_columns(
    lowering: Lowering,
    type: TensorType,
    count: int,
    extents: Sequence[Extent],
    term: Callable[[Index, Expr], Expr],
    combine: Combine,
    finish: Callable[[Expr, Expr], None],
) -> None:
    """Combine term(index, column) for a whole row of `count` result columns, a block at a time.

    finish(column, value) is called inside a loop over the columns once their values are complete.
    """
    builder, type = lowering.builder, computing_type(type)

    def block(start: Expr, width: int) -> None:
        partial = builder.local("partial", (width,), storage_type(type))
        with builder.serial("lane", width) as lane:
            builder.store(partial, [lane], combine.start(type))
        with ExitStack() as stack:
            index = tuple(stack.enter_context(builder.serial(f"r{n}", e)) for n, e in enumerate(extents))
            with builder.serial("lane", width) as lane:
                _join(lowering, type, partial, lane, combine, lambda: term(index, start + lane))
        with builder.serial("lane", width) as lane, lowering.scope():
            finish(start + lane, _loaded(type, partial[lane]))

    column_blocks(builder, count, block)


def column_blocks(builder: FunctionBuilder, count: int, block: Callable[[Expr, int], None]) -> None:
    """Call block(first column, width) for `count` columns, COLUMN_BLOCK at a time and then the rest."""
    whole, rest = divmod(count, COLUMN_BLOCK)
    if whole:
        with builder.serial("column_block", whole) as number:
            block(number * integer(COLUMN_BLOCK), COLUMN_BLOCK)
    if rest:
        with builder.serial("column_rest", 1):
            block(integer(whole * COLUMN_BLOCK), rest)


def _join_lanes(
    lowering: Lowering,
    type: TensorType,
    partial: tirx.Buffer,
    extent: int,
    combine: Combine,
    term: Callable[[Expr], Expr],
) -> None:
    builder = lowering.builder
    whole, rest = divmod(extent, LANES)
    with builder.serial("chunk", whole) as chunk, builder.serial("lane", LANES) as lane:
        _join(lowering, type, partial, lane, combine, lambda: term(chunk * integer(LANES) + lane))
    if rest:
        with builder.serial("lane", rest) as lane:
            _join(lowering, type, partial, lane, combine, lambda: term(integer(whole * LANES) + lane))


def _join(
    lowering: Lowering,
    type: TensorType,
    partial: tirx.Buffer,
    lane: Expr,
    combine: Combine,
    term: Callable[[], Expr],
) -> None:
    with lowering.scope():
        value = widened(term())
        if type.dtype is DType.BOOL:
            value = value.astype("uint8")
        lowering.builder.store(partial, [lane], combine.join(type, partial[lane], value))
