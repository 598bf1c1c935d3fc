"""Pools over regions of interest (family `nn`)."""

from __future__ import annotations

from math import ceil

import numpy as np

from rtcc.ir.op import Array, AttributeSlot, attribute, operand, required_attribute
from rtcc.ir.ops.axes import agree
from rtcc.ir.ops.computed import FLOATS, ComputedOp
from rtcc.ir.roles import Indexes, Role
from rtcc.ir.types import TensorType


class RoiAlign(ComputedOp):
    """Means (or extremes) of bilinear samples in a grid of bins over each region (ONNX RoiAlign).

    rois are (x1, y1, x2, y2) in the coordinates of the unscaled image. In mode max a sample is the
    largest of its four weighted neighbours, as ONNX defines it.
    """

    name = "nn.roi_align"
    role = Role.OPAQUE
    data = operand()
    rois = operand()
    batch_indices = operand(indexes=Indexes.FIRST_AXIS)
    coordinate_transformation_mode = attribute("half_pixel")
    mode = attribute("avg")
    output_height = attribute(1)
    output_width = attribute(1)
    sampling_ratio = attribute(0)
    spatial_scale = attribute(1.0)

    def infer(self) -> tuple[TensorType, ...]:
        self.require(self.data, FLOATS, "the data")
        data, rois = self.data.type, self.rois.type
        if data.rank != 4 or rois.rank != 2 or rois.shape[1] != 4:
            raise self.fail(f"needs data [N, C, H, W] and rois [R, 4], found {data} and {rois}")
        if not agree(self.batch_indices.type.shape, rois.shape[:1]):
            raise self.fail(f"needs a batch index for each of {rois}, found {self.batch_indices.type}")
        return (data.with_shape((rois.shape[0], data.shape[1], self.output_height, self.output_width)),)

    def compute(self, data: Array, rois: Array, batch_indices: Array) -> Array:
        shape = (len(rois), data.shape[1], self.output_height, self.output_width)
        result = np.zeros(shape, data.dtype)
        for i, (roi, batch) in enumerate(zip(rois, batch_indices, strict=True)):
            result[i] = self._one(data[batch], roi)
        return result

    def _one(self, image: Array, roi: Array) -> Array:
        half_pixel = self.coordinate_transformation_mode == "half_pixel"
        left, top, right, bottom = (roi * self.spatial_scale - (0.5 if half_pixel else 0)).tolist()
        height, width = bottom - top, right - left
        if not half_pixel:
            height, width = max(height, 1.0), max(width, 1.0)
        rows = self._axis(top, height, self.output_height, image.shape[1])
        columns = self._axis(left, width, self.output_width, image.shape[2])
        products: list[Array] = []
        for row, row_weight in rows:
            for column, column_weight in columns:
                weight = row_weight[:, None] * column_weight[None, :]
                products.append(image[:, row[:, None], column[None, :]] * weight)
        per_bin = columns[0][0].size // self.output_width
        samples = (image.shape[0], self.output_height, -1, self.output_width, per_bin)
        if self.mode == "max":
            return np.maximum.reduce(products).reshape(samples).max(axis=(2, 4))
        return sum(products[1:], start=products[0]).reshape(samples).mean(axis=(2, 4))

    def _axis(self, start: float, extent: float, bins: int, size: int) -> list[tuple[Array, Array]]:
        """The two (index, weight) pairs of each sample along one axis; weights are 0 far outside."""
        per_bin = self.sampling_ratio or max(ceil(extent / bins), 1)
        at = start + (np.arange(bins * per_bin) + 0.5) * (extent / bins / per_bin)
        far = (at < -1) | (at > size)
        at = np.clip(at, 0, size - 1)
        low = np.floor(at).astype(np.int64)
        high, part = np.minimum(low + 1, size - 1), at - low
        return [(low, np.where(far, 0, 1 - part)), (high, np.where(far, 0, part))]


class MaxRoiPool(ComputedOp):
    """The largest element of each bin of each region; an empty bin gives 0 (ONNX MaxRoiPool).

    rois are (sample, x1, y1, x2, y2); corners are rounded to elements after scaling, both included.
    """

    name = "nn.max_roi_pool"
    data = operand()
    rois = operand()
    pooled_shape: AttributeSlot[tuple[int, ...]] = required_attribute(tuple)
    spatial_scale = attribute(1.0)

    def infer(self) -> tuple[TensorType, ...]:
        data, rois = self.data.type, self.rois.type
        if data.rank != 4 or rois.rank != 2 or rois.shape[1] != 5:
            raise self.fail(f"needs data [N, C, H, W] and rois [R, 5], found {data} and {rois}")
        return (data.with_shape((rois.shape[0], data.shape[1], *self.pooled_shape)),)

    def compute(self, data: Array, rois: Array) -> Array:
        rows, columns = self.pooled_shape
        result = np.zeros((len(rois), data.shape[1], rows, columns), data.dtype)
        for i, roi in enumerate(rois):
            left, top, right, bottom = (int(n) for n in np.floor(roi[1:] * self.spatial_scale + 0.5))
            vertical = _bins(top, bottom, rows, data.shape[2])
            horizontal = _bins(left, right, columns, data.shape[3])
            for y, (y0, y1) in enumerate(vertical):
                for x, (x0, x1) in enumerate(horizontal):
                    if y0 < y1 and x0 < x1:
                        result[i, :, y, x] = data[int(roi[0]), :, y0:y1, x0:x1].max(axis=(1, 2))
        return result


def _bins(first: int, last: int, count: int, size: int) -> list[tuple[int, int]]:
    extent = max(last - first + 1, 1)
    edges = [(first + i * extent // count, first - (-(i + 1) * extent // count)) for i in range(count)]
    return [(min(max(low, 0), size), min(max(high, 0), size)) for low, high in edges]
