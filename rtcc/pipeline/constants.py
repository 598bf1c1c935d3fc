"""Questions that rewrites ask about constant operands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, DType, Value

Array = NDArray[Any]


def uniform_value(value: Value | None) -> Array | None:
    """The value (shape ()) that fills a constant; None where it is no constant or has several elements."""
    if not isinstance(value, Constant) or value.data.size != 1 or value.type.dtype is DType.STRING:
        return None
    return value.data.reshape(())


def is_filled_with(value: Value | None, number: float) -> bool:
    """Whether a value is a constant filled with exactly that number: -0.0 and 0.0 differ."""
    found = uniform_value(value)
    return found is not None and found.tobytes() == np.asarray(number).astype(found.dtype).tobytes()


def is_zero(value: Value | None) -> bool:
    """Whether a value is a constant filled with zero, of either sign."""
    return is_filled_with(value, 0.0) or is_filled_with(value, -0.0)
