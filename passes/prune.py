"""prune: take channels and attention heads that matter little out of a model, and repair it on samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rtcc.data import open_data
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.pipeline import Pass, approximates
from rtcc.pruning.schedule import prune_module
from rtcc.pruning.settings import REPAIRED_ON, Settings

if TYPE_CHECKING:
    from rtcc.pipeline.compare import Feeds

BOUND = 1.0
"""How far, as ‖a-b‖ / ‖a‖, results may move: what is left says more than nothing would."""


@dataclass(frozen=True)
class Prune(Pass, Settings):
    """Take whole channels out, those that matter least, until a share of the work is left.

    conv(conv(x, #w), #v)  →  conv(conv(x, #w'), #v')        fewer filters in #w', as many inputs of #v'

    data: a path as `rtcc prune --data` takes it; without one nothing is repaired. samples: how many to take.
    The rest are the fields of rtcc.pruning.settings.Settings. Sizes must be known.
    """

    data: str = ""
    samples: int = REPAIRED_ON

    exactness = approximates("relative-l2", BOUND)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise InvalidInput("prune-option", f"samples must be at least 1, found {self.samples}",
                               hint="leave it out for the default, or leave the data out")  # fmt: skip

    def inputs(self, module: Module, feeds: Feeds) -> Feeds:
        """The first sample, where there are any: the repair is for such."""
        return next(open_data(self.data, module.main).samples(1)) if self.data else feeds

    def run(self, module: Module) -> bool:
        data = open_data(self.data, module.main) if self.data else None
        found = prune_module(module, self, data, self.samples, module.target or None)
        module.graphs, module.constants = found.module.graphs, found.module.constants
        return any(row.after < row.before for row in found.rows)
