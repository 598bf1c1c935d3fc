"""How Winograd's convolution is cut into blocks, and what it needs as scratch; needs no TVM."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir.ops.winograd import Transform, transform
from rtcc.targets.tvm.kernels.conv_problem import ConvProblem

FLOAT_BYTES = 4


@dataclass(frozen=True)
class WinogradProblem:
    """A convolution of stride 1, and how many outputs a tile has along height and width."""

    conv: ConvProblem
    outputs: tuple[int, int]

    @property
    def transforms(self) -> tuple[Transform, Transform]:
        """The transforms along height and width."""
        return transform(self.outputs[0]), transform(self.outputs[1])

    @property
    def points(self) -> tuple[int, int]:
        """Inputs, and points, of a tile along height and width."""
        rows, columns = self.transforms
        return rows.points, columns.points

    @property
    def products(self) -> int:
        """Matrix products: points of a tile."""
        return prod(self.points)

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles along height and width of one image."""
        return (
            -(-self.conv.output_height // self.outputs[0]),
            -(-self.conv.output_width // self.outputs[1]),
        )

    @property
    def tiles(self) -> int:
        """Tiles of the whole batch."""
        return self.conv.batch * prod(self.grid)


@dataclass(frozen=True)
class WinogradTile:
    """How the work is cut up, from the inside outwards.

    `tiles` by `blocks` of output channels stay in registers; `groups` such register tiles are transformed
    together, a block. `chunk` groups of output channels are summed before they are transformed back.
    `splits`: into how many parts the output channels are divided among tasks; each transforms its input.
    """

    tiles: int
    blocks: int
    groups: int = 1
    chunk: int = 1
    splits: int = 1

    @property
    def block(self) -> int:
        """Tiles of a block."""
        return self.tiles * self.groups


def channel_groups(problem: WinogradProblem, tile: WinogradTile) -> int:
    """Groups of output channels; the last may have fewer blocks."""
    return -(-problem.conv.output.blocks // tile.blocks)


def chunks(problem: WinogradProblem, tile: WinogradTile) -> int:
    """Chunks of groups of output channels; the last may have fewer."""
    return -(-channel_groups(problem, tile) // tile.chunk)


def input_floats(problem: WinogradProblem, tile: WinogradTile) -> int:
    """Room for one point of a block's transformed input; a line more than that, so that points spread over
    the sets of a cache."""
    conv = problem.conv
    return (conv.input.blocks * tile.block + 1) * conv.lanes


def product_floats(problem: WinogradProblem, tile: WinogradTile) -> int:
    """Room for the products of one group of output channels."""
    return tile.block * tile.blocks * problem.products * problem.conv.lanes


def scratch_bytes(problem: WinogradProblem, tile: WinogradTile) -> int:
    """What each task needs as scratch, in bytes."""
    transformed = input_floats(problem, tile) * problem.products
    return FLOAT_BYTES * (transformed + tile.chunk * product_floats(problem, tile))


def winograd_illegal(problem: ConvProblem) -> str | None:
    """Why `winograd_conv` cannot do the convolution, or None."""
    if problem.strides != (1, 1) or problem.dilations != (1, 1):
        return "the stride or dilation is not 1"
    if problem.groups != 1:
        return "the channels are in groups"
    if any(taps not in (1, 3) for taps in problem.kernel) or problem.kernel == (1, 1):
        return f"the kernel is {problem.kernel[0]}x{problem.kernel[1]}, not 3x3, 1x3 or 3x1"
    return None


def pack_weights(transformed: NDArray[Any], problem: WinogradProblem, tile: WinogradTile) -> NDArray[Any]:
    """Transformed weights [M, C, rows, columns]  →  [M/(nt·b)][rows][columns][C][nt·b], zero-padded."""
    columns = tile.blocks * problem.conv.lanes
    filters, channels = transformed.shape[:2]
    padded = np.zeros((-(-filters // columns) * columns, channels, *problem.points), transformed.dtype)
    padded[:filters] = transformed
    shape = (-1, columns, channels, *problem.points)
    return np.ascontiguousarray(padded.reshape(shape).transpose(0, 3, 4, 2, 1))
