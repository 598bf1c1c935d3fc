"""Sampling at computed coordinates: grids, affine maps, deformable convolution (family `nn`)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from rtcc.ir.op import Array, attribute, operand, optional_operand
from rtcc.ir.ops.axes import agree, integers
from rtcc.ir.ops.computed import FLOATS, ComputedOp
from rtcc.ir.ops.nn import Convolution, static_sizes, sum_operations
from rtcc.ir.ops.resize import cubic_weights
from rtcc.ir.ops.window import per_channel
from rtcc.ir.roles import Role
from rtcc.ir.shape_value import known_shape_value
from rtcc.ir.types import Shape, TensorType
from rtcc.ir.value import Value

CUBIC_COEFFICIENT = -0.75
FARTHEST = 2.0**30

Inside = Callable[[Array, int], Array]
"""Moves coordinates or indices along an axis of some size into the tensor, or leaves them outside."""


class GridSample(ComputedOp):
    """[N, C, spatial…] read at coordinates [N, out…, n], -1 … 1 across each axis (ONNX GridSample).

    The grid's last axis counts the spatial axes from the last. A NaN coordinate lies outside, one step
    before the first element; one to be reflected that is infinite, too.
    """

    name = "nn.grid_sample"
    role = Role.ANCHOR
    data = operand()
    grid = operand()
    align_corners = attribute(0)
    mode = attribute("linear")
    padding_mode = attribute("zeros")

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.grid, FLOATS, "the grid")
        data, grid = self.data.type, self.grid.type
        fits = grid.rank == data.rank and agree(grid.shape[:1], data.shape[:1])
        if data.rank < 3 or not fits or grid.shape[-1] != data.rank - 2:
            raise self.fail(f"needs a grid [N, out…, {data.rank - 2}] for {data}, found {grid}")
        if self.mode not in ("linear", "nearest", "cubic"):
            raise self.fail(f"mode must be linear, nearest or cubic, found {self.mode!r}")
        if self.padding_mode not in ("zeros", "border", "reflection"):
            raise self.fail(f"padding_mode must be zeros, border or reflection, found {self.padding_mode!r}")
        return (data.with_shape((*data.shape[:2], *grid.shape[1:-1])),)

    def compute(self, data: Array, grid: Array) -> Array:
        coordinates: list[Array] = []
        for axis, size in enumerate(data.shape[2:]):
            at = grid[..., data.ndim - 3 - axis]
            at = (at + 1) / 2 * (size - 1) if self.align_corners else ((at + 1) * size - 1) / 2
            is_nowhere = ~np.isfinite(at) if self.padding_mode == "reflection" else np.isnan(at)
            # far outside: any such place gives the same, and infinities have no fraction
            at = np.clip(np.where(is_nowhere, -1, at), -FARTHEST, FARTHEST)
            coordinates.append(np.rint(at) if self.mode == "nearest" else at)
        return sampled(data, coordinates, self.mode, self._inside)

    def _inside(self, at: Array, size: int) -> Array:
        """Indices moved inside by the padding mode (zeros: left where they are)."""
        if self.padding_mode == "border":
            return np.clip(at, 0, size - 1)
        if self.padding_mode == "reflection":
            return reflected(at, *((0, size - 1) if self.align_corners else (-0.5, size - 0.5)))
        return at


class AffineGrid(ComputedOp):
    """The grid that GridSample needs for affine maps theta [N, n, n+1] (ONNX AffineGrid).

    `size` is the wanted [N, C, spatial…]; the result is [N, spatial…, n].
    """

    name = "nn.affine_grid"
    role = Role.COMPOSITE
    theta = operand()
    size = operand(static=True)
    align_corners = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        size = known_shape_value(self.size)
        if size is None:
            size = integers(self, self.size, "the grid's size")
        if len(size) not in (4, 5):
            raise self.fail(f"the size must be [N, C, H, W] or [N, C, D, H, W], found {size}")
        return (self.theta.type.with_shape((size[0], *size[2:], len(size) - 2)),)

    def compute(self, theta: Array, size: Array) -> Array:
        spatial = [int(n) for n in size[2:]]
        lines: list[Array] = []
        for n in spatial:
            steps = np.arange(n, dtype=theta.dtype)
            centred = (2 * steps + 1) / n - 1
            lines.append(steps * (2 / max(n - 1, 1)) - 1 if self.align_corners else centred)
        mesh = np.meshgrid(*lines, indexing="ij")
        points = np.stack([*reversed(mesh), np.ones(spatial, theta.dtype)], axis=-1)
        flat = points.reshape(-1, len(spatial) + 1) @ theta.swapaxes(1, 2)
        return flat.reshape(theta.shape[0], *spatial, len(spatial))


class DeformConv(Convolution):
    """Convolution whose taps are moved by offsets and weighed by a mask, 2-D (ONNX DeformConv)."""

    name = "nn.deform_conv"
    role = Role.OPAQUE
    data = operand()
    weight = operand()
    offset = operand()
    bias = optional_operand()
    mask = optional_operand()
    offset_group = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        if self.data.type.rank != 4:
            raise self.fail(f"supports two spatial axes, found {self.data.type}")
        shape = self.convolved(self.data.type.shape, self.weight.type.shape)
        self._require_moves(self.offset, 2, shape)
        self._require_moves(self.mask, 1, shape)
        return (self.data.type.with_shape(shape),)

    def _require_moves(self, value: Value | None, each: int, shape: Shape) -> None:
        """The op's error unless there are so many numbers for each tap of each place."""
        taps = self.offset_group * each
        for size in self.weight.type.shape[2:]:
            taps = taps * size
        if value is not None and not agree(value.type.shape, (shape[0], taps, *shape[2:])):
            raise self.fail(f"{value.type} does not fit {taps} numbers for each place of {shape}")

    def operations(self) -> int:
        return sum_operations(self.type, self.weight.type)

    def compute(
        self, data: Array, weight: Array, offset: Array, bias: Array | None = None, mask: Array | None = None
    ) -> Array:
        batch, channels = data.shape[:2]
        window = self.window(data.shape[2:], weight.shape)
        sizes = static_sizes(self, window.output_sizes(data.shape[2:]))
        taps, groups = window.kernel[0] * window.kernel[1], self.offset_group
        moves = offset.reshape(batch * groups, taps, 2, *sizes)
        tap = np.indices(window.kernel).reshape(2, taps)
        coordinates = [
            moves[:, :, a]
            + (tap[a] * window.dilations[a] - window.pads[a])[None, :, None, None]
            + np.arange(sizes[a]).reshape(-1, *(1,) * (1 - a)) * window.strides[a]
            for a in range(2)
        ]
        split = data.reshape(batch * groups, channels // groups, *data.shape[2:])
        columns = sampled(split, coordinates, "linear", lambda index, _: index)
        if mask is not None:
            columns = columns * mask.reshape(batch * groups, 1, taps, *sizes)
        columns = columns.reshape(batch, self.group, channels // self.group * taps, -1)
        kernels = weight.reshape(self.group, weight.shape[0] // self.group, -1)
        result = np.matmul(kernels, columns).reshape(batch, weight.shape[0], *sizes)
        return result if bias is None else result + per_channel(bias, 4)


def sampled(data: Array, coordinates: list[Array], mode: str, inside: Inside) -> Array:
    """[N, C, spatial…] at real coordinates, one array [N, out…] per spatial axis: [N, C, out…].

    What `inside` leaves outside counts as zero.
    """
    dtype = np.result_type(data, coordinates[0]) if data.dtype.kind == "f" else data.dtype
    samples = np.arange(len(data)).reshape(-1, *(1,) * (coordinates[0].ndim - 1))
    total = np.zeros((*coordinates[0].shape, data.shape[1]), dtype)
    for choice in product(*(list(axis_taps(at, mode)) for at in coordinates)):
        weight, valid, indices = np.ones((), np.float64), np.ones((), bool), [samples]
        for (index, factor), size in zip(choice, data.shape[2:], strict=True):
            moved = inside(index, size)
            valid = valid & (moved >= 0) & (moved <= size - 1)
            indices.append(np.clip(moved, 0, size - 1).astype(np.int64))
            weight = weight * factor
        found = data[(indices[0], slice(None), *indices[1:])]
        scaled = found * np.asarray(weight)[..., None] if mode != "nearest" else found
        total += np.where(valid[..., None], scaled, 0).astype(dtype)
    return np.moveaxis(total, -1, 1)


def axis_taps(at: Array, mode: str) -> list[tuple[Array, Array]]:
    """The (index, weight) pairs that interpolate at real coordinates along one axis."""
    if mode == "nearest":
        return [(at, np.ones_like(at))]
    base = np.floor(at)
    part = at - base
    if mode == "linear":
        return [(base, 1 - part), (base + 1, part)]
    return [(base + k, cubic_weights(np.abs(k - part), CUBIC_COEFFICIENT)) for k in range(-1, 3)]


def reflected(at: Array, low: float, high: float) -> Array:
    """Coordinates folded back and forth between two borders."""
    span = high - low
    if span <= 0:
        return np.zeros_like(at)
    phase = np.mod(at - low, 2 * span)
    return low + np.where(phase > span, 2 * span - phase, phase)
