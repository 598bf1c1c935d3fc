"""The image of a model: what the driver places in the accelerator's memory, as one file with a checksum.

header of 64 bytes | regions, 48 bytes each | tensors, 24 bytes each | constants, each at a page's beginning |
the map: which instructions each layer became, as JSON, for reports

`driver.c` has the same structures in C. Addresses in a region's constants count rows from its base register,
so that it can lie anywhere.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rtcc.errors import ArtifactError
from rtcc.targets.fpga.compiler.layers import Image
from rtcc.targets.fpga.compiler.region import Program
from rtcc.targets.fpga.core import INSTRUCTION_BYTES, PAGE_BYTES
from rtcc.targets.fpga.isa.encoding import decode_program, encode_configuration
from rtcc.targets.fpga.isa.fields import Instruction

MAGIC = b"RTCCFPGA"
VERSION = 3
HEADER = struct.Struct("<8sIIQQQIIIII4x")
REGION = struct.Struct("<QQQQIIII")
TENSOR = struct.Struct("<IIIII4x")
CHECKSUM_AT = 48


@dataclass(frozen=True)
class Header:
    """What the header says.

    model: names the compilation. memory: bytes that all regions take. configuration: of the core that it is
    for, as its register has it.
    """

    regions: int
    model: int
    bytes: int
    memory: int
    row_bytes: int
    tensors: int
    map_bytes: int
    configuration: int


@dataclass(frozen=True)
class LayerSpan:
    """A layer's name, what EXEC does for it, its instructions from `first` up to `end`, its products."""

    name: str
    mode: str
    first: int
    end: int
    macs: int


@dataclass(frozen=True)
class Region:
    """A region as an image has it: instructions, the layers that they compute, where its memory begins."""

    instructions: tuple[Instruction, ...]
    layers: tuple[LayerSpan, ...]
    memory: int


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
    spans = _map_of(programs)
    body = b"".join([*regions, *map(_tensor, tensors)]) + bytes(constants) + spans
    model = int.from_bytes(hashlib.sha256(body).digest()[:8], "little")
    head = (MAGIC, VERSION, len(programs), model, HEADER.size + len(body), memory, row_bytes, len(tensors))
    tail = len(spans), encode_configuration(programs[0].core)
    checksum = zlib.crc32(HEADER.pack(*head, 0, *tail) + body)
    return HEADER.pack(*head, checksum, *tail) + body


def read_header(image: bytes, where: str) -> Header:
    """The header of an image. ArtifactError `image-damaged` where it is none or does not fit its checksum."""
    if len(image) >= HEADER.size:
        magic, version, *head, checksum, map_bytes, configuration = HEADER.unpack_from(image)
        regions, model, size, memory, row_bytes, tensors = head
        blank = image[:CHECKSUM_AT] + bytes(4) + image[CHECKSUM_AT + 4 :]
        if (magic, version, size) == (MAGIC, VERSION, len(image)) and zlib.crc32(blank) == checksum:
            return Header(regions, model, size, memory, row_bytes, tensors, map_bytes, configuration)
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


def regions_of(image: bytes) -> tuple[Region, ...]:
    """The regions of an image that is known to be sound."""
    header = read_header(image, "image")
    spans = json.loads(image[len(image) - header.map_bytes :])
    found: list[Region] = []
    for index in range(header.regions):
        at, _, memory, _, length, *_ = REGION.unpack_from(image, HEADER.size + index * REGION.size)
        instructions = decode_program(image[at : at + length * INSTRUCTION_BYTES])
        layers = tuple(LayerSpan(**row) for row in spans[index])
        found.append(Region(tuple(instructions), layers, memory))
    return tuple(found)


def _map_of(programs: Sequence[Program]) -> bytes:
    rows = [
        [
            vars(LayerSpan(each.layer.name, each.layer.mode.name, each.first, each.end, each.layer.macs))
            for each in program.layers
        ]
        for program in programs
    ]
    return json.dumps(rows, separators=(",", ":")).encode()


def _paged(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def _tensor(image: Image) -> bytes:
    return TENSOR.pack(image.row, image.channels, image.pixels, image.bytes, image.images)
