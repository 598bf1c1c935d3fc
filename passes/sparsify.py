"""sparsify: make zeros of weights that matter little, and repair the others on samples."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import Module
from rtcc.pruning.on_samples import OnSamples
from rtcc.pruning.sparsifier import Sparsity, sparsify_module


@dataclass(frozen=True)
class Sparsify(OnSamples, Sparsity):
    """Make zeros of single weights, or of blocks of them; shapes stay.

    conv(x, #w)  →  conv(x, #w.sparse)        of #w.sparse so many weights are zero, the others fitted

    data: a path as `rtcc prune --data` takes it; without one nothing is repaired. samples: how many to take.
    The rest are the fields of rtcc.pruning.sparsifier.Sparsity.
    """

    wrong = "prune-option"

    def run(self, module: Module) -> bool:
        found = sparsify_module(module, self, self.opened(module), self.samples)
        module.graphs, module.constants = found.module.graphs, found.module.constants
        return True
