"""A region of accelerator operators as a program, its constants, and a map of the memory that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rtcc.ir import Graph, Op, Return, Value
from rtcc.ir.ops.movement import Concat
from rtcc.planning.offsets import Buffer as ArenaBuffer
from rtcc.planning.offsets import assign_offsets
from rtcc.targets.fpga.compiler.choice import Choices, Chosen
from rtcc.targets.fpga.compiler.layers import Image, Layer, copy_of, image_of, layer_of
from rtcc.targets.fpga.compiler.schedule import Schedule, Stored
from rtcc.targets.fpga.compiler.tokens import with_tokens
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.isa.encoding import encode_program
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Finish


@dataclass(frozen=True)
class Defined:
    """A layer, the region's values that it reads, and the one that it computes: a copy's is what it reads."""

    layer: Layer
    operands: tuple[Value, ...]
    result: Value


@dataclass(frozen=True)
class Placed:
    """A layer with its tiles and constants, and the instructions that it became: from `first` up to `end`."""

    defined: Defined
    chosen: Chosen
    stored: Stored
    first: int
    end: int

    @property
    def layer(self) -> Layer:
        return self.defined.layer


@dataclass(frozen=True)
class Program:
    """A region compiled: DRAM rows hold instructions, weights, parameters, then tensors.

    body: the region. constants: the bytes from row 0 on, the program's among them. rows: of all that a run
    touches. inputs, outputs: where the host writes and reads, in the order of the region's parameters and
    results.
    """

    core: Core
    body: Graph
    instructions: tuple[Instruction, ...]
    constants: bytes
    rows: int
    inputs: tuple[Image, ...]
    outputs: tuple[Image, ...]
    layers: tuple[Placed, ...]

    @property
    def macs(self) -> int:
        """Products that the region's convolutions need as such."""
        return sum(each.layer.macs for each in self.layers)


def compile_region(body: Graph, core: Core) -> Program:
    """The program of a region whose every operator `obstacle` found none for."""
    images, arena = _place_tensors(body, core)
    layers = [layer for op in body.ops if not isinstance(op, Return) for layer in _layers(op, images, core)]
    choices = Choices(core)
    chosen = [choices.of(each.layer) for each in layers]
    # what a program takes does not depend on where things lie, so it is written twice
    length = len(_instructions(layers, chosen, [Stored(0, 0)] * len(layers), core)[0])
    stored, constants = _place_constants(
        [each.layer for each in layers], length * core.instruction_rows, core
    )
    base = length * core.instruction_rows + len(constants) // core.row_bytes
    layers = [replace(each, layer=_moved(each.layer, base)) for each in layers]
    program, placed = _instructions(layers, chosen, stored, core)
    return Program(
        core,
        body,
        tuple(program),
        encode_program(program) + constants,
        base + arena,
        tuple(_lower(images[value], base) for value in body.parameters),
        tuple(_lower(images[value], base) for value in body.returned),
        placed,
    )


def _layers(op: Op, images: Mapping[Value, Image], core: Core) -> list[Defined]:
    """The layers that an operator is: none for a concatenation whose parts lie in it, a copy for others."""
    if not isinstance(op, Concat):
        data = tuple(_data(op))
        layer = layer_of(op, tuple(images[value] for value in data), images[op.result], core)
        return [Defined(layer, data, op.result)]
    copies: list[Defined] = []
    row = images[op.result].row
    for each in op.inputs:
        place = replace(images[each], row=row)
        if place != images[each]:
            copies.append(Defined(copy_of(op, images[each], place, core), (each,), each))
        row += place.rows(core)
    return copies


def _data(op: Op) -> list[Value]:
    """The operands that lie in DRAM as images."""
    return [value for value in op.present_operands if value.type.rank == 4 and not _is_constant(value)]


def _is_constant(value: Value) -> bool:
    return value.producer is None and value.graph is None


def _instructions(
    layers: list[Defined], chosen: list[Chosen], stored: list[Stored], core: Core
) -> tuple[list[Instruction], tuple[Placed, ...]]:
    schedule = Schedule(core)
    placed: list[Placed] = []
    for defined, tiles, constants in zip(layers, chosen, stored, strict=True):
        first = len(schedule.program)
        schedule.layer(defined.layer, tiles.tiling, constants)
        placed.append(Placed(defined, tiles, constants, first, len(schedule.program)))
    return with_tokens([*schedule.program, Finish()], core), tuple(placed)


def _place_constants(layers: list[Layer], first: int, core: Core) -> tuple[list[Stored], bytes]:
    """Weights and parameters one after the other from a row on, equal parameters once."""
    data, known = bytearray(), dict[bytes, int]()

    def row_of(content: bytes) -> int:
        if content not in known:
            known[content] = first + len(data) // core.row_bytes
            data.extend(content)
        return known[content]

    stored: list[Stored] = []
    for layer in layers:
        weights = b"" if layer.weights is None else np.ascontiguousarray(layer.weights).tobytes()
        parameters = layer.requantisation.parameters
        assert len(weights) % core.row_bytes == len(parameters) % core.row_bytes == 0
        stored.append(Stored(row_of(weights) if weights else 0, row_of(parameters)))
    return stored, bytes(data)


def _place_tensors(body: Graph, core: Core) -> tuple[dict[Value, Image], int]:
    """Each value's image, rows counted from the first tensor's, and how many rows they take together.

    Parts of a concatenation lie in its result, plane after plane.
    """
    within = _joined(body, core)
    position = {op: number for number, op in enumerate(body.ops)}
    lives: dict[Value, tuple[int, int]] = {}
    for value in _values(body):
        home = value
        while home in within:
            home = within[home][0]
        first = -1 if value.producer is None else position[value.producer]
        last = max((position[use.op] for use in value.uses), default=first)
        if value.producer is None:
            last = max(last, 0)
        low, high = lives.get(home, (first, last))
        lives[home] = (min(low, first), max(high, last))
    buffers = {
        home: ArenaBuffer(image_of(home).rows(core) * core.row_bytes, first, last)
        for home, (first, last) in lives.items()
    }
    arena = assign_offsets(list(buffers.values()))
    images: dict[Value, Image] = {}
    for value in _values(body):
        home, offset = value, 0
        while home in within:
            home, planes = within[home]
            offset += planes * image_of(home).plane
        images[value] = _lower(image_of(value), buffers[home].offset // core.row_bytes + offset)
    return images, -(-arena // core.row_bytes)


def _joined(body: Graph, core: Core) -> Mapping[Value, tuple[Value, int]]:
    """For each part of a concatenation the result that it lies in, and how many planes come before it.

    A part of several concatenations lies in the first.
    """
    found: dict[Value, tuple[Value, int]] = {}
    for op in body.ops:
        if isinstance(op, Concat):
            planes = 0
            for each in op.inputs:
                found.setdefault(each, (op.result, planes))
                planes += each.type.sizes[1] // core.n
    return found


def _values(body: Graph) -> list[Value]:
    results = [result for op in body.ops if not isinstance(op, Return) for result in op.results]
    return [*body.parameters, *results]


def _lower(image: Image, rows: int) -> Image:
    """The image so many rows further on."""
    return replace(image, row=image.row + rows)


def _moved(layer: Layer, rows: int) -> Layer:
    """The layer with its tensors so many rows further on."""
    inputs = tuple(_lower(each, rows) for each in layer.inputs)
    return replace(layer, inputs=inputs, output=_lower(layer.output, rows))
