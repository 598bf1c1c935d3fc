"""Which channels go: those that matter least, as many as a target of work or time takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil, gcd

from rtcc.errors import InvalidInput
from rtcc.pruning.groups import Group


class Scope(StrEnum):
    """Among what channels compete."""

    GLOBAL = "global"
    """All of the model: layers that need fewer lose more."""
    UNIFORM = "uniform"
    """Those of one group: every group loses the same share."""


@dataclass(frozen=True)
class Limits:
    """What stays in any case: a share of each group, counts that are multiples of a number, some of axes."""

    least_share: float = 0.1
    multiple: int = 1
    axes: Collection[frozenset[int]] = ()
    """Channels that make up an axis: of each set one stays (a split may hand out few of a group)."""

    def without_empty_axes(self, gone: set[int], order: Sequence[int]) -> frozenset[int]:
        """The same without what would leave an axis empty; order: those that go first at the front."""
        rank = {root: place for place, root in enumerate(order)}
        for axis in sorted(self.axes, key=sorted):
            if axis <= gone:
                gone = gone - {max(axis, key=lambda root: rank.get(root, len(rank)))}
        return frozenset(gone)

    def kept(self, wanted: int, group: Group) -> int:
        """How many sets of a group stay where so many are wanted; groups of few have no multiples."""
        size = len(group.roots)
        least = max(1, ceil(self.least_share * size))
        multiple = self.multiple // gcd(self.multiple, group.each)
        rounded = multiple * ceil(wanted / multiple) if size >= 2 * multiple else wanted
        return min(size, max(least, rounded))


def choose(
    groups: Sequence[Group],
    scores: Mapping[int, float],
    scope: Scope,
    limits: Limits,
    cost: Callable[[frozenset[int]], float],
    target: float,
) -> frozenset[int]:
    """The roots of the fewest channels whose going brings the cost down to the target.

    cost: of a choice, falling as more go. Raises InvalidInput `target-unreachable` with the best there is.
    """
    order = _order(groups, scores, scope)

    def removed(count: int) -> frozenset[int]:
        return _limited(groups, set(order[:count]), order, limits)

    best = cost(removed(len(order)))
    if best > target:
        raise InvalidInput(
            "target-unreachable",
            f"with all that may go gone, {best / cost(frozenset()):.1%} is left; asked for is "
            f"{target / cost(frozenset()):.1%}",
            hint=_hint(limits),
        )
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if cost(removed(middle)) <= target:
            high = middle
        else:
            low = middle + 1
    return removed(low)


def _hint(limits: Limits) -> str:
    """How more could go."""
    least, multiple = limits.least_share, limits.multiple
    ways = [f"lower --least (it is {least:g})"] if least > 0 else []
    ways += [f"lower --multiple (it is {multiple})"] if multiple > 1 else []
    ways += ["keep more: the report then lists the layers that keep their channels, and why"]
    return ", or ".join(ways)


def _order(groups: Sequence[Group], scores: Mapping[int, float], scope: Scope) -> list[int]:
    """All channels, those that go first at the front."""
    keyed: list[tuple[float, int]] = []
    for group in groups:
        ranked = sorted(group.roots, key=lambda root: (scores.get(root, 0.0), root))
        mean = sum(scores.get(root, 0.0) for root in ranked) / len(ranked) or 1.0
        for place, root in enumerate(ranked):
            by_score = scores.get(root, 0.0) / mean
            keyed.append((by_score if scope is Scope.GLOBAL else place / len(ranked), root))
    return [root for _, root in sorted(keyed)]


def _limited(
    groups: Sequence[Group], wanted: set[int], order: Sequence[int], limits: Limits
) -> frozenset[int]:
    """What goes of what is wanted: of each group those that matter least, as many as its limits let go."""
    rank = {root: place for place, root in enumerate(order)}
    gone: set[int] = set()
    for group in groups:
        size = len(group.roots)
        left = limits.kept(size - sum(root in wanted for root in group.roots), group)
        gone.update(sorted(group.roots, key=rank.__getitem__)[: size - left])
    return limits.without_empty_axes(gone, order)
