"""Which channels go: those that matter least, as many as a target of work or time takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil, gcd

from rtcc.errors import InvalidInput
from rtcc.pruning.groups import Group

Sizes = Mapping[tuple[tuple[str, ...], int], int]


class Scope(StrEnum):
    """Among what channels compete."""

    AUTO = "auto"
    """`sensitivity` where a floor of accuracy is given, else `global`."""
    GLOBAL = "global"
    """All of the model: layers that need fewer lose more."""
    UNIFORM = "uniform"
    """Those of one group: every group loses the same share."""
    SENSITIVITY = "sensitivity"
    """All of the model, by what cutting their group was measured to cost for what it gains."""


@dataclass(frozen=True)
class Limits:
    """What stays in any case: a share of each group, counts that are multiples of a number, some of axes.

    sizes: how many sets groups had, by their keys, where shares are of what there was before.
    """

    least_share: float = 0.1
    multiple: int = 1
    axes: Collection[frozenset[int]] = ()
    """Channels that make up an axis: of each set one stays (a split may hand out few of a group)."""
    sizes: Sizes = field(default_factory=dict["tuple[tuple[str, ...], int]", "int"])

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
        first = self.sizes.get(group.key, size)
        least = max(1, ceil(self.least_share * first))
        multiple = self.multiple // gcd(self.multiple, group.each)
        rounded = multiple * ceil(wanted / multiple) if first >= 2 * multiple else wanted
        return min(size, max(least, rounded))

    def let_go(self, groups: Sequence[Group], wanted: set[int], order: Sequence[int]) -> frozenset[int]:
        """What goes of what is wanted: of each group those that go first, as many as may."""
        rank = {root: place for place, root in enumerate(order)}
        gone: set[int] = set()
        for group in groups:
            left = self.kept(len(group.roots) - sum(root in wanted for root in group.roots), group)
            gone.update(sorted(group.roots, key=rank.__getitem__)[: len(group.roots) - left])
        return self.without_empty_axes(gone, order)


def choose(
    groups: Sequence[Group],
    order: Sequence[int],
    limits: Limits,
    cost: Callable[[frozenset[int]], float],
    target: float,
    whole: float,
) -> frozenset[int]:
    """The roots of the fewest channels whose going brings the cost down to the target.

    order: of all channels, those that go first at the front. cost: of a choice, falling as more go. whole: of
    the model as it was. Raises InvalidInput `target-unreachable` with the best there is.
    """

    def removed(count: int) -> frozenset[int]:
        return limits.let_go(groups, set(order[:count]), order)

    best = cost(removed(len(order)))
    if best > target:
        raise InvalidInput(
            "target-unreachable",
            f"with all that may go gone, {best / whole:.1%} is left; asked for is {target / whole:.1%}",
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


def ranked_of(group: Group, scores: Mapping[int, float]) -> list[int]:
    """The channels of a group, those that matter least first."""
    return sorted(group.roots, key=lambda root: (scores.get(root, 0.0), root))


def order_of(
    groups: Sequence[Group], scores: Mapping[int, float], scope: Scope, *, relative: bool
) -> list[int]:
    """All channels, those that go first at the front, by scores of their own.

    relative: scores mean something beside those of the same group alone, and count as parts of its mean.
    """
    keyed: list[tuple[float, int]] = []
    for group in groups:
        ranked = ranked_of(group, scores)
        mean = (relative and sum(scores.get(root, 0.0) for root in ranked) / len(ranked)) or 1.0
        for place, root in enumerate(ranked):
            by_score = scores.get(root, 0.0) / mean
            keyed.append((place / len(ranked) if scope is Scope.UNIFORM else by_score, root))
    return [root for _, root in sorted(keyed)]
