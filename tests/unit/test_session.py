"""rtcc.Session: one artefact per combination of input shapes, the most recent ones kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import rtcc.compiler
from rtcc import Artifact, RtccError, Session


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = relu(x) for x : f32[N,4]."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    path = tmp_path / "relu.onnx"
    opset = [helper.make_opsetid("", 21)]
    path.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())
    return path


def shape(session: Session, sizes: Sequence[int]) -> tuple[int, ...]:
    """The output's shape on an input of that shape."""
    return session.run({"x": np.zeros(sizes, np.float32)})["y"].shape


def test_compiles_for_each_new_shape_and_keeps_it(model: Path) -> None:
    session = Session(model)
    assert [shape(session, (batch, 4)) for batch in (1, 3, 1)] == [(1, 4), (3, 4), (1, 4)]
    assert session.specialised({"x": (3, 4)}) is session.specialised({"x": (3, 4)})


def test_forgets_what_was_used_longest_ago(model: Path) -> None:
    session = Session(model, most=2)
    first = session.specialised({"x": (1, 4)})
    second = session.specialised({"x": (2, 4)})
    assert session.specialised({"x": (1, 4)}) is first
    session.specialised({"x": (3, 4)})
    assert session.specialised({"x": (1, 4)}) is first
    assert session.specialised({"x": (2, 4)}) is not second


def test_serves_several_threads(model: Path) -> None:
    session = Session(model)
    with ThreadPoolExecutor(4) as pool:
        shapes = list(pool.map(partial(shape, session), [(1, 4), (2, 4)] * 8))
    assert shapes == [(1, 4), (2, 4)] * 8


def test_shapes_compile_at_the_same_time_and_each_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=60)
    compiled: list[object] = []
    real = rtcc.compiler.compile

    def compile(*arguments: Any, **options: Any) -> Artifact:
        compiled.append(options["shapes"])
        both.wait()  # passes only where two compilations are under way
        return real(*arguments, **options)

    monkeypatch.setattr(rtcc.compiler, "compile", compile)
    session = Session(model)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(partial(shape, session), [(1, 4), (2, 4)] * 3))
    assert found == [(1, 4), (2, 4)] * 3
    assert len(compiled) == 2


def test_a_failure_reaches_all_who_wait_and_is_tried_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = rtcc.compiler.compile, iter([True])

    def compile(*arguments: Any, **options: Any) -> Artifact:
        if next(tries, False):
            time.sleep(0.2)
            raise RtccError("full", "the disk is full")
        return real(*arguments, **options)

    def ask(_: int) -> str:
        try:
            return str(shape(session, (1, 4)))
        except RtccError as error:
            return error.code

    monkeypatch.setattr(rtcc.compiler, "compile", compile)
    session = Session(model)
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(ask, range(3))) == ["full"] * 3
    assert ask(0) == "(1, 4)"


def test_refuses_wrong_sizes_and_shapes(model: Path) -> None:
    with pytest.raises(RtccError, match="most must be at least 1"):
        Session(model, most=0)
    with pytest.raises(RtccError):
        Session(model).run({"x": np.zeros((2, 5), np.float32)})
