"""Whether sums of products of 8-bit integers fit i32, whatever the data: what passes and `check` go by."""

from __future__ import annotations

from math import prod

import numpy as np

from rtcc.ir.op import Array

LIMIT = 2**31
LARGEST = 255
"""Of u8 data, and of the distance of 8-bit data from a zero point."""

SIGNED = (-128, 127)
"""The least and the largest of s8 data."""

FARTHEST = 128
"""Of an s8 weight from 0."""

MOST_TERMS = (LIMIT - 1) // (LARGEST * FARTHEST)
"""So many products of a u8 and an s8 fit, whatever the weights."""


def may_overflow(
    filters: Array, offset: Array | None = None, *, is_centred: bool = False, is_signed: bool = False
) -> bool:
    """Whether the sum of some u8 data with a filter, alone or with its offset added, leaves i32.

    filters: [M, …], s8 or differences of 8-bit integers; offset: [M, …], integers, several for a filter where
    places have their own. is_signed: the data are s8. is_centred: the data are less a zero point of 0 to 255
    that is not known: with z, (255 - z)·a + z·b ≤ 255·max(a, b) for a and b the sums of the weights above and
    below 0.
    """
    moved = np.zeros((len(filters), 1), np.int64) if offset is None else _rows(offset).astype(np.int64)
    rows, furthest = _rows(filters), int(np.abs(moved).max(initial=0))
    if not terms_may_overflow(rows.shape[1], FARTHEST if rows.dtype == np.int8 else LARGEST, furthest):
        return False
    least, largest = SIGNED if is_signed else (0, LARGEST)
    positive, negative = (each(rows, 0).sum(1, dtype=np.int64) for each in (np.maximum, np.minimum))
    above, below = largest * positive + least * negative, largest * negative + least * positive
    if is_centred:
        above = np.maximum(above, -below)
        below = -above
    highest, lowest = above + moved.max(1, initial=0), below + moved.min(1, initial=0)
    return bool((highest >= LIMIT).any() or (lowest < -LIMIT).any())


def terms_may_overflow(terms: int, farthest: int = FARTHEST, offset: int = 0) -> bool:
    """Whether so many products of 8-bit data and weights up to `farthest`, and an offset, may leave i32."""
    return LARGEST * farthest * terms + offset >= LIMIT


def columns_of(matrix: Array) -> Array:
    """The filters [M, K] of a product's right-hand matrix [..., K, N], or of a vector [K]."""
    columns = np.moveaxis(matrix if matrix.ndim > 1 else matrix[:, None], -2, -1)
    return columns.reshape(prod(columns.shape[:-1]), columns.shape[-1])


def _rows(array: Array) -> Array:
    return array.reshape(len(array), prod(array.shape[1:]))
