# pyright: basic
"""Activations in channel blocks: [N][ceil(C/b)][top + H + bottom][left + W + right][b].

b is the vector length. The halo is a border of zeros inside the buffer; a convolution's padding is read from
it, so inner loops have no bounds. It may be wider than a reader needs. Arena memory is reused, so the kernel that
produces an activation writes its halo, and the zero lanes past the last channel, on every run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm import tirx

from rtcc.targets.tvm.function_builder import Expr, FunctionBuilder, Index, splat, vector

Halo = tuple[int, int, int, int]
"""Top, left, bottom, right."""

NO_HALO: Halo = (0, 0, 0, 0)


@dataclass(frozen=True)
class Blocked:
    """The shape and layout of one blocked activation."""

    batch: int
    channels: int
    height: int
    width: int
    lanes: int
    halo: Halo = NO_HALO

    @property
    def blocks(self) -> int:
        """How many channel blocks, the last possibly padded."""
        return -(-self.channels // self.lanes)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """The array's shape in memory."""
        top, left, bottom, right = self.halo
        return self.batch, self.blocks, top + self.height + bottom, left + self.width + right, self.lanes

    @property
    def lane(self) -> Expr:
        """The index of all lanes of a block."""
        return vector(0, self.lanes)

    @property
    def padded_lanes(self) -> bool:
        """Whether the last block has lanes past the last channel."""
        return self.channels % self.lanes != 0

    def joined(self, rows: int) -> Blocked:
        """The same memory with every `rows` rows as one; there must be no halo between them."""
        return self if rows == 1 else replace(self, height=self.height // rows, width=self.width * rows)

    def at(self, n: Index, block: Index, y: Index, x: Index) -> list[Index]:
        """The index of a whole block at a logical pixel."""
        return [n, block, y + self.halo[0], x + self.halo[1], self.lane]

    def zero_padding(self, block: Index, value: Expr) -> Expr:
        """`value` with the lanes past the last channel zeroed."""
        if not self.padded_lanes:
            return value
        inside = tirx.LT(vector(block * self.lanes, self.lanes), splat(self.channels, self.lanes, "int32"))
        return tirx.Select(inside, value, splat(0.0, self.lanes))


def zero_halo_of_row(
    kernel: FunctionBuilder, buffer: tirx.Buffer, form: Blocked, n: Index, block: Index, y: Index
) -> None:
    """Zero the halo left and right of one row, and above the first and below the last.

    A kernel that calls this for every row it writes has written the whole halo.
    """
    top, left, bottom, right = form.halo
    zero = splat(0.0, form.lanes)
    wide = left + form.width + right

    def zeros(row: Index, first: int, count: int) -> None:
        if count:
            with kernel.serial("x", count) as x:
                kernel.store(buffer, [n, block, row, first + x, form.lane], zero)

    zeros(top + y, 0, left)
    zeros(top + y, left + form.width, right)
    for edge, first, count in ((0, 0, top), (form.height - 1, top + form.height, bottom)):
        if count:
            with kernel.when(tirx.EQ(y, edge)), kernel.serial("row", count) as row:
                zeros(first + row, 0, wide)
