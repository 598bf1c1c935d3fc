"""Resize: separable resampling, each axis by a table of taps (family `nn`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import overload

import numpy as np

from rtcc.ir.dimension import Expression, upper_bound
from rtcc.ir.op import Array, attribute, ints, operand, optional_operand
from rtcc.ir.ops.axes import normal_axes
from rtcc.ir.ops.computed import ComputedOp, saturated
from rtcc.ir.ops.nn import static_sizes
from rtcc.ir.roles import Role
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
    scale: Fraction
    start: Fraction
    end: Fraction

    @property
    def is_identity(self) -> bool:
        """Whether each result is the element at its place, in all modes."""
        return self.size == self.result and (self.scale, self.start, self.end) == (1, 0, 1)


class Resize(ComputedOp):
    """Resampling by `scales` or to `sizes` (ONNX Resize); integers are truncated and saturate."""

    name = "nn.resize"
    role = Role.COMPOSITE
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
            if known is None or None in known.tolist():
                known = self.static_array(self.scales, "the scale")
            factors = [float(factor) for factor in known.reshape(-1).tolist()]
            self._check_count("scales", len(factors), axes)
            chosen = tuple(
                scaled_size(shape[axis], factor) for axis, factor in zip(axes, factors, strict=True)
            )
        else:
            raise self.fail("needs scales or sizes")
        for axis, size in zip(axes, chosen, strict=True):
            if (shape[axis] == 0 and size != 0) or upper_bound(size) < 0:
                raise self.fail(f"cannot resize axis {axis} from {shape[axis]} to {size} elements")
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
        return normal_axes(self, self.axes or range(rank), rank)

    def geometry(
        self, shape: tuple[int, ...], roi: Array | None, scales: Array | None, sizes: Array | None
    ) -> list[Axis]:
        """The axes that change (all of them for tf_crop_and_resize), for the operands' arrays."""
        axes = self.resized_axes(len(shape))
        before = [shape[axis] for axis in axes]
        if sizes is not None and sizes.size:
            wanted = tuple(map(int, sizes))
            after = static_sizes(self, self._kept_aspect(before, wanted))
            ratio = self._common_scale(before, wanted)
            factors = [ratio or Fraction(new, max(old, 1)) for old, new in zip(before, after, strict=True)]
        else:
            assert scales is not None
            factors = [simplest_fraction(float(factor)) for factor in scales]
            after = [scaled_size(old, float(factor)) for old, factor in zip(before, scales, strict=True)]
        crops = self.coordinate_transformation_mode == "tf_crop_and_resize" and roi is not None
        region = [0] * len(axes) + [1] * len(axes) if roi is None or not crops else roi.tolist()
        bounds = [simplest_fraction(float(bound)) for bound in region]
        places = [
            Axis(axis, before[i], after[i], factors[i], bounds[i], bounds[len(axes) + i])
            for i, axis in enumerate(axes)
        ]
        return [p for p in places if crops or not p.is_identity]

    def taps(self, place: Axis) -> Taps:
        """Which elements make each result element along one axis, with their weights (float64)."""
        at = self._coordinates(place)
        outside = np.zeros(place.result, bool)
        if self.coordinate_transformation_mode == "tf_crop_and_resize":
            outside = (at < 0) | (at > place.size - 1)
        if self.mode == "nearest":
            nearest = self._nearest(at)[:, None]
            return Taps(np.clip(nearest, 0, place.size - 1), np.ones_like(at)[:, None], outside)
        shrink = min(float(place.scale), 1.0) if self.antialias else 1.0
        reach = 1 if self.mode == "linear" else 2
        first = floor(-reach / shrink) + 1
        offsets = np.arange(first, 2 - first)
        base = np.floor(at)
        distance = np.abs(offsets[None, :] - (at - base)[:, None]) * shrink
        if self.mode == "linear":
            weights = np.maximum(0, 1 - distance)
        else:
            weights = cubic_weights(distance, self.cubic_coeff_a)
        indices = base[:, None].astype(np.int64) + offsets
        if self.exclude_outside:
            weights = np.where((indices < 0) | (indices >= place.size), 0, weights)
        if self.exclude_outside or self.antialias:
            weights = weights / weights.sum(axis=1, keepdims=True)
        return Taps(np.clip(indices, 0, place.size - 1), weights, outside)

    def _coordinates(self, place: Axis) -> Array:
        """Where each result element lies among the input's elements; exact until rounded to float64."""
        if not place.result:
            return np.zeros(0)
        offset, step = self._mapping(place)
        return np.array([float(offset + x * step) for x in range(place.result)], np.float64)

    def _mapping(self, place: Axis) -> tuple[Fraction, Fraction]:
        """The (offset, step) of result element x: it lies at offset + x · step."""
        last, half, step = place.size - 1, Fraction(1, 2), 1 / place.scale
        half_pixel = half * step - half
        match self.coordinate_transformation_mode:
            case "half_pixel":
                return half_pixel, step
            case "half_pixel_symmetric":
                return half_pixel + half * (place.size - place.result * step), step
            case "pytorch_half_pixel":
                return half_pixel if place.result > 1 else Fraction(0), step
            case "align_corners":
                # ONNX measures the result before it is rounded to whole elements
                extent = place.scale * place.size - 1
                return Fraction(0), last / extent if place.result > 1 else Fraction(0)
            case "asymmetric":
                return Fraction(0), step
            case "tf_crop_and_resize":
                if place.result > 1:
                    return place.start * last, (place.end - place.start) * last / (place.result - 1)
                return half * (place.start + place.end) * last, Fraction(0)
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

    def _common_scale(self, before: Sequence[int], wanted: tuple[int, ...]) -> Fraction | None:
        """The one scale of all axes that keeps the aspect ratio; None where axes stretch."""
        if self.keep_aspect_ratio_policy == "stretch":
            return None
        ratios = [Fraction(new, old) for old, new in zip(before, wanted, strict=True)]
        return min(ratios) if self.keep_aspect_ratio_policy == "not_larger" else max(ratios)

    def _kept_aspect(self, before: Sequence[int | Expression], wanted: Shape) -> Shape:
        """The result's sizes under the aspect ratio policy."""
        if self.keep_aspect_ratio_policy == "stretch":
            return wanted
        old, new = static_sizes(self, tuple(before)), static_sizes(self, wanted)
        scale = self._common_scale(old, new)
        assert scale is not None
        return tuple(floor(scale * size + Fraction(1, 2)) for size in old)

    def _check_count(self, what: str, found: int, axes: tuple[int, ...]) -> None:
        if found != len(axes):
            raise self.fail(f"expected {len(axes)} {what}, one for each of the axes {axes}, found {found}")


@overload
def scaled_size(size: int, scale: float) -> int: ...
@overload
def scaled_size(size: int | Expression, scale: float) -> int | Expression: ...
def scaled_size(size: int | Expression, scale: float) -> int | Expression:
    """floor(size · scale): in float32 as ONNX says, for symbolic sizes by way of the scale's fraction."""
    if isinstance(size, int):
        return floor(np.float32(size) * np.float32(scale))
    exact = simplest_fraction(scale)
    return (size * exact.numerator) // exact.denominator


def simplest_fraction(value: float) -> Fraction:
    """A fraction with a small denominator that rounds to the same float32: 0.6 is 3/5."""
    for digits in range(8):
        found = Fraction(value).limit_denominator(10**digits)
        if np.float32(float(found)) == np.float32(value):
            return found
    return Fraction(value)


def cubic_weights(distance: Array, a: float) -> Array:
    """The cubic convolution kernel with coefficient a at a distance ≥ 0 (Keys 1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
