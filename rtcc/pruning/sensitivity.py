"""What each group of channels costs and gains: with a quarter, a half and three quarters of it gone.

Each group is cut alone, the rest of the model as it was and nothing repaired, and that very model is compiled
and measured on samples held out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rtcc.ir import Module
from rtcc.pruning.choice import Limits
from rtcc.pruning.dependencies import Dependencies
from rtcc.pruning.groups import Group
from rtcc.pruning.shrink import Shrunk
from rtcc.quantization.mixed_precision.saved import Quality
from rtcc.quantization.reporting.nearness import Reference

SHARES = (0.25, 0.5, 0.75)
"""Of a group's channels, those that matter least go."""

STEEPER = 2.0
"""How many times what the last quarter measured costs, each channel beyond it is taken to cost."""


@dataclass(frozen=True)
class Cut:
    """A group with some of its channels gone. gain: what that takes off the cost. quality: of the model."""

    removed: int
    gain: float
    quality: Quality

    @property
    def noise(self) -> float:
        """The worst output's error in parts of it, as powers."""
        return 10 ** (-self.quality.sqnr / 10)


@dataclass(frozen=True)
class Curve:
    """One group's cuts, the smallest first."""

    group: Group
    cuts: tuple[Cut, ...]


def measured_curves(
    module: Module, found: Dependencies, groups: Sequence[Group], ranked: Mapping[Group, Sequence[int]],
    limits: Limits, cost: Callable[[frozenset[int]], float], reference: Reference,
    say: Callable[[str], None] = lambda doing: None,
) -> list[Curve]:  # fmt: skip
    """Cut every group. ranked: the roots of each, those that matter least first. cost: of what goes."""
    whole, made = cost(frozenset()), list[Curve]()
    for number, group in enumerate(groups):
        say(f"measuring group {number + 1} of {len(groups)}")
        cuts: list[Cut] = []
        for count in dict.fromkeys(round(share * len(group.roots)) for share in SHARES):
            gone = limits.without_empty_axes(set(ranked[group][:count]), ranked[group])
            if gone and (not cuts or len(gone) > cuts[-1].removed):
                quality = reference.quality(Shrunk(module, found, gone, "prune").module)
                cuts.append(Cut(len(gone), whole - cost(gone), quality))
        made.append(Curve(group, tuple(cuts)))
    return made


def losses(found: Sequence[Curve], exact: Quality, *, by_metric: bool) -> Iterator[tuple[Group, list[float]]]:
    """What each channel of each group loses per gain, in the order in which a group's channels go.

    by_metric: by how much the metric falls; where it does not, and else, by noise.
    """
    for curve in found:
        steps: list[float] = []
        before = (0, 0.0, 0.0)
        for cut in curve.cuts:
            loss = cut.noise
            if by_metric and exact.metric is not None and cut.quality.metric is not None:
                loss = max(exact.metric - cut.quality.metric, 0.0) + NOISE_SHARE * min(loss, 1.0)
            gained = cut.gain - before[2]
            slope = max(loss - before[1], 0.0) / gained if gained > 0 else float("inf")
            steps += [max(slope, steps[-1] if steps else 0.0)] * (cut.removed - before[0])
            before = cut.removed, loss, cut.gain
        last = steps[-1] * STEEPER if steps else float("inf")
        yield curve.group, steps + [last] * (len(curve.group.roots) - len(steps))


NOISE_SHARE = 1e-3
"""What noise counts for beside a metric, so that cuts that leave the metric alone are ordered."""
