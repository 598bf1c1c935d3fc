"""The constants of a planned module as one block of bytes, and its checksum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import Unsupported
from rtcc.ir import Constant, Module
from rtcc.ir.ops.plan import Place, PlanConstant, Space

ALIGNMENT = 64
LARGEST_EMBEDDED = 1 << 30
"""Code reaches embedded weights with 32-bit offsets; beyond this they go into a file beside the artefact."""


@dataclass(frozen=True)
class Checksum:
    """Fletcher's checksum over 64-bit little-endian words, modulo 2^64, as mapped_weights.c computes it."""

    sum: int
    sum_of_sums: int


def blob_of(module: Module, *, embedded: bool = True) -> bytearray:
    """Every `plan.constant`'s bytes at its place, in its storage layout; gaps are zero, the size a multiple
    of 64. Unsupported where they are to be embedded and code could not reach them.
    """
    pieces: dict[int, PlanConstant] = {}
    for op in module.main.walk():
        if isinstance(op, PlanConstant):
            place = Place.parse(op.place)
            assert place.space is Space.CONST, f"{op!r} has its bytes in {place.space.value}"
            pieces[place.offset] = op
    size = max((offset + op.results[0].type.storage_bytes for offset, op in pieces.items()), default=0)
    if embedded:
        require_embeddable(size)
    blob = bytearray(-(-size // ALIGNMENT) * ALIGNMENT)
    room = np.frombuffer(blob, np.uint8) if blob else np.empty(0, np.uint8)
    for offset, op in sorted(pieces.items()):
        _store(op, room[offset : offset + op.results[0].type.storage_bytes])
    return blob


def _store(op: PlanConstant, room: NDArray[np.uint8]) -> None:
    """Write a constant in its storage order."""
    assert isinstance(op.data, Constant), f"{op!r} is not of a named constant"
    layout, elements = op.results[0].type.layout, room.view(op.data.array.dtype)
    if layout:
        layout.pack_into(op.data.array, elements)
    else:
        elements.reshape(op.data.array.shape)[...] = op.data.array


def checksum(blob: bytes | bytearray) -> Checksum:
    """The checksum of a blob, whose size is a multiple of 8."""
    total = sum_of_sums = 0
    words = np.frombuffer(blob, "<u8")
    for start in range(0, len(words), 1 << 20):
        part = words[start : start + (1 << 20)]
        running = np.cumsum(part, dtype=np.uint64)
        sum_of_sums += len(part) * total + int(np.sum(running, dtype=np.uint64))
        total += int(running[-1])
    return Checksum(total % 2**64, sum_of_sums % 2**64)


def require_embeddable(size: int) -> None:
    """Refuse to embed more bytes of weights than code could reach."""
    if size > LARGEST_EMBEDDED:
        raise Unsupported(
            "weights-too-large",
            f"{size} bytes of weights cannot be embedded, at most {LARGEST_EMBEDDED} can",
            hint="keep them in a file beside the artefact: --weights external",
        )
