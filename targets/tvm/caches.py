"""The data caches of one core, as a target's facts have them; tiles and costs are chosen by these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caches:
    """Bytes of the first and second cache, and of the third as far as one core may fill it."""

    first: int
    second: int
    third: int

    @property
    def weights_in_first(self) -> int:
        """Bytes of weights that stay in the first cache beside a register tile's inputs."""
        return self.first * 2 // 3

    @property
    def weights_in_third(self) -> int:
        """Bytes of weights that are found in the third cache again; half of it is left to what passes by."""
        return self.third // 2
