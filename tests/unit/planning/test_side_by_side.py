"""Loops that need nothing of each other run at once, where that saves time."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from benchmarks.models.networks import lstm, lstm_bidirectional
from rtcc.compiler import Options, start
from rtcc.emission.steps import steps_of
from rtcc.emission.walk import walk_text
from rtcc.ir import Graph, Module
from rtcc.ir.ops.plan import Launch, PlanLoop
from rtcc.ir.verify import verify
from rtcc.target import Target


def planned(model: ModelProto, threads: int) -> Module:
    compilation = start(model, Options(target="x86:znver5", threads=threads))
    compilation.lower()
    verify(compilation.module)
    return compilation.module


def loops(module: Module) -> list[PlanLoop]:
    return [op for op in module.main.ops if isinstance(op, PlanLoop)]


def tasks_inside(found: list[PlanLoop]) -> set[int]:
    return {op.tasks for loop in found for op in loop.regions[0].walk() if isinstance(op, Launch)}


def test_both_directions_of_a_layer_run_at_once_and_wait_for_nothing() -> None:
    module = planned(lstm_bidirectional(), threads=2)
    found = loops(module)
    assert [loop.thread for loop in found] == [0, 1, 0, 1]
    assert all(first.next is second for first, second in zip(found[::2], found[1::2], strict=True))
    assert tasks_inside(found) == {1}
    text = walk_text(steps_of(module.main), {name: name for name in module.kernels}, 2)
    for first, second in ((0, 1), (2, 3)):
        between = text[text.index(f"int64_t i{first} ") : text.index(f"int64_t i{second} ")]
        assert "rtcc_barrier" not in between


def test_three_layers_on_many_threads_are_pairs() -> None:
    found = loops(planned(lstm_bidirectional(layers=3, steps=100), threads=8))
    assert [loop.thread for loop in found] == [0, 1] * 3


def test_one_thread_makes_everything() -> None:
    assert not loops(planned(lstm_bidirectional(), threads=1))
    assert {loop.thread for loop in loops(planned(lstm_bidirectional(steps=100), threads=1))} == {0}


def test_layers_that_need_each_other_do_not_run_at_once() -> None:
    found = loops(planned(lstm(steps=100, hidden=256), threads=2))
    assert [loop.thread for loop in found] == [0, 0]


def test_what_does_not_repay_waking_a_thread_stays_on_the_callers() -> None:
    found = loops(planned(lstm_bidirectional(steps=10, features=4, hidden=4, layers=1), threads=2))
    assert [loop.thread for loop in found] == [0, 0]


def test_launches_are_divided_where_that_saves_more() -> None:
    """On eight threads, an eighth of each of two products beats one whole product on each of two."""
    found = loops(planned(lstm_bidirectional(hidden=512, layers=1), threads=8))
    assert [loop.thread for loop in found] == [0, 0]
    assert max(tasks_inside(found)) > 2


def test_loops_that_need_an_accelerator_do_not_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It serves one run at a time, and would refuse the other."""

    def is_accelerated(target: Target, kernel: Graph) -> bool:
        return True

    monkeypatch.setattr(Target, "is_accelerated", is_accelerated)
    assert {loop.thread for loop in loops(planned(lstm_bidirectional(), threads=2))} == {0}
