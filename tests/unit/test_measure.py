"""rtcc.measure: callables take turns, and the affinity is put back."""

from __future__ import annotations

import os

import pytest

from rtcc.measure import Latency, measure


def test_callables_take_turns() -> None:
    calls: list[str] = []
    figures = measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, warmup=2)
    assert "".join(calls) == "aabb" + "ab" * 3
    assert set(figures) == {"a", "b"}
    for latency in figures.values():
        assert 0 <= latency.least <= latency.p50 <= latency.p99 <= latency.most


def test_figures_are_microseconds() -> None:
    latency = Latency.of([1e-6, 3e-6, 2e-6])
    assert latency.as_dict() == pytest.approx({"min": 1, "p50": 2, "p99": 2.98, "max": 3})


def test_affinity_is_put_back_even_after_an_error() -> None:
    before = os.sched_getaffinity(0)

    def fail() -> None:
        assert os.sched_getaffinity(0) == {min(before)}
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        measure({"a": fail}, 1, cores=[min(before)])
    assert os.sched_getaffinity(0) == before
