"""What a user asks of algorithms: one for all convolutions, or for single layers, and a bound on errors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from rtcc.errors import InvalidInput
from rtcc.ir import Module, Op
from rtcc.ir.ops import nn
from rtcc.ir.ops.integer import ConvSum
from rtcc.target import Candidate, Target

AUTO = "auto"
"""What stands for the target's own choice."""


@dataclass(frozen=True)
class Wishes:
    """What the options ask for.

    conv: an algorithm for all convolutions, or AUTO. layers: algorithms by ONNX node name. max_error: forbids
    algorithms whose error bound is larger; None forbids none. transforms: whether weights may be transformed.
    """

    conv: str = AUTO
    layers: Mapping[str, str] = field(default_factory=dict[str, str])
    max_error: float | None = None
    transforms: bool = True

    def require_known(self, target: Target, module: Module) -> None:
        """Refuse algorithms that the target does not list, and layers that the module does not have."""
        for name in (self.conv, *self.layers.values()):
            if name != AUTO and name not in target.algorithms:
                known = ", ".join((AUTO, *target.algorithms))
                raise InvalidInput("unknown-algorithm", f"target {target.name} has no algorithm {name!r}",
                                   hint=f"known: {known}")  # fmt: skip
        nodes = {node for op in module.walk() for node in op.location.nodes} if self.layers else set[str]()
        for layer in self.layers:
            if layer not in nodes:
                near = difflib.get_close_matches(layer, sorted(nodes), 3)
                hint = f"did you mean {', '.join(near)}?" if near else "--explain lists the layers by name"
                raise InvalidInput("unknown-layer", f"no layer is named {layer!r}", hint=hint)

    def refusal(self, candidate: Candidate) -> str:
        """Why a candidate may not be taken, or ""."""
        if self.max_error is not None and not candidate.error <= self.max_error:
            return f"its error bound {candidate.error:.1e} is above {self.max_error:g}"
        if candidate.transformed and not self.transforms:
            return "transforms=false forbids transformed weights"
        return ""

    def algorithm(self, anchor: Op) -> str:
        """What is asked for an anchor: an algorithm's name, or AUTO."""
        for node in anchor.location.nodes:
            if node in self.layers:
                return self.layers[node]
        return self.conv if isinstance(anchor, nn.Conv | ConvSum) else AUTO


def by_layer(texts: tuple[str, ...]) -> dict[str, str]:
    """`("conv1=direct",)` → {"conv1": "direct"}; InvalidInput `bad-layer`."""
    found: dict[str, str] = {}
    for text in texts:
        layer, equals, algorithm = text.rpartition("=")
        if not equals or not layer:
            raise InvalidInput("bad-layer", f"{text!r} is not LAYER=ALGORITHM",
                               hint='as in select-conv{layers=["conv1=direct"]}')  # fmt: skip
        found[layer] = algorithm
    return found
