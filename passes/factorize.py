"""factorize: two cheaper layers for one, by the singular values of its weight or of what it computes."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.factorization.choice import Settings
from rtcc.factorization.factorizer import factorize_module
from rtcc.ir import Module
from rtcc.pruning.on_samples import OnSamples


@dataclass(frozen=True)
class Factorize(OnSamples, Settings):
    """Take layers apart into two that are cheaper together, where that wins.

    mat_mul(x, #w)  →  mat_mul(mat_mul(x, #w.first), #w.second)
    conv(x, #w)     →  conv(conv(x, #w.first of r outputs), #w.second 1x1)   or kx1 and 1xk, depthwise and 1x1

    What wins is what the target predicts to be faster; without a target, what takes fewer multiply-adds.
    data: a path as `rtcc prune --data` takes it; factors are then fitted to what layers computed. samples:
    how many to take. The rest are the fields of rtcc.factorization.choice.Settings. Sizes must be known.
    """

    wrong = "factorize-option"

    def run(self, module: Module) -> bool:
        found = factorize_module(module, self, self.opened(module), self.samples, module.target or None)
        module.graphs, module.constants = found.module.graphs, found.module.constants
        return True
