"""Whether two runs of one model agree, as far as rounding lets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

RTOL = {2: 5e-3, 4: 1e-4, 8: 1e-9}
"""Of the largest number of an output, by bytes per element."""

FACTOR = 16.0
"""How many times the error of the declared precision itself ours may be, where that is larger."""


def disagreement(found: Arrays, expected: Arrays, exact: Arrays) -> str:
    """Which output is wrong, and by how much; empty where none is.

    expected: in the declared precision; exact: in float64. An output is right where it is near either, or as
    far from the exact one as the declared precision itself is, a few times over. Integers and booleans are
    compared where both precisions agree on them: elsewhere a rounding decides.
    """
    for name, array in expected.items():
        other = found[name]
        if other.shape != array.shape or other.dtype != array.dtype:
            return f"{name} is {other.dtype}{other.shape}, not {array.dtype}{array.shape}"
        if array.dtype.kind != "f":
            apart = int(np.count_nonzero((other != array) & _is_certain(array, exact[name])))
            if apart:
                return f"{apart} of {array.size} elements of {name} differ"
            continue
        off = _error(other, array)
        if off > RTOL[array.itemsize] and _error(other, exact[name]) > FACTOR * _error(array, exact[name]):
            return f"{name} is off by {off:.1e} of its largest number"
    return ""


def _is_certain(declared: NDArray[Any], exact: NDArray[Any]) -> NDArray[np.bool_]:
    """Which elements both precisions agree on; none where a rounding decides how many there are."""
    if declared.shape != exact.shape:
        return np.zeros(declared.shape, bool)
    return declared == exact


def _error(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest difference as a part of the largest number; infinite where only one is finite.

    Where the other is not finite, anything that is not finite is right: which of infinity and NaN comes out
    depends on the order of a sum.
    """
    if one.shape != other.shape:
        return np.inf
    left, right = (np.asarray(array, np.float64) for array in (one, other))
    finite = np.isfinite(right)
    if not np.array_equal(np.isfinite(left), finite):
        return np.inf
    scale = float(np.abs(right[finite]).max(initial=1e-30))
    return float(np.abs(left[finite] - right[finite]).max(initial=0.0)) / scale
