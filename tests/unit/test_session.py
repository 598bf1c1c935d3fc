"""rtcc.Session: one artefact per combination of input shapes, the most recent ones kept."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from rtcc import RtccError, Session


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


def test_refuses_wrong_sizes_and_shapes(model: Path) -> None:
    with pytest.raises(RtccError, match="most must be at least 1"):
        Session(model, most=0)
    with pytest.raises(RtccError):
        Session(model).run({"x": np.zeros((2, 5), np.float32)})
