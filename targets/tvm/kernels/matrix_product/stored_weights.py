# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""The right-hand matrix of a product in fewer bits: [groups][K][nt·b], as a packed one of float32 lies.

    i8:    w = float32(q) · scale[k / block]       i4: two rows of k in a byte, the first in its low half
    f16:   w = float32(q)                        bf16: w = bits(q << 16)

Where there are few tiles of rows, each widens elements in registers as it multiplies them, which takes less
time than waiting for float32 ones; sums over a block are multiplied by its scales. With more rows the first
tile leaves what it widens in scratch for the others; that takes 4 to 13 % of a product of 128 rows by
384x384, whose stores to the second cache wait for each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from rtcc.ir import DType
from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import (
    FIRST_CACHE,
    LINE_BYTES,
    SECOND_CACHE,
    Expr,
    FunctionBuilder,
    Index,
    splat,
    vector,
)
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, Stored

AHEAD_BYTES = 4096
"""How far ahead a matrix is asked for that is read once."""

_CONTAINERS = {DType.I4: "uint8", DType.I8: "int8", DType.F16: "float16", DType.BF16: "uint16"}


@dataclass(frozen=True)
class StoredWeights:
    """The buffers of a stored matrix, and how its elements are read; width: columns of a group."""

    kernel: FunctionBuilder
    stored: Stored
    lanes: int
    width: int
    right: tirx.Buffer
    scale: tirx.Buffer | None

    @staticmethod
    def declare(kernel: FunctionBuilder, problem: MatmulProblem, groups: int, width: int) -> StoredWeights:
        """Declare the parameters `right` and, for integers, `scale`."""
        stored = problem.stored
        assert stored is not None
        rows = -(-problem.depth // stored.rows)
        right = kernel.buffer("right", (groups, rows, width), _CONTAINERS[stored.element])
        scale = None
        if stored.block:
            scale = kernel.buffer("scale", (groups, -(-problem.depth // stored.block), width))
        return StoredWeights(kernel, stored, problem.lanes, width, right, scale)

    def value(self, group: Index, k: Index, j: Index) -> Expr:
        """Vector j of a group's row k, in float32."""
        factor = self.factor(group, k, j)
        unscaled = self.unscaled(group, k, j)
        return unscaled if factor is None else unscaled * factor

    def unscaled(self, group: Index, k: Index, j: Index) -> Expr:
        """The same, not multiplied by its scales."""
        columns = vector(j * self.lanes, self.lanes)
        read = self.right[group, tirx.truncdiv(k, self.stored.rows), columns]
        return self._widened(read, k)

    def factor(self, group: Index, k: Index, j: Index) -> Expr | None:
        """The scales of vector j of a group's row k; None where there are none."""
        if self.scale is None:
            return None
        return self.scale[group, tirx.truncdiv(k, self.stored.block), vector(j * self.lanes, self.lanes)]

    def _widened(self, read: Expr, k: Index) -> Expr:
        match self.stored.element:
            case DType.I4:
                up = 28 - 4 * tirx.truncmod(k, 2)
                integer = read.astype(vm.typed(read, "int32"))
                pair = integer << splat(up, self.lanes, "int32")
                signed = pair >> splat(28, self.lanes, "int32")
                return signed.astype(vm.typed(read, "float32"))
            case DType.BF16:
                raw = read.astype(vm.typed(read, "uint32")) << splat(16, self.lanes, "uint32")
                return vm.bits(raw, "float32")
            case _:
                return read.astype(vm.typed(read, "float32"))

    def fill_row(self, panel: tirx.Buffer, group: Index, k: Index) -> None:
        """panel[k, c]: row k of the group in float32."""
        for j in range(self.width // self.lanes):
            self.kernel.store(panel, [k, vector(j * self.lanes, self.lanes)], self.value(group, k, j))

    def ask_next(self, group: Index, part: Index, parts: int) -> None:
        """Prefetch to the second cache one of so many parts of the group after this one."""
        rows, width = (int(extent) for extent in self.right.ty.shape[1:])
        size = self.stored.bytes
        line = LINE_BYTES // size
        lines = -(-rows * width // (line * parts))
        with self.kernel.serial("line", lines) as number:
            place = rows * width + (part * lines + number) * line
            self.kernel.prefetch_from(self.right, [group, 0, place], line, SECOND_CACHE)

    def span(self, depth: int, longest: int) -> int | None:
        """How many rows to sum, at most `longest`, before their sum is multiplied by the scales they share.

        None where scales are multiplied row by row, or there are none.
        """
        block = self.stored.block
        if not block or longest < block < depth:
            return None
        return min(block, longest)

    def ask_ahead(self, group: Index, k: Index) -> None:
        """Prefetch what comes some steps after this one."""
        rows, size = self.stored.rows, self.stored.bytes
        first = tirx.truncdiv(k * self.width, rows) + AHEAD_BYTES // size
        self.kernel.prefetch_from(self.right, [group, 0, first], self.width // rows, FIRST_CACHE)
