"""The threads of a launch as arrays: number, block and warp of each; and masks of those that take part."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rtcc.targets.cuda.device_code import Launch
from rtcc.targets.cuda.simt.faults import KernelFault

Values: TypeAlias = "npt.NDArray[Any]"
"""One value per thread (or one for all); a vector's lanes come first."""

Numbers: TypeAlias = "npt.NDArray[np.int64]"

Mask: TypeAlias = "npt.NDArray[np.bool_] | None"
"""Who takes part; None: all."""

WARP = 32


class Threads:
    """All threads of a launch, block by block."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.blocks = math.prod(launch.grid)
        self.per_block = launch.threads
        self.count = self.blocks * self.per_block
        self.numbers: Numbers = np.arange(self.count, dtype=np.int64)
        self.block = self.numbers // self.per_block
        self.in_block = self.numbers % self.per_block

    def place(self, space: str, axis: int) -> npt.NDArray[np.int32]:
        """Index of each thread's block in the grid, or of the thread in its block, on an axis."""
        extents = self.launch.grid if space == "block" else self.launch.block
        linear = self.block if space == "block" else self.in_block
        return (linear // math.prod(extents[:axis]) % extents[axis]).astype(np.int32)

    def active(self, mask: Mask) -> Numbers:
        """Numbers of the threads that take part."""
        return self.numbers if mask is None else self.numbers[mask]

    def named(self, thread: int) -> str:
        """A thread for a message."""
        return f"thread {thread % self.per_block} of block {thread // self.per_block}"

    def require_whole(self, mask: Mask, what: str, size: int) -> None:
        """Of so many neighbouring threads, all or none must take part."""
        if mask is None:
            return
        taking = mask.reshape(-1, size)
        torn = taking.any(axis=1) & ~taking.all(axis=1)
        if torn.any():
            first = int(np.argmax(torn)) * size
            missing = first + int(np.argmin(mask[first : first + size]))
            why = f"{what}: {self.named(missing)} does not reach it, others of its group do"
            raise KernelFault("divergent", why)

    def require_warps(self, mask: Mask, what: str) -> None:
        """Whole warps must take part."""
        assert self.per_block % WARP == 0, "instructions of warps need blocks of whole warps"
        self.require_whole(mask, what, WARP)
