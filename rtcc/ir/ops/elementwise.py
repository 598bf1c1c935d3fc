"""Base classes of the elementwise operators: result type by broadcasting, and one NumPy function."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar

from rtcc.ir.dtype import DType, Kind
from rtcc.ir.op import operand, variadic_operand
from rtcc.ir.ops.computed import FLOATS, NUMBERS, ComputedOp
from rtcc.ir.types import TensorType, broadcast_shapes


class Elementwise(ComputedOp):
    """An operator on broadcast operands of one element type, which is the result's unless it says so."""

    elementwise = True
    kinds: ClassVar[frozenset[Kind]] = frozenset(Kind)
    result_dtype: ClassVar[DType | None] = None

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
