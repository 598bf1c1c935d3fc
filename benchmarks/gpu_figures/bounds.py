"""How far what a GPU computes may be from the exact answer.

Exact is the interpreter in float64 (`interpret(…, precision="f64")`). Sums in another order, with or without
a rounding between product and sum, err as randomly as NumPy's in the declared types do: an element may be
`FACTOR` times as far off as NumPy's worst element of the same channel, and never has to be nearer than a part
of the largest magnitude there, which the narrowest type of the network decides (`FLOORS`). An image's channel
(axis 1 of four and more axes) has a bound of its own, other outputs one for all elements. Integers and truth
values must be those of the interpreter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Module

FACTOR = 8.0
FLOORS = {"f64": 1e-12, "f32": 2e-5, "tf32": 4e-3, "f16": 4e-3, "bf16": 3e-2}
"""Of the largest magnitude of a channel."""

Array = NDArray[Any]


def narrowest(module: Module, target: str) -> str:
    """The float type that decides a network's bounds: f16, bf16, tf32 where the target allows that, f32."""
    types = {v.type.dtype.value for op in module.main.walk() for v in (*op.present_operands, *op.results)}
    found = [name for name in ("bf16", "f16") if name in types]
    return found[0] if found else "tf32" if "tf32=yes" in target else "f32"


def bounds_of(declared: Array, exact: Array, narrowest: str) -> Array:
    """How far each element may be from `exact`; zeros where only `declared` is right."""
    if declared.dtype.kind in "iub":
        return np.zeros(declared.shape)
    axes = tuple(n for n in range(declared.ndim) if n > 1 or declared.ndim < 4 or n == 0)
    noise = np.abs(declared.astype(np.float64) - exact).max(axis=axes, keepdims=True, initial=0)
    largest = np.abs(exact).max(axis=axes, keepdims=True, initial=0)
    return np.broadcast_to(np.maximum(FACTOR * noise, FLOORS[narrowest] * largest), declared.shape)


def excess(found: Array, declared: Array, exact: Array, bounds: Array) -> float:
    """How far the worst element is off, in parts of what it may be: above 1 is wrong, as is infinity."""
    if found.shape != declared.shape or found.dtype != declared.dtype:
        return float("inf")
    same = (found == declared) | ((found != found) & (declared != declared))
    with np.errstate(all="ignore"):
        off = np.abs(found.astype(np.float64) - exact) / bounds
    return float(np.where(same, 0.0, np.nan_to_num(off, nan=np.inf, posinf=np.inf)).max(initial=0.0))
