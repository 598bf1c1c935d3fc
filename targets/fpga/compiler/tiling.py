"""How a layer is cut into tiles of pixels that fit the buffers, chosen by the cycles that it takes.

Two tiles at a time have room in the buffers of data and results, so that one is loaded and one stored while a
third is computed. EXEC takes taps · max(pixels, 18) + 34 cycles, of vector modes taps · max(pixels, 5) + 34;
LOAD and STORE a beat for each row and about 40 for each transfer (measured on the RTL).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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

MOST_COUNT = Exec.places()["nx"].most
"""Pixels of a line, and rows that a LOAD brings from one place."""

LEAST_PIXELS = {Mode.MATRIX: 18}
"""An array's tap takes as long as loading its next weights; others' as long as their pipeline is deep."""

VECTOR_PIXELS = 5
EXEC_CYCLES = 34
TRANSFER_CYCLES = 40

SLOTS = 2
"""Tiles that have room in a buffer together."""


@dataclass(frozen=True)
class Geometry:
    """The loops over pixels of a layer: a layer of one tap per channel goes over all pixels in one line.

    line_step: lines of the data from one that is loaded to the next, above 1 where kernels have one row.
    """

    source: tuple[int, int]
    result: tuple[int, int]
    window: Window
    line_step: int


@dataclass(frozen=True)
class Tiling:
    """Tiles of `height` by `width` results, edges smaller; cycles: what the layer is predicted to take."""

    geometry: Geometry
    height: int
    width: int
    cycles: int


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
    """The loops that a layer is computed by."""
    data, output, window = layer.inputs[0], layer.output, layer.window
    if window == ONE or (window.kernel, window.strides, window.pads) == (ONE.kernel, ONE.strides, ONE.pads):
        return Geometry((1, data.plane), (1, output.plane), ONE, 1)
    is_flat = window.kernel[0] == 1 and not window.pads[0] and not window.pads[2]
    return Geometry((data.height, data.width), (output.height, output.width), window,
                    window.strides[0] if is_flat else 1)  # fmt: skip


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
    found = tiling(layer, core)
    return found if isinstance(found, str) else ""


def tiling(layer: Layer, core: Core) -> Tiling | str:
    """The fastest tiles of a layer, or why there are none."""
    if limit := _beyond_fields(layer, core):
        return limit
    loops = geometry(layer)
    blocks = layer.inputs[0].blocks(core) if layer.mode is Mode.MATRIX else 1
    operands = len(layer.inputs)
    return _best(loops, layer.mode, blocks, operands, len(layer.spans), layer.inputs[0].blocks(core), core)


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
    taps = window.kernel[0] * window.kernel[1]
    rows = taps * (core.n if layer.mode is Mode.MATRIX else 1)
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


@lru_cache(maxsize=4096)
def _best(
    loops: Geometry, mode: Mode, blocks: int, operands: int, outputs: int, channels: int, core: Core
) -> Tiling | str:
    """blocks: planes of the data that a tile needs at once. outputs: blocks of filters of MATRIX."""
    height, width = loops.result
    most = min(core.acc_rows, core.out_rows // SLOTS)
    found: list[Tiling] = []
    for across in range(1, width + 1):
        columns = -(-width // across)
        for down in range(1, height + 1):
            lines = -(-height // down)
            if (
                lines * columns > most
                or _rows(loops, lines, columns) * blocks * operands > core.inp_rows // SLOTS
                or _stride(loops, columns) > MOST_STRIDE
                or columns > MOST_COUNT
            ):
                continue
            cycles = _cycles(loops, mode, lines, columns, blocks, operands, outputs, channels)
            found.append(Tiling(loops, lines, columns, cycles))
            break
        if found and across > len(found) + 3:
            break
    if not found:
        rows = _rows(loops, 1, 1) * blocks * operands
        return f"the data of one result are {rows} rows, and half of inp holds {core.inp_rows // SLOTS}"
    return min(found, key=lambda each: each.cycles)


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


def _cycles(
    loops: Geometry,
    mode: Mode,
    lines: int,
    columns: int,
    blocks: int,
    operands: int,
    outputs: int,
    channels: int,
) -> int:
    """What a layer takes where computing, loading and storing overlap: the longest of the three."""
    tiles = -(-loops.result[0] // lines) * -(-loops.result[1] // columns)
    taps = loops.window.kernel[0] * loops.window.kernel[1] * operands
    results = outputs if mode is Mode.MATRIX else channels
    pixels = max(lines * columns, LEAST_PIXELS.get(mode, VECTOR_PIXELS))
    compute = taps * (blocks if mode is Mode.MATRIX else 1) * pixels + EXEC_CYCLES
    loaded = _rows(loops, lines, columns) * blocks * operands + TRANSFER_CYCLES
    loads = tiles * loaded * (1 if mode is Mode.MATRIX else channels)
    stores = tiles * results * (lines * columns + TRANSFER_CYCLES)
    return max(tiles * results * compute, loads, stores) + loaded


def parameter_groups(core: Core) -> int:
    """Groups of parameters that a LOAD may bring while others are read."""
    return core.prm_rows // PARAMETER_BYTES // SLOTS
