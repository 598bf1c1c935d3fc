"""Fourier transforms as products with small matrices (Cooley and Tukey, Math. Comp. 19, 1965).

All in the signal's own precision, narrow floats in f32: an error of about u·log n of the spectrum's
root mean square, as other runtimes' transforms have it.
"""

from __future__ import annotations

from math import isqrt, prod

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import Unsupported
from rtcc.ir import Constant, DType, Op, Value
from rtcc.ir.ops import signal
from rtcc.ir.ops.axes import integers, normal_axis
from rtcc.passes.legalization.writer import Writer, is_static
from rtcc.pipeline.rewriter import Rewriter, rewrite

LONGEST_STAGE = 1024
"""The largest prime factor of a transform's length: that stage is a product with its whole matrix."""


@rewrite(signal.DFT)
def fourier_transform(op: signal.DFT, rw: Rewriter) -> None:
    """dft(x)  →  stages of mat_mul and twiddle factors"""
    if not is_static(op) or not all(v is None or isinstance(v, Constant) for v in (op.dft_length, op.axis)):
        return
    write, rank = Writer(rw, "dft"), op.type.rank
    axis = normal_axis(op, -2 if op.axis is None else integers(op, op.axis, "axis")[0], rank)
    size = op.data.type.sizes[axis]
    order = [a for a in range(rank) if a not in (axis, rank - 1)]
    rows = write.transpose(write.widened(op.data), *order, axis, rank - 1)
    length = op.type.sizes[axis]
    if op.onesided and not op.inverse:
        length = size if op.dft_length is None else integers(op, op.dft_length, "dft_length")[0]
    if op.inverse and op.onesided:
        rows = _mirrored(write, _resized(write, rows, length // 2 + 1), length)
    rows = _resized(write, rows, length)
    spectrum = _spectrum(write, op, rows, inverse=bool(op.inverse))
    spectrum = write.part(spectrum, rank - 2, 0, op.type.sizes[axis])
    spectrum = write.part(spectrum, rank - 1, 0, op.type.sizes[-1])
    back = [[*order, axis, rank - 1].index(a) for a in range(rank)]
    rw.replace(op, write.cast(write.transpose(spectrum, *back), op.type.dtype))


def _resized(write: Writer, x: Value, length: int) -> Value:
    """x [..., n, parts] cut or filled with zeros to `length`."""
    rank, size = x.type.rank, x.type.sizes[-2]
    if length <= size:
        return write.part(x, rank - 2, 0, length)
    return write.pad(x, [0] * (2 * rank - 2) + [length - size, 0])


def _mirrored(write: Writer, half: Value, length: int) -> Value:
    """The spectrum of a real signal of `length` from its first half [..., bins, 2]."""
    axis, bins, dtype = half.type.rank - 2, length // 2 + 1, half.type.dtype
    own = np.ones((bins, 2))
    own[0, 1] = 0
    if length % 2 == 0:
        own[-1, 1] = 0
    half = write.mul(half, write.array(own, dtype))
    if length == bins:
        return half
    rest = write.gather(half, write.array(np.arange(length - bins, 0, -1), DType.I64), axis)
    return write.concat(axis, half, write.mul(rest, write.array([1, -1], dtype)))


def _spectrum(write: Writer, op: Op, x: Value, *, inverse: bool) -> Value:
    """The transform [..., n, 2] of a signal [..., n, 1 or 2]; the inverse one divided by n."""
    *outer, length, parts = x.type.sizes
    factors = _factors(length)
    if max(factors) > LONGEST_STAGE:
        message = f"{op.name} of length {length}: its largest prime factor is above {LONGEST_STAGE}"
        raise Unsupported("unsupported-operator", message, where=str(op.location) or None)
    sign = 1 if inverse else -1
    x = write.reshape(x, prod(outer), length, parts)
    rest = length
    for factor in factors:
        rest //= factor
        x = _stage(write, x, factor, rest, sign)
    # The bins lie with the last stage's number most significant.
    count = len(factors)
    x = write.reshape(x, prod(outer), *factors, 2)
    x = write.transpose(x, 0, *range(count, 0, -1), count + 1)
    x = write.scaled(x, 1 / length) if inverse else x
    x = write.reshape(x, *outer, length, 2)
    if parts == 1 and not inverse:
        # Its own mirror image, exactly: the first bin and the middle one of an even length are real.
        x = _mirrored(write, write.part(x, len(outer), 0, length // 2 + 1), length)
    return x


def _stage(write: Writer, x: Value, factor: int, rest: int, sign: int) -> Value:
    """[…, factor·rest, parts]  →  […·factor, rest, 2]: bin k of `factor` points, `rest` apart, turned.

    x[i·rest + j] becomes w(n)^(j·k) · Σ_i w(factor)^(i·k) x[i·rest + j], w(n) = e^(±2πi/n).
    """
    outer, length, parts = x.type.sizes[0], factor * rest, x.type.sizes[-1]
    outer = prod(x.type.sizes[:-1]) // length
    dtype = x.type.dtype
    x = write.transpose(write.reshape(x, outer, factor, rest, parts), 0, 2, 1, 3)
    x = write.reshape(x, outer * rest, factor * parts)
    x = write.matmul(x, write.array(_matrix(factor, parts, sign), dtype))
    x = write.reshape(x, outer, rest, factor, 2)
    if rest > 1:
        turn = _roots(np.outer(np.arange(rest), np.arange(factor)), length, sign)[..., None]
        swapped = write.gather(x, write.array([1, 0], DType.I64), 3)
        along, across = np.real(turn), np.imag(turn) * np.array([-1, 1])
        x = write.add(write.mul(x, write.array(along, dtype)), write.mul(swapped, write.array(across, dtype)))
    return write.reshape(write.transpose(x, 0, 2, 1, 3), outer * factor, rest, 2)


def _factors(length: int) -> list[int]:
    """Stages of a transform: fours, then odd primes, a factor 2 in front; [1] for length 1."""
    factors: list[int] = []
    while length % 4 == 0:
        factors.append(4)
        length //= 4
    if length % 2 == 0:
        factors.insert(0, 2)
        length //= 2
    for divisor in range(3, isqrt(length) + 1, 2):
        while length % divisor == 0:
            factors.append(divisor)
            length //= divisor
    return [*factors, length] if length > 1 or not factors else factors


def _roots(powers: NDArray[np.int64], length: int, sign: int) -> NDArray[np.complex128]:
    """e^(±2πi·power/length), the powers reduced first."""
    return np.exp(sign * 2j * np.pi * (powers % length) / length)


def _matrix(size: int, parts: int, sign: int) -> NDArray[np.float64]:
    """The transform of `size` points on real and imaginary parts side by side: [size·parts, size·2]."""
    roots = _roots(np.outer(np.arange(size), np.arange(size)), size, sign)
    real, imaginary = np.real(roots), np.imag(roots)
    rows = np.stack([real, imaginary], -1), np.stack([-imaginary, real], -1)
    return np.stack(rows[:parts], 1).reshape(size * parts, size * 2)


@rewrite(signal.STFT)
def short_time_transform(op: signal.STFT, rw: Rewriter) -> None:
    """stft(x)  →  frames gathered, windowed and transformed"""
    if not is_static(op) or not isinstance(op.frame_step, Constant):
        return
    write, total = Writer(rw, "stft"), op.signal.type.sizes[1]
    step = integers(op, op.frame_step, "frame_step")[0]
    length = total if op.window is None else op.window.type.sizes[0]
    if op.frame_length is not None:
        length = integers(op, op.frame_length, "frame_length")[0]
    count, bins = op.type.sizes[1:3]
    places = np.arange(count)[:, None] * step + np.arange(length)
    frames = write.gather(write.widened(op.signal), write.array(places, DType.I64), 1)
    if op.window is not None:
        window = write.cast(op.window, frames.type.dtype)
        frames = write.mul(frames, write.reshape(window, length, 1))
    spectrum = write.part(_spectrum(write, op, frames, inverse=False), 2, 0, bins)
    rw.replace(op, write.cast(spectrum, op.type.dtype))


RULES = (fourier_transform, short_time_transform)
