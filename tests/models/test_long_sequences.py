"""Recurrent layers of many steps, compiled: right, and no larger for being long."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto

import rtcc
from benchmarks.models.networks import gru, lstm, lstm_bidirectional, sample_inputs
from benchmarks.models.reference import onnxruntime_outputs
from rtcc.compiler import Options, start
from rtcc.ir import Module
from rtcc.ir.ops.plan import PlanLoop
from rtcc.passes.legalization import recurrent
from rtcc.passes.legalization.recurrent import MOST_WRITTEN_OUT
from rtcc.targets.x86.target import X86
from tests.frontend.test_recurrent import layer

NETWORKS: dict[str, Callable[..., ModelProto]] = {
    "lstm": lstm, "lstm-bidirectional": lstm_bidirectional, "gru": gru,
}  # fmt: skip


def lowered(steps: int) -> Module:
    """A plan of a small layer of so many steps."""
    compilation = start(lstm_bidirectional(steps=steps, features=4, hidden=6, layers=1), Options())
    compilation.lower()
    return compilation.module


@pytest.mark.parametrize("name", NETWORKS)
def test_a_thousand_steps(name: str) -> None:
    model = NETWORKS[name](steps=1000, features=8, hidden=12, batch=2)
    feeds = sample_inputs(model)
    with rtcc.compile(model, pipeline="-O2") as artifact:
        found = artifact.run(feeds)
    for output, expected in onnxruntime_outputs(model, feeds).items():
        np.testing.assert_allclose(found[output], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["written out", "at once"])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_layers_with_everything(op: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths, first states, peepholes, clipping, both directions; also each direction on a thread."""
    monkeypatch.setattr(recurrent, "MOST_WRITTEN_OUT", 0 if form == "at once" else MOST_WRITTEN_OUT)
    monkeypatch.setattr(X86, "repays_threads", lambda self, kernels, saved=0.0: True)  # pyright: ignore
    operands = ("b", "lengths", "h", *(("c", "p") if op == "LSTM" else ()))
    model, feeds = layer(op, operands=operands, direction="bidirectional", clip=0.5)
    compilation = start(model, Options(threads=2))
    compilation.lower()
    loops = [each.thread for each in compilation.module.main.walk() if isinstance(each, PlanLoop)]
    assert loops == ([0, 1] if form == "at once" else [])
    with rtcc.compile(model, threads=2) as artifact:
        for _ in range(50):
            found = artifact.run(feeds)
            for output, expected in onnxruntime_outputs(model, feeds).items():
                np.testing.assert_allclose(found[output], expected, rtol=1e-4, atol=1e-5)


def test_code_does_not_grow_with_the_steps() -> None:
    assert MOST_WRITTEN_OUT < 100
    short, long = lowered(100), lowered(10_000)
    assert sum(1 for _ in long.walk()) == sum(1 for _ in short.walk())
    assert list(long.kernels) == list(short.kernels)
