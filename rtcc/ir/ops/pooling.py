"""Pools over sliding windows and over whole channels (family `nn`)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar

import numpy as np

from rtcc.ir.dimension import upper_bound
from rtcc.ir.dtype import DType, Kind
from rtcc.ir.op import Array, AttributeSlot, attribute, ints, operand, optional_operand, required_attribute
from rtcc.ir.ops.axes import integers
from rtcc.ir.ops.computed import FLOATS, NUMBERS, ComputedOp, integer_limits
from rtcc.ir.ops.window import Window, folded, resolved_window
from rtcc.ir.roles import Role
from rtcc.ir.types import Shape, TensorType


class Pool(ComputedOp):
    """What the pools over windows share: the attributes and the window they describe."""

    role = Role.ANCHOR
    kinds: ClassVar[frozenset[Kind]] = FLOATS
    data = operand()
    auto_pad = attribute("NOTSET")
    ceil_mode = attribute(0)
    dilations = ints()
    kernel_shape: AttributeSlot[tuple[int, ...]] = required_attribute(tuple)
    pads = ints()
    strides = ints()

    def window(self, spatial: Shape) -> Window:
        """The window over an input with these spatial sizes."""
        count, kernel = len(spatial), tuple(self.kernel_shape)
        strides, dilations = self.strides or (1,) * count, self.dilations or (1,) * count
        return resolved_window(kernel, strides, dilations, self.pads, self.auto_pad, spatial)

    def geometry(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Explicit (pads, strides, dilations), auto_pad resolved."""
        window = self.window(self.data.type.shape[2:])
        return window.pads, window.strides, window.dilations

    @property
    def rounds_up(self) -> bool:
        """Whether a last window may reach over the end; auto_pad leaves no such window."""
        return bool(self.ceil_mode) and self.auto_pad in ("NOTSET", "")

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, self.kinds, "the data")
        if self.data.type.rank < 3:
            raise self.fail(f"needs [N, C, spatial…], found {self.data.type}")
        spatial = self.data.type.shape[2:]
        sizes = self.window(spatial).output_sizes(spatial, round_up=self.rounds_up)
        return (self.data.type.with_shape((*self.data.type.shape[:2], *sizes)),)

    def views(self, data: Array, fill: Any) -> Array:
        """The windows of the data, padded by `fill`: [N, C, windows…, kernel…]."""
        return self.window(data.shape[2:]).views(data, fill, round_up=self.rounds_up)

    def operations(self) -> int:
        return self.type.elements * prod(self.kernel_shape)

    @staticmethod
    def kernel_axes(views: Array) -> tuple[int, ...]:
        """The axes of `views` that run over the kernel."""
        count = (views.ndim - 2) // 2
        return tuple(range(2 + count, 2 + 2 * count))


class MaxPool(Pool):
    """The largest element of each window, NaN where any is NaN; optionally where it stands (ONNX MaxPool).

    The indices (i64) count in the whole tensor [N, C, spatial…], row-major, or with `storage_order` 1
    with the spatial axes in column-major order.
    """

    name = "nn.max_pool"
    kinds = NUMBERS
    storage_order = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        (result,) = super().infer()
        return result, result.with_dtype(DType.I64)

    def compute(self, data: Array) -> Any:
        lowest = -np.inf if data.dtype.kind == "f" else integer_limits(data.dtype)[0]
        views = self.views(data, lowest)
        values = views.max(axis=self.kernel_axes(views))
        return values if len(self.results) < 2 else (values, self._indices(data.shape, views))

    def _indices(self, shape: tuple[int, ...], views: Array) -> Array:
        window = self.window(shape[2:])
        count = len(window.kernel)
        flat: Array = views.reshape(*views.shape[: 2 + count], prod(window.kernel)).argmax(axis=-1)
        taps: tuple[Array, ...] = np.unravel_index(flat, window.kernel)
        places: Array = np.indices(flat.shape)
        spatial: list[Array] = []
        for a in range(count):
            at = places[2 + a] * window.strides[a] + taps[a] * window.dilations[a] - window.pads[a]
            spatial.append(np.clip(at, 0, shape[2 + a] - 1))
        inner: Array = np.ravel_multi_index(
            tuple(spatial), shape[2:], order="F" if self.storage_order else "C"
        )
        return (places[0] * shape[1] + places[1]) * prod(shape[2:]) + inner


class AveragePool(Pool):
    """The mean of each window, of its elements inside the data, or also of the declared padding's zeros.

    The sum is taken first, then divided by the count (ONNX AveragePool).
    """

    name = "nn.average_pool"
    count_include_pad = attribute(0)

    def compute(self, data: Array) -> Array:
        views = self.views(data, 0)
        total = views.sum(axis=self.kernel_axes(views), dtype=data.dtype)
        return total / self.counts(data.shape).astype(total.dtype)

    def counts(self, shape: tuple[int, ...]) -> Array:
        """How many elements each window's mean is of: [1, 1, windows…]."""
        return self.reached(shape, padding=bool(self.count_include_pad))

    def reached(self, shape: tuple[int, ...], *, padding: bool) -> Array:
        """How many elements each window has in the data, or in data and declared padding."""
        window, spatial = self.window(shape[2:]), shape[2:]
        count = len(spatial)
        result = np.ones((1, 1), np.int64)
        for a, size in enumerate(window.output_sizes(spatial, round_up=self.rounds_up)):
            starts = np.arange(upper_bound(size)) * window.strides[a] - window.pads[a]
            taps = starts[:, None] + np.arange(window.kernel[a]) * window.dilations[a]
            before, after = (window.pads[a], window.pads[count + a]) if padding else (0, 0)
            inside = ((taps >= -before) & (taps < spatial[a] + after)).sum(axis=1)
            result = result[..., None] * inside
        return result


class LpPool(Pool):
    """The p-norm of each window (ONNX LpPool)."""

    name = "nn.lp_pool"
    p = attribute(2)

    def compute(self, data: Array) -> Array:
        views = self.views(data, 0)
        return norm(views, self.p, self.kernel_axes(views))


class MaxUnpool(ComputedOp):
    """The inverse of MaxPool: values where its indices say, zeros elsewhere (ONNX MaxUnpool)."""

    name = "nn.max_unpool"
    role = Role.COMPOSITE
    data = operand()
    indices = operand()
    output_shape = optional_operand(static=True)
    kernel_shape: AttributeSlot[tuple[int, ...]] = required_attribute(tuple)
    pads = ints()
    strides = ints()

    def infer(self) -> tuple[TensorType, ...]:
        data = self.data.type
        if self.output_shape is not None:
            return (data.with_shape(integers(self, self.output_shape, "the output shape")),)
        return (data.with_shape((*data.shape[:2], *self._natural(data.shape[2:]))),)

    def _natural(self, spatial: Shape) -> Shape:
        """The spatial sizes of which MaxPool makes these."""
        count = len(spatial)
        pads, strides = self.pads or (0,) * (2 * count), self.strides or (1,) * count
        rests = [self.kernel_shape[a] - pads[a] - pads[count + a] for a in range(count)]
        return tuple((spatial[a] - 1) * strides[a] + rests[a] for a in range(count))

    def compute(self, data: Array, indices: Array, output_shape: Array | None = None) -> Array:
        natural = (*data.shape[:2], *(n for n in self._natural(data.shape[2:]) if isinstance(n, int)))
        sizes = natural if output_shape is None else tuple(map(int, output_shape))
        places = np.unravel_index(indices.reshape(-1), natural)
        result = np.zeros(sizes, data.dtype)
        result[places] = data.reshape(-1)
        return result


class Col2Im(ComputedOp):
    """Columns [N, C·block, positions] summed into an image [N, C, image_shape…] (ONNX Col2Im)."""

    name = "nn.col2_im"
    role = Role.OPAQUE
    data = operand()
    image_shape = operand(static=True)
    block_shape = operand(static=True)
    dilations = ints()
    pads = ints()
    strides = ints()

    def infer(self) -> tuple[TensorType, ...]:
        data = self.data.type
        image = integers(self, self.image_shape, "the image shape")
        block = integers(self, self.block_shape, "the block shape")
        positions = prod(self._window(image, block).output_sizes(image))
        if data.rank != 3 or (isinstance(data.shape[2], int) and data.shape[2] != positions):
            raise self.fail(f"expected [N, columns, {positions} positions], found {data}")
        if isinstance(data.shape[1], int) and data.shape[1] % prod(block):
            raise self.fail(f"{data.shape[1]} columns do not split into blocks of {prod(block)}")
        return (data.with_shape((data.shape[0], data.shape[1] // prod(block), *image)),)

    def compute(self, data: Array, image_shape: Array, block_shape: Array) -> Array:
        image, block = tuple(map(int, image_shape)), tuple(map(int, block_shape))
        window = self._window(image, block)
        positions = [size for size in window.output_sizes(image) if isinstance(size, int)]
        columns = data.reshape(data.shape[0], -1, *block, *positions)
        return folded(columns, image, window)

    def _window(self, image: tuple[int, ...], block: tuple[int, ...]) -> Window:
        ones = (1,) * len(image)
        strides, dilations = self.strides or ones, self.dilations or ones
        return resolved_window(block, strides, dilations, self.pads, "NOTSET", image)


class GlobalPool(ComputedOp):
    """One value per channel of [N, C, spatial…], as [N, C, 1…]; subclasses give `total`."""

    role = Role.ANCHOR
    kinds: ClassVar[frozenset[Kind]] = FLOATS
    total: ClassVar[Callable[..., Any]]
    data = operand()

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, self.kinds, "the data")
        data = self.data.type
        if data.rank < 2:
            raise self.fail(f"needs [N, C, spatial…], found {data}")
        return (data.with_shape((*data.shape[:2], *(1 for _ in data.shape[2:]))),)

    def compute(self, data: Array) -> Array:
        return type(self).total(data, axis=tuple(range(2, data.ndim)), keepdims=True)


class GlobalAveragePool(GlobalPool):
    """The mean of each channel (ONNX GlobalAveragePool)."""

    name = "nn.global_average_pool"
    total = staticmethod(np.mean)


class GlobalMaxPool(GlobalPool):
    """The largest element of each channel; NaN where any is NaN (ONNX GlobalMaxPool)."""

    name = "nn.global_max_pool"
    kinds = NUMBERS
    total = staticmethod(np.max)


class GlobalLpPool(GlobalPool):
    """The p-norm of each channel (ONNX GlobalLpPool)."""

    name = "nn.global_lp_pool"
    p = attribute(2)

    def compute(self, data: Array) -> Array:
        return norm(data, self.p, tuple(range(2, data.ndim)), keepdims=True)


def norm(data: Array, p: int, axes: tuple[int, ...], *, keepdims: bool = False) -> Array:
    """(Σ|x|ᵖ)^(1/p) over some axes, in the array's type."""
    if p == 1:
        return np.sum(np.abs(data), axis=axes, keepdims=keepdims)
    if p == 2:
        return np.sqrt(np.sum(data * data, axis=axes, keepdims=keepdims))
    return np.sum(np.abs(data) ** p, axis=axes, keepdims=keepdims) ** (1 / p)
