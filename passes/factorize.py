"""factorize: two cheaper layers for one, by the singular values of its weight or of what it computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtcc.data import open_data
from rtcc.errors import InvalidInput
from rtcc.factorization.choice import Settings
from rtcc.factorization.factorizer import factorize_module
from rtcc.ir import Module
from rtcc.pipeline import Pass, approximates
from rtcc.pruning.settings import REPAIRED_ON

if TYPE_CHECKING:
    from rtcc.pipeline.compare import Feeds

BOUND = 1.0
"""How far, as ‖a-b‖ / ‖a‖, results may move: what is left says more than nothing would."""


@dataclass(frozen=True)
class Factorize(Pass, Settings):
    """Take layers apart into two that are cheaper together, where that wins.

    mat_mul(x, #w)  →  mat_mul(mat_mul(x, #w.first), #w.second)
    conv(x, #w)     →  conv(conv(x, #w.first of r outputs), #w.second 1x1)   or kx1 and 1xk, depthwise and 1x1

    What wins is what the target predicts to be faster; without a target, what takes fewer multiply-adds.
    data: a path as `rtcc prune --data` takes it; factors are then fitted to what layers computed. samples:
    how many to take. The rest are the fields of rtcc.factorization.choice.Settings. Sizes must be known.
    """

    data: str = ""
    samples: int = REPAIRED_ON

    exactness = approximates("relative-l2", BOUND)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise InvalidInput("factorize-option", f"samples must be at least 1, found {self.samples}")

    def inputs(self, module: Module, feeds: Feeds) -> Feeds:
        """The first sample, where there are any: the factors are for such."""
        return next(open_data(self.data, module.main).samples(1)) if self.data else feeds

    def run(self, module: Module) -> bool:
        data = open_data(self.data, module.main) if self.data else None
        found = factorize_module(module, self, data, self.samples, module.target or None)
        module.graphs, module.constants = found.module.graphs, found.module.constants
        return True
