"""Convolution by Winograd's minimal filtering: tiles of outputs from products of transformed tiles.

Along one axis, F(m, r) gives m neighbouring outputs of a filter of r taps from a = m + r - 1 inputs with a
products instead of m·r:

    y = Aᵀ [(G g) ⊙ (Bᵀ d)]        g: r taps, d: a inputs, y: m outputs

Over two axes each matrix is applied along both (S. Winograd, "Arithmetic Complexity of Computations", 1980;
for networks: A. Lavin and S. Gray, arXiv:1509.09308). The matrices come from Toom and Cook's construction:
polynomials are multiplied by evaluating them at a - 1 points and infinity, and transposing that turns
products into correlations.

The points decide how much rounding grows. For F(4, 3) the usual 0, ±1, ±2 make the largest error four
times as large as 0, ±11/16, ±23/16 do, since their powers stay near 1 (B. Barabasz et al., "Error Analysis
and Improving the Accuracy of Winograd Convolution for Deep Neural Networks", arXiv:1803.10986, found the
same of 0, ±1/2, ±2). The others below are likewise those of least `amplification` on a grid.
All have few bits, so that Aᵀ and Bᵀ are exact in float32: of the three matrices' products only G·g, which is
computed in float64, is rounded before it is used.

Where an axis is no multiple of m, its last tile has fewer outputs, for which products at fewer points suffice
(`tail`): a filter's value at a point is the same but for a factor, which Bᵀ takes, so that all tiles share
G·g. 14 outputs of 3 taps are 22 products instead of 24 by tiles of four.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations, zip_longest
from math import inf, prod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rtcc.ir.dimension import upper_bound
from rtcc.ir.op import Array, ints, operand, optional_operand
from rtcc.ir.ops.computed import FLOATS, ComputedOp
from rtcc.ir.ops.nn import Conv, static_sizes
from rtcc.ir.ops.window import Window, per_channel
from rtcc.ir.roles import Role
from rtcc.ir.types import TensorType
from rtcc.ir.value import Value

POINTS = {
    3: (11 / 16, -11 / 16),
    4: (0.0, 1.0, -1.0),
    5: (13 / 32, -13 / 32, 5 / 4, -5 / 4),
    6: (0.0, 11 / 16, -11 / 16, 23 / 16, -23 / 16),
    7: (5 / 16, -5 / 16, 7 / 8, -7 / 8, 13 / 8, -13 / 8),
    8: (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0),
}
"""Finite points, by how many there are with infinity: outputs + taps - 1."""

OUTPUTS = (2, 3, 4)
"""Outputs of a tile along an axis that is transformed."""


@dataclass(frozen=True)
class Transform:
    """F(m, r) along one axis: outputs Aᵀ [m, a], filter G [a, r], inputs Bᵀ [a, a], in float64.

    used: at which of a transformed filter's points the products are; all, but in a `tail`.
    """

    output: NDArray[np.float64]
    filter: NDArray[np.float64]
    input: NDArray[np.float64]
    used: tuple[int, ...]

    @property
    def outputs(self) -> int:
        """m."""
        return self.output.shape[0]

    @property
    def points(self) -> int:
        """a: products per tile, and inputs that it reads."""
        return self.output.shape[1]


@cache
def transform(outputs: int, taps: int) -> Transform:
    """F(outputs, taps); F(1, taps) is the sum tap by tap. KeyError for tiles that have no points."""
    if outputs == 1:
        return Transform(np.ones((1, taps)), np.eye(taps), np.eye(taps), tuple(range(taps)))
    count = outputs + taps - 1
    return _at_points((*POINTS[count], inf), tuple(range(count)), outputs, taps)


@cache
def tail(outputs: int, taps: int, rest: int) -> Transform:
    """F(rest, taps) of fewer outputs by products with the filter that `transform(outputs, taps)` transforms.

    Of points that lie on both sides of 0, or on none, those by which rounding grows least.
    """
    points = (*POINTS[outputs + taps - 1], inf)
    found = [
        _at_points(points, used, rest, taps)
        for used in combinations(range(len(points)), rest + taps - 1)
        if all(-points[n] in [points[i] for i in used] for n in used if points[n] < inf)
    ]
    return min(found, key=_growth)


def _at_points(points: tuple[float, ...], used: tuple[int, ...], outputs: int, taps: int) -> Transform:
    """Products at some of the points, the last of which is infinity; the filter's scale is that of all."""
    finite, chosen = np.array(points[:-1]), np.array([points[n] for n in used if points[n] < inf])
    left_out = np.setdiff1d(finite, chosen)
    count = len(used)
    output, filter_, input_ = np.zeros((outputs, count)), np.zeros((count, taps)), np.zeros((count, count))
    for j, point in enumerate(chosen):
        others = chosen[chosen != point]
        output[:, j] = point ** np.arange(outputs)
        filter_[j] = point ** np.arange(taps) / np.prod(point - finite[finite != point])
        input_[j, : len(chosen)] = np.atleast_1d(np.poly(others))[::-1] * np.prod(point - left_out)
    if len(chosen) < count:
        output[-1, -1] = filter_[-1, -1] = 1.0
        input_[-1] = np.poly(chosen)[::-1]
    return Transform(output, filter_, _cleaned(input_), used)


def _cleaned(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients that are whole or half numbers but for float64's rounding, made so."""
    nearest = np.round(matrix * 2) / 2
    return np.where(np.abs(matrix - nearest) < 1e-12, nearest, matrix) + 0.0


def transformed_filter(weight: NDArray[Any], outputs: tuple[int, ...]) -> NDArray[np.float64]:
    """G·g·Gᵀ of a weight [M, C, taps…] in float64: [M, C, points…]; outputs: of a tile, along each axis."""
    each = [transform(*pair) for pair in zip(outputs, weight.shape[2:], strict=True)]
    matrix = np.ones((1, 1))
    for one in each:
        matrix = np.kron(matrix, one.filter)
    flat = weight.reshape(-1, matrix.shape[1]).astype(np.float64)
    return (flat @ matrix.T).reshape(*weight.shape[:2], *(one.points for one in each))


def amplification(tile: tuple[int, ...], taps: tuple[int, ...]) -> float:
    """How much larger rounding errors become than those of a direct sum over as many terms.

    tile: outputs along each axis; taps: the filter's.

    Per axis the root mean square of what one output adds up, in units of a direct sum's: the largest of
    √(Σ_p A²·Σ G²·Σ B²) over √r; axes multiply. 1.7 for F(2x2, 3x3), 7.1 for F(4x4, 3x3).
    """
    return prod(_growth(transform(outputs, reach)) for outputs, reach in zip(tile, taps, strict=True))


def _growth(each: Transform) -> float:
    """`amplification` of one axis."""
    weights = (each.filter**2).sum(1) * (each.input**2).sum(1)
    return float(np.sqrt((each.output**2 @ weights).max() / each.filter.shape[1]))


def _along(matrix: NDArray[Any], array: NDArray[Any], axis: int) -> NDArray[Any]:
    """The matrix applied to one axis, in the array's precision."""
    return np.moveaxis(np.tensordot(matrix.astype(array.dtype), array, (1, axis)), 0, axis)


def _along_axis(tiles: Array, axis: int, count: int, matrix: Array, last: Array | None) -> Array:
    """A matrix applied to one axis of tiles [N, C, grid…, points…]; another to the last tiles of the grid."""
    result = _along(matrix, tiles, 2 + count + axis)
    if last is not None:
        place = (slice(None),) * (2 + axis) + (slice(-1, None),)
        result[place] = _along(last, tiles[place], 2 + count + axis)
    return result


def _absolute(each: Transform) -> Transform:
    return Transform(np.abs(each.output), np.abs(each.filter), np.abs(each.input), each.used)


def _spread(last: Transform, whole: Transform) -> Transform:
    """A tail as a whole tile's matrices, zeros at the points and outputs that it does not have."""
    used = list(last.used)
    output, input_ = np.zeros_like(whole.output), np.zeros_like(whole.input)
    output[: last.outputs, used] = last.output
    input_[used, : last.points] = last.input
    return Transform(output, whole.filter, input_, last.used)


class WinogradConv(ComputedOp):
    """Convolution of [N, C, spatial…] by a transformed weight [M, C, points…], stride 1.

    outputs: of a tile along each spatial axis: 2, 3 or 4, or 1 where products are summed tap by tap. The
    weight is `transformed_filter`'s; along an axis it has outputs + taps - 1 points. Of other weights nothing
    is said but of whole tiles: kernels may leave points out in a `tail`.
    Differs from `nn.conv` by rounding only; docs/arithmetic.md bounds it.
    """

    name = "nn.winograd_conv"
    role = Role.ANCHOR
    data = operand()
    weight = operand()
    bias = optional_operand()
    outputs = ints()
    pads = ints()

    algorithm: ClassVar[str] = "winograd"
    """What its transformed weights are named after."""

    @staticmethod
    def transformed(weight: NDArray[Any], size: tuple[int, ...]) -> NDArray[np.float64]:
        """A convolution's weight as this operator takes it, in float64; size: outputs of a tile."""
        return transformed_filter(weight, size)

    @classmethod
    def of(cls, conv: Conv, weight: Value, kernel: tuple[int, ...], size: tuple[int, ...]) -> WinogradConv:
        """This operator in place of a convolution; weight: transformed; kernel: its taps; size: outputs."""
        return cls(conv.data, weight, conv.bias, outputs=size, pads=conv.geometry()[0])

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """Each spatial axis's transform."""
        points = (upper_bound(size) for size in self.weight.type.shape[2:])
        return tuple(transform(m, a - m + 1) for m, a in zip(self.outputs, points, strict=True))

    @property
    def filter_shape(self) -> tuple[int, ...]:
        """The shape of the weight before it was transformed."""
        taps = (each.filter.shape[1] for each in self.transforms)
        return (*static_sizes(self, self.weight.type.shape[:2]), *taps)

    @property
    def window(self) -> Window:
        """The convolution's window: what an `nn.conv` of this weight would have."""
        count = len(self.outputs)
        kernel = tuple(t.points - t.outputs + 1 for t in self.transforms)
        ones = (1,) * count
        return Window(kernel, ones, ones, self.pads or (0,) * (2 * count))

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, FLOATS, "the data")
        data, weight = self.data.type, self.weight.type
        count = data.rank - 2
        if count < 1 or len(self.outputs) != count or any(m not in (1, *OUTPUTS) for m in self.outputs):
            raise self.fail(f"outputs are 1, 2, 3 or 4 for each of {count} axes, found {self.outputs}")
        if self.pads and (len(self.pads) != 2 * count or min(self.pads) < 0):
            raise self.fail(f"expected {2 * count} pads of at least 0, found {self.pads}")
        if weight.rank != 2 + count or weight.shape[1] != data.shape[1]:
            raise self.fail(
                f"the weight must be [M, {data.shape[1]}, {count} axes of points], found {weight}"
            )
        for outputs, points in zip(self.outputs, map(upper_bound, weight.shape[2:]), strict=True):
            if outputs > 1 and (points not in POINTS or points <= outputs):
                raise self.fail(f"there is no tile of {outputs} outputs with {points} points")
        operands = (self.weight, self.bias)
        if any(value is not None and value.type.dtype is not data.dtype for value in operands):
            raise self.fail(f"data, weight and bias must have one element type, here {data.dtype.value}")
        if self.bias is not None and self.bias.type.shape != weight.shape[:1]:
            raise self.fail(f"the bias needs one element per output, found {self.bias.type}")
        return (data.with_shape((data.shape[0], weight.shape[0], *self.window.output_sizes(data.shape[2:]))),)

    def operations(self) -> int:
        """Those of the products; the transforms are a small part of them."""
        weight = [upper_bound(size) for size in self.weight.type.shape]
        return 2 * self.type.elements * prod(weight[1:]) // prod(self.outputs)

    def compute(self, data: Array, weight: Array, bias: Array | None = None) -> Array:
        return self._filtered(data, weight, bias, self.transforms)

    def magnitudes(self, data: Array, weight: Array, bias: Array | None = None) -> Array:
        """Σ|terms| of each result for operands of such magnitudes; rounding errors go with it.

        The larger of both ways where a tile may be a `tail`.
        """
        whole = tuple(_absolute(t) for t in self.transforms)
        found = self._filtered(data, weight, bias, whole)
        tails = self._tails(static_sizes(self, self.window.output_sizes(data.shape[2:])))
        return np.maximum(found, self._filtered(data, weight, bias, whole, tails)) if any(tails) else found

    def _tails(self, sizes: tuple[int, ...]) -> tuple[Transform | None, ...]:
        """The magnitudes of each axis's tail, spread over all points and outputs of a tile."""
        return tuple(
            _spread(_absolute(tail(t.outputs, t.filter.shape[1], size % t.outputs)), t)
            if size % t.outputs
            else None
            for t, size in zip(self.transforms, sizes, strict=True)
        )

    def _filtered(
        self,
        data: Array,
        weight: Array,
        bias: Array | None,
        transforms: tuple[Transform, ...],
        tails: tuple[Transform | None, ...] = (),
    ) -> Array:
        sizes = static_sizes(self, self.window.output_sizes(data.shape[2:]))
        tiles = self.tiles(data, sizes)
        count = len(sizes)
        for axis, (each, last) in enumerate(zip_longest(transforms, tails)):
            tiles = _along_axis(tiles, axis, count, each.input, None if last is None else last.input)
        products = self.products(tiles, weight)
        for axis, (each, last) in enumerate(zip_longest(transforms, tails)):
            products = _along_axis(products, axis, count, each.output, None if last is None else last.output)
        result = self.joined(products, sizes)
        return result if bias is None else result + per_channel(bias, result.ndim)

    def tiles(self, data: Array, sizes: tuple[int, ...]) -> Array:
        """The padded data cut into overlapping tiles: [N, C, tiles…, points…]."""
        count, pads = len(sizes), self.window.pads
        widths = [(0, 0), (0, 0)]
        for axis, each in enumerate(self.transforms):
            reach = -(-sizes[axis] // each.outputs) * each.outputs + each.points - each.outputs
            widths.append((pads[axis], reach - data.shape[2 + axis] - pads[axis]))
        padded = np.pad(data, [(before, max(0, after)) for before, after in widths])
        points = tuple(each.points for each in self.transforms)
        windows = np.lib.stride_tricks.sliding_window_view(padded, points, axis=tuple(range(2, 2 + count)))
        steps = tuple(
            slice(0, -(-size // each.outputs) * each.outputs, each.outputs)
            for size, each in zip(sizes, self.transforms, strict=True)
        )
        return windows[(slice(None), slice(None), *steps)]

    def products(self, tiles: Array, weight: Array) -> Array:
        """Transformed tiles times transformed weight, summed over channels: [N, M, tiles…, points…]."""
        count = len(self.outputs)
        points = weight.shape[2:]
        batch, channels, grid = tiles.shape[0], tiles.shape[1], tiles.shape[2 : 2 + count]
        flat = tiles.reshape(batch, channels, -1, prod(points))
        filters = weight.reshape(*weight.shape[:2], -1)
        product = np.matmul(filters.transpose(2, 0, 1), flat.transpose(0, 3, 1, 2))
        return product.transpose(0, 2, 3, 1).reshape(batch, weight.shape[0], *grid, *points)

    def joined(self, tiles: Array, sizes: tuple[int, ...]) -> Array:
        """Tiles of outputs [N, M, tiles…, outputs…] as one array, what lies outside cut off."""
        count = len(sizes)
        order = [0, 1, *(axis for n in range(count) for axis in (2 + n, 2 + count + n))]
        moved = tiles.transpose(order)
        grid = tiles.shape[2 : 2 + count]
        whole = moved.reshape(*tiles.shape[:2], *(g * m for g, m in zip(grid, self.outputs, strict=True)))
        return whole[(slice(None), slice(None), *(slice(0, size) for size in sizes))]
