"""Resize: separable resampling, each axis by a table of taps (family `nn`)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np

from rtcc.errors import Unsupported
from rtcc.ir.dimension import Expression
from rtcc.ir.op import Array, attribute, ints, operand, optional_operand
from rtcc.ir.ops.computed import ComputedOp, saturated
from rtcc.ir.shape_value import known_shape_value, known_value
from rtcc.ir.types import Shape, TensorType


@dataclass(frozen=True)
class Taps:
    """Result element i along one axis is Σ weights[i, t] · data[indices[i, t]], or extrapolated (outside)."""

    indices: Array
    weights: Array
    outside: Array


@dataclass(frozen=True)
class Axis:
    """One resized axis: its sizes, its scale, and its region of interest (fractions of the input)."""

    axis: int
    size: int
    result: int
    scale: float
    start: float = 0.0
    end: float = 1.0


class Resize(ComputedOp):
    """Resampling by `scales` or to `sizes` (ONNX Resize); integers are truncated and saturate."""

    name = "nn.resize"
    data = operand()
    roi = optional_operand(static=True)
    scales = optional_operand(static=True)
    sizes = optional_operand(static=True)
    antialias = attribute(0)
    axes = ints()
    coordinate_transformation_mode = attribute("half_pixel")
    cubic_coeff_a = attribute(-0.75)
    exclude_outside = attribute(0)
    extrapolation_value = attribute(0.0)
    keep_aspect_ratio_policy = attribute("stretch")
    mode = attribute("nearest")
    nearest_mode = attribute("round_prefer_floor")

    def infer(self) -> tuple[TensorType, ...]:
        shape = list(self.data.type.shape)
        axes = self.resized_axes(len(shape))
        if self.sizes is not None:
            wanted = known_shape_value(self.sizes)
            if wanted is None:
                self.static_array(self.sizes, "the result's size")
                wanted = ()
            self._check_count("sizes", len(wanted), axes)
            chosen = self._kept_aspect([shape[axis] for axis in axes], wanted)
        elif self.scales is not None:
            known = known_value(self.scales)
            factors = self.static_array(self.scales, "the scale") if known is None else known
            self._check_count("scales", factors.size, axes)
            chosen = tuple(
                scaled_size(shape[axis], float(f)) for axis, f in zip(axes, factors.flat, strict=True)
            )
        else:
            raise self.fail("needs scales or sizes")
        for axis, size in zip(axes, chosen, strict=True):
            shape[axis] = size
        return (self.data.type.with_shape(shape),)

    def compute(
        self, data: Array, roi: Array | None = None, scales: Array | None = None, sizes: Array | None = None
    ) -> Array:
        result, outside = data, np.zeros((1,) * data.ndim, bool)
        for place in self.geometry(data.shape, roi, scales, sizes):
            taps = self.taps(place)
            lined_up = [-1 if a == place.axis else 1 for a in range(data.ndim)]
            outside = outside | taps.outside.reshape(lined_up)
            if self.mode == "nearest":
                result = np.take(result, taps.indices[:, 0], axis=place.axis)
                continue
            wide = result if result.dtype.kind == "f" else result.astype(np.float64)
            weights = taps.weights.astype(wide.dtype)
            result = sum(
                (np.take(wide, taps.indices[:, t], axis=place.axis) * weights[:, t].reshape(lined_up)
                 for t in range(weights.shape[1])),
                start=np.zeros((), wide.dtype),
            )  # fmt: skip
        if outside.any():
            result = np.where(outside, self.extrapolation_value, result)
        return result if result.dtype.kind == data.dtype.kind else saturated(result, data.dtype)

    def resized_axes(self, rank: int) -> tuple[int, ...]:
        """The axes that scales, sizes and roi speak of."""
        return (
            tuple(self.normalized_axis(axis, rank) for axis in self.axes) if self.axes else tuple(range(rank))
        )

    def geometry(
        self, shape: tuple[int, ...], roi: Array | None, scales: Array | None, sizes: Array | None
    ) -> list[Axis]:
        """The axes that change (all of them for tf_crop_and_resize), for the operands' arrays."""
        axes = self.resized_axes(len(shape))
        before = [shape[axis] for axis in axes]
        if sizes is not None and sizes.size:
            after = [
                int(size)
                for size in self._kept_aspect(before, tuple(map(int, sizes)))
                if isinstance(size, int)
            ]
            ratio = self._common_scale(before, tuple(map(int, sizes)))
            factors = [ratio or new / max(old, 1) for old, new in zip(before, after, strict=True)]
        else:
            assert scales is not None
            factors = [float(factor) for factor in scales]
            after = [floor(Fraction(factor) * old) for old, factor in zip(before, factors, strict=True)]
        crops = self.coordinate_transformation_mode == "tf_crop_and_resize" and roi is not None
        region = np.asarray(roi, np.float64) if crops else np.repeat([0.0, 1.0], len(axes))
        places = [
            Axis(axis, before[i], after[i], factors[i], float(region[i]), float(region[len(axes) + i]))
            for i, axis in enumerate(axes)
        ]
        return [p for p in places if crops or p.size != p.result or p.scale != 1]

    def taps(self, place: Axis) -> Taps:
        """Which elements make each result element along one axis, with their weights (float64)."""
        at = self._coordinates(place)
        outside = np.zeros(place.result, bool)
        if self.coordinate_transformation_mode == "tf_crop_and_resize":
            outside = (at < 0) | (at > place.size - 1)
        if self.mode == "nearest":
            nearest = self._nearest(at)[:, None]
            return Taps(np.clip(nearest, 0, place.size - 1), np.ones_like(at)[:, None], outside)
        shrink = min(place.scale, 1.0) if self.antialias else 1.0
        reach = 1 if self.mode == "linear" else 2
        first = floor(-reach / shrink) + 1
        offsets = np.arange(first, 2 * reach - first - reach + 1)
        base = np.floor(at)
        distance = np.abs(offsets[None, :] - (at - base)[:, None]) * shrink
        weights = (
            np.maximum(0, 1 - distance)
            if self.mode == "linear"
            else cubic_weights(distance, self.cubic_coeff_a)
        )
        indices = base[:, None].astype(np.int64) + offsets
        if self.exclude_outside:
            weights = np.where((indices < 0) | (indices >= place.size), 0, weights)
        if self.exclude_outside or self.antialias:
            weights = weights / weights.sum(axis=1, keepdims=True)
        return Taps(np.clip(indices, 0, place.size - 1), weights, outside)

    def _coordinates(self, place: Axis) -> Array:
        """Where each result element lies among the input's elements, as a real number."""
        x = np.arange(place.result, dtype=np.float64)
        half_pixel = (x + 0.5) / place.scale - 0.5
        last, new_last = place.size - 1, place.result - 1
        match self.coordinate_transformation_mode:
            case "half_pixel":
                return half_pixel
            case "half_pixel_symmetric":
                adjustment = place.result / (place.scale * place.size)
                return half_pixel + place.size / 2 * (1 - adjustment)
            case "pytorch_half_pixel":
                return half_pixel if place.result > 1 else np.zeros_like(x)
            case "align_corners":
                # ONNX measures the result before it is rounded to whole elements
                exact_last = place.scale * place.size - 1
                return x * last / exact_last if new_last else np.zeros_like(x)
            case "asymmetric":
                return x / place.scale
            case "tf_crop_and_resize":
                if new_last:
                    return place.start * last + x * (place.end - place.start) * last / new_last
                return np.full_like(x, 0.5 * (place.start + place.end) * last)
            case other:
                raise self.fail(f"unknown coordinate_transformation_mode {other!r}")

    def _nearest(self, at: Array) -> Array:
        match self.nearest_mode:
            case "round_prefer_floor":
                found = np.ceil(at - 0.5)
            case "round_prefer_ceil":
                found = np.floor(at + 0.5)
            case "floor":
                found = np.floor(at)
            case "ceil":
                found = np.ceil(at)
            case other:
                raise self.fail(f"unknown nearest_mode {other!r}")
        return found.astype(np.int64)

    def _common_scale(self, before: list[int], wanted: tuple[int, ...]) -> float | None:
        """The one scale of all axes that keeps the aspect ratio; None where axes stretch."""
        if self.keep_aspect_ratio_policy == "stretch":
            return None
        ratios = [new / old for old, new in zip(before, wanted, strict=True)]
        return min(ratios) if self.keep_aspect_ratio_policy == "not_larger" else max(ratios)

    def _kept_aspect(self, before: list[int] | list[int | Expression], wanted: Shape) -> Shape:
        """The result's sizes under the aspect ratio policy."""
        if self.keep_aspect_ratio_policy == "stretch":
            return wanted
        old = [size for size in before if isinstance(size, int)]
        new = tuple(size for size in wanted if isinstance(size, int))
        if len(old) < len(before) or len(new) < len(wanted):
            raise Unsupported(
                "symbolic-dimension",
                "nn.resize that keeps the aspect ratio needs known sizes",
                where=str(self.location) or None,
                hint="bind the symbolic dimensions with --shape or --dim",
            )
        scale = self._common_scale(old, new)
        assert scale is not None
        return tuple(floor(scale * size + 0.5) for size in old)

    def _check_count(self, what: str, found: int, axes: tuple[int, ...]) -> None:
        if found != len(axes):
            raise self.fail(f"expected {len(axes)} {what}, one for each of the axes {axes}, found {found}")


def scaled_size(size: int | Expression, scale: float) -> int | Expression:
    """floor(size · scale); for symbolic sizes by way of the scale's exact fraction."""
    exact = Fraction(scale)
    if isinstance(size, int):
        return floor(exact * size)
    if scale == ceil(scale):
        return size * int(scale)
    return (size * exact.numerator) // exact.denominator


def cubic_weights(distance: Array, a: float) -> Array:
    """The cubic convolution kernel with coefficient a at a distance ≥ 0 (Keys 1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
