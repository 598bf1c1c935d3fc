"""Where zeros may stand among a layer's weights: anywhere, N of each M left, or whole blocks.

Masks are boolean arrays [group, summand, output]; the summands of a convolution are ordered tap by tap, its
channels side by side within a tap, so that N:M and blocks lie along channels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput
from rtcc.ir.ops.nn import Conv
from rtcc.linear.layers import Layer
from rtcc.linear.matrices import as_matrices, as_weight

Array = NDArray[Any]

UNSTRUCTURED = "unstructured"


@dataclass(frozen=True)
class Pattern:
    """What stands or falls together, and how many of neighbours stay.

    kept, among: so many of as many neighbouring summands stay (2 of 4); 0 where that is free. outputs,
    summands: the size of a block.
    """

    kept: int = 0
    among: int = 0
    outputs: int = 1
    summands: int = 1

    @staticmethod
    def parse(text: str) -> Pattern:
        """`unstructured`, `N:M` or `OUTPUTSxSUMMANDS`; InvalidInput `prune-option`."""
        if text == UNSTRUCTURED:
            return Pattern()
        if found := re.fullmatch(r"(\d+):(\d+)", text):
            kept, among = map(int, found.groups())
            if 0 < kept < among:
                return Pattern(kept, among)
        if found := re.fullmatch(r"(\d+)x(\d+)", text):
            outputs, summands = map(int, found.groups())
            if outputs * summands > 1:
                return Pattern(0, 0, outputs, summands)
        hint = "unstructured; 2:4 (2 of 4 neighbouring inputs stay); 16x1 (blocks of 16 outputs and 1 input)"
        raise InvalidInput("prune-option", f"there is no pattern {text!r}", hint=hint)

    @property
    def size(self) -> int:
        """Weights of a block."""
        return self.outputs * self.summands

    def misfit(self, layer: Layer) -> str | None:
        """Why a layer cannot be divided so, or None."""
        summands, outputs = _inner(layer), _outputs(layer)
        if summands % (self.among or self.summands):
            return f"its {summands} inputs are no multiple of {self.among or self.summands}"
        if outputs % self.outputs:
            return f"its {outputs} outputs are no multiple of {self.outputs}"
        return None

    def blocks(self, weights: Array) -> Array:
        """The mean over each block of [group, summand, output]."""
        groups, summands, outputs = weights.shape
        cut = weights.reshape(
            groups, summands // self.summands, self.summands, outputs // self.outputs, self.outputs
        )
        return cut.mean(axis=(2, 4))

    def spread(self, blocks: Array) -> Array:
        """The inverse, for masks: every weight of a block is as the block is."""
        return blocks.repeat(self.summands, 1).repeat(self.outputs, 2)

    def best(self, scores: Array) -> Array:
        """The mask of the best `kept` of each `among` neighbouring summands."""
        groups, summands, outputs = scores.shape
        cut = scores.reshape(groups, summands // self.among, self.among, outputs)
        rank = (-cut).argsort(axis=2, kind="stable").argsort(axis=2, kind="stable")
        return (rank < self.kept).reshape(scores.shape)


def by_taps(layer: Layer, weight: Array) -> Array:
    """A layer's weight as masks have it."""
    return in_order(layer, as_matrices(layer, weight))


def from_taps(layer: Layer, matrices: Array) -> Array:
    """The inverse of `by_taps`."""
    taps = _taps(layer)
    groups, summands, outputs = matrices.shape
    moved = matrices.reshape(groups, taps, summands // taps, outputs).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(as_weight(layer, moved.reshape(matrices.shape)))


def in_order(layer: Layer, matrices: Array) -> Array:
    """[group, summand, …] in the order of `as_matrices`, summands put tap by tap."""
    taps = _taps(layer)
    groups, summands, *rest = matrices.shape
    cut = matrices.reshape(groups, summands // taps, taps, *rest)
    return np.ascontiguousarray(np.moveaxis(cut, 2, 1)).reshape(matrices.shape)


def _taps(layer: Layer) -> int:
    return prod(layer.weight.type.sizes[2:]) if isinstance(layer.op, Conv) else 1


def _inner(layer: Layer) -> int:
    """Summands that lie side by side: the inputs of a tap."""
    sizes = layer.weight.type.sizes
    return sizes[1] if isinstance(layer.op, Conv) else sizes[layer.sum_axis]


def _outputs(layer: Layer) -> int:
    """Outputs of a group."""
    sizes = layer.weight.type.sizes
    if isinstance(layer.op, Conv):
        return sizes[0] // layer.op.group
    return sizes[1 - layer.sum_axis]
