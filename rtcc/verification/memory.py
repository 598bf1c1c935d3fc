"""Memory for kernels under test: whatever they read or write outside it is found."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir.op import Array

CANARY = 0xA5
"""What the bytes around a block hold."""

MARGIN = 256
"""Canaries at both ends of a block in the middle."""

_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Place(Enum):
    """Where in its pages a block lies: after an unmapped page, in front of one, or between canaries."""

    FIRST = "first"
    LAST = "last"
    MIDDLE = "middle"


class Block:
    """Bytes in pages of their own, between unmapped ones; the rest of the pages holds canaries.

    size: in bytes. alignment: what the address is a multiple of at least, a power of two. Raises OSError
    where the system refuses the memory.
    """

    def __init__(self, size: int, place: Place, alignment: int = 1) -> None:
        page = mmap.PAGESIZE
        rounded = -(-size // alignment) * alignment
        room = rounded + (2 * MARGIN if place is Place.MIDDLE else 0)
        pages = -(-max(room, 1) // page)
        region = mmap.mmap(-1, (pages + 2) * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(region))
        for guard in (base, base + (pages + 1) * page):
            if _libc.mprotect(guard, page, _PROT_NONE) != 0:
                raise OSError(ctypes.get_errno(), "mprotect of a guard page failed")
        usable = np.frombuffer(region, np.uint8, pages * page, page)
        start = {Place.FIRST: 0, Place.LAST: len(usable) - rounded, Place.MIDDLE: MARGIN}[place]
        self.bytes, self._around = usable[start : start + size], (usable[:start], usable[start + size :])
        for canaries in self._around:
            canaries[...] = CANARY

    @property
    def is_intact(self) -> bool:
        """Whether every canary lives."""
        return all(bool(np.all(canaries == CANARY)) for canaries in self._around)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The bytes as an array."""
        return self.bytes.view(dtype).reshape(shape)


def placed(array: Array, place: Place) -> Array:
    """A C-ordered copy of an array in a block of its own, aligned as its elements are and no more."""
    block = Block(array.nbytes, place, array.dtype.alignment)
    copy = block.array(array.shape, array.dtype)
    copy[...] = array
    return copy


def differing(one: Array, other: Array) -> Iterator[tuple[int, ...]]:
    """The places at which two arrays of one shape and type have other bits."""
    shape = (one.size, one.itemsize)
    bits = [np.frombuffer(array.tobytes(), np.uint8).reshape(shape) for array in (one, other)]
    for at in np.flatnonzero((bits[0] != bits[1]).any(axis=1)):
        yield tuple(map(int, np.unravel_index(at, one.shape)))
