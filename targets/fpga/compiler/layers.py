"""Operators of a region as layers over tensors in DRAM, sizes in rows of n channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, DType, Op, Value
from rtcc.ir.ops.accelerator import (
    LEAST,
    MOST,
    AcceleratorAdd,
    AcceleratorAveragePool,
    AcceleratorConv,
    AcceleratorConvSum,
)
from rtcc.ir.ops.pooling import MaxPool, Pool
from rtcc.ir.ops.requantization import multiplier_and_shift
from rtcc.ir.ops.window import Window
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.isa.encoding import encode_parameters
from rtcc.targets.fpga.isa.table import Mode

Array = NDArray[Any]


@dataclass(frozen=True)
class Image:
    """A tensor [N, C, H, W] in DRAM: planes of n channels, each N · H · W rows; row: where the first lies.

    bytes: of an element, 1 or 4. Elements of several are as many planes, one for each byte, the lowest first.
    images: N. Those of a batch lie one behind the other in each plane, so that rows of a matrix are pixels.
    """

    channels: int
    height: int
    width: int
    row: int = 0
    bytes: int = 1
    images: int = 1

    @property
    def pixels(self) -> int:
        """Rows of one image in a plane."""
        return self.height * self.width

    @property
    def plane(self) -> int:
        """Rows of a plane."""
        return self.images * self.pixels

    def blocks(self, core: Core) -> int:
        """Blocks of n channels, the last one padded."""
        return -(-self.channels // core.n)

    def rows(self, core: Core) -> int:
        """Rows of all planes."""
        return self.blocks(core) * self.bytes * self.plane


@dataclass(frozen=True)
class Requantisation:
    """How sums become s8: per group of n channels a group of parameters, and the limits of all.

    raw: they do not, and the result is their four bytes.
    """

    parameters: bytes
    groups: int
    zero: int
    low: int
    high: int
    raw: bool = False


@dataclass(frozen=True)
class Layer:
    """A layer: the taps of a window over the data, weighted as the mode says.

    weights: s8 rows of n, for MATRIX [M blocks, C blocks, ky, kx, n, n], for CHANNEL [C blocks, ky, kx, n],
    else None. spans: for MATRIX the blocks of input channels that each block of outputs has weights for.
    scales: of an addition, the multipliers of its two operands; of other unweighted taps one number. fill:
    what padding reads. macs: products that the operator as such needs.
    """

    name: str
    mode: Mode
    inputs: tuple[Image, ...]
    output: Image
    window: Window
    requantisation: Requantisation
    fill: int = 0
    weights: Array | None = None
    spans: tuple[tuple[int, int], ...] = ()
    scales: tuple[int, ...] = (0,)
    macs: int = 0

    @property
    def kernel(self) -> tuple[int, int]:
        """Taps along y and x."""
        return self.window.kernel[0], self.window.kernel[1]

    @property
    def taps(self) -> int:
        """Of a kernel, over one block of channels."""
        return self.window.kernel[0] * self.window.kernel[1]


def image_of(value: Value, row: int = 0) -> Image:
    """The image of a value of i8 or i32 [N, C, H, W]."""
    images, channels, height, width = value.type.sizes
    return Image(channels, height, width, row, 4 if value.type.dtype is DType.I32 else 1, images)


ONE = Window((1, 1), (1, 1), (1, 1), (0, 0, 0, 0))


def layer_of(op: Op, inputs: tuple[Image, ...], output: Image, core: Core) -> Layer:
    """The layer that an operator of the family `accelerator`, or a max_pool of s8, is."""
    name = str(op.location.nodes[0]) if op.location.nodes else op.name
    match op:
        case AcceleratorConv() | AcceleratorConvSum():
            return _convolution(op, name, inputs, output, core)
        case AcceleratorAdd():
            factor = np.full(core.n, op.factor, np.float32)
            way = requantisation(np.full(core.n, op.bias), factor, core, op.zero_point, op.low, op.high)
            scales = (op.left_multiplier, op.right_multiplier)
            return Layer(name, Mode.SCALE, inputs, output, ONE, way, scales=scales)
        case AcceleratorAveragePool():
            factor = np.full(core.n, op.factor, np.float32)
            way = requantisation(np.full(core.n, op.bias), factor, core, op.zero_point, op.low, op.high)
            return Layer(name, Mode.SCALE, inputs, output, _window(op), way, op.fill, scales=(1,))
        case MaxPool():
            one = np.ones(core.n, np.float32)
            way = requantisation(np.zeros(core.n, np.int64), one, core, 0, LEAST, MOST)
            return Layer(name, Mode.MAX, inputs, output, _window(op), way, LEAST, scales=(1,))
        case _:
            raise AssertionError(f"no layer of the accelerator: {op!r}")


def copy_of(op: Op, source: Image, destination: Image, core: Core) -> Layer:
    """A layer that copies an image."""
    way = requantisation(np.zeros(core.n, np.int64), np.ones(core.n, np.float32), core, 0, LEAST, MOST)
    name = str(op.location.nodes[0]) if op.location.nodes else op.name
    return Layer(name, Mode.SCALE, (source,), destination, ONE, way, scales=(1,))


def requantisation(bias: Array, factor: Array, core: Core, zero: int, low: int, high: int) -> Requantisation:
    """bias, factor: per channel; groups are padded with channels that give the zero point."""
    biases = _padded(bias.astype(np.int64), core.n)
    multiplier, shift = multiplier_and_shift(_padded(factor.astype(np.float32), core.n))
    return Requantisation(encode_parameters(biases, multiplier, shift), len(biases), zero, low, high)


def sums(bias: Array, core: Core) -> Requantisation:
    """bias: per channel; the results are the sums themselves, times 1."""
    biases = _padded(bias.astype(np.int64), core.n)
    parameters = encode_parameters(biases, np.ones_like(biases), np.zeros_like(biases))
    return Requantisation(parameters, len(biases), 0, LEAST, MOST, raw=True)


def _window(op: Pool) -> Window:
    """The window; what lies beyond the data reads as padding, however much of it is declared."""
    return op.window(op.data.type.sizes[2:])


def _convolution(
    op: AcceleratorConv | AcceleratorConvSum,
    name: str,
    inputs: tuple[Image, ...],
    output: Image,
    core: Core,
) -> Layer:
    weight, bias = constant(op.weight), constant(op.bias)
    if isinstance(op, AcceleratorConv):
        way = requantisation(bias, constant(op.factor), core, op.zero_point, op.low, op.high)
    else:
        way = sums(bias, core)
    window = op.window(op.data.type.shape[2:], op.weight.type.shape)
    if op.group == op.data.type.sizes[1] == len(weight) and op.group > 1:
        rows = _padded(weight[:, 0], core.n).transpose(0, 2, 3, 1)
        return Layer(
            name, Mode.CHANNEL, inputs, output, window, way, op.fill, rows, macs=op.operations() // 2
        )
    tiles, spans = _matrices(_dense(weight, op.group), core.n)
    return Layer(
        name, Mode.MATRIX, inputs, output, window, way, op.fill, tiles, spans, macs=op.operations() // 2
    )


def constant(value: Value) -> Array:
    """The elements of a constant operand."""
    assert isinstance(value, Constant)
    return value.array


def _padded(array: Array, n: int) -> Array:
    """[C, …] as [blocks, n, …]."""
    blocks = -(-len(array) // n)
    room = [(0, blocks * n - len(array)), *((0, 0) for _ in array.shape[1:])]
    return np.pad(array, room).reshape(blocks, n, *array.shape[1:])


def _dense(weight: Array, group: int) -> Array:
    """[M, C/group, …] as [M, C, …] with zeros between the groups."""
    if group == 1:
        return weight
    outputs, channels = weight.shape[:2]
    dense = np.zeros((outputs, channels * group, *weight.shape[2:]), weight.dtype)
    for number in range(group):
        filters = slice(number * outputs // group, (number + 1) * outputs // group)
        dense[filters, number * channels : (number + 1) * channels] = weight[filters]
    return dense


def _matrices(weight: Array, n: int) -> tuple[Array, tuple[tuple[int, int], ...]]:
    """[M, C, ky, kx] as [M blocks, C blocks, ky, kx, n inputs, n outputs]; which C blocks are not all 0."""
    by_output = _padded(weight, n)
    tiles = np.stack([_padded(np.moveaxis(block, 1, 0), n) for block in by_output])
    tiles = tiles.transpose(0, 1, 4, 5, 2, 3)
    spans: list[tuple[int, int]] = []
    for block in tiles:
        used = np.flatnonzero(block.reshape(len(block), -1).any(1))
        spans.append((int(used[0]), int(used[-1]) + 1) if used.size else (0, 1))
    return np.ascontiguousarray(tiles), tuple(spans)
