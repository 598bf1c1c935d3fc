"""Sliding windows: kernel, strides, dilations and explicit padding of convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from rtcc.errors import Unsupported
from rtcc.ir.dimension import Expression
from rtcc.ir.op import Array
from rtcc.ir.types import Shape


@dataclass(frozen=True)
class Window:
    """The geometry of a sliding window over spatial axes; every field has one entry per axis.

    pads: zeros (or what the operator pads with) before each axis, then after each axis: 2n entries.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """Input elements from a window's first to its last, dilation included."""
        return extents(self.kernel, self.dilations)

    def output_sizes(self, spatial: Shape, *, round_up: bool = False) -> Shape:
        """How many windows fit along each axis.

        round_up (ceil_mode): a last window may reach over the end, if it starts before the padding there.
        """
        count = len(self.kernel)
        pads = [(self.pads[a], self.pads[count + a]) for a in range(count)]
        return tuple(
            _positions(spatial[a], self.extents[a], self.strides[a], pads[a], round_up) for a in range(count)
        )

    def views(self, data: Array, fill: Any, *, round_up: bool = False) -> Array:
        """Every window of `data` [N, C, spatial…] as a view [N, C, windows…, kernel…] of the padded array."""
        count = len(self.kernel)
        sizes = self.output_sizes(data.shape[2:], round_up=round_up)
        widths = [(0, 0), (0, 0)]
        for a in range(count):
            reach = (int(_integer(sizes[a])) - 1) * self.strides[a] + self.extents[a]
            missing = reach - data.shape[2 + a] - self.pads[a]
            widths.append((self.pads[a], max(missing, self.pads[count + a], 0)))
        padded = np.pad(data, widths, constant_values=fill) if any(map(any, widths)) else data
        view = sliding_window_view(padded, self.extents, axis=tuple(range(2, 2 + count)))
        steps = [slice(None, (_integer(n) - 1) * s + 1, s) for n, s in zip(sizes, self.strides, strict=True)]
        taps = [slice(None, None, d) for d in self.dilations]
        return view[(slice(None), slice(None), *steps, *taps)]


def extents(kernel: Sequence[int], dilations: Sequence[int]) -> tuple[int, ...]:
    """Elements from a window's first to its last along each axis."""
    return tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))


def resolved_pads(
    auto_pad: str, spatial: Shape, extents: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> tuple[int, ...]:
    """Explicit pads for ONNX's `auto_pad`: NOTSET keeps `pads` (absent: zeros), VALID is none, SAME_… share.

    SAME_UPPER puts an odd element after, SAME_LOWER before. Unsupported when a symbolic size decides.
    """
    count = len(extents)
    if auto_pad in ("NOTSET", ""):
        return tuple(pads) or (0,) * (2 * count)
    if auto_pad == "VALID":
        return (0,) * (2 * count)
    totals = [_same_total(spatial[a], extents[a], strides[a]) for a in range(count)]
    small = tuple(total // 2 for total in totals)
    large = tuple(total - half for total, half in zip(totals, small, strict=True))
    return (*small, *large) if auto_pad == "SAME_UPPER" else (*large, *small)


def resolved_window(
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...],
    auto_pad: str,
    spatial: Shape,
) -> Window:
    """The window that ONNX attributes describe over an input of these sizes; ValueError if they disagree."""
    count = len(spatial)
    for found, expected in ((kernel, count), (strides, count), (dilations, count), (pads, 2 * count)):
        if len(found) != expected and (found or found is not pads):
            raise ValueError(f"expected {expected} numbers for {count} spatial axes, found {found}")
    explicit = resolved_pads(auto_pad, spatial, extents(kernel, dilations), strides, pads)
    return Window(kernel, strides, dilations, explicit)


def _same_total(size: int | Expression, extent: int, stride: int) -> int:
    if stride == 1:
        return extent - 1
    if isinstance(size, Expression):
        raise Unsupported(
            "symbolic-padding",
            f"auto_pad with stride {stride} pads by an amount that depends on the size {size}",
            hint="bind the symbolic dimensions with --shape or --dim, or export explicit pads",
        )
    return max((-(-size // stride) - 1) * stride + extent - size, 0)


def _positions(
    size: int | Expression, extent: int, stride: int, pads: tuple[int, int], round_up: bool
) -> int | Expression:
    before, after = pads
    room = size + (before + after - extent)
    if isinstance(room, int) and room < 0 and not (round_up and room > -stride):
        raise ValueError(f"a window of {extent} does not fit {size} elements padded by {before} and {after}")
    if not round_up:
        return room // stride + 1
    count = (room + (stride - 1)) // stride + 1
    if isinstance(size, int) and isinstance(count, int):
        return count - 1 if (count - 1) * stride >= size + before else count
    if stride + after > extent:
        raise Unsupported(
            "symbolic-ceil-mode",
            f"whether a last window starts inside depends on the size {size}",
            hint="bind the symbolic dimensions with --shape or --dim",
        )
    return count


def _integer(size: int | Expression) -> int:
    assert isinstance(size, int)
    return size


_COLUMNS_BYTES = 1 << 26
"""How much memory the unfolded input of one step of a convolution may take."""


def convolve(data: Array, weight: Array, window: Window, group: int = 1) -> Array:
    """The convolution of [N, C, spatial…] by [M, C/group, kernel…], as matrix products over unfolded rows.

    Integers are summed in float64, which is exact below 2⁵³; the result keeps that type.
    """
    if data.dtype.kind != "f":
        data, weight = data.astype(np.float64), weight.astype(np.float64)
    dtype = np.result_type(data, weight)
    batch, outputs = data.shape[0], weight.shape[0]
    sizes = tuple(map(_integer, window.output_sizes(data.shape[2:])))
    result = np.zeros((batch, group, outputs // group, *sizes), dtype)
    if not result.size:
        return result.reshape(batch, outputs, *sizes)
    views = window.views(data, 0)
    kernels = weight.reshape(group, outputs // group, -1).astype(dtype, copy=False)
    row_bytes = max(1, views.nbytes // sizes[0])
    step = max(1, _COLUMNS_BYTES // row_bytes)
    count = len(sizes)
    taps_first = (0, 1, *range(2 + count, 2 + 2 * count), *range(2, 2 + count))
    for start in range(0, sizes[0], step):
        part = views[:, :, start : start + step].transpose(taps_first)
        columns = part.reshape(batch, group, kernels.shape[2], -1)
        rows = np.matmul(kernels, columns.astype(dtype, copy=False))
        result[:, :, :, start : start + step] = rows.reshape(*rows.shape[:3], -1, *sizes[1:])
    return result.reshape(batch, outputs, *sizes)


def folded(columns: Array, sizes: tuple[int, ...], window: Window) -> Array:
    """The transpose of `Window.views`: [N, C, kernel…, windows…] summed into [N, C, sizes…]."""
    count = len(sizes)
    positions = columns.shape[2 + count :]
    starts = [max(pad, 0) for pad in window.pads[:count]]
    reach = [(positions[a] - 1) * window.strides[a] + window.extents[a] for a in range(count)]
    canvas = [max(reach[a], starts[a] + sizes[a]) for a in range(count)]
    total = np.zeros((*columns.shape[:2], *canvas), columns.dtype)
    for tap in np.ndindex(*window.kernel):
        firsts = [tap[a] * window.dilations[a] for a in range(count)]
        places = [
            slice(firsts[a], firsts[a] + (positions[a] - 1) * window.strides[a] + 1, window.strides[a])
            for a in range(count)
        ]
        total[(slice(None), slice(None), *places)] += columns[(slice(None), slice(None), *tap)]
    cut = [slice(starts[a], starts[a] + sizes[a]) for a in range(count)]
    return np.ascontiguousarray(total[(slice(None), slice(None), *cut)])


def per_channel(vector: Array, rank: int) -> Array:
    """A vector shaped so that it broadcasts along axis 1 of a tensor of that rank."""
    return vector.reshape(-1, *(1,) * (rank - 2))
