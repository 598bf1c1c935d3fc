"""drop-silent-channels: channels that only zero weights read, out of every layer that has them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rtcc.ir import Module
from rtcc.linear.layers import linear_layers
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import reassociates
from rtcc.pruning.choice import Limits
from rtcc.pruning.dependencies import Dependencies
from rtcc.pruning.groups import groups_of, read_roots
from rtcc.pruning.shrink import Shrunk


@dataclass(frozen=True)
class DropSilentChannels(Pass):
    """Make a model that masks have pruned an ordinary smaller one.

    conv(conv(x, #w), #v with zeros for some channels)  →  conv(conv(x, #w'), #v')

    A channel goes with all that it stands and falls together with (`rtcc.pruning.dependencies`), where every
    weight that reads any of them is zero: a constant in float32, as no other is looked at. Sizes must be
    known.
    """

    exactness = reassociates(1e-6)

    def run(self, module: Module) -> bool:
        found = Dependencies(module)
        free = {root for group in groups_of(module, found)[0] for root in group.roots}
        layers = {layer.op: layer for layer in linear_layers(module.main)}
        others = [ids for op, ids in found.sums if op not in layers]
        heard = {root for ids in others for root in found.channels.roots(ids).tolist()}
        for layer in layers.values():
            roots = read_roots(layer, found)
            if roots:
                weights = np.moveaxis(layer.weight.array, layer.sum_axis, 0).reshape(len(roots), -1)
                heard.update(root for root, row in zip(roots, weights, strict=True) if row.any())
        silent = Limits(axes=found.whole_axes()).without_empty_axes(free - heard, sorted(free))
        if not silent:
            return False
        Shrunk(module, found, silent, self.name).put_into(module)
        return True
