"""The minimum cut against all labellings of small random energies."""

from __future__ import annotations

import random
from itertools import combinations, pairwise, product
from math import inf, isinf

import pytest

from rtcc.selection.energy import MOST_TRIED, Energy, Table


def random_energy(seed: int, mixed: int = 0) -> Energy:
    """Seven variables with submodular pairs, illegal entries among them; mixed: pairs that are not."""
    source = random.Random(seed)
    energy = Energy()
    for _ in range(7):
        energy.variable((source.random(), source.random()))
    pairs = list(combinations(range(7), 2))
    for first, second in source.sample(pairs, 10):
        energy.add_pair(second, first, _submodular(source))
    for first, second in source.sample(pairs, mixed):
        energy.add_pair(first, second, ((2 + source.random(), source.random()), (source.random(), 1.0)))
    return energy


def _submodular(source: random.Random) -> Table:
    high, low = (1 + source.random(), 1 + source.random()), (source.random(), source.random())
    rows = ((low[0], high[0]), (high[1], low[1]))
    if source.random() < 0.4:
        legal = source.random() < 0.5
        rows = ((low[0], high[0] if legal else inf), (inf if legal else high[1], low[1]))
    return rows


def least(energy: Energy) -> float:
    return min(energy.cost(labels) for labels in product((False, True), repeat=len(energy.single)))


@pytest.mark.parametrize("mixed", [0, 1, 4])
def test_the_cut_is_as_cheap_as_the_best_of_all_labellings(mixed: int) -> None:
    for seed in range(40):
        energy = random_energy(seed, mixed)
        found = energy.minimised()
        assert found.is_optimal
        assert found.cost == energy.cost(found.labels)
        assert found.cost == pytest.approx(least(energy), rel=1e-9)


def least_with(energy: Energy, wanted: dict[int, bool]) -> float:
    return min(
        energy.cost(labels)
        for labels in product((False, True), repeat=len(energy.single))
        if all(labels[variable] is label for variable, label in wanted.items())
    )


@pytest.mark.parametrize("mixed", [0, 1, 4, MOST_TRIED + 6])
def test_what_other_labels_cost_is_what_the_best_with_them_costs(mixed: int) -> None:
    """One variable or two, with any labels, the cheapest labelling's own among them, and impossible ones."""
    source = random.Random(mixed)
    seen: list[float] = []
    for seed in range(12):
        energy = random_energy(seed, mixed)
        solution = energy.solved()
        for _ in range(8):
            wanted = {source.randrange(7): source.random() < 0.5 for _ in range(2)}
            excess, expected = solution.excess(wanted), least_with(energy, wanted) - solution.labelling.cost
            if mixed <= MOST_TRIED or isinf(expected):
                assert excess == pytest.approx(expected, abs=1e-9)
            else:
                assert excess >= expected - 1e-9
            seen.append(excess)
    assert any(map(isinf, seen))
    if mixed <= MOST_TRIED:
        assert min(seen) == 0.0
    assert len({each for each in seen if 0 < each < inf}) > 20


def test_many_pairs_that_are_not_submodular_give_a_sound_labelling() -> None:
    ratios: list[float] = []
    for seed in range(20):
        energy = random_energy(seed, MOST_TRIED + 6)
        found = energy.minimised()
        assert found.cost == energy.cost(found.labels)
        ratios.append(found.cost / least(energy))
    assert min(ratios) >= 1 - 1e-9
    assert max(ratios) < 1.5


def test_labels_that_nothing_goes_with_are_not_taken() -> None:
    """One pair allows but one combination, which is none where both agree."""
    energy = Energy()
    first, second, third = (energy.variable((0.0, 1.0)) for _ in range(3))
    energy.add_pair(first, second, ((inf, 5.0), (inf, inf)))
    energy.add_pair(second, third, ((0.0, 0.0), (3.0, 0.0)))
    found = energy.minimised()
    assert found.labels == (False, True, True)
    assert found.cost == 7.0


def test_of_equally_cheap_labellings_the_one_with_fewest_trues_is_taken() -> None:
    energy = Energy()
    variables = [energy.variable() for _ in range(4)]
    for first, second in pairwise(variables):
        energy.add_pair(first, second, ((0.0, 1.0), (1.0, 0.0)))
    energy.add(variables[1], (0.5, 0.0))
    energy.add(variables[2], (0.0, 0.5))
    assert energy.minimised().labels == (False,) * 4


def test_what_cannot_be_had_costs_infinitely_much() -> None:
    energy = Energy()
    first, second = energy.variable((inf, 0.0)), energy.variable((inf, 0.0))
    energy.add_pair(first, second, ((0.0, 0.0), (0.0, inf)))
    assert isinf(energy.minimised().cost)
