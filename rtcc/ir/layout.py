"""How a logical tensor lies in memory: axis order, blocking, and a zero border (halo).

`{NC/16HWc16 halo=[1,1,1,1]}` reads: outer axes N, C in blocks of 16, H, W; then the 16 channels of
the block, innermost. Upper case is an (outer) axis, `/b` its block size, lower case with a number
the block's place inside. Axes are named by rank: C, NC, NCW, NCHW, NCDHW, else A B C…
Halo widens the spatial axes (all but the first two): first every begin, then every end, as ONNX
pads. Lanes that pad a block and the halo hold zeros on every edge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

_AXIS_NAMES = {1: "C", 2: "NC", 3: "NCW", 4: "NCHW", 5: "NCDHW"}
_TOKEN = re.compile(r"([A-Z])(?:/(\d+))?|([a-z])(\d+)")


def axis_names(rank: int) -> str:
    """The letters of the axes of a tensor of that rank, in logical order."""
    return _AXIS_NAMES.get(rank, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:rank])


@dataclass(frozen=True)
class Layout:
    """A storage order for tensors of one rank.

    outer: the logical axes in storage order, each with its block size (1: not blocked).
    inner: the blocked axes in the order in which their blocks are stored, innermost last.
    halo: zero elements before and after each spatial axis, ONNX pads order; () for none.
    """

    outer: tuple[tuple[int, int], ...]
    inner: tuple[int, ...] = ()
    halo: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if sorted(axis for axis, _ in self.outer) != list(range(self.rank)):
            raise ValueError("every axis must stand once among the outer axes")
        if sorted(self.inner) != sorted(axis for axis, block in self.outer if block > 1):
            raise ValueError("each blocked axis needs its block among the inner axes, and no other")
        if self.halo and len(self.halo) != 2 * max(0, self.rank - 2):
            raise ValueError(f"halo needs {2 * max(0, self.rank - 2)} numbers, found {len(self.halo)}")

    @staticmethod
    def blocked(rank: int, block: int, axis: int = 1, halo: tuple[int, ...] = ()) -> Layout:
        """The usual blocked layout: one axis split, its block innermost (`NC/16HWc16`)."""
        outer = tuple((a, block if a == axis else 1) for a in range(rank))
        return Layout(outer, (axis,), halo if any(halo) else ())

    @property
    def rank(self) -> int:
        """Number of logical axes."""
        return len(self.outer)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """Block size of each logical axis."""
        return tuple(block for _, block in sorted(self.outer))

    def halo_of(self, axis: int) -> tuple[int, int]:
        """Zero elements (before, after) a logical axis."""
        if not self.halo or axis < 2:
            return 0, 0
        return self.halo[axis - 2], self.halo[self.rank - 2 + axis - 2]

    def physical_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Extents in memory, outermost first, of a tensor of that logical shape."""
        padded = [extent + sum(self.halo_of(axis)) for axis, extent in enumerate(shape)]
        outer = [-(-padded[axis] // block) for axis, block in self.outer]
        return (*outer, *(self.blocks[axis] for axis in self.inner))

    def pack(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array in storage order: logical shape in, `physical_shape` out, padding zero."""
        return np.ascontiguousarray(self._moved(array)).reshape(self.physical_shape(array.shape))

    def pack_into(self, array: NDArray[Any], room: NDArray[Any]) -> None:
        """Write what `pack` gives into memory of as many elements, which is contiguous."""
        moved = self._moved(array)
        room.reshape(moved.shape)[...] = moved

    def _moved(self, array: NDArray[Any]) -> NDArray[Any]:
        """The padded array's blocks in storage order; a view where nothing is padded."""
        widths: list[tuple[int, int]] = []
        split: list[int] = []
        for axis, extent in enumerate(array.shape):
            before, after = self.halo_of(axis)
            total = extent + before + after
            fill = -total % self.blocks[axis]
            widths.append((before, after + fill))
            split += [(total + fill) // self.blocks[axis], self.blocks[axis]]
        padded = np.pad(array, widths) if any(map(any, widths)) else array
        order = [2 * axis for axis, _ in self.outer] + [2 * axis + 1 for axis in self.inner]
        unit = [2 * axis + 1 for axis, block in enumerate(self.blocks) if block == 1]
        return padded.reshape(split).transpose(order + unit)

    def unpack(self, packed: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The logical array of that shape from its storage order; the inverse of `pack`."""
        order = [2 * axis for axis, _ in self.outer] + [2 * axis + 1 for axis in self.inner]
        unit = [2 * axis + 1 for axis, block in enumerate(self.blocks) if block == 1]
        expanded = packed.reshape(*self.physical_shape(shape), *(1 for _ in unit))
        split = expanded.transpose(np.argsort(order + unit))
        merged = split.reshape([split.shape[2 * a] * split.shape[2 * a + 1] for a in range(self.rank)])
        starts = [self.halo_of(axis)[0] for axis in range(self.rank)]
        return np.ascontiguousarray(
            merged[tuple(slice(s, s + n) for s, n in zip(starts, shape, strict=True))]
        )

    def __str__(self) -> str:
        names = axis_names(self.rank)
        outer = "".join(names[a] + (f"/{b}" if b > 1 else "") for a, b in self.outer)
        inner = "".join(f"{names[a].lower()}{self.blocks[a]}" for a in self.inner)
        halo = f" halo=[{','.join(map(str, self.halo))}]" if self.halo else ""
        return "{" + outer + inner + halo + "}"

    @staticmethod
    def parse(text: str, rank: int) -> Layout:
        """The layout that prints as `text` (braces included); ValueError says what is wrong."""
        found = re.fullmatch(r"\{([A-Za-z0-9/]+)(?: halo=\[([\d,]+)\])?\}", text)
        if not found:
            raise ValueError(f"not a layout: {text}")
        names, end = axis_names(rank), 0
        outer: list[tuple[int, int]] = []
        inner: list[tuple[int, int]] = []
        for token in _TOKEN.finditer(found[1]):
            letter = (token[1] or token[3]).upper()
            if token.start() != end or letter not in names:
                raise ValueError(f"not a layout of rank {rank} (axes {names}): {text}")
            end = token.end()
            if token[1]:
                outer.append((names.index(letter), int(token[2] or 1)))
            else:
                inner.append((names.index(letter), int(token[4])))
        blocks = {axis: block for axis, block in outer if block > 1}
        if end != len(found[1]) or any(blocks.get(axis) != block for axis, block in inner):
            raise ValueError(f"outer and inner blocks disagree: {text}")
        halo = tuple(int(n) for n in found[2].split(",")) if found[2] else ()
        return Layout(tuple(outer), tuple(axis for axis, _ in inner), halo)
