"""Quantising by a product in place of a division, where that gives the same integers for every number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NEIGHBOURS = 8
"""Floats to either side of a middle between two multiples of a scale; both results cross it within 4."""

LEAST, MOST = 2.0**-100, 2.0**100
"""Scales between which neither a middle nor a reciprocal is denormal or infinite."""


def exact_inverse(scale: np.float32, bits: int) -> np.float32 | None:
    """1 / scale, if round(x · that) is round(x / scale) for all float32 x as far as integers of `bits` reach.

    Both grow with x, so they agree everywhere where they step from one integer to the next at the same x. The
    steps lie at the middles between multiples of the scale: quotients are off by half a unit in the last
    place, products by at most two, so the floats next to each middle tell; below 0 both are the same turned
    over. It holds for powers of two, and of other scales for one of forty.
    """
    if not LEAST < scale < MOST:
        return None
    inverse = np.float32(1.0 / float(scale))
    x = _floats_beside(np.arange(1 << bits), float(scale))
    return inverse if _agree(x / scale, x * inverse) else None


def _floats_beside(multiples: Array, scale: float) -> Array:
    """The float32 nearest to the middle above each multiple of a scale, and some to either side of it."""
    near: Array = ((multiples + 0.5) * scale).astype(np.float32).view(np.int32)
    beside: Array = np.arange(-NEIGHBOURS, NEIGHBOURS + 1, dtype=np.int32)
    return _as_floats(near[:, None] + beside)


def _as_floats(raw: Array) -> Array:
    return raw.view(np.float32)


def _agree(left: Array, right: Array) -> bool:
    """Whether both round to the same integers."""
    return bool((np.rint(left) == np.rint(right)).all())
