"""The tiles of pixels that a layer can be cut into to fit the buffers; `choice.py` takes the fastest.

Two tiles at a time have room in the buffers of data and results, so that one is loaded and one stored while a
third is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from rtcc.ir.ops.window import Window
from rtcc.targets.fpga.compiler.layers import ONE, Layer
from rtcc.targets.fpga.core import PARAMETER_BYTES, Core
from rtcc.targets.fpga.isa.table import Exec, Load, Mode

MOST_PADDING = Load.places()["pad_left"].most
"""Rows or columns that a LOAD puts on one side."""

MOST_TAPS = Exec.places()["n_kx"].most
"""Of a kernel along one axis."""

MOST_DILATION = Exec.places()["stride_kx"].most
"""Columns from tap to tap."""

MOST_STRIDE = Exec.places()["stride_y"].most
"""Rows of the buffer from line to line, of pixels or of taps."""

MOST_SCALE = Exec.places()["immediate"].most
"""What an operand of an addition is multiplied by, in magnitude."""

MOST_COUNT = Exec.places()["nx"].most
"""Pixels of a line, and rows that a LOAD brings from one place."""

SLOTS = 2
"""Tiles that have room in a buffer together."""


@dataclass(frozen=True)
class Geometry:
    """The loops over pixels of a layer: a layer of one tap per channel goes over all pixels in one line.

    line_step: lines of the data from one that is loaded to the next, above 1 where kernels have one row.
    images: that are gone over one after the other, for each of which source and result are.
    """

    source: tuple[int, int]
    result: tuple[int, int]
    window: Window
    line_step: int
    images: int = 1


@dataclass(frozen=True)
class Tiling:
    """Tiles of `height` by `width` results, edges smaller."""

    geometry: Geometry
    height: int
    width: int


@dataclass(frozen=True)
class Part:
    """What one tile needs of the data along one axis: from `first` so many, with padding around."""

    first: int
    count: int
    before: int
    after: int

    @property
    def size(self) -> int:
        """With the padding."""
        return self.before + self.count + self.after


def geometry(layer: Layer) -> Geometry:
    """The loops that a layer is computed by.

    Images of one result each, without padding, are one image of as many lines of results: a row of a product
    is a pixel, be it of one tap or of an image that was flattened.
    """
    data, output, window = layer.inputs[0], layer.output, layer.window
    if window == ONE or (window.kernel, window.strides, window.pads) == (ONE.kernel, ONE.strides, ONE.pads):
        return Geometry((1, data.plane), (1, output.plane), ONE, 1)
    source, result, images = (data.height, data.width), (output.height, output.width), data.images
    if images > 1 and output.pixels == 1 and not any(window.pads):
        window = replace(window, strides=(data.height, 1))
        source, result, images = (images * data.height, data.width), (images, 1), 1
    is_flat = window.kernel[0] == 1 and not window.pads[0] and not window.pads[2]
    return Geometry(source, result, window, window.strides[0] if is_flat else 1, images)


def part(first: int, count: int, axis: int, layer: Geometry) -> Part:
    """The data under `count` results from `first` along an axis."""
    window, size = layer.window, layer.source[axis]
    stride = window.strides[axis]
    begin = first * stride - window.pads[axis]
    end = begin + (count - 1) * stride + window.extents[axis]
    low, high = max(begin, 0), min(end, size)
    return Part(low, high - low, low - begin, end - high)


def lines_of(tall: Part, layer: Geometry) -> int:
    """Lines in the buffer for that part of the data."""
    return -(-tall.size // layer.line_step)


def obstacle(layer: Layer, core: Core) -> str:
    """Why no program computes a layer, naming the limit; "" where one does."""
    if limit := _beyond_fields(layer, core):
        return limit
    room = _Room.of(layer, core)
    if not room.holds(1, 1):
        rows = _rows(room.loops, 1, 1) * room.planes
        return f"the data of one result are {rows} rows, and half of inp holds {core.inp_rows // SLOTS}"
    return ""


def tilings(layer: Layer, core: Core) -> Iterator[Tiling]:
    """Every way to cut a layer that `obstacle` found none for into tiles as equal as can be."""
    room = _Room.of(layer, core)
    height, width = room.loops.result
    for columns in _equal_parts(width):
        if not room.holds(1, columns):
            continue
        for lines in _equal_parts(height):
            if room.holds(lines, columns):
                yield Tiling(room.loops, lines, columns)


def cuts(size: int, step: int) -> Iterator[tuple[int, int]]:
    """The parts of an axis: from where each reaches, and how far."""
    for first in range(0, size, step):
        yield first, min(step, size - first)


def are_weights_resident(layer: Layer, core: Core) -> bool:
    """Whether all weights of a layer are loaded once: half of their buffer is left to the next one's."""
    blocks = sum(high - low for low, high in layer.spans)
    return blocks * layer.taps * core.n <= core.wgt_rows // SLOTS


def weight_parts(layer: Layer, output: int, core: Core) -> list[tuple[int, int]]:
    """The blocks of inputs of each EXEC that computes a block of outputs: weights for two have room."""
    low, high = layer.spans[output]
    if are_weights_resident(layer, core):
        return [(low, high)]
    most = max(1, core.wgt_rows // SLOTS // (layer.taps * core.n))
    count = -(-(high - low) // most)
    bounds = [low + (high - low) * number // count for number in range(count + 1)]
    return list(pairwise(bounds))


def _beyond_fields(layer: Layer, core: Core) -> str:
    """What of a layer no field of an instruction holds."""
    window = layer.window
    if max(window.kernel) > MOST_TAPS:
        return f"its window of {window.kernel} has more than {MOST_TAPS} taps along an axis"
    if max(pads := _padding(geometry(layer))) > MOST_PADDING:
        return f"its windows reach {pads} beyond the data, and a side holds {MOST_PADDING}"
    if any(pad >= window.extents[axis % 2] for axis, pad in enumerate(window.pads)):
        return f"its padding of {window.pads} is as large as its window of {window.extents}"
    if window.dilations[1] > MOST_DILATION:
        return f"its dilation of {window.dilations[1]} columns is more than {MOST_DILATION}"
    if max(map(abs, layer.scales)) > MOST_SCALE:
        return f"its multipliers {layer.scales} are beyond {MOST_SCALE}"
    rows = layer.taps * (core.n if layer.mode is Mode.MATRIX else 1)
    most = min(core.wgt_rows, MOST_COUNT)
    if layer.mode in (Mode.MATRIX, Mode.CHANNEL) and rows > most:
        return f"its kernel has {rows} rows of weights for n channels, and wgt or a LOAD holds {most}"
    return ""


def _padding(layer: Geometry) -> tuple[int, int, int, int]:
    """What windows read beyond the data: before the first, after the last, in the order of pads.

    Rounded up sizes (`ceil_mode`) make windows reach further than the padding that is declared.
    """
    tall, wide = (part(0, layer.result[axis], axis, layer) for axis in range(2))
    return tall.before, wide.before, tall.after, wide.after


def _equal_parts(size: int) -> list[int]:
    """The different sizes of the largest of so many parts, for every number of parts; falling."""
    return list(dict.fromkeys(-(-size // parts) for parts in range(1, size + 1)))


@dataclass(frozen=True)
class _Room:
    """What a tile has to fit. planes: of its data at once. pixels: its most; rows: the most of its data."""

    loops: Geometry
    planes: int
    pixels: int
    rows: int

    @staticmethod
    def of(layer: Layer, core: Core) -> _Room:
        blocks = layer.inputs[0].blocks(core) if layer.mode is Mode.MATRIX else 1
        pixels = min(core.acc_rows, core.out_rows // SLOTS // layer.output.bytes)
        return _Room(geometry(layer), blocks * len(layer.inputs), pixels, core.inp_rows // SLOTS)

    def holds(self, lines: int, columns: int) -> bool:
        """Whether a tile of so many results has room, and its strides and counts in their fields."""
        return (
            lines * columns <= self.pixels
            and _rows(self.loops, lines, columns) * self.planes <= self.rows
            and _stride(self.loops, columns) <= MOST_STRIDE
            and columns <= MOST_COUNT
        )


def _rows(loops: Geometry, lines: int, columns: int) -> int:
    """Rows of the data under so many results, in one plane."""
    window = loops.window
    tall = -(-((lines - 1) * window.strides[0] + window.extents[0]) // loops.line_step)
    return tall * ((columns - 1) * window.strides[1] + window.extents[1])


def _stride(loops: Geometry, columns: int) -> int:
    """Rows of the buffer from line to line of so many results, or of taps where that is more."""
    window = loops.window
    step = max(window.strides[0] if loops.line_step == 1 else 1, window.dilations[0])
    return step * ((columns - 1) * window.strides[1] + window.extents[1])


def parameter_groups(core: Core) -> int:
    """Groups of parameters that a LOAD may bring while others are read."""
    return core.prm_rows // PARAMETER_BYTES // SLOTS
