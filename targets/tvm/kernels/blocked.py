"""Activations in channel blocks: [N][ceil(C/b)][top + H + bottom][left + W + right][b].

b is the vector length. The halo is a border of zeros inside the buffer; a convolution's padding is read from
it, so inner loops have no bounds. It may be wider than a reader needs. Arena memory is reused, so the kernel
that produces an activation writes its halo, and the zero lanes past the last channel, on every run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    def padded_lanes(self) -> bool:
        """Whether the last block has lanes past the last channel."""
        return self.channels % self.lanes != 0

    def joined(self, rows: int) -> Blocked:
        """The same memory with every `rows` rows as one; there must be no halo between them."""
        return self if rows == 1 else replace(self, height=self.height // rows, width=self.width * rows)
