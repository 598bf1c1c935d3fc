"""How far a quantised model's arrays are from the float one's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.interpreter import output_names
from rtcc.ir import Module


def float_outputs(module: Module) -> list[str]:
    """The results of a module that have decibels: those that are floats, by name."""
    main = module.main
    return [
        name
        for name, value in zip(output_names(main), main.returned, strict=True)
        if value.type.dtype.is_float
    ]


def powers(exact: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """Σ x² and Σ (x - y)², infinite if one side alone is NaN or infinite; where both are alike: left out."""
    one, other = exact.astype(np.float64).reshape(-1), found.astype(np.float64).reshape(-1)
    usable = np.isfinite(one) & np.isfinite(other)
    error = float("inf") if lost_elements(one, other).any() else 0.0
    one, other = one[usable], other[usable]
    difference = one - other
    return np.array([one @ one, difference @ difference + error])


def lost_elements(exact: NDArray[Any], found: NDArray[Any]) -> NDArray[np.bool_]:
    """Where one side is NaN or infinite, and the other is not the same."""
    one, other = exact.astype(np.float64), found.astype(np.float64)
    alike = (one == other) | (np.isnan(one) & np.isnan(other))
    return ~(np.isfinite(one) & np.isfinite(other)) & ~alike
