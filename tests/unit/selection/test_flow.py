"""Maximum flows against the cheapest of all cuts of small random networks."""

from __future__ import annotations

import random
from itertools import product

import pytest

from rtcc.selection.flow import Network

NODES = 7

Edges = list[tuple[int, int, int]]


def random_edges(seed: int) -> Edges:
    source = random.Random(seed)
    return [(*source.sample(range(NODES), 2), source.randrange(1, 20)) for _ in range(14)]  # pyright: ignore


def network_of(edges: Edges) -> Network:
    network = Network(NODES)
    for edge in edges:
        network.add(*edge)
    return network


def least_cut(edges: Edges, sources: set[int], sinks: set[int]) -> int:
    """What crosses the cheapest cut, over all ways to divide the nodes."""
    cuts: list[int] = []
    for bits in product((False, True), repeat=NODES):
        side = {node for node in range(NODES) if bits[node]}
        if sources <= side and not sinks & side:
            cuts.append(sum(capacity for a, b, capacity in edges if a in side and b not in side))
    return min(cuts)


@pytest.mark.parametrize("seed", range(60))
def test_as_much_flows_as_crosses_the_cheapest_cut(seed: int) -> None:
    edges = random_edges(seed)
    network = network_of(edges)
    flow = network.push([0], [1])
    assert flow == least_cut(edges, {0}, {1})
    assert network.push([0], [1]) == 0
    behind = network.reaching([1])
    assert 0 not in behind
    assert flow == sum(capacity for a, b, capacity in edges if a not in behind and b in behind)


@pytest.mark.parametrize("seed", range(60))
def test_a_flow_is_gone_on_with_where_a_node_becomes_a_source_or_a_sink(seed: int) -> None:
    edges = random_edges(seed)
    network = network_of(edges)
    flow = network.push([0], [1])
    for sources, sinks in (({2}, set[int]()), (set[int](), {3}), ({2}, {3}), ({2, 4}, {3, 5})):
        further = network.copy()
        more = further.push(sources, [1]) + (further.push([0, *sources], sinks) if sinks else 0)
        assert flow + more == least_cut(edges, {0, *sources}, {1, *sinks})
    assert network.push([0], [1]) == 0


def test_flows_of_any_size_are_exact() -> None:
    network = Network(3)
    network.add(0, 1, 10**40 + 1)
    network.add(1, 2, 10**40)
    assert network.push([0], [2]) == 10**40
