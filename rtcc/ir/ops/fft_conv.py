"""Convolution by Fourier transforms: tiles of outputs from products of the spectra of overlapping tiles.

A correlation with a filter of r taps is, for each tile of T inputs, a product of spectra; of its T results
the first T - r + 1 are not wrapped round (overlap-save; T. Stockham, "High-speed convolution and
correlation", 1966; for networks: M. Mathieu, M. Henaff and Y. LeCun, arXiv:1312.5851):

    y = F⁻¹[(F x) ⊙ conj(F w)]        x: T inputs, w: r taps and zeros, y: T - r + 1 outputs are kept

Spectra of real numbers are conjugate symmetric: T numbers hold one. They are stored in T/2 pairs: the real
numbers at frequencies 0 and T/2, then real and imaginary part of the others. Over two axes of T₁ and T₂
points the rows 0 and T₁/2 of frequencies are such spectra of T₂ numbers each, whose pairs of real numbers
come first; of the rows between them every frequency is a pair. What the inverse transform divides by is in
the transformed weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rtcc.ir.dimension import upper_bound
from rtcc.ir.op import Array, attribute, ints, operand, optional_operand
from rtcc.ir.ops.computed import FLOATS, ComputedOp
from rtcc.ir.ops.nn import Conv, static_sizes
from rtcc.ir.ops.window import Window, per_channel
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType
from rtcc.ir.value import Value

MOST_POINTS = 64
"""Of a tile along one axis."""

ROUNDINGS = 4.0
"""Per halving of a tile, as terms of a direct sum: forward and back, additions and twiddle factors."""


@dataclass(frozen=True)
class Spectrum:
    """How the spectrum of a real tile is stored: rows (even, or 1) by columns (even) of points."""

    rows: int
    columns: int

    @staticmethod
    def of(tile: tuple[int, ...]) -> Spectrum:
        """Of a tile over one or two axes; where one has a single point, the other holds the columns."""
        rows, columns = (1, *tile)[-2:]
        return Spectrum(1, rows) if columns == 1 else Spectrum(rows, columns)

    @property
    def pairs(self) -> int:
        """Pairs of numbers that hold it."""
        return self.rows * self.columns // 2

    @property
    def real_rows(self) -> int:
        """Rows of frequencies that are spectra of real numbers: 0 and the highest, one where they are one."""
        return min(2, self.rows)

    def forward(self, tiles: Array) -> NDArray[Any]:
        """Spectra [..., pairs, 2] of real tiles [..., rows, columns]."""
        found = np.fft.fft(np.fft.rfft(tiles, axis=-2), axis=-1)
        half, rows = self.columns // 2, [found[..., row, :] for row in (0, -1)[: self.real_rows]]
        real = [row[..., :1].real + 1j * row[..., half : half + 1].real for row in rows]
        middle = found[..., 1 : self.rows // 2, :].reshape(*tiles.shape[:-2], -1)
        packed = np.concatenate([*real, *(row[..., 1:half] for row in rows), middle], axis=-1)
        return np.stack([packed.real, packed.imag], axis=-1)

    def inverse(self, spectra: Array) -> NDArray[Any]:
        """Real tiles [..., rows, columns] of spectra, not divided by the number of points."""
        packed, half, edges = spectra[..., 0] + 1j * spectra[..., 1], self.columns // 2, self.real_rows
        rows: list[Array] = []
        for n in range(edges):
            first, begin = packed[..., n : n + 1], edges + n * (half - 1)
            rest = packed[..., begin : begin + half - 1]
            row = [first.real, rest, first.imag, rest[..., ::-1].conj()]
            rows.append(np.concatenate(row, axis=-1)[..., None, :])
        middle = packed[..., edges * half :].reshape(*packed.shape[:-1], -1, self.columns)
        whole = np.concatenate([rows[0], middle, *rows[1:]], axis=-2)
        columns = np.fft.ifft(whole, axis=-1, norm="forward")
        return np.fft.irfft(columns, n=self.rows, axis=-2, norm="forward")

    def product(self, left: Array, right: Array) -> NDArray[Any]:
        """Pair by pair: complex products, but for the pairs that are two real numbers."""
        a, b, c, d = left[..., 0], left[..., 1], right[..., 0], right[..., 1]
        result = np.stack(np.broadcast_arrays(a * c - b * d, a * d + b * c), axis=-1)
        real = slice(self.real_rows)
        result[..., real, :] = left[..., real, :] * right[..., real, :]
        return result


def transformed_filter(weight: NDArray[Any], points: tuple[int, ...]) -> NDArray[np.float64]:
    """conj(F w) / points of a weight [M, C, taps…], in float64: [M, C, pairs, 2]; points: of a tile."""
    filled = np.zeros((*weight.shape[:2], *points))
    filled[(slice(None), slice(None), *map(slice, weight.shape[2:]))] = weight
    spectrum = Spectrum.of(points)
    flat = filled.reshape(*weight.shape[:2], spectrum.rows, spectrum.columns)
    found = spectrum.forward(flat) / prod(points)
    signs = np.ones((spectrum.pairs, 2))
    signs[:, 1] = -1
    signs[: spectrum.real_rows] = 1
    return found * signs


def smooth(points: int) -> bool:
    """Whether the transform's halvings end in a small odd length, as code generation wants it."""
    odd = points // (points & -points)
    return odd in (1, 3, 5)


class FftConv(ComputedOp):
    """Convolution of [N, C, spatial…] by a transformed weight [M, C/group, pairs, 2], stride 1, no dilation.

    points: of a tile along each spatial axis, even, or 1 along one axis whose kernel has one tap.
    kernel_shape: taps along each. group: 1, or as many as channels and filters. The weight is
    `transformed_filter`'s.
    Differs from `nn.conv` by rounding only; docs/arithmetic.md bounds it.
    """

    name = "nn.fft_conv"
    role = Role.ANCHOR
    data = operand()
    weight = operand()
    bias = optional_operand()
    points = ints()
    kernel_shape = ints()
    pads = ints()
    group = attribute(1)

    algorithm: ClassVar[str] = "fft"
    """What its transformed weights are named after."""

    @staticmethod
    def transformed(weight: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float64]:
        """A convolution's weight as this operator takes it, in float64; size: points of a tile."""
        return transformed_filter(weight, size)

    @classmethod
    def of(cls, conv: Conv, weight: Value, kernel: tuple[int, ...], size: tuple[int, ...]) -> FftConv:
        """This operator in place of a convolution; weight: transformed; kernel: its taps; size: points."""
        return cls(
            conv.data, weight, conv.bias, points=size, kernel_shape=kernel, pads=conv.geometry()[0],
            group=conv.group,
        )  # fmt: skip

    @property
    def spectrum(self) -> Spectrum:
        """How spectra are stored."""
        return Spectrum.of(self.points)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Outputs of a tile along each spatial axis."""
        return tuple(points - taps + 1 for points, taps in zip(self.points, self.kernel_shape, strict=True))

    @property
    def window(self) -> Window:
        """The convolution's window: what an `nn.conv` of this weight would have."""
        count = len(self.points)
        ones = (1,) * count
        return Window(self.kernel_shape, ones, ones, self.pads or (0,) * (2 * count))

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, FLOATS, "the data")
        data, weight = self.data.type, self.weight.type
        count = data.rank - 2
        if count not in (1, 2) or len(self.points) != count or len(self.kernel_shape) != count:
            raise self.fail(f"points and kernel_shape need one or two spatial axes, found {data}")
        self._check_points()
        if self.pads and (len(self.pads) != 2 * count or min(self.pads) < 0):
            raise self.fail(f"expected {2 * count} pads of at least 0, found {self.pads}")
        channels = data.shape[1]
        if self.group != 1 and not self.group == channels == weight.shape[0]:
            raise self.fail(f"group must be 1 or all of {channels} channels and filters, found {self.group}")
        expected = (channels if self.group == 1 else 1, self.spectrum.pairs, 2)
        if weight.shape[1:] != expected:
            raise self.fail(f"the weight must be [M, {expected}], found {weight}")
        operands = (self.weight, self.bias)
        if any(value is not None and value.type.dtype is not data.dtype for value in operands):
            raise self.fail(f"data, weight and bias must have one element type, here {data.dtype.value}")
        if self.bias is not None and self.bias.type.shape != weight.shape[:1]:
            raise self.fail(f"the bias needs one element per output, found {self.bias.type}")
        return (data.with_shape((data.shape[0], weight.shape[0], *self.window.output_sizes(data.shape[2:]))),)

    def _check_points(self) -> None:
        for points, taps in zip(self.points, self.kernel_shape, strict=True):
            single = points == taps == 1
            if not single and (points % 2 or not 1 <= taps <= points <= MOST_POINTS or not smooth(points)):
                raise self.fail(
                    f"a tile needs 2ⁿ, 3·2ⁿ or 5·2ⁿ points, n > 0, at least as many as taps and at most "
                    f"{MOST_POINTS}, found {self.points} points for {self.kernel_shape} taps"
                )
        if prod(self.points) == 1:
            raise self.fail("a tile needs more than one point")

    def operations(self) -> int:
        """Those of the products; for each channel of data and result, also of the transforms."""
        weight = [upper_bound(size) for size in self.weight.type.shape]
        points = prod(self.points)
        terms = 2 * weight[1] + 5 * log2(points)
        return int(2 * self.type.elements * terms * points / prod(self.outputs))

    def compute(self, data: Array, weight: Array, bias: Array | None = None) -> Array:
        sizes = static_sizes(self, self.window.output_sizes(data.shape[2:]))
        result = self._joined(self._products(self._tiles(data, sizes), weight), sizes)
        return result if bias is None else result + per_channel(bias, result.ndim)

    def tile_magnitudes(self, data: Array, weight: Array, bias: Array | None = None) -> Array:
        """For each result the largest Σ|terms| of its tile, those that are wrapped round among them.

        data: magnitudes. weight: the transformed one as it is. docs/arithmetic.md says what it is for.
        """
        sizes = static_sizes(self, self.window.output_sizes(data.shape[2:]))
        taps = np.abs(self.spectrum.inverse(weight))
        signs = self.spectrum.forward(taps) / taps[0, 0].size
        sums = self._products(self._tiles(data, sizes), signs)
        axes = (-1, -2)[: len(sizes)]
        largest = np.broadcast_to(np.max(sums, axis=axes, keepdims=True), sums.shape)
        result = self._joined(largest, sizes)
        return result if bias is None else result + per_channel(bias, result.ndim)

    def _tiles(self, data: Array, sizes: tuple[int, ...]) -> Array:
        """The padded data cut into overlapping tiles: [N, C, tiles…, points…]."""
        count, pads = len(sizes), self.window.pads
        widths, steps = [(0, 0), (0, 0)], [slice(None), slice(None)]
        for axis, (points, outputs) in enumerate(zip(self.points, self.outputs, strict=True)):
            starts = -(-sizes[axis] // outputs) * outputs
            reach = starts + points - outputs
            widths.append((pads[axis], max(0, reach - data.shape[2 + axis] - pads[axis])))
            steps.append(slice(0, starts, outputs))
        spatial = tuple(range(2, 2 + count))
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(data, widths), self.points, axis=spatial)
        return windows[tuple(steps)]

    def _products(self, tiles: Array, weight: Array) -> Array:
        """Tiles of all points of the results: [N, M, tiles…, points…]."""
        count, spectrum = len(self.points), self.spectrum
        batch, channels, grid = tiles.shape[0], tiles.shape[1], tiles.shape[2 : 2 + count]
        flat = np.ascontiguousarray(tiles).reshape(batch, channels, -1, spectrum.rows, spectrum.columns)
        spectra = spectrum.forward(flat)
        if self.group == 1:
            found = self._summed(spectra, weight)
        else:
            found = spectrum.product(spectra, weight.reshape(channels, 1, spectrum.pairs, 2))
        return spectrum.inverse(found).reshape(batch, weight.shape[0], *grid, *self.points)

    def _summed(self, spectra: Array, weight: Array) -> Array:
        """Products [N, C, tiles, pairs, 2] by [M, C, pairs, 2] summed over C: [N, M, tiles, pairs, 2]."""
        real = slice(self.spectrum.real_rows)
        left, right = spectra[..., 0] + 1j * spectra[..., 1], weight[..., 0] + 1j * weight[..., 1]
        product = np.matmul(right.transpose(2, 0, 1), left.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
        result = np.stack([product.real, product.imag], axis=-1)
        for part in (0, 1):
            pairs = np.einsum("nctp,mcp->nmtp", spectra[..., real, part], weight[..., real, part])
            result[..., real, part] = pairs
        return result

    def _joined(self, tiles: Array, sizes: tuple[int, ...]) -> Array:
        """The tiles' outputs as one array, what is wrapped round or lies outside cut off."""
        count = len(sizes)
        kept = tiles[(..., *map(slice, self.outputs))]
        order = [0, 1, *(axis for n in range(count) for axis in (2 + n, 2 + count + n))]
        grid = tiles.shape[2 : 2 + count]
        whole = (g * m for g, m in zip(grid, self.outputs, strict=True))
        joined = kept.transpose(order).reshape(*tiles.shape[:2], *whole)
        return joined[(slice(None), slice(None), *map(slice, sizes))]
