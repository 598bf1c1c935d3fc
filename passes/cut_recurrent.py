"""cut-recurrent: recurrent layers in parts that threads compute side by side."""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.ir import Module
from rtcc.passes.recurrence import batches, wavefront
from rtcc.pipeline.base import Pass
from rtcc.pipeline.exactness import reassociates
from rtcc.pipeline.rewriter import apply


@dataclass(frozen=True)
class CutRecurrent(Pass):
    """Write stacked layers as scans over chunks of steps, and layers over a batch as scans over some rows.

    Only where the module's target has threads that gain by it: the parts then have no step in common.
    """

    exactness = reassociates(1e-6)

    def run(self, module: Module) -> bool:
        # Stacks first: a layer in parts is no longer one of a stack.
        is_stacked = apply(module, wavefront.RULES, self.name)
        return apply(module, batches.RULES, self.name) or is_stacked
