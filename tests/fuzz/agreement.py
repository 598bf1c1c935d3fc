"""Whether two runs of one model agree, as far as rounding lets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

RTOL = {2: 2e-2, 4: 2e-3, 8: 1e-6}
"""Of the largest number of an output, by bytes per element."""

FACTOR = 16.0
"""How many times the error of the declared precision itself ours may be, where that is larger."""


def disagreement(found: Arrays, expected: Arrays, exact: Arrays) -> str:
    """Which output is wrong, and by how much; empty where none is.

    expected: in the declared precision; exact: in float64. An output is right where it is near either, or as
    far from the exact one as the declared precision itself is, a few times over.
    """
    for name, array in expected.items():
        other = found[name]
        if other.shape != array.shape or other.dtype != array.dtype:
            return f"{name} is {other.dtype}{other.shape}, not {array.dtype}{array.shape}"
        if array.dtype.kind != "f":
            apart = int(np.count_nonzero(other != array))
            is_rounded = exact[name].shape == array.shape and not np.array_equal(exact[name], array)
            if apart and not is_rounded:
                return f"{apart} of {array.size} elements of {name} differ"
            continue
        off = _error(other, array)
        if off > RTOL[array.itemsize] and _error(other, exact[name]) > FACTOR * _error(array, exact[name]):
            return f"{name} is off by {off:.1e} of its largest number"
    return ""


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
