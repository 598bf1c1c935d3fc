"""Stacked recurrent layers, each some steps behind the one below it on a thread of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import rtcc
from benchmarks.models.networks import lstm, lstm_bidirectional
from rtcc.compiler import Options, start
from rtcc.emission.steps import steps_of
from rtcc.emission.walk import walk_text
from rtcc.ir import Module
from rtcc.ir.ops.control import Scan
from rtcc.ir.ops.plan import Launch, PlanLoop
from rtcc.ir.verify import verify
from rtcc.passes.cut_recurrent import CutRecurrent
from rtcc.passes.legalize import Legalize
from rtcc.passes.recurrence import wavefront
from rtcc.targets.x86.target import X86
from tests.frontend.models import Array, assert_same, interpreted, make_model, run_onnxruntime, value

F32 = np.float32
STEPS, BATCH = 37, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
TWO = "x86:znver5,threads=2"


def stack(
    kinds: Sequence[str], hidden: int = 6, between: str = "", **attributes: Any
) -> tuple[ModelProto, dict[str, Array]]:
    """Layers with all operands, over each other; every result is an output. between: an op after each."""
    random = np.random.default_rng(0)
    feeds = {"x0": random.standard_normal((STEPS, BATCH, 4)).astype(F32)}
    constants: dict[str, Any] = {"one": np.array([1])}
    nodes: list[Any] = []
    outputs: list[Any] = []
    for n, kind in enumerate(kinds):
        gates, features = GATES[kind] * hidden, 4 if n == 0 else hidden
        shapes = {"w": (1, gates, features), "r": (1, gates, hidden), "b": (1, 2 * gates)}
        shapes |= {"p": (1, 3 * hidden)} if kind == "LSTM" else {}
        constants |= {f"{k}{n}": (random.standard_normal(s) / 2).astype(F32) for k, s in shapes.items()}
        states = ("h", "c") if kind == "LSTM" else ("h",)
        feeds |= {f"{s}{n}": random.standard_normal((1, BATCH, hidden)).astype(F32) for s in states}
        names = [f"x{n}", f"w{n}", f"r{n}", f"b{n}", "", *(f"{s}{n}" for s in states)]
        names += [f"p{n}"] if kind == "LSTM" else []
        results = [f"y{n}", *(f"last_{s}{n}" for s in states)]
        late = {"linear_before_reset": n % 2} if kind == "GRU" else {}
        nodes.append(
            helper.make_node(kind, names, results, name=f"layer{n}", hidden_size=hidden, **late, **attributes)
        )
        nodes.append(helper.make_node("Squeeze", [f"y{n}", "one"], [f"s{n}" if between else f"x{n + 1}"]))
        if between:
            nodes.append(helper.make_node(between, [f"s{n}"], [f"x{n + 1}"]))
        outputs += [value(name, (1, BATCH, hidden)) for name in results[1:]]
    outputs.append(value(f"x{len(kinds)}", (STEPS, BATCH, hidden)))
    return make_model(nodes, [value(n, a.shape) for n, a in feeds.items()], outputs, constants), feeds


def legalized(model: ModelProto, target: str = TWO) -> Module:
    module = rtcc.read(model)
    module.target = target
    CutRecurrent().run(module)
    Legalize().run(module)
    verify(module)
    return module


def scans(module: Module) -> list[Scan]:
    return [op for op in module.main.walk() if isinstance(op, Scan)]


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small a stack is, five chunks and threads are worth it."""
    monkeypatch.setattr(wavefront, "chunks_of_a_layer", lambda layers, rw: 5)  # pyright: ignore
    monkeypatch.setattr(X86, "repays_threads", lambda self, kernels, saved=0.0: True)  # pyright: ignore


KINDS = (("LSTM", "LSTM"), ("GRU", "GRU"), ("GRU", "LSTM"), ("RNN", "GRU", "LSTM"))


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_chunks_give_the_bits_of_whole_layers(kinds: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """First states, peepholes and biases; chunks of 7 and 8 steps; every result is read."""
    model, feeds = stack(kinds)
    cut = legalized(model)
    assert [scan.inputs[-1].type.sizes[0] for scan in scans(cut)][:: len(kinds)] == [7, 7, 8, 7, 8]
    found = interpreted(cut, feeds)
    assert_same(found, run_onnxruntime(model, feeds))
    monkeypatch.setattr(wavefront, "RULES", ())
    whole = interpreted(legalized(model), feeds)
    assert all(np.array_equal(found[name], whole[name]) for name in whole)


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_compiled_it_is_right_on_any_number_of_threads(kinds: Sequence[str]) -> None:
    model, feeds = stack(kinds)
    expected = run_onnxruntime(model, feeds)
    compiled = rtcc.compile(model, threads=3)
    first: dict[str, Array] = {}
    for threads in (1, 2, 3):
        with rtcc.load(compiled.path, threads=threads) as artifact:
            for _ in range(20):
                found = artifact.run(feeds)
                first = first or found
                assert all(np.array_equal(found[name], first[name]) for name in first)
    assert_same(first, expected)


@pytest.mark.usefixtures("pays")
def test_every_pass_keeps_the_arithmetic() -> None:
    model, _ = stack(("LSTM", "GRU"))
    start(model, Options(target="x86:znver5", threads=2, verify_each=True)).lower()


def planned(model: ModelProto, threads: int) -> Module:
    compilation = start(model, Options(target="x86:znver5", threads=threads))
    compilation.lower()
    verify(compilation.module)
    return compilation.module


def loops(module: Module) -> list[PlanLoop]:
    return [op for op in module.main.ops if isinstance(op, PlanLoop)]


def test_a_chunk_of_one_layer_runs_beside_the_next_of_the_layer_below() -> None:
    module = planned(lstm(steps=100), threads=2)
    found = loops(module)
    assert [loop.thread for loop in found] == [0, *[0, 1] * (len(found) // 2 - 1), 0]
    beside = [(first, second) for first, second in pairwise(found) if second.thread == 1]
    assert all(first.next is second for first, second in beside)
    assert {
        op.tasks
        for pair in beside
        for loop in pair
        for op in loop.regions[0].walk()
        if isinstance(op, Launch)
    } == {1}
    text = walk_text(steps_of(module.main), {name: name for name in module.kernels}, 2)
    for first in range(1, len(found) - 1, 2):
        between = text[text.index(f"int64_t i{first} ") : text.index(f"int64_t i{first + 1} ")]
        assert "rtcc_barrier" not in between


def test_three_layers_on_three_threads_are_in_step() -> None:
    found = loops(planned(lstm(steps=200, layers=3), threads=3))
    assert [loop.thread for loop in found].count(2) >= len(found) // 3 - 2


@pytest.mark.parametrize(
    ("why", "model", "threads"),
    [
        ("one thread", lambda: lstm(steps=100), 1),
        ("so little work does not repay a thread", lambda: lstm(steps=32), 2),
        ("weights that one thread's cache does not hold are divided", lambda: lstm(steps=100, hidden=256), 2),
        ("both directions need all steps below", lambda: lstm_bidirectional(steps=100), 2),
        ("there is no layer above", lambda: lstm(steps=100, layers=1), 2),
    ],
)
def test_layers_stay_whole(why: str, model: Any, threads: int) -> None:
    trips = {loop.trip for loop in loops(planned(model(), threads))}
    assert trips <= {100}, why


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize(("between", "attributes"), [("Tanh", {}), ("", {"direction": "reverse"})])
def test_other_stacks_stay_whole(between: str, attributes: dict[str, Any]) -> None:
    model, feeds = stack(("LSTM", "LSTM"), between=between, **attributes)
    module = legalized(model)
    assert not scans(module)
    assert_same(interpreted(module, feeds), run_onnxruntime(model, feeds))


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("state", ["last_h0", "tripled"])
def test_a_layer_that_begins_with_the_end_of_one_below_waits_for_it(state: str) -> None:
    """As it stands, or through another operator."""
    model, feeds = stack(("GRU", "GRU", "GRU"))
    triple = helper.make_node("Sum", ["last_h0", "last_h0", "last_h0"], ["tripled"])
    model.graph.node.insert(1, triple)
    model.graph.node[-2].input[5] = state
    del feeds["h2"]
    del model.graph.input[-1]
    module = legalized(model)
    assert not scans(module)
    assert_same(interpreted(module, feeds), run_onnxruntime(model, feeds))


@pytest.mark.usefixtures("pays")
def test_states_that_a_second_reader_wants_keep_their_layer_whole() -> None:
    model, feeds = stack(("GRU", "GRU"))
    model.graph.output.append(value("y0", (STEPS, 1, BATCH, 6)))
    module = legalized(model)
    assert not scans(module)
    assert_same(interpreted(module, feeds), run_onnxruntime(model, feeds))
