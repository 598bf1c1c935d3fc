"""A pool that a convolution's kernel does before it stores its results; needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.targets.tvm.kernels.pooling.pool_problem import Reduction


@dataclass(frozen=True)
class Pooling:
    """A pool over windows that do not overlap, of the convolution's own finished results."""

    reduction: Reduction
    rows: int
    columns: int

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns that become one result."""
        return self.rows, self.columns
