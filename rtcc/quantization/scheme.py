"""What is made of a model: element types, how ranges become scales and zero points, what is chosen by what.

One formula serves all: q = saturate(round(x / scale) + zero point). The forms differ in how the two numbers
follow from a range:

    affine      scale (high - low) / (2^b - 1); the zero point is where zero falls
    symmetric   scale max(-low, high) / (2^(b-1) - 1); the zero point is 0, of unsigned types 2^(b-1)
    linear      q = round(x / S): zero point 0; S = high / (2^b - 1) if nothing is negative, else as symmetric
    normalized  weights only: (w - mean) / deviation · 255: scale deviation / 255, zero point -mean / scale
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput
from rtcc.ir import DType
from rtcc.ir.ops.requantization import quantized

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""A smaller one is denormal, which compiled code takes for zero."""

NORMALIZED_STEPS = 255
"""Steps in a standard deviation of normalised weights: 8 bits after the point, some before it."""


class Scheme(StrEnum):
    """Which tensors become what."""

    INT8 = "int8"
    """Weights and activations of linear layers and of what lies between them; ranges from data."""
    DYNAMIC = "dynamic"
    """Matrix products with 8-bit weights; ranges of activations are measured at run time."""
    WEIGHTS_INT8 = "weights-int8"
    """Weights alone, in 8 bits, a scale per block or channel."""
    WEIGHTS_INT4 = "weights-int4"
    """Weights alone, in 4 bits, a scale per block."""
    FLOAT16 = "float16"
    """Weights stored as float16, computed with as float32."""
    BFLOAT16 = "bfloat16"
    """Weights stored as bfloat16, computed with as float32."""
    HALF = "half"
    """Weights and activations as float16, and computed with as such; what is sensitive stays float32."""


class Calibration(StrEnum):
    """How a range follows from the distribution of a tensor's elements."""

    MIN_MAX = "min-max"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"


class Activations(StrEnum):
    """Element types of activations."""

    U8 = "u8"
    S8 = "s8"
    I16 = "i16"

    @property
    def dtype(self) -> DType:
        """Of the quantised tensor."""
        return {"u8": DType.U8, "s8": DType.I8, "i16": DType.I16}[self.value]


class Form(StrEnum):
    """How scale and zero point follow from a range; see the module's description."""

    AFFINE = "affine"
    SYMMETRIC = "symmetric"
    LINEAR = "linear"
    NORMALIZED = "normalized"


class Placement(StrEnum):
    """Between which operators values are quantised."""

    FUSED = "fused"
    """Where kernels exchange tensors: never between a layer and its activation or residual addition."""
    EVERY = "every"
    """After each layer and addition too, as runtimes want it that match single operators."""


class Equalization(StrEnum):
    """Which activations' channels are brought to like ranges before they are quantised."""

    OFF = "off"
    FOLDED = "folded"
    """Those made by constants that can take the factors."""
    ALL = "all"
    """The others too, by multiplications."""


class Rounding(StrEnum):
    """How weights become integers."""

    NEAREST = "nearest"
    LEAST_SQUARES = "least-squares"
    """So that results of layers move least, on samples."""


_STORED = frozenset({"weights", "per_channel", "keep_float"})

READ: dict[Scheme, frozenset[str]] = {
    Scheme.INT8: _STORED
    | {"calibration", "percentile", "activations", "form", "placement", "products"}
    | {"bias_correction", "equalization", "rounding"},
    Scheme.DYNAMIC: _STORED,
    Scheme.WEIGHTS_INT8: _STORED | {"block"},
    Scheme.WEIGHTS_INT4: _STORED | {"block"},
    Scheme.FLOAT16: frozenset({"keep_float"}),
    Scheme.BFLOAT16: frozenset({"keep_float"}),
    Scheme.HALF: frozenset({"keep_float"}),
}
"""The fields of `Settings`, besides the scheme, that each scheme goes by."""


@dataclass(frozen=True)
class Settings:
    """How to quantise.

    percentile: the share of elements, in per cent, that the range keeps. per_channel: weights have a scale
    per output channel. block: elements of a weight along its summation that share a scale (weights-int8,
    weights-int4), 0 for one scale a channel. keep_float: layers by the name of their ONNX node or output.
    products: quantise matrix products of two activations too. bias_correction: take the mean error of
    layers' results out, which needs data. A field that the scheme does not go by keeps its default:
    InvalidInput `quantize-option` otherwise.
    """

    scheme: Scheme = Scheme.INT8
    calibration: Calibration = Calibration.MSE
    percentile: float = 99.99
    activations: Activations = Activations.U8
    form: Form = Form.AFFINE
    weights: Form = Form.SYMMETRIC
    per_channel: bool = True
    block: int = 32
    placement: Placement = Placement.FUSED
    products: bool = False
    bias_correction: bool = True
    equalization: Equalization = Equalization.FOLDED
    rounding: Rounding = Rounding.NEAREST
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise InvalidInput("quantize-option", f"percentile {self.percentile:g} is not in (50, 100]")
        if self.form is Form.NORMALIZED:
            message = "activations have no normalised form"
            raise InvalidInput("quantize-option", message, hint="affine, symmetric or linear")
        if self.scheme is Scheme.DYNAMIC and self.weights is Form.NORMALIZED:
            message = "normalised weights have 16 bits, and integer matrix products take 8"
            raise InvalidInput(
                "quantize-option", message, hint="--weights symmetric or affine, or --scheme int8"
            )
        if self.block < 0 or self.block == 1:
            raise InvalidInput(
                "quantize-option", f"a block of {self.block} elements: expected 0, or 2 and more"
            )
        self._require_read()

    def _require_read(self) -> None:
        """InvalidInput `quantize-option` for fields that change nothing, by name."""
        changed = [each.name for each in fields(Settings) if getattr(self, each.name) != each.default]
        unread = [name for name in changed if name != "scheme" and name not in READ[self.scheme]]
        if unread:
            message = f"the scheme {self.scheme} does not go by {', '.join(unread)}"
            readers = [str(scheme) for scheme, names in READ.items() if names.issuperset(unread)]
            hint = f"leave {'it' if len(unread) == 1 else 'them'} out"
            if readers:
                hint += f", or take the scheme {' or '.join(readers)}"
            raise InvalidInput("quantize-option", message, hint=hint)
        if "percentile" in changed and self.calibration is not Calibration.PERCENTILE:
            message = f"the calibration {self.calibration} does not go by percentile"
            raise InvalidInput("quantize-option", message, hint="--calibration percentile does")

    @property
    def needs_data(self) -> bool:
        """Whether ranges come from samples."""
        return self.scheme is Scheme.INT8


@dataclass(frozen=True)
class Parameters:
    """What makes integers of real numbers: scales and zero points (one, or one a channel), the type."""

    scale: NDArray[np.float32]
    zero_point: NDArray[Any]
    dtype: DType

    def quantized(self, data: NDArray[Any]) -> NDArray[Any]:
        """Integers of the type; parameters broadcast to the data."""
        zero = self.zero_point.astype(np.int32)
        return quantized(data / self.scale, zero, self.dtype)

    def restored(self, data: NDArray[Any]) -> NDArray[Any]:
        """The real numbers that integers stand for."""
        return (data.astype(np.int32) - self.zero_point.astype(np.int32)).astype(np.float32) * self.scale


def parameters(low: NDArray[Any], high: NDArray[Any], dtype: DType, form: Form) -> Parameters:
    """Scales and zero points for ranges, element by element; a range is widened to hold zero.

    Where a range holds nothing but zero the scale is 1.
    """
    low = np.minimum(np.asarray(low, np.float64), 0.0)
    high = np.maximum(np.asarray(high, np.float64), 0.0)
    smallest, largest = integer_range(dtype)
    if form is Form.LINEAR and smallest == 0 and low.min(initial=0.0) < 0:
        dtype = {DType.U8: DType.I8, DType.U4: DType.I4}[dtype]
        smallest, largest = integer_range(dtype)
    match form:
        case Form.AFFINE:
            scale = _positive((high - low) / (largest - smallest))
            zero = np.clip(np.rint(smallest - low / scale), smallest, largest)
        case Form.SYMMETRIC | Form.LINEAR:
            middle = (smallest + largest + 1) // 2 if form is Form.SYMMETRIC else 0
            scale = _positive(np.maximum(-low, high) / (largest - middle))
            zero = np.full_like(scale, middle)
        case Form.NORMALIZED:
            raise AssertionError("normalised weights follow from their moments, not from a range")
    return Parameters(scale, zero.astype(dtype.numpy), dtype)


def normalized_parameters(mean: NDArray[Any], deviation: NDArray[Any]) -> Parameters:
    """The parameters with which q is round((w - mean) / deviation · 255), in 16 bits."""
    scale = _positive(np.asarray(deviation, np.float64) / NORMALIZED_STEPS)
    limits = integer_range(DType.I16)
    zero = np.clip(np.rint(-np.asarray(mean) / scale), *limits)
    return Parameters(scale, zero.astype(np.int16), DType.I16)


def integer_range(dtype: DType) -> tuple[int, int]:
    """The smallest and largest element of an integer type."""
    bits = dtype.bits
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype.value[0] == "i" else (0, 2**bits - 1)


def _positive(scale: NDArray[Any]) -> NDArray[np.float32]:
    found = np.where(scale == 0, 1.0, np.maximum(scale, SMALLEST_SCALE))
    return np.asarray(found.astype(np.float32))
