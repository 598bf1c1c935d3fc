"""The instructions of layers, one after the other as if each waited for the one before; tokens come later.

Buffers are rings: each block that is loaded or computed takes the rows after the last one. While EXEC reads
one block LOAD fills the next, which is double buffering wherever two have room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from rtcc.targets.fpga.compiler.accesses import Memory, rows_of
from rtcc.targets.fpga.compiler.layers import Image, Layer
from rtcc.targets.fpga.compiler.tiling import (
    Part,
    Tiling,
    are_weights_resident,
    cuts,
    lines_of,
    parameter_groups,
    part,
    weight_parts,
)
from rtcc.targets.fpga.core import PARAMETER_BYTES, Core
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Buffer, Exec, Load, Mode, Store


@dataclass(frozen=True)
class Stored:
    """Where a layer's constants lie in DRAM, as rows: its weights and its parameters."""

    weights: int
    parameters: int


@dataclass(frozen=True)
class _Tile:
    """Results of an image from (y, x), and the data that they need."""

    image: int
    y: int
    x: int
    height: int
    width: int
    tall: Part
    wide: Part

    @property
    def pixels(self) -> int:
        return self.height * self.width


class Schedule:
    """Collects the instructions of layers."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.program: list[Instruction] = []
        self._next = dict.fromkeys(Memory, 0)

    def layer(self, layer: Layer, tiling: Tiling, stored: Stored) -> None:
        """Add a layer."""
        emitter = _Emitter(self, layer, tiling, stored)
        if layer.mode is Mode.MATRIX:
            emitter.matrix()
        else:
            emitter.vectors()

    def take(self, memory: Memory, rows: int) -> int:
        """The first of so many rows that follow what was taken last."""
        size = rows_of(memory, self.core)
        assert 0 < rows <= size, f"{rows} rows of {memory.value}, which has {size}"
        first = self._next[memory] if self._next[memory] + rows <= size else 0
        self._next[memory] = first + rows
        return first


class _Emitter:
    """The instructions of one layer."""

    def __init__(self, schedule: Schedule, layer: Layer, tiling: Tiling, stored: Stored) -> None:
        self.schedule, self.layer, self.tiling, self.stored = schedule, layer, tiling, stored
        self.core, self.loops = schedule.core, tiling.geometry
        self.program = schedule.program
        self.groups: dict[int, int] = {}
        self.resident: dict[int, int] = {}

    # ---- the two loop nests

    def matrix(self) -> None:
        """For each tile of pixels, for each block of outputs: its weights, one EXEC or several."""
        layer, core = self.layer, self.core
        outputs = range(len(layer.spans))
        parts = [weight_parts(layer, output, core) for output in outputs]
        if are_weights_resident(layer, core):
            for output in outputs:
                self.resident[output] = self.load_weights(output, *layer.spans[output])
        for tile in self.tiles():
            data = -1
            for output in outputs:
                group = self.group(output)
                for number, (low, high) in enumerate(parts[output]):
                    weights = self.resident.get(output, -1)
                    if weights < 0:
                        weights = self.load_weights(output, low, high)
                    if data < 0:
                        data = self.load_data(layer.inputs[0], range(layer.inputs[0].blocks(core)), tile)
                    is_last = int(number == len(parts[output]) - 1)
                    out = self.out_rows(tile) if is_last else 0
                    self.run(
                        tile, data, wgt=weights, init=int(number == 0), flush=is_last, out=out, prm=group,
                        blocks=(low, high),
                    )  # fmt: skip
                self.finish(output, tile, data, group)

    def vectors(self) -> None:
        """For each block of channels, for each tile of pixels: the taps of one operand, or of two."""
        layer, core = self.layer, self.core
        for block in range(layer.inputs[0].blocks(core)):
            group = self.group(block % layer.requantisation.groups)
            weights = 0
            if layer.mode is Mode.CHANNEL:
                weights = self.load_channel_weights(block)
            for tile in self.tiles():
                data = [self.load_data(each, range(block, block + 1), tile) for each in layer.inputs]
                out = self.out_rows(tile)
                for number, rows in enumerate(data):
                    scale = 0 if layer.mode is Mode.CHANNEL else layer.scales[number]
                    self.run(
                        tile, rows, wgt=weights, immediate=scale, init=int(number == 0), out=out, prm=group,
                        flush=int(number == len(data) - 1),
                    )  # fmt: skip
                self.finish(block, tile, data[0], group)

    # ---- what they are made of

    def tiles(self) -> Iterator[_Tile]:
        """The tiles, image by image and line by line."""
        height, width = self.loops.result
        down, across = cuts(height, self.tiling.height), cuts(width, self.tiling.width)
        for image, (y, lines), (x, columns) in product(range(self.loops.images), down, across):
            tall, wide = part(y, lines, 0, self.loops), part(x, columns, 1, self.loops)
            yield _Tile(image, y, x, lines, columns, tall, wide)

    def group(self, index: int) -> int:
        """The group of the parameter buffer that holds a layer's group, loaded with those after it."""
        if index not in self.groups:
            total = self.layer.requantisation.groups
            count = min(parameter_groups(self.core), total - index)
            rows = count * PARAMETER_BYTES
            sram = self.schedule.take(Memory.PRM, rows)
            self.add(Load(buffer=Buffer.PRM, sram=sram, dram=self.stored.parameters + index * PARAMETER_BYTES,
                          nx=rows))  # fmt: skip
            self.groups = {index + each: sram // PARAMETER_BYTES + each for each in range(count)}
        return self.groups[index]

    def load_weights(self, output: int, low: int, high: int) -> int:
        """Rows of WGT with the matrices of a block of outputs for blocks of inputs."""
        layer, tile = self.layer, self.layer.taps * self.core.n
        assert layer.weights is not None
        before = (output * layer.weights.shape[1] + low) * tile
        return self.load_rows(self.stored.weights + before, (high - low) * tile)

    def load_channel_weights(self, block: int) -> int:
        """Rows of WGT with the weights of a block of channels."""
        return self.load_rows(self.stored.weights + block * self.layer.taps, self.layer.taps)

    def load_rows(self, dram: int, rows: int) -> int:
        sram = self.schedule.take(Memory.WGT, rows)
        self.add(Load(buffer=Buffer.WGT, sram=sram, dram=dram, nx=rows))
        return sram

    def load_data(self, image: Image, blocks: range, tile: _Tile) -> int:
        """Rows of INP with the data of a tile, a plane after the other."""
        tall, wide, step = tile.tall, tile.wide, self.loops.line_step
        width = self.loops.source[1]
        lines = lines_of(tall, self.loops) - tall.before - tall.after
        rows = len(blocks) * (tall.before + lines + tall.after) * wide.size
        sram = self.schedule.take(Memory.INP, rows)
        first = image.row + blocks.start * image.plane + tile.image * image.pixels
        self.add(
            Load(
                buffer=Buffer.INP, sram=sram, dram=first + tall.first * width + wide.first,
                nx=wide.count, ny=lines, nz=len(blocks), pad_left=wide.before, pad_right=wide.after,
                pad_top=tall.before, pad_bottom=tall.after, stride_y=step * width, stride_z=image.plane,
                pad_value=self.layer.fill,
            )
        )  # fmt: skip
        return sram

    def out_rows(self, tile: _Tile) -> int:
        self.out = self.schedule.take(Memory.OUT, tile.pixels * self.layer.output.bytes)
        return self.out

    def run(
        self, tile: _Tile, data: int, *, wgt: int, init: int, out: int, prm: int, flush: int,
        immediate: int = 0, blocks: tuple[int, int] = (0, 1),
    ) -> None:  # fmt: skip
        """One EXEC over a tile: all taps of some blocks of input channels."""
        layer, loops, window = self.layer, self.loops, self.loops.window
        width = tile.wide.size
        plane = lines_of(tile.tall, loops) * width
        way = layer.requantisation
        self.add(
            Exec(
                mode=layer.mode, init=init, flush=flush, immediate=immediate, wgt=wgt,
                inp=data + blocks[0] * plane, acc=0, out=out, prm=prm, ny=tile.height, nx=tile.width,
                stride_y=width * (window.strides[0] if loops.line_step == 1 else 1),
                stride_x=window.strides[1],
                n_ic=blocks[1] - blocks[0], n_ky=window.kernel[0], n_kx=window.kernel[1], stride_ic=plane,
                stride_ky=window.dilations[0] * width, stride_kx=window.dilations[1],
                low=way.low, high=way.high, zero=way.zero, raw=int(way.raw),
            )
        )  # fmt: skip

    def finish(self, block: int, tile: _Tile, data: int, prm: int) -> None:
        """The results of a tile to a block of the output, those of several bytes each to as many planes.

        The higher bytes of sums are drained by taps that add nothing; `data` is a row that they may read.
        """
        image, width, way = self.layer.output, self.loops.result[1], self.layer.requantisation
        for raw_byte in range(1, image.bytes):
            self.add(
                Exec(
                    mode=Mode.SCALE, immediate=0, flush=1, inp=data, acc=0,
                    out=self.out + raw_byte * tile.pixels, prm=prm, ny=tile.height, nx=tile.width,
                    low=way.low, high=way.high, zero=way.zero, raw=1, raw_byte=raw_byte,
                )
            )  # fmt: skip
        first = image.row + block * image.bytes * image.plane + tile.image * image.pixels
        self.add(
            Store(
                sram=self.out, dram=first + tile.y * width + tile.x,
                nx=tile.width, ny=tile.height, nz=image.bytes, stride_y=width, stride_z=image.plane,
            )
        )  # fmt: skip

    def add(self, instruction: Instruction) -> None:
        self.program.append(instruction)
