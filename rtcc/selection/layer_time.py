"""What single layers are predicted to take, before anything is chosen for the graph around them."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from rtcc.ir import Op
from rtcc.target import Target


def layers_seconds(ops: Iterable[Op], target: Target) -> float:
    """Of layers by their best kernels, in all; 0 for those that the target has one way for, and no price.

    ops: anchors with constant weights, which need stand nowhere yet.
    """
    total = 0.0
    for op in ops:
        known = [each.seconds for each in target.candidates(op, {1, 2}) if each.seconds < inf]
        total += min(known, default=0.0)
    return total
