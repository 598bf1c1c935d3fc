"""The image of a model: what the driver places in the accelerator's memory, as one file with a checksum.

header of 64 bytes | regions, 48 bytes each | tensors, 16 bytes each | constants, each at a page's beginning

`driver.c` has the same structures in C. Addresses in a region's constants count rows from its base register,
so that it can lie anywhere.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtcc.errors import ArtifactError
from rtcc.targets.fpga.compiler.layers import Image
from rtcc.targets.fpga.compiler.region import Program
from rtcc.targets.fpga.core import PAGE_BYTES

MAGIC = b"RTCCFPGA"
VERSION = 1
HEADER = struct.Struct("<8sIIQQQIII12x")
REGION = struct.Struct("<QQQQIIII")
TENSOR = struct.Struct("<IIII")
CHECKSUM_AT = 48


@dataclass(frozen=True)
class Header:
    """What the header says; model: names the compilation. memory: bytes that all regions take."""

    regions: int
    model: int
    bytes: int
    memory: int
    row_bytes: int
    tensors: int


def image_of(programs: Sequence[Program]) -> bytes:
    """The file of a model's regions, in the order of their numbers."""
    assert programs
    row_bytes = programs[0].core.row_bytes
    tensors = [each for program in programs for each in (*program.inputs, *program.outputs)]
    start = HEADER.size + len(programs) * REGION.size + len(tensors) * TENSOR.size
    at, memory, first = _paged(start), 0, 0
    regions, constants = list[bytes](), bytearray(at - start)
    for program in programs:
        size = len(program.constants)
        regions.append(
            REGION.pack(
                at, size, memory, program.rows, len(program.instructions), len(program.inputs),
                len(program.outputs), first,
            )
        )  # fmt: skip
        constants += program.constants + bytes(_paged(size) - size)
        at, memory = at + _paged(size), memory + _paged(program.rows * row_bytes)
        first += len(program.inputs) + len(program.outputs)
    body = b"".join([*regions, *map(_tensor, tensors)]) + bytes(constants)
    model = int.from_bytes(hashlib.sha256(body).digest()[:8], "little")
    head = (MAGIC, VERSION, len(programs), model, HEADER.size + len(body), memory, row_bytes, len(tensors))
    checksum = zlib.crc32(HEADER.pack(*head, 0) + body)
    return HEADER.pack(*head, checksum) + body


def read_header(image: bytes, where: str) -> Header:
    """The header of an image. ArtifactError `image-damaged` where it is none or does not fit its checksum."""
    if len(image) >= HEADER.size:
        magic, version, regions, model, size, memory, row_bytes, tensors, checksum = HEADER.unpack_from(image)
        blank = image[:CHECKSUM_AT] + bytes(4) + image[CHECKSUM_AT + 4 :]
        if (magic, version, size) == (MAGIC, VERSION, len(image)) and zlib.crc32(blank) == checksum:
            return Header(regions, model, size, memory, row_bytes, tensors)
    raise ArtifactError(
        "image-damaged", "it is no image of an accelerator, is cut short, or does not fit its checksum",
        where=where, hint="copy the file again, or compile the model again",
    )  # fmt: skip


def read_image(path: Path) -> bytes:
    """An image's bytes, checked. ArtifactError `image-missing`, `image-damaged`."""
    try:
        image = path.read_bytes()
    except OSError as error:
        message = f"cannot read the accelerator's image: {error.strerror}"
        raise ArtifactError(
            "image-missing", message, where=str(path), hint="rtcc compile writes it beside the library"
        ) from error
    read_header(image, str(path))
    return image


def _paged(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def _tensor(image: Image) -> bytes:
    return TENSOR.pack(image.row, image.channels, image.plane, 0)
