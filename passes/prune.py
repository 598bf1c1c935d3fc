"""prune: take channels and attention heads that matter little out of a model, and repair it on samples."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import Module
from rtcc.pruning.on_samples import OnSamples
from rtcc.pruning.schedule import prune_module
from rtcc.pruning.settings import Settings


@dataclass(frozen=True)
class Prune(OnSamples, Settings):
    """Take whole channels out, those that matter least, until a share of the work is left.

    conv(conv(x, #w), #v)  →  conv(conv(x, #w'), #v')        fewer filters in #w', as many inputs of #v'

    data: a path as `rtcc prune --data` takes it; without one nothing is repaired. samples: how many to take.
    The rest are the fields of rtcc.pruning.settings.Settings. Sizes must be known.
    """

    wrong = "prune-option"

    def run(self, module: Module) -> bool:
        found = prune_module(module, self, self.opened(module), self.samples, module.target or None)
        module.graphs, module.constants = found.module.graphs, found.module.constants
        return any(row.after < row.before for row in found.rows)
