"""Costs of two-valued variables and of pairs of them, and the cheapest labelling: a minimum cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import inf, isfinite

from rtcc.selection.flow import Network

Table = tuple[tuple[float, float], tuple[float, float]]
"""What two labels cost together, `table[first][second]`; inf where they cannot be had together."""

SCALE = 1e15
"""Cuts are made of whole numbers, femtoseconds of costs in seconds, so that sums are exact."""

MOST_TRIED = 6
"""Pairs that are not submodular, up to which every way to bound them is tried."""


@dataclass(frozen=True)
class Labelling:
    """A label for each variable, what they cost, and whether it is known that none cost less."""

    labels: tuple[bool, ...]
    cost: float
    is_optimal: bool


@dataclass
class Energy:
    """The sum of tables over one or two variables.

    A pair is submodular where labels that agree cost no more than labels that differ: t00 + t11 ≤ t01 + t10.
    Such sums are minimised exactly by a minimum cut (Kolmogorov and Zabih, "What energy functions can be
    minimized via graph cuts?", PAMI 2004). Every other pair is bounded from above by raising one of t01 and
    t10 until it is modular; the labelling sought lies under one of the two bounds, so with all combinations
    tried the result is exact. With more than MOST_TRIED such pairs, bounds that are tight at the labelling
    found are tried until nothing improves: what comes out is sound, but need not be the cheapest.
    """

    single: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    pairs: dict[tuple[int, int], Table] = field(default_factory=dict[tuple[int, int], Table])

    def variable(self, costs: tuple[float, float] = (0.0, 0.0)) -> int:
        """A new variable and what its labels cost."""
        self.single.append(costs)
        return len(self.single) - 1

    def add(self, variable: int, costs: tuple[float, float]) -> None:
        """Add to what the labels of a variable cost."""
        old = self.single[variable]
        self.single[variable] = (old[0] + costs[0], old[1] + costs[1])

    def add_pair(self, first: int, second: int, table: Table) -> None:
        """Add what two variables' labels cost together."""
        if first == second:
            self.add(first, (table[0][0], table[1][1]))
            return
        if first > second:
            first, second, table = second, first, _transposed(table)
        old = self.pairs.get((first, second), ((0.0, 0.0), (0.0, 0.0)))
        self.pairs[first, second] = (
            (old[0][0] + table[0][0], old[0][1] + table[0][1]),
            (old[1][0] + table[1][0], old[1][1] + table[1][1]),
        )

    def cost(self, labels: Sequence[bool]) -> float:
        """What a labelling costs."""
        singles = sum(costs[label] for costs, label in zip(self.single, labels, strict=True))
        return singles + sum(table[labels[a]][labels[b]] for (a, b), table in self.pairs.items())

    def solved(self) -> Solution:
        """The cheapest labelling; of several the one with the fewest variables labelled true.

        Its cost is infinite where none is possible.
        """
        exact, most = self._in_whole_numbers()
        mixed = [pair for pair, table in exact.pairs.items() if _excess(table) > 0]
        if len(mixed) > MOST_TRIED:
            return Solution(self, self._descended(exact, mixed), most)
        cuts = [_Cut(exact, dict(zip(mixed, sides, strict=True))) for sides in _sides(len(mixed))]
        labels = min((cut.labels for cut in cuts), key=exact.cost)
        return Solution(self, Labelling(labels, self.cost(labels), is_optimal=True), most, tuple(cuts))

    def minimised(self) -> Labelling:
        """The labelling that `solved` finds."""
        return self.solved().labelling

    def _descended(self, exact: Energy, mixed: Sequence[tuple[int, int]]) -> Labelling:
        raised = {pair: exact.pairs[pair][0][1] >= exact.pairs[pair][1][0] for pair in mixed}
        labels = _Cut(exact, raised).labels
        while True:
            tight = {(a, b): not labels[b] if labels[a] != labels[b] else raised[a, b] for a, b in mixed}
            better = _Cut(exact, tight).labels
            if exact.cost(better) >= exact.cost(labels):
                return Labelling(labels, self.cost(labels), is_optimal=False)
            labels, raised = better, tight

    def _in_whole_numbers(self) -> tuple[Energy, int]:
        """The same with costs rounded to whole numbers, and what stands for inf: more than all others."""
        tables = [*self.single, *(row for table in self.pairs.values() for row in table)]
        finite = [cost for costs in tables for cost in costs if isfinite(cost)]
        most = 1 + 2 * sum(round(abs(cost) * SCALE) for cost in finite)

        def whole(cost: float) -> int:
            return most if cost == inf else round(cost * SCALE)

        exact = Energy([(whole(zero), whole(one)) for zero, one in self.single])
        for (a, b), table in self.pairs.items():
            zeros, ones = ((whole(row[0]), whole(row[1])) for row in table)
            exact._add_legal(a, b, (zeros, ones), most)
        return exact, most

    def _add_legal(self, first: int, second: int, table: Table, most: int) -> None:
        """Add a table; a label that nothing goes with is forbidden by itself, not by its pairs."""
        for _ in range(2):
            rows = [min(row) >= most for row in table]
            if rows[0] != rows[1]:
                self.add(first, (most * rows[0], most * rows[1]))
                table = (table[rows[0]], table[1 - rows[1]])
            first, second, table = second, first, _transposed(table)
        self.add_pair(first, second, table)


class _Cut:
    """The minimum cut of an energy of whole numbers; raised: as `_raised`, of pairs that are not submodular.

    Nodes are the variables, the source and the sink. Labels are false on the source's side.
    """

    def __init__(self, exact: Energy, raised: Mapping[tuple[int, int], bool]) -> None:
        count = len(exact.single)
        self.source, self.sink = count, count + 1
        self._network = Network(count + 2)
        bounds = {pair: _raised(exact.pairs[pair], first) for pair, first in raised.items()}
        bounded = Energy(exact.single, {**exact.pairs, **bounds})
        slopes = [one - zero for zero, one in exact.single]
        for (a, b), table in bounded.pairs.items():
            slopes[a] += table[1][0] - table[0][0]
            slopes[b] += table[1][1] - table[1][0]
            if _excess(table) < 0:
                self._network.add(a, b, int(-_excess(table)))
        for variable, slope in enumerate(slopes):
            if slope > 0:
                self._network.add(self.source, variable, int(slope))
            elif slope < 0:
                self._network.add(variable, self.sink, int(-slope))
        self._network.push([self.source], [self.sink])
        ones = self._network.reaching([self.sink])
        self.labels = tuple(variable in ones for variable in range(count))
        self.cost = bounded.cost(self.labels)

    def forced(self, wanted: Mapping[int, bool]) -> float:
        """What the cheapest labelling costs in which variables have these labels.

        The source and the variables of its side are as one then, and so are the sink and those of its side:
        what more can flow between them is what it costs more (Kohli and Torr, "Measuring uncertainty in graph
        cut solutions", CVIU 2008).
        """
        if all(self.labels[variable] is label for variable, label in wanted.items()):
            return self.cost
        network = self._network.copy()
        zeros, ones = ([v for v, label in wanted.items() if label is side] for side in (False, True))
        more = network.push(zeros, [self.sink]) + network.push([self.source, *zeros], ones)
        return self.cost + more


@dataclass(frozen=True)
class Solution:
    """The cheapest labelling of an energy, and what others cost."""

    energy: Energy
    labelling: Labelling
    most: float
    """What stands for inf in the cuts."""
    cuts: tuple[_Cut, ...] = ()
    """Under each bound; none where not all were tried."""

    def excess(self, wanted: Mapping[int, bool]) -> float:
        """How much more the cheapest labelling costs in which variables have these labels.

        Where the labelling itself need not be the cheapest, another search is made, and may even find less.
        """
        if not self.cuts:
            return self._searched(wanted) - self.labelling.cost
        more = min(cut.forced(wanted) for cut in self.cuts) - min(cut.cost for cut in self.cuts)
        return inf if more >= self.most / 2 else more / SCALE

    def _searched(self, wanted: Mapping[int, bool]) -> float:
        energy = Energy(list(self.energy.single), dict(self.energy.pairs))
        for variable, label in wanted.items():
            energy.add(variable, (inf, 0.0) if label else (0.0, inf))
        return energy.minimised().cost


def _sides(count: int) -> Iterator[tuple[bool, ...]]:
    return product((False, True), repeat=count)


def _excess(table: Table) -> float:
    """By how much labels that agree cost more than labels that differ; above 0: not submodular."""
    return table[0][0] + table[1][1] - table[0][1] - table[1][0]


def _raised(table: Table, first: bool) -> Table:
    """The table with t01 (first) or t10 raised until it is modular."""
    excess = _excess(table)
    if first:
        return (table[0][0], table[0][1] + excess), table[1]
    return table[0], (table[1][0] + excess, table[1][1])


def _transposed(table: Table) -> Table:
    return (table[0][0], table[1][0]), (table[0][1], table[1][1])
