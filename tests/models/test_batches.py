"""Recurrent layers over a batch, each part of it on a thread of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rtcc
from benchmarks.models.networks import lstm
from benchmarks.models.reference import onnxruntime_outputs
from rtcc.compiler import Options, start
from rtcc.ir.ops.control import Scan
from rtcc.ir.ops.plan import Launch, PlanLoop
from rtcc.ir.verify import verify
from rtcc.passes.cut_recurrent import CutRecurrent
from rtcc.passes.recurrence import batches
from rtcc.targets.x86.target import X86
from tests.frontend.models import Array, assert_same, interpreted
from tests.frontend.test_recurrent import layer


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a batch is, two parts and threads are worth it."""
    monkeypatch.setattr(batches, "parts_of_a_batch", lambda op, rw: 2)  # pyright: ignore
    monkeypatch.setattr(X86, "repays_threads", lambda self, kernels, saved=0.0: True)  # pyright: ignore


CASES: list[tuple[str, dict[str, Any]]] = [
    ("RNN", {}),
    ("GRU", {"direction": "reverse"}),
    ("GRU", {"linear_before_reset": 1}),
    ("LSTM", {"clip": 0.3}),
]


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize(("op", "attributes"), CASES)
def test_a_batch_in_parts_is_right_on_any_number_of_threads(op: str, attributes: dict[str, Any]) -> None:
    """Three rows of different lengths, one here and two there, with first states and peepholes."""
    operands = ("b", "lengths", "h", *(("c", "p") if op == "LSTM" else ()))
    model, feeds = layer(op, operands=operands, **attributes)
    module = rtcc.read(model)
    module.target = "x86:znver5,threads=2"
    assert CutRecurrent().run(module)
    verify(module)
    scans = [each for each in module.main.walk() if isinstance(each, Scan)]
    assert [each.inputs[0].type.sizes[0] for each in scans] == [1, 2]
    expected = onnxruntime_outputs(model, feeds)
    assert_same(interpreted(module, feeds), expected)
    compiled = rtcc.compile(model, threads=2)
    first: dict[str, Array] = {}
    for threads in (1, 2):
        with rtcc.load(compiled.path, threads=threads) as artifact:
            for _ in range(20):
                found = artifact.run(feeds)
                first = first or found
                assert all(np.array_equal(found[name], first[name]) for name in first)
    assert_same(first, expected)


@pytest.mark.parametrize(
    ("why", "sizes", "threads", "parts"),
    [
        ("eight rows, four for each thread", {"batch": 8}, 2, [0, 1]),
        ("one thread", {"batch": 8}, 1, [0]),
        ("one row takes as long as two", {"batch": 2}, 2, [0]),
        ("so little work does not repay a thread", {"batch": 8, "hidden": 8}, 2, [0]),
        ("fewer rows than threads", {"batch": 2}, 4, [0]),
    ],
)
def test_a_batch_is_cut_where_that_pays(
    why: str, sizes: dict[str, int], threads: int, parts: list[int]
) -> None:
    model = lstm(steps=100, layers=1, **sizes)
    compilation = start(model, Options(target="x86:znver5", threads=threads))
    compilation.lower()
    verify(compilation.module)
    loops = [op for op in compilation.module.main.ops if isinstance(op, PlanLoop)]
    assert [loop.thread for loop in loops] == parts, why
    if len(parts) > 1:
        inside = [op for loop in loops for op in loop.regions[0].walk() if isinstance(op, Launch)]
        assert {op.tasks for op in inside} == {1}
