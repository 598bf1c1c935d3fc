"""Transposed convolutions as convolutions: one per phase of the stride, interleaved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Constant, Value
from rtcc.ir.op import Array
from rtcc.ir.ops import movement, nn
from rtcc.passes.legalization.writer import Writer
from rtcc.pipeline.rewriter import Rewriter, rewrite


@rewrite(nn.ConvTranspose)
def conv_transpose_to_conv(op: nn.ConvTranspose, rw: Rewriter) -> None:
    """conv_transpose(x, w) {stride s}  →  slice(depth_to_space(conv(x, w')))

    Output q·s + φ - pad sums x[q - t]·w[φ + s·t] over t: for each phase φ a convolution with the reversed
    kernel of every s-th tap. All phases are channels of one convolution; depth_to_space interleaves them.
    """
    if not has_phases(op) or not isinstance(op.weight, Constant):
        return
    if op.bias is not None and not isinstance(op.bias, Constant):
        return
    write, stride = Writer(rw, f"{op.weight.symbol}.phases"), op.geometry()[1][0]
    weights = write.array(phase_weights(op.weight.array, op.group, stride), op.type.dtype)
    bias = None if op.bias is None else write.array(np.repeat(op.bias.array, stride**2), op.type.dtype)
    rw.replace(op, by_phases(op, weights, bias, write))


def has_phases(op: nn.ConvTranspose) -> bool:
    """Whether a transposed convolution can be written as one convolution of all phases."""
    if op.data.type.rank != 4 or not op.data.type.is_static or not op.weight.type.is_static:
        return False
    pads, strides, dilations = op.geometry()
    return strides[0] == strides[1] and all(d == 1 for d in dilations) and min(pads) >= 0


def by_phases(op: nn.ConvTranspose, weights: Value, bias: Value | None, write: Writer) -> Value:
    """A transposed convolution that `has_phases`, by the weights and biases of its phases."""
    pads, strides, _ = op.geometry()
    stride, data, result = strides[0], op.data.type.sizes, op.type.sizes
    taps = weights.type.sizes[2:]
    cut = pads[:2] if stride > 1 or any(pads[a] >= taps[a] for a in range(2)) else (0, 0)
    before = [taps[a] - 1 - (pads[a] - cut[a]) for a in range(2)]
    rows = [-(-(result[2 + a] + cut[a]) // stride) for a in range(2)]
    after = [max(0, rows[a] + taps[a] - 1 - data[2 + a] - before[a]) for a in range(2)]
    conv = nn.Conv(
        op.data, weights, bias, group=op.group, kernel_shape=tuple(taps), pads=(*before, *after),
    )  # fmt: skip
    image = conv.result
    if stride > 1:
        image = movement.DepthToSpace(image, blocksize=stride, mode="CRD").result
    if (image.type.sizes[2:], tuple(cut)) != (result[2:], (0, 0)):
        starts = write.integers(*cut)
        ends = write.integers(*(cut[a] + result[2 + a] for a in range(2)))
        image = movement.Slice(image, starts, ends, write.integers(2, 3)).result
    return image


def phase_weights(weight: Array, group: int, stride: int) -> NDArray[np.generic]:
    """Weight [C, M/group, R, S] of a transposed convolution as that of the phases' convolution.

    The result is [M·stride², C/group, ceil(R/stride), ceil(S/stride)], phases innermost among the filters.
    """
    channels, filters, *kernel = weight.shape
    taps = [-(-size // stride) for size in kernel]
    padded = np.zeros((channels, filters, taps[0] * stride, taps[1] * stride), weight.dtype)
    padded[:, :, : kernel[0], : kernel[1]] = weight
    split = padded.reshape(group, channels // group, filters, taps[0], stride, taps[1], stride)
    reversed_taps = split[:, :, :, ::-1, :, ::-1]
    ordered = reversed_taps.transpose(0, 2, 4, 6, 1, 3, 5)
    return np.ascontiguousarray(ordered.reshape(group * filters * stride**2, channels // group, *taps))
