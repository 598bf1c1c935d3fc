"""One rule per operator: how PyTorch computes it, and so its gradient."""

from __future__ import annotations

from rtcc.ir import Op
from rtcc.training.rules import elementwise, layers, movement, quantized
from rtcc.training.rules.table import Rule, Rules

RULES: Rules = {**elementwise.RULES, **layers.RULES, **movement.RULES, **quantized.RULES}


def rule_of(op: Op) -> Rule:
    """The rule of an op; Unsupported `no-training-rule`, with the ONNX node, where there is none."""
    rule = RULES.get(type(op))
    if rule is None:
        raise layers.no_rule(str(op.location), op.name)
    return rule
