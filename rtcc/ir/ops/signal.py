"""Spectra and windows: Fourier transforms, short-time transforms, window functions, mel weights.

The last axis of a signal or spectrum holds the real part, or real and imaginary part.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from rtcc.ir.dimension import Expression, upper_bound
from rtcc.ir.dtype import DType
from rtcc.ir.op import Array, Op, attribute, operand, optional_operand
from rtcc.ir.ops.axes import at, counting, fresh_size, integers, normal_axis
from rtcc.ir.roles import Role
from rtcc.ir.shape_value import known_shape_value
from rtcc.ir.types import TensorType
from rtcc.ir.value import Value


def _complex(signal: Array) -> Array:
    """The signal without its last axis, complex where that holds two parts."""
    return signal[..., 0] if signal.shape[-1] == 1 else signal[..., 0] + 1j * signal[..., 1]


def _parts(spectrum: Array, dtype: np.dtype[np.generic]) -> Array:
    """Real and imaginary part along a new last axis."""
    return np.stack([np.real(spectrum), np.imag(spectrum)], -1).astype(dtype)


def _first(array: Array | None) -> int | None:
    return None if array is None else int(array.reshape(-1)[0])


def _known_size(op: Op, value: Value, axis: int) -> int | Expression:
    """The size that a scalar operand gives, a fresh symbol where only the data tell."""
    known = known_shape_value(value)
    return known[0] if known else fresh_size(op, axis=axis)


class DFT(Op):
    """Discrete Fourier transform along an axis (ONNX DFT); the inverse one divides by the length.

    The signal is cut, or filled with zeros, to `dft_length`. onesided: a real signal's first half of the
    spectrum; with inverse, the real signal (last axis of size 1) of such a half.
    """

    name = "tensor.dft"
    role = Role.COMPOSITE
    data = operand()
    dft_length = optional_operand(static=True)
    axis = optional_operand(static=True)
    inverse = attribute(0)
    onesided = attribute(0)

    def infer(self) -> tuple[TensorType, ...]:
        shape = list(self.data.type.shape)
        axis = self._axis(len(shape), None if self.axis is None else integers(self, self.axis, "axis")[0])
        if self.dft_length is not None:
            length = _known_size(self, self.dft_length, axis)
        else:
            length = (shape[axis] - 1) * 2 if self.inverse and self.onesided else shape[axis]
        halved = self.onesided and not self.inverse
        shape[axis] = length // 2 + 1 if halved else length
        shape[-1] = 1 if self.inverse and self.onesided else 2
        return (self.data.type.with_shape(shape),)

    def _axis(self, rank: int, axis: int | None) -> int:
        normal = normal_axis(self, -2 if axis is None else axis, rank)
        if normal == rank - 1:
            raise self.fail("the last axis holds the parts of complex numbers and cannot be transformed")
        return normal

    def evaluate(self, *arrays: Array | None) -> Array:
        data = np.asarray(arrays[0])
        axis, length = self._axis(data.ndim, _first(at(arrays, 2))), _first(at(arrays, 1))
        if self.inverse and self.onesided:
            return np.fft.irfft(_complex(data), length, axis)[..., None].astype(data.dtype)
        transform = np.fft.ifft if self.inverse else np.fft.fft
        spectrum: Array = transform(_complex(data), length, axis)
        if self.onesided:
            spectrum = spectrum.take(counting(spectrum.shape[axis] // 2 + 1), axis)
        return _parts(spectrum, data.dtype)


class STFT(Op):
    """Fourier transforms of windowed frames, `frame_step` apart (ONNX STFT).

    signal: [batch, length, 1 or 2]; result: [batch, frames, bins, 2] with
    frames = (length - frame_length) // frame_step + 1, and the first half of the bins where onesided.
    """

    name = "tensor.stft"
    role = Role.COMPOSITE
    signal = operand()
    frame_step = operand(static=True)
    window = optional_operand()
    frame_length = optional_operand(static=True)
    onesided = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        if self.signal.type.rank != 3:
            raise self.fail(f"expected a signal [batch, length, parts], found {self.signal.type}")
        batch, total, _ = self.signal.type.shape
        length = self._length(total)
        step = known_shape_value(self.frame_step)
        if length is not None and step and isinstance(step[0], int) and step[0] > 0:
            frames = (total - length) // step[0] + 1
        else:
            frames = fresh_size(self, upper_bound(total), axis=1)
        bins = fresh_size(self, axis=2) if length is None else self._bins(length)
        return (self.signal.type.with_shape((batch, frames, bins, 2)),)

    def _bins(self, length: int | Expression) -> int | Expression:
        """Frequencies of a frame of so many samples."""
        return length // 2 + 1 if self.onesided else length

    def _length(self, total: int | Expression) -> int | Expression | None:
        """Samples in a frame, None where only the data tell."""
        if self.frame_length is not None:
            known = known_shape_value(self.frame_length)
            return known[0] if known else None
        return total if self.window is None else self.window.type.shape[0]

    def evaluate(self, *arrays: Array | None) -> Array:
        signal, step = np.asarray(arrays[0]), int(np.asarray(arrays[1]).reshape(-1)[0])
        window, given = at(arrays, 2), _first(at(arrays, 3))
        length = given or (signal.shape[1] if window is None else window.size)
        if step < 1 or not 0 < length <= signal.shape[1]:
            raise self.fail(f"cannot cut frames of {length}, {step} apart, from {signal.shape[1]} samples")
        samples = _complex(signal)
        starts = counting((samples.shape[1] - length) // step + 1) * step
        frames = samples[:, starts[:, None] + counting(length)]
        spectrum = np.fft.fft(frames if window is None else frames * window, length, -1)
        return _parts(spectrum[..., : length // 2 + 1] if self.onesided else spectrum, signal.dtype)


class Window(Op):
    """A window of `size` points; subclasses give the weights of its cosines.

    Point i is weights[0] - weights[1] cos(2πi/n) + weights[2] cos(4πi/n), with n = size where periodic,
    else size - 1. A symmetric window of one point is 1.
    """

    weights: ClassVar[tuple[float, ...]]
    size = operand(static=True)
    output_datatype = attribute("f32")
    periodic = attribute(1)

    def infer(self) -> tuple[TensorType, ...]:
        return (TensorType(DType(self.output_datatype), (_known_size(self, self.size, 0),)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        size = int(np.asarray(arrays[0]).reshape(-1)[0])
        if size < 0:
            raise self.fail(f"the size must not be negative, found {size}")
        dtype = DType(self.output_datatype).numpy
        span = size if self.periodic else size - 1
        if span < 1:
            return np.ones(size, dtype)
        angles = counting(size) * (2 * np.pi / span)
        terms = [(-1) ** k * weight * np.cos(k * angles) for k, weight in enumerate(self.weights)]
        return np.sum(terms, axis=0).astype(dtype)


class HannWindow(Window):
    """The Hann window (ONNX HannWindow)."""

    name = "tensor.hann_window"
    weights = (0.5, 0.5)


class HammingWindow(Window):
    """The Hamming window, with ONNX's weight 25/46 (ONNX HammingWindow)."""

    name = "tensor.hamming_window"
    weights = (25 / 46, 21 / 46)


class BlackmanWindow(Window):
    """The Blackman window (ONNX BlackmanWindow)."""

    name = "tensor.blackman_window"
    weights = (0.42, 0.5, 0.08)


class MelWeightMatrix(Op):
    """Triangular weights [dft_length // 2 + 1, num_mel_bins] from spectrum bins to mel bands (ONNX).

    mel(f) = 2595 log10(1 + f / 700), f in Hz. Band edges are whole spectrum bins, rounded down.
    """

    name = "tensor.mel_weight_matrix"
    num_mel_bins = operand(static=True)
    dft_length = operand(static=True)
    sample_rate = operand(static=True)
    lower_edge_hertz = operand(static=True)
    upper_edge_hertz = operand(static=True)
    output_datatype = attribute("f32")

    def infer(self) -> tuple[TensorType, ...]:
        length = known_shape_value(self.dft_length)
        bins = length[0] // 2 + 1 if length else fresh_size(self, axis=0)
        bands = _known_size(self, self.num_mel_bins, 1)
        return (TensorType(DType(self.output_datatype), (bins, bands)),)

    def evaluate(self, *arrays: Array | None) -> Array:
        bands, length, rate, *limits = (np.asarray(a).reshape(-1)[0].item() for a in arrays)
        low, high = (2595 * np.log10(1 + limit / 700) for limit in limits)
        mels = low + counting(bands + 2) * ((high - low) / (bands + 2))
        hertz: list[float] = (700 * (10 ** (mels / 2595) - 1)).tolist()
        edges = [int((length + 1) * edge // rate) for edge in hertz]
        weights = np.zeros((length // 2 + 1, bands), DType(self.output_datatype).numpy)
        for band, (start, peak, stop) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
            rising, falling = counting(peak + 1, start), counting(stop, peak)
            weights[rising, band] = (rising - start) / (peak - start) if peak > start else 1
            weights[falling, band] = (stop - falling) / max(stop - peak, 1)
        return weights
