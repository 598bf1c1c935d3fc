"""Programs for tests: layers written by hand, tiled and double-buffered, and what they should give."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rtcc.ir.dtype import DType
from rtcc.ir.ops.requantization import multiplier_and_shift, scaled_exactly
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.isa.encoding import encode_parameters, encode_program
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Buffer, Exec, Finish, Load, Mode, Store


@dataclass
class Image:
    """A DRAM image that grows by regions; all places are rows."""

    core: Core
    parts: list[bytes] = field(default_factory=list[bytes])
    rows: int = 0

    def add(self, contents: bytes) -> int:
        """Put a region at the end; its first row."""
        first, n = self.rows, self.core.row_bytes
        self.parts.append(contents.ljust(-(-len(contents) // n) * n, b"\0"))
        self.rows += len(self.parts[-1]) // n
        return first

    def array(self) -> NDArray[np.uint8]:
        return np.frombuffer(b"".join(self.parts), np.uint8)


@dataclass(frozen=True)
class Case:
    """A program in its image, and the bytes that it should leave at `result`."""

    core: Core
    image: NDArray[np.uint8]
    program: int
    instructions: list[Instruction]
    result: int
    expected: NDArray[np.int8]
    macs: int

    def found(self, dram: NDArray[np.uint8]) -> NDArray[np.int8]:
        begin = self.result * self.core.row_bytes
        return dram[begin : begin + self.expected.size].view(np.int8).reshape(self.expected.shape)

    @property
    def length(self) -> int:
        return len(self.instructions)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution or pooling: blocks of n channels, lines and columns of the input, and the window.

    mode MATRIX is a convolution, CHANNEL a depthwise one, SCALE a sum over the window, MAX its maximum.
    lines: of the result, in one tile.
    """

    mode: Mode = Mode.MATRIX
    blocks_in: int = 1
    blocks_out: int = 1
    height: int
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    dilation: int = 1
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    """left, right, top, bottom"""
    lines: int = 1 << 16

    @property
    def out_height(self) -> int:
        reach = self.dilation * (self.kernel[0] - 1) + 1
        return (self.height + self.pads[2] + self.pads[3] - reach) // self.stride + 1

    @property
    def out_width(self) -> int:
        reach = self.dilation * (self.kernel[1] - 1) + 1
        return (self.width + self.pads[0] + self.pads[1] - reach) // self.stride + 1

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1] * (self.blocks_in if self.mode is Mode.MATRIX else 1)


@dataclass(frozen=True)
class Operands:
    """Data [block, line, column, lane], weights [block of result, tap, …], bias and factor [block, lane]."""

    data: NDArray[np.int8]
    weights: NDArray[np.int8]
    bias: NDArray[np.int64]
    factor: NDArray[np.float32]
    zero: int
    pad_value: int


def operands(layer: Layer, n: int, rng: np.random.Generator) -> Operands:
    """Random operands whose results fill the range of i8."""
    weight_shape = (n, n) if layer.mode is Mode.MATRIX else (n,)
    products = layer.taps * (n if layer.mode is Mode.MATRIX else 1)
    spread = {Mode.SCALE: 74 * products**0.5, Mode.MAX: 74.0}.get(layer.mode, 74 * 74 * products**0.5)
    return Operands(
        rng.integers(-128, 128, (layer.blocks_in, layer.height, layer.width, n), np.int8),
        rng.integers(-128, 128, (layer.blocks_out, layer.taps, *weight_shape), np.int8),
        rng.integers(-1000, 1000, (layer.blocks_out, n)),
        (rng.uniform(20, 60, (layer.blocks_out, n)) / spread).astype(np.float32),
        int(rng.integers(-20, 20)),
        int(rng.integers(-20, 20)),
    )


def expected(layer: Layer, given: Operands) -> NDArray[np.int8]:
    """The result [block, line, column, lane], in plain NumPy."""
    left, right, top, bottom = layer.pads
    around = ((0, 0), (top, bottom), (left, right), (0, 0))
    data = np.pad(given.data, around, constant_values=given.pad_value).astype(np.int64)
    step, dilation = layer.stride, layer.dilation
    windows = [
        data[:, ky * dilation :: step, kx * dilation :: step][:, : layer.out_height, : layer.out_width]
        for ky in range(layer.kernel[0])
        for kx in range(layer.kernel[1])
    ]
    taps = np.stack(windows, 1)  # [block, tap, line, column, lane]
    weights = given.weights.astype(np.int64)
    match layer.mode:
        case Mode.MATRIX:
            flat = taps.reshape(-1, *taps.shape[2:])
            total = np.einsum("thwi,otij->ohwj", flat.astype(np.float64), weights.astype(np.float64))
        case Mode.CHANNEL:
            total = np.einsum("cthwi,cti->chwi", taps, weights)
        case Mode.SCALE:
            total = taps.sum(1)
        case Mode.MAX:
            total = taps.max(1)
    total = total.astype(np.int64) + given.bias[:, None, None]
    factor = given.factor[:, None, None]
    return scaled_exactly(total.astype(np.int32), factor, np.array(given.zero, np.int32), DType.I8)


@dataclass(frozen=True)
class _Tile:
    """Lines of the result, and the load of the input that they need."""

    first_line: int
    lines: int
    load: Load
    rows: int
    """that the load fills of one block"""


def _tiles(layer: Layer, data: int, pad_value: int) -> list[_Tile]:
    left, right, top, bottom = layer.pads
    reach = layer.dilation * (layer.kernel[0] - 1) + 1
    found: list[_Tile] = []
    for first in range(0, layer.out_height, layer.lines):
        lines = min(layer.lines, layer.out_height - first)
        begin = first * layer.stride - top
        end = begin + (lines - 1) * layer.stride + reach
        load = Load(
            buffer=Buffer.INP,
            dram=data + max(begin, 0) * layer.width,
            nx=layer.width,
            ny=min(end, layer.height) - max(begin, 0),
            stride_y=layer.width,
            stride_z=layer.height * layer.width,
            pad_left=left,
            pad_right=right,
            pad_top=max(-begin, 0),
            pad_bottom=min(max(end - layer.height, 0), bottom),
            pad_value=pad_value,
        )
        found.append(_Tile(first, lines, load, (end - begin) * (left + layer.width + right)))
    return found


def layer_case(core: Core, layer: Layer, seed: int = 0) -> Case:
    """A layer tiled by lines: input, weights and results each in two halves of their buffers.

    MATRIX loads a tile's input once and goes over the blocks of the result; other modes go block by block.
    """
    given = operands(layer, core.n, np.random.default_rng(seed))
    image = Image(core)
    data = image.add(given.data.tobytes())
    weights = image.add(given.weights.tobytes())
    parameters = image.add(
        encode_parameters(given.bias.reshape(-1), *multiplier_and_shift(given.factor.reshape(-1)))
    )
    answer = expected(layer, given)
    result = image.add(bytes(answer.size))
    instructions: list[Instruction] = [
        Load(buffer=Buffer.PRM, dram=parameters, nx=8 * layer.blocks_out),
        *_steps(core, layer, _tiles(layer, data, given.pad_value), (weights, result), given.zero),
        Finish(),
    ]
    program = image.add(encode_program(instructions))
    macs = answer.size * layer.taps * (core.n if layer.mode is Mode.MATRIX else 1)
    return Case(core, image.array(), program, instructions, result, answer, macs)


def _steps(
    core: Core, layer: Layer, tiles: list[_Tile], places: tuple[int, int], zero: int
) -> list[Instruction]:
    """LOAD, EXEC and STORE of each step, a tile of one block; step i uses the halves of its parity."""
    weights, result = places
    is_matrix = layer.mode is Mode.MATRIX
    tap_rows = {Mode.MATRIX: core.n, Mode.CHANNEL: 1}.get(layer.mode, 0)
    steps = [(tile, block) for tile in tiles for block in range(layer.blocks_out)]
    instructions: list[Instruction] = []
    for index, (tile, block) in enumerate(steps):
        has_input = not is_matrix or block == 0
        input_half = (index // layer.blocks_out if is_matrix else index) % 2 * (core.inp_rows // 2)
        half = index % 2
        # The input's half is free when the last step of two tiles before is done, weights' two steps before.
        loads: list[Load] = []
        if has_input:
            planes = layer.blocks_in if is_matrix else 1
            own = tile.load.dram + (0 if is_matrix else block * layer.height * layer.width)
            loads.append(replace(tile.load, sram=input_half, nz=planes, dram=own))
        if tap_rows:
            rows = layer.taps * tap_rows
            place = weights + block * rows
            loads.append(Load(buffer=Buffer.WGT, sram=half * core.wgt_rows // 2, dram=place, nx=rows))
        if loads:
            loads[0] = replace(loads[0], pop_next=int(index >= 2))
            loads[-1] = replace(loads[-1], push_next=1)
        pixels = tile.lines * layer.out_width
        line = layer.width + layer.pads[0] + layer.pads[1]
        instructions += loads
        instructions.append(
            Exec(
                mode=layer.mode,
                init=1,
                flush=1,
                immediate=0 if tap_rows else 1,
                wgt=half * core.wgt_rows // 2 if tap_rows else 0,
                inp=input_half,
                acc=half * core.acc_rows // 2,
                out=half * core.out_rows // 2,
                prm=block,
                ny=tile.lines,
                nx=layer.out_width,
                stride_y=layer.stride * line,
                stride_x=layer.stride,
                n_ic=layer.blocks_in if is_matrix else 1,
                stride_ic=tile.rows if is_matrix else 0,
                n_ky=layer.kernel[0],
                stride_ky=layer.dilation * line,
                n_kx=layer.kernel[1],
                stride_kx=layer.dilation,
                low=-128,
                high=127,
                zero=zero,
                pop_previous=1,
                push_previous=1,
                push_next=1,
                pop_next=int(index >= 2),
            )
        )
        place = result + (block * layer.out_height + tile.first_line) * layer.out_width
        instructions.append(
            Store(sram=half * core.out_rows // 2, dram=place, nx=pixels, pop_previous=1, push_previous=1)
        )
    return instructions
