# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""The right-hand matrix of a product stored in fewer bits: [groups][K][nt·b], as a packed one of float32 lies.

Where there is one tile of rows, elements are widened in registers as they are multiplied, which takes less
time than waiting for float32 ones; with more rows a group of columns is widened to scratch first, once for all.

    i8:    w = float32(q) · scale[k / block]                    i4: two rows of k in a byte, the first in its low half
    f16:   w = float32(q)                                     bf16: w = bits(q << 16)
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from rtcc.targets.tvm import vector_math as vm
from rtcc.targets.tvm.function_builder import FIRST_CACHE, Expr, FunctionBuilder, Index, splat, vector
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import Element, MatmulProblem, Stored

AHEAD_BYTES = 4096
"""How far ahead a matrix is asked for that is read once."""

_CONTAINERS = {Element.I4: "uint8", Element.I8: "int8", Element.F16: "float16", Element.BF16: "uint16"}


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
        rows = -(-problem.depth // stored.element.rows)
        right = kernel.buffer("right", (groups, rows, width), _CONTAINERS[stored.element])
        scale = None
        if stored.block:
            scale = kernel.buffer("scale", (groups, -(-problem.depth // stored.block), width))
        return StoredWeights(kernel, stored, problem.lanes, width, right, scale)

    def value(self, group: Index, k: Index, j: Index) -> Expr:
        """Vector j of a group's row k, in float32."""
        columns = vector(j * self.lanes, self.lanes)
        read = self.right[group, tirx.truncdiv(k, self.stored.element.rows), columns]
        wide = self._widened(read, k)
        if self.scale is None:
            return wide
        return wide * self.scale[group, tirx.truncdiv(k, self.stored.block), columns]

    def _widened(self, read: Expr, k: Index) -> Expr:
        match self.stored.element:
            case Element.I4:
                up = 28 - 4 * tirx.truncmod(k, 2)
                integer = read.astype(vm.typed(read, "int32"))
                pair = integer << splat(up, self.lanes, "int32")
                signed = pair >> splat(28, self.lanes, "int32")
                return signed.astype(vm.typed(read, "float32"))
            case Element.BF16:
                raw = read.astype(vm.typed(read, "uint32")) << splat(16, self.lanes, "uint32")
                return vm.bits(raw, "float32")
            case _:
                return read.astype(vm.typed(read, "float32"))

    def fill(self, panel: tirx.Buffer, group: Index) -> None:
        """panel[k, c]: the group's columns in float32."""
        depth, width = (int(extent) for extent in panel.ty.shape)
        rows = self.stored.element.rows
        whole, rest = divmod(depth, rows)
        with self.kernel.serial("kw", whole) as pair, self.kernel.unrolled("kr", rows) as row:
            self._fill_row(panel, group, pair * rows + row, width)
        if rest:
            self._fill_row(panel, group, depth - 1, width)

    def _fill_row(self, panel: tirx.Buffer, group: Index, k: Index, width: int) -> None:
        for j in range(width // self.lanes):
            self.kernel.store(panel, [k, vector(j * self.lanes, self.lanes)], self.value(group, k, j))

    def ask_ahead(self, group: Index, k: Index) -> None:
        """Prefetch what comes some steps after this one."""
        rows, size = self.stored.element.rows, self.stored.element.bits * self.stored.element.rows // 8
        first = tirx.truncdiv(k * self.width, rows) + AHEAD_BYTES // size
        self.kernel.prefetch_from(self.right, [group, 0, first], self.width // rows, FIRST_CACHE)
