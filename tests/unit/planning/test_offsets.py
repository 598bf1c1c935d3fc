"""Placing buffers: nothing alive together overlaps, and the arena stays near the bound."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtcc.planning import offsets
from rtcc.planning.offsets import (
    ALIGNMENT,
    Buffer,
    aligned,
    assign_offsets,
    live_range_bound,
    pairs_alive,
    peak,
)
from tests.growth import growth

SPANS = st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 12))
BUFFERS = st.lists(SPANS.map(lambda s: Buffer(s[0], s[1], s[1] + s[2])), max_size=24)


@given(BUFFERS)
def test_buffers_alive_together_never_overlap(buffers: list[Buffer]) -> None:
    arena = assign_offsets(buffers)
    assert not any(a.overlaps(b) for a, b in combinations(buffers, 2))
    assert all(b.offset % ALIGNMENT == 0 and b.offset + b.bytes <= arena for b in buffers if b.bytes)


@given(BUFFERS)
def test_arena_lies_between_the_bound_and_the_sum(buffers: list[Buffer]) -> None:
    arena = assign_offsets(buffers)
    bound = live_range_bound(buffers)
    assert bound <= arena <= sum(aligned(b.bytes) for b in buffers)
    alive = [sum(aligned(b.bytes) for b in buffers if b.first <= p <= b.last) for p in range(45)]
    assert bound == max(alive)
    if bound:
        assert alive[peak(buffers)[1]] == bound


@given(BUFFERS)
def test_same_buffers_same_offsets(buffers: list[Buffer]) -> None:
    assign_offsets(buffers)
    again = [Buffer(b.bytes, b.first, b.last) for b in buffers]
    assign_offsets(again)
    assert [b.offset for b in again] == [b.offset for b in buffers]


def test_a_chain_needs_its_two_largest_neighbours() -> None:
    """Each result dies when the next one is made: the bound is reached."""
    sizes = np.random.default_rng(0).integers(1, 1 << 20, 200)
    buffers = [Buffer(int(size), n, n + 1) for n, size in enumerate(sizes)]
    assert assign_offsets(buffers) == live_range_bound(buffers)


@given(BUFFERS)
def test_pairs_alive_are_those_that_share_a_position(buffers: list[Buffer]) -> None:
    together = [a.first <= b.last and b.first <= a.last for a, b in combinations(buffers, 2)]
    assert pairs_alive(buffers) == sum(together)


def crowded(count: int) -> list[Buffer]:
    """Buffers of random lives, a quarter of all pairs alive together or more."""
    random = np.random.default_rng(2)
    lives = zip(random.integers(64, 1 << 16, count), random.integers(0, count, count), strict=True)
    return [Buffer(int(size), n, n + int(life)) for n, (size, life) in enumerate(lives)]


def place_all(count: int) -> None:
    assign_offsets(crowded(count))


def test_work_grows_no_faster_than_the_number_of_buffers() -> None:
    assert growth(place_all, 500) < 1.1


def test_crowded_plans_are_placed_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds: list[int] = []
    place = offsets._place  # pyright: ignore[reportPrivateUsage]

    def counted(buffers: Sequence[Buffer]) -> object:
        rounds.append(len(buffers))
        return place(buffers)

    monkeypatch.setattr(offsets, "_place", counted)
    assert assign_offsets(buffers := crowded(5000)) <= 1.25 * live_range_bound(buffers)
    assert len(rounds) <= 10


def test_nothing_to_place() -> None:
    assert assign_offsets([]) == 0
    assert assign_offsets([Buffer(0, 0, 3)]) == 0
    assert peak([]) == (0, 0)


def test_many_buffers_lie_close_to_the_bound() -> None:
    random = np.random.default_rng(1)
    lives = zip(random.integers(64, 1 << 16, 5_000), random.integers(0, 60, 5_000), strict=True)
    buffers = [Buffer(int(size), n, n + int(life)) for n, (size, life) in enumerate(lives)]
    assert assign_offsets(buffers) <= 1.25 * live_range_bound(buffers)
