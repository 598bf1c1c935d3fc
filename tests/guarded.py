"""Arrays against guard pages, so that a kernel reading or writing one element outside dies at once."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Side = Literal["before", "after"]
_PROT_NONE = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded(array: NDArray[Any], side: Side) -> NDArray[Any]:
    """A C-ordered copy of `array` with an unmapped page directly before its first or after its last byte.

    The other end has a guard page too, up to one page away. With side "after" the start is aligned to the
    element size only, as far as the array's length allows. Raises OSError where mprotect fails.
    """
    page = mmap.PAGESIZE
    pages = -(-max(array.nbytes, 1) // page)
    region = mmap.mmap(-1, (pages + 2) * page)
    anchor = ctypes.c_char.from_buffer(region)
    base = ctypes.addressof(anchor)
    for guard in (base, base + (pages + 1) * page):
        if _libc.mprotect(guard, page, _PROT_NONE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect of a guard page failed")
    offset = page if side == "before" else page + pages * page - array.nbytes
    result = np.ndarray(array.shape, array.dtype, buffer=region, offset=offset)
    result[...] = array
    return result
