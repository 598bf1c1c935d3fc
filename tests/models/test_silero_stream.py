"""The voice detectors of silero-vad over a stream of 30 steps, each with the state that the last one left.

Both runtimes go on from their own states, so that what is off in one step is carried to the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rtcc
from benchmarks.models.zoo import ZOO, zoo_model, zoo_values
from rtcc.compiler import Options, start

Array = NDArray[Any]
STEPS, WINDOW, CONTEXT, RATE = 30, 512, 64, 16000
VARIANTS = tuple(name for name in ZOO if name.startswith("silero-vad"))
NEXT = {"state": "stateN", "h": "hn", "c": "cn"}
"""Each state by name, and what the model calls its next value."""

APART = 1e-4
"""Of probabilities and states, whose magnitudes are about 1."""


def windows(rows: int) -> Iterator[Array]:
    """f32[rows, 576] per step: a hum that comes and goes under noise, each row after the end of the last."""
    time = np.arange(STEPS * rows * WINDOW + CONTEXT) / RATE
    hum = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 9))
    loudness = 0.15 * (1 + np.sin(2 * np.pi * 1.5 * time))
    noise = np.random.default_rng(3).standard_normal(time.size)
    sound = (loudness * hum + 0.01 * noise).astype(np.float32)
    for step in range(STEPS):
        starts = (step * rows + np.arange(rows)) * WINDOW
        yield np.stack([sound[at : at + CONTEXT + WINDOW] for at in starts])


def first_states(name: str) -> dict[str, Array]:
    return {n: np.zeros(shape, np.float32) for n, shape in ZOO[name].shapes.items() if n in NEXT}


def expected(name: str, path: Path) -> Iterator[dict[str, Array]]:
    """ONNX Runtime's outputs, step by step."""
    runtime: Any = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path.read_bytes())
    inputs, outputs = (
        [value.name for value in each] for each in (session.get_inputs(), session.get_outputs())
    )
    states = first_states(name)
    rate = {"sr": np.array(RATE, np.int64)} if "sr" in inputs else {}
    for window in windows(ZOO[name].shapes["input"][0]):
        found = dict(zip(outputs, session.run(None, {"input": window, **states, **rate}), strict=True))
        states = {state: found[NEXT[state]] for state in states}
        yield found


def ours(name: str, path: Path) -> Iterator[dict[str, Array]]:
    """rtcc's, with one buffer for each state and its next value."""
    states = first_states(name)
    values = zoo_values(name)
    with rtcc.compile(
        path, shapes=ZOO[name].shapes, values=values, state={state: NEXT[state] for state in states}
    ) as artifact:
        feeds = {"input": np.zeros(ZOO[name].shapes["input"], np.float32), **states}
        if any(each.name == "sr" for each in artifact.inputs):
            feeds["sr"] = np.array(RATE, np.int64)
        step = artifact.bind(feeds)
        assert all(step.outputs[NEXT[state]] is step.inputs[state] for state in states)
        for window in windows(len(feeds["input"])):
            feeds["input"][:] = window
            step()
            yield {output: array.copy() for output, array in step.outputs.items()}


def test_there_are_six() -> None:
    assert len(VARIANTS) == 6


@pytest.mark.parametrize("name", VARIANTS)
def test_thirty_steps_with_state(name: str) -> None:
    path = zoo_model(name)
    steps = list(zip(ours(name, path), expected(name, path), strict=True))
    assert len(steps) == STEPS
    for number, (found, wanted) in enumerate(steps):
        assert set(found) == set(wanted)
        for output, array in wanted.items():
            np.testing.assert_allclose(
                found[output].reshape(array.shape),
                array,
                atol=APART,
                rtol=APART,
                err_msg=f"step {number}: {output}",
            )
    states = np.stack([found[each] for found, _ in steps for each in found if each in NEXT.values()])
    assert states.std(axis=0).max() > 0.1, "the state hardly changes"


@pytest.mark.parametrize(
    "name", [VARIANTS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS[1:])]
)
def test_every_pass_keeps_the_arithmetic(name: str) -> None:
    options = Options(shapes=ZOO[name].shapes, values=zoo_values(name), verify_each=True)
    start(zoo_model(name), options).lower()
