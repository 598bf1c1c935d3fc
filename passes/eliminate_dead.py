"""eliminate-dead: remove what no result depends on."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import LEVELS, Module
from rtcc.pipeline import Pass, apply, exact


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Remove ops and constants that no result depends on; ops with effects stay.

    %unused = math.relu(%x)  →
    """

    exactness = exact
    requires = LEVELS[:2]

    def run(self, module: Module) -> bool:
        changed = apply(module, (), self.name)
        constants = len(module.constants)
        module.drop_unused_constants()
        return changed or len(module.constants) < constants
