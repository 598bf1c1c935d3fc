"""unfold-stride: a first convolution of few channels reads blocks of pixels as channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Constant, Module
from rtcc.ir.ops.accelerator import AcceleratorConv, AcceleratorConvSum
from rtcc.ir.ops.movement import SpaceToDepth
from rtcc.pipeline import Pass, Rewriter, apply, exact, rewrite
from rtcc.target import Target, target_of


@dataclass(frozen=True)
class UnfoldStride(Pass):
    """Convolutions with stride s become ones of stride 1 over s·s times as many channels, if these are few.

    conv(x, #w) {strides = [2,2]}  →  conv(space_to_depth(x) {blocksize = 2}, #w')

    A kernel of k taps becomes one of ⌈(k + zeros before it) / s⌉, its first tap at the place that padding
    leaves: 7 taps over 3 channels become 4 over 12. Only where that fills a block of the target's channels
    better: the host then moves pixels, which it does anyway to bring them there.
    """

    exactness = exact

    def run(self, module: Module) -> bool:
        rules = _Rules(target_of(module))
        return apply(module, (rewrite(AcceleratorConv, AcceleratorConvSum)(rules.unfold),), self.name)


@dataclass(frozen=True)
class _Rules:
    target: Target

    def unfold(self, op: AcceleratorConv | AcceleratorConvSum, rw: Rewriter) -> None:
        """conv(x) {strides = [s,s]}  →  conv(space_to_depth(x))"""
        window = op.window(op.data.type.shape[2:], op.weight.type.shape)
        stride, channels = window.strides[0], op.data.type.sizes[1]
        if window.strides != (stride, stride) or stride == 1 or op.group != 1 or window.dilations != (1, 1):
            return
        if channels * stride * stride > self.target.channel_block or not isinstance(op.weight, Constant):
            return
        if op.data.producer is not None and isinstance(op.data.producer, AcceleratorConv):
            return  # the accelerator has these pixels, and moving them is the host's
        if any(size % stride for size in op.data.type.sizes[2:]):
            return
        before = [-(-pad // stride) for pad in window.pads[:2]]
        zeros = [blocks * stride - pad for blocks, pad in zip(before, window.pads[:2], strict=True)]
        taps = [-(-(k + zero) // stride) for k, zero in zip(window.kernel, zeros, strict=True)]
        sizes = [size // stride for size in op.data.type.sizes[2:]]
        after = [
            result - 1 + tap - size - pad
            for result, tap, size, pad in zip(op.type.sizes[2:], taps, sizes, before, strict=True)
        ]
        if min(after) < 0:
            return
        room = [
            (zero, tap * stride - zero - k) for zero, tap, k in zip(zeros, taps, window.kernel, strict=True)
        ]
        wide = np.pad(op.weight.array, [(0, 0), (0, 0), *room])
        outputs = len(wide)
        blocks = wide.reshape(outputs, channels, taps[0], stride, taps[1], stride)
        weight = blocks.transpose(0, 3, 5, 1, 2, 4).reshape(outputs, -1, *taps)
        rw.replace(
            op,
            type(op)(
                SpaceToDepth(op.data, blocksize=stride).result,
                rw.constant(np.ascontiguousarray(weight), name=f"{rw.stem(op.weight)}.unfolded"),
                *op.operands[2:], like=op, kernel_shape=tuple(taps), strides=(1, 1),
                pads=(*before, *after), taps=op.weight.array[0].size,
            ),
        )  # fmt: skip
