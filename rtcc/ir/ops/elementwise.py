"""Base classes of the elementwise operators: result type by broadcasting, and one NumPy function."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar

import numpy as np

from rtcc.errors import RtccError
from rtcc.ir.dtype import DType, Kind
from rtcc.ir.op import Array, operand, variadic_operand
from rtcc.ir.ops.computed import FLOATS, NUMBERS, ComputedOp
from rtcc.ir.roles import Role
from rtcc.ir.size_arithmetic import Number
from rtcc.ir.types import TensorType, broadcast_shapes


class Elementwise(ComputedOp):
    """An operator on broadcast operands of one element type, which is the result's unless it says so."""

    role = Role.ELEMENTWISE
    kinds: ClassVar[frozenset[Kind]] = frozenset(Kind)
    result_dtype: ClassVar[DType | None] = None
    on_sizes: ClassVar[Callable[..., Any] | None] = None
    """The operator on numbers and Expressions (rtcc.ir.size_arithmetic), None where it has no such form."""

    def infer(self) -> tuple[TensorType, ...]:
        types = [value.type for value in self.present_operands]
        dtypes = list(dict.fromkeys(type.dtype for type in types))
        if len(dtypes) != 1:
            found = ", ".join(dtype.value for dtype in dtypes) or "no operand"
            raise self.fail(f"operands must have one dtype, found {found}")
        if dtypes[0].kind not in self.kinds:
            expected = " or ".join(sorted(kind.value for kind in self.kinds))
            raise self.fail(f"operands must be {expected}, found {dtypes[0].value}")
        return (TensorType(self.result_dtype or dtypes[0], broadcast_shapes(*(t.shape for t in types))),)

    def known_element(self, *operands: Number | None) -> Number | None:
        """One element of the result, None where the operands do not tell; may raise RtccError for that."""
        rule = type(self).on_sizes
        return None if rule is None or None in operands else rule(*operands)

    def known_result(self, *known: Array | None) -> Array | None:
        arrays = [array for array in known if array is not None]
        if len(arrays) < len(known):
            return None
        return np.asarray(np.frompyfunc(self._known_element, len(arrays), 1)(*arrays), object)

    def _known_element(self, *operands: Number | None) -> Number | None:
        try:
            found = self.known_element(*operands)
        except RtccError:
            return None
        return int(found) if self.type.dtype.is_integer and isinstance(found, float) else found


class Unary(Elementwise):
    """An elementwise operator of one operand; subclasses give `function`, or `compute`."""

    function: ClassVar[Callable[..., Any]]
    data = operand()

    def compute(self, *arrays: Any, **named: Any) -> Any:
        return type(self).function(*arrays)


class FloatUnary(Unary):
    """A Unary that is defined for floats only."""

    kinds = FLOATS


class Binary(Elementwise):
    """An elementwise operator of two broadcast operands; subclasses give `function`, or `compute`."""

    function: ClassVar[Callable[..., Any]]
    left = operand()
    right = operand()

    def compute(self, *arrays: Any, **named: Any) -> Any:
        return type(self).function(*arrays)


class Variadic(Elementwise):
    """An elementwise operator of one or more broadcast operands; `function` joins two of them."""

    kinds = NUMBERS
    function: ClassVar[Callable[..., Any]]
    values = variadic_operand()

    def compute(self, *arrays: Any, **named: Any) -> Any:
        return reduce(type(self).function, arrays)
