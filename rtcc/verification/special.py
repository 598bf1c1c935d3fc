"""Operands with special values in them, and what docs/arithmetic.md leaves open about the results.

Floats get NaN, infinities, zeros of both signs and denormal numbers; integers that nothing bounds get the
least and the largest of their type and -1. Filters get none: what zero padding times an infinite weight is
depends on whether the padding is multiplied at all. Stored matrices get none: whether an infinite scale
multiplies terms or sums decides what is NaN. What is sampled gets none: coordinates are rounded, and
next to a NaN that decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rtcc.interpreter import interpret_graph
from rtcc.ir import DType, Graph, Op, Value
from rtcc.ir.dtype import Kind
from rtcc.ir.op import Array
from rtcc.ir.ops import nn, quant
from rtcc.ir.ops.computed import ComputedOp
from rtcc.ir.ops.fft_conv import FftConv
from rtcc.ir.ops.regions_of_interest import RoiAlign
from rtcc.ir.ops.sampling import DeformConv, GridSample
from rtcc.ir.ops.sparse import SparseConv
from rtcc.ir.ops.stored import StoredMatMul
from rtcc.ir.ops.winograd import WinogradConv
from rtcc.ir.regions import joined_pool
from rtcc.ir.roles import Role
from rtcc.pipeline.inputs import index_bound, random_kernel_inputs, seeded

SHARED = 8
"""How many elements become special at most where many results share one; half of them where none does."""

DENORMAL = {DType.F16: 2.0**-24, DType.BF16: 2.0**-130, DType.F32: 2.0**-140, DType.F64: 2.0**-1060}
"""A number below the normal ones of each type."""


FILTERED = (nn.Conv, nn.ConvTranspose, WinogradConv, FftConv, SparseConv, quant.ConvInteger, DeformConv)
"""Operators whose second operand is a filter."""


def special_kernel_inputs(kernel: Graph, seed: int = 0) -> list[Array] | None:
    """One logical array per parameter, some elements special; None where no parameter can have any."""
    is_local = all(op.role in (Role.ELEMENTWISE, Role.MOVEMENT) for op in list(kernel.ops)[:-1])
    feeds = random_kernel_inputs(kernel, seed)
    found = [
        _with_specials(parameter, feed, seed, feed.size // 2 if is_local else SHARED)
        for parameter, feed in zip(kernel.parameters, feeds, strict=True)
    ]
    return found if any(new is not old for new, old in zip(found, feeds, strict=True)) else None


def _with_specials(parameter: Value, feed: Array, seed: int, most: int) -> Array:
    specials = _specials(parameter)
    if not specials.size or not feed.size:
        return feed
    generator = seeded(seed, f"special {parameter.index}")
    found = feed.copy()
    places = generator.permutation(feed.size)[: max(1, min(most, feed.size // 2))]
    found.reshape(-1)[places] = specials[generator.integers(0, len(specials), len(places))]
    return found


def _specials(parameter: Value) -> Array:
    """The special values that a parameter can have."""
    dtype = parameter.type.dtype
    if any(_is_spared(use.op, use.slot) or use.op.is_static_operand(use.slot) for use in parameter.uses):
        return np.zeros(0, dtype.numpy)
    if dtype in DENORMAL:
        tiny = DENORMAL[dtype]
        return np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny]).astype(dtype.numpy)
    if dtype.kind in (Kind.SIGNED, Kind.UNSIGNED) and dtype.bits >= 8 and index_bound(parameter) is None:
        limits = np.iinfo(dtype.numpy)
        return np.array([limits.min, limits.max, 0, max(limits.min, -1)], dtype.numpy)
    return np.zeros(0, dtype.numpy)


def _is_spared(op: Op, slot: int) -> bool:
    """Whether an operand is a filter, a stored matrix or its scale, or sampled at computed coordinates."""
    if (isinstance(op, FILTERED) and slot == 1) or (isinstance(op, StoredMatMul) and slot > 0):
        return True
    return isinstance(op, (GridSample, RoiAlign, DeformConv)) and slot == 0


def flushed(feeds: Sequence[Array]) -> list[Array] | None:
    """The feeds with zeros in place of denormal numbers; None where they have none."""
    found = [_flushed(feed) for feed in feeds]
    return found if any(new is not old for new, old in zip(found, feeds, strict=True)) else None


def _flushed(feed: Array) -> Array:
    """f32 and f64 alone: narrower floats are widened first, and then no longer denormal."""
    least = {"float32": 2.0**-126, "float64": 2.0**-1022}.get(feed.dtype.name)
    if least is None:
        return feed
    is_denormal = (feed != 0) & (np.abs(feed) < least)
    return np.where(is_denormal, np.copysign(np.zeros_like(feed), feed), feed) if is_denormal.any() else feed


def undetermined(kernel: Graph, feeds: Sequence[Array], results: Sequence[Array]) -> list[Array]:
    """For each result where anything is right: in transformed tiles that read a number that is not finite.

    The interpreter computes with whole tiles too. All between a tile and the result is elementwise, but for a
    pool that joined. results: the kernel's, for these operands.
    """
    of_tiles: list[Array] = []

    def note(value: Value, array: Array) -> None:
        if isinstance(value.producer, (WinogradConv, FftConv)):
            of_tiles.append(~np.isfinite(array))

    if _has_tiles(kernel):
        interpret_graph(kernel, feeds, observe=note)
    if not of_tiles:
        return [np.zeros(result.shape, bool) for result in results]
    pool = joined_pool(kernel)
    if isinstance(pool, ComputedOp):
        of_tiles = [pool.compute(of_tiles[0].astype(np.float32)) > 0]
    return [np.broadcast_to(of_tiles[0], result.shape) for result in results]


def _has_tiles(kernel: Graph) -> bool:
    return any(isinstance(op, (WinogradConv, FftConv)) for op in kernel.ops)
