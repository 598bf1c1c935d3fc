# pyright: basic
"""Accumulation: loops that combine many terms into one value, in an order fixed at compile time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
from tvm import tirx

from rtcc.ir import DType, TensorType
from rtcc.targets.tvm.function_builder import Expr, bounded, vector
from rtcc.targets.tvm.lower.kernel import (
    Index,
    Lowering,
    computing_type,
    integer,
    literal,
    storage_type,
    widened,
)
from rtcc.targets.tvm.lower.loops import own_places, task_loops
from rtcc.targets.tvm.lower.scalar import maximum, minimum
from rtcc.targets.tvm.summation import block_length

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
    in LANES partial results that are joined pairwise at the end; long sums of floats are cut into blocks.
    """
    builder, type = lowering.builder, computing_type(type)
    if builder.width > 1:
        return _accumulate_together(lowering, type, [int(extent) for extent in extents], term, combine)
    *outer, last = extents or (1,)
    has_lanes = isinstance(last, int) and last >= 2 * LANES and not builder.is_per_element
    lanes = LANES if has_lanes else 1

    def add(partial: tirx.Buffer, index: Index, chunk: Expr, width: int) -> None:
        with builder.serial("lane", width) as lane:
            _join(lowering, type, partial, lane, combine, lambda: term((*index, chunk + lane)))

    def whole(partial: tirx.Buffer, index: Index) -> None:
        add(partial, index[:-1], index[-1] * integer(lanes), lanes)

    def rest(partial: tirx.Buffer, index: Index) -> None:
        add(partial, index, integer(int(last) // lanes * lanes), int(last) % lanes)

    partial = _blocks(lowering, type, lanes, [*outer, last // lanes if lanes > 1 else last], combine, whole)
    if lanes > 1 and int(last) % lanes:
        partial = _blocks(lowering, type, lanes, outer, combine, rest, into=partial)
    _join_pairwise(lowering, type, partial, lanes, combine)
    return _loaded(type, partial[0])


def _accumulate_together(
    lowering: Lowering, type: TensorType, extents: Sequence[int], term: Term, combine: Combine
) -> Expr:
    """The same where threads do a task together: each combines every so many terms, then they all join."""
    builder, count = lowering.builder, prod(extents)

    def add(partial: tirx.Buffer, index: Index) -> None:
        with own_places(lowering, index[0], extents) as place:
            _join(lowering, type, partial, integer(0), combine, lambda: term(place))

    partial = _blocks(lowering, type, 1, [-(-count // builder.width)], combine, add)
    found = builder.combined(partial[0], lambda a, b: combine.join(type, a, b))
    return _loaded(type, found)


def _join_pairwise(
    lowering: Lowering, type: TensorType, partial: tirx.Buffer, lanes: int, combine: Combine
) -> None:
    """partial[0] becomes all lanes combined, halves in turn."""
    while lanes > 1:
        lanes //= 2
        low, high = partial[vector(0, lanes)], partial[vector(lanes, lanes)]
        lowering.builder.store(partial, [vector(0, lanes)], combine.join(type, low, high))


def _blocks(
    lowering: Lowering,
    type: TensorType,
    width: int,
    extents: Sequence[Extent],
    combine: Combine,
    add: Callable[[tirx.Buffer, Index], None],
    into: tirx.Buffer | None = None,
) -> tirx.Buffer:
    """A buffer of `width` combinations, add(buffer, index) called for all of an index space.

    A long sum of floats is cut as `summation` says; extents known only at run time count as 1 there, which
    are those of pooling windows.
    """
    builder = lowering.builder
    sums = _started(lowering, type, width, combine) if into is None else into
    cut = _cut(extents) if combine is SUM and type.dtype.is_float else None
    if cut is None:
        with ExitStack() as stack:
            add(sums, tuple(stack.enter_context(builder.serial(f"r{n}", e)) for n, e in enumerate(extents)))
        return sums
    axis, block = cut
    extent = int(extents[axis])
    with ExitStack() as stack:
        index = [stack.enter_context(builder.serial(f"r{n}", e)) for n, e in enumerate(extents[:axis])]
        first = stack.enter_context(builder.serial("block", -(-extent // block))) * integer(block)
        partial = _started(lowering, type, width, combine)
        with ExitStack() as within:
            index.append(within.enter_context(builder.serial("k", bounded(block, extent, first), first)))
            inner = enumerate(extents[axis + 1 :])
            index += [within.enter_context(builder.serial(f"s{n}", e)) for n, e in inner]
            add(partial, tuple(index))
        with builder.serial("lane", width) as lane:
            builder.store(sums, [lane], sums[lane] + partial[lane])
    return sums


def _started(lowering: Lowering, type: TensorType, width: int, combine: Combine) -> tirx.Buffer:
    """A buffer of `width` combinations of nothing."""
    partial = lowering.builder.local("partial", (width,), storage_type(type))
    with lowering.builder.serial("lane", width) as lane:
        lowering.builder.store(partial, [lane], combine.start(type))
    return partial


def _cut(extents: Sequence[Extent]) -> tuple[int, int] | None:
    """Which axis of a long sum is cut, and into blocks of how many; the axes after it stay whole."""
    terms = prod(extent for extent in extents if isinstance(extent, int))
    room = block_length(terms)
    if room == terms:
        return None
    for axis in reversed(range(len(extents))):
        extent = extents[axis]
        if isinstance(extent, int):
            if extent > room:
                return axis, room
            room //= extent
    return None


def _loaded(type: TensorType, stored: Expr) -> Expr:
    return tirx.NE(stored, tirx.const(0, "uint8")) if type.dtype is DType.BOOL else stored


def accumulate_columns(
    lowering: Lowering,
    type: TensorType,
    sizes: Sequence[int],
    extents: Sequence[Extent],
    term: Callable[[Index, Index], Expr],
    combine: Combine,
    finish: Callable[[Index, Expr], None],
) -> None:
    """Combine term(index, place) for every place of a result, a block of columns at a time.

    sizes: of the result. finish(place, value) is called inside a loop over the columns of a block once their
    values are complete.
    """
    builder, type = lowering.builder, computing_type(type)

    def block(outer: Index, start: Expr, width: int) -> None:
        def add(partial: tirx.Buffer, index: Index) -> None:
            with builder.serial("lane", width) as lane:
                _join(lowering, type, partial, lane, combine, lambda: term(index, (*outer, start + lane)))

        sums = _blocks(lowering, type, width, extents, combine, add)
        with builder.serial("lane", width) as lane, lowering.scope():
            finish((*outer, start + lane), _loaded(type, sums[lane]))

    column_blocks(lowering, sizes, block)


def column_blocks(
    lowering: Lowering, sizes: Sequence[int], block: Callable[[Index, Expr, int], None]
) -> None:
    """Call block(outer index, first column, width) for the columns of every row, divided among tasks.

    Columns are the last axis. COLUMN_BLOCK at a time and then the rest; one where each is a task.
    """
    *lead, count = sizes
    builder = lowering.builder
    if builder.is_per_element:
        task_loops(lowering, sizes, lambda index: block(index[:-1], index[-1], 1))
        return

    def row(outer: Index) -> None:
        outer = outer[: len(lead)]
        whole, rest = divmod(count, COLUMN_BLOCK)
        if whole:
            with builder.serial("column_block", whole) as number:
                block(outer, number * integer(COLUMN_BLOCK), COLUMN_BLOCK)
        if rest:
            with builder.serial("column_rest", 1):
                block(outer, integer(whole * COLUMN_BLOCK), rest)

    task_loops(lowering, lead or (1,), row)


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
