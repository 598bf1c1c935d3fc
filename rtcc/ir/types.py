"""The type of a tensor value: element type, logical shape, storage layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from rtcc.errors import RtccError
from rtcc.ir.dimension import Expression, upper_bound
from rtcc.ir.dtype import DType
from rtcc.ir.layout import Layout

Shape = tuple[int | Expression, ...]


@dataclass(frozen=True)
class TensorType:
    """dtype, logical shape and layout (None: plain row-major) of a tensor."""

    dtype: DType
    shape: Shape
    layout: Layout | None = None

    @property
    def rank(self) -> int:
        """Number of logical axes."""
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is an integer."""
        return all(isinstance(d, int) for d in self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape as integers; an error when a dimension is symbolic."""
        sizes = tuple(d for d in self.shape if isinstance(d, int))
        if len(sizes) != len(self.shape):
            raise RtccError("unbound-dimension", f"the shape of {self} has symbolic dimensions",
                            hint="bind them with --shape NAME=1x3x224x224 or --dim N=1")  # fmt: skip
        return sizes

    @property
    def largest(self) -> TensorType:
        """The type with every symbolic dimension at its upper bound."""
        return self if self.is_static else replace(self, shape=tuple(map(upper_bound, self.shape)))

    @property
    def physical_shape(self) -> tuple[int, ...]:
        """Extents in memory, outermost first (integers)."""
        return self.layout.physical_shape(self.sizes) if self.layout else self.sizes

    @property
    def elements(self) -> int:
        """Number of logical elements, symbolic dimensions at their upper bound."""
        return prod(upper_bound(d) for d in self.shape)

    @property
    def storage_bytes(self) -> int:
        """Bytes in memory, layout padding included, symbolic dimensions at their upper bound."""
        return prod(self.largest.physical_shape) * self.dtype.bytes

    def with_layout(self, layout: Layout | None) -> TensorType:
        """The same tensor stored otherwise."""
        return replace(self, layout=layout)

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape and layout with another element type."""
        return replace(self, dtype=dtype)

    def with_shape(self, shape: Iterable[int | Expression]) -> TensorType:
        """The same element type with another shape, stored plainly."""
        return TensorType(self.dtype, tuple(shape))

    def substitute(self, values: Mapping[str, int | Expression]) -> TensorType:
        """The type with symbols replaced by name."""
        shape = tuple(d if isinstance(d, int) else d.substitute(values) for d in self.shape)
        return replace(self, shape=shape)

    def __str__(self) -> str:
        dims = ",".join(map(str, self.shape))
        return f"{self.dtype.value}[{dims}]{self.layout or ''}"

    __repr__ = __str__


def broadcast_shapes(*shapes: Shape) -> Shape:
    """The shape that NumPy broadcasting gives; ValueError names the axes that disagree.

    A symbolic dimension against 1 stays symbolic; against any other integer it takes the integer
    (ONNX models promise that they agree).
    """
    rank = max((len(s) for s in shapes), default=0)
    result: list[int | Expression] = []
    for axis in range(-rank, 0):
        dims = [s[axis] for s in shapes if len(s) >= -axis and s[axis] != 1]
        fixed = {d for d in dims if isinstance(d, int)}
        if len(fixed) > 1:
            raise ValueError(
                f"shapes {', '.join(map(str, shapes))} do not broadcast: "
                f"axis {axis} has sizes {sorted(fixed)}"
            )
        result.append(fixed.pop() if fixed else dims[0] if dims else 1)
    return tuple(result)
