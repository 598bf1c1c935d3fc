"""State that the caller keeps in one buffer: `state={"h": "hn"}`, run in place, against separate buffers."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import rtcc
from rtcc.artifact.codes import BY_NAME
from rtcc.errors import InvalidInput
from rtcc.ir import Module
from rtcc.ir.ops.plan import Launch

CELL = """// rtir 1  level=graph
graph @main(%x: f32[1,64], %h: f32[1,64]) {
  %a = math.add(%x, %h) : f32[1,64]
  %hn = math.tanh(%a) : f32[1,64]
  %y = math.mul(%hn, %h) : f32[1,64]
  return(%y, %hn)
}
"""
SWAP = """// rtir 1  level=graph
graph @main(%a: f32[8], %b: f32[8], %x: f32[8]) attributes {outputs = ["bn", "an", "y"]} {
  %y = math.add(%a, %x) : f32[8]
  return(%a, %b, %y)
}
"""
BEFORE = """// rtir 1  level=graph
graph @main(%x: f32[8], %h: f32[8]) attributes {outputs = ["hn", "before"]} {
  %hn = math.add(%x, %h) : f32[8]
  return(%hn, %h)
}
"""
TWICE = """// rtir 1  level=graph
graph @main(%x: f32[8], %h: f32[8]) attributes {outputs = ["hn", "again"]} {
  %hn = math.add(%x, %h) : f32[8]
  return(%hn, %hn)
}
"""
BRANCH = """// rtir 1  level=graph
graph @main(%x: f32[8], %h: f32[8], %c: bool[]) attributes {outputs = ["hn", "y"]} {
  %hn = control.if(%c) { ()
    %r = math.add(%x, %h) : f32[8]
    return(%r)
  } { ()
    %s = math.sub(%x, %h) : f32[8]
    return(%s)
  } : f32[8]
  %y = math.mul(%hn, %x) : f32[8]
  return(%hn, %y)
}
"""


def lstm() -> bytes:
    """y, hn, cn = LSTM(x, h, c) with random weights, two steps of four features."""
    random = np.random.default_rng(0)
    hidden, features = 5, 4
    sizes = {"w": (1, 4 * hidden, features), "r": (1, 4 * hidden, hidden), "b": (1, 8 * hidden)}
    weights = [
        helper.make_tensor(
            name, TensorProto.FLOAT, size, random.standard_normal(size).astype("f4").tobytes(), raw=True
        )
        for name, size in sizes.items()
    ]
    shapes = {"x": [2, 1, features], "h": [1, 1, hidden], "c": [1, 1, hidden], "y": [2, 1, 1, hidden],
              "hn": [1, 1, hidden], "cn": [1, 1, hidden]}  # fmt: skip
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    }
    node = helper.make_node("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["y", "hn", "cn"], hidden_size=hidden)
    ends = [values[name] for name in ("x", "h", "c")], [values[name] for name in ("y", "hn", "cn")]
    graph = helper.make_graph([node], "g", *ends, weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    ).SerializeToString()


MODELS: dict[str, tuple[str | bytes, dict[str, str]]] = {
    "cell": (CELL, {"h": "hn"}),
    "swap": (SWAP, {"a": "an", "b": "bn"}),
    "before": (BEFORE, {"h": "hn"}),
    "twice": (TWICE, {"h": "again"}),
    "branch": (BRANCH, {"h": "hn"}),
    "lstm": (lstm(), {"h": "hn", "c": "cn"}),
}


def module_of(name: str) -> tuple[Module, dict[str, str]]:
    model, state = MODELS[name]
    return (rtcc.parse_module(model) if isinstance(model, str) else rtcc.read(model)), state


def feeds_of(module: Module) -> dict[str, NDArray[Any]]:
    from rtcc.pipeline.inputs import random_inputs

    return random_inputs(module, 3)


@pytest.mark.parametrize(
    ("name", "threads", "level"),
    [*((name, 1, "-O2") for name in MODELS), ("cell", 2, "-O2"), ("lstm", 2, "-O0")],
)
def test_in_place_is_the_same_as_apart(name: str, threads: int, level: str) -> None:
    module, state = module_of(name)
    feeds = feeds_of(module)
    with rtcc.compile(module, threads=threads, state=state, pipeline=level) as artifact:
        assert artifact.info.state == state
        kept = {key: array.copy() for key, array in feeds.items()}
        step = artifact.bind(kept)
        for _ in range(3):
            expected = artifact.run(feeds)
            reference = rtcc.interpret(module, feeds)
            step()
            for output, array in expected.items():
                np.testing.assert_array_equal(step.outputs[output], array, err_msg=output)
                np.testing.assert_allclose(array, reference[output], rtol=1e-5, atol=1e-6)
            for source, output in state.items():
                assert step.outputs[output] is kept[source]
                feeds[source] = expected[output]
        step.close()


def plan_of(text: str, state: dict[str, str]) -> Module:
    from rtcc.compiler import Options, start

    compilation = start(rtcc.parse_module(text), Options(state=state))
    compilation.lower()
    return compilation.module


def copies(module: Module) -> int:
    return sum(isinstance(op, Launch) and str(op.kernel).startswith("copy_") for op in module.main.walk())


def test_what_is_made_after_all_reads_needs_no_copy() -> None:
    text = """// rtir 1  level=graph
const #w : f32[64,64] = splat(0.25)
graph @main(%h: f32[1,64]) {
  %e = nn.softmax(%h) : f32[1,64]
  %hn = nn.mat_mul(%e, #w) : f32[1,64]
  return(%hn)
}
"""
    module = plan_of(text, {"h": "hn"})
    assert len([op for op in module.main.ops if isinstance(op, Launch)]) == 2
    assert copies(module) == 0


def test_what_is_read_as_it_is_made_needs_one() -> None:
    assert copies(plan_of(CELL, {"h": "hn"})) == 1


def test_undeclared_sharing_is_refused() -> None:
    module, state = module_of("cell")
    feeds = feeds_of(module)
    apart = {"y": np.empty_like(feeds["x"]), "hn": feeds["h"]}
    with rtcc.compile(module) as artifact, pytest.raises(InvalidInput, match="--state INPUT=OUTPUT"):
        artifact.bind(feeds, apart)
    with rtcc.compile(module, state=state) as artifact:
        with pytest.raises(InvalidInput, match="overlap"):
            artifact.bind(feeds, apart | {"y": feeds["x"]})
        both = np.zeros(80, np.float32)
        shifted = feeds | {"h": both[:64].reshape(1, 64)}
        with pytest.raises(InvalidInput, match="overlap"):
            artifact.bind(shifted, apart | {"hn": both[16:].reshape(1, 64)})


def test_the_artefact_itself_refuses_it() -> None:
    module, state = module_of("cell")
    buffers = [np.zeros(80, np.float32) for _ in range(4)]
    x, h, y, hn = (array.ctypes.data for array in buffers)
    with rtcc.compile(module, state=state) as artifact:
        step = artifact.bind(feeds_of(module))
        workspace = step._workspace.address  # pyright: ignore[reportPrivateUsage]

        def run(*addresses: int) -> int:
            ins, outs = ((ctypes.c_void_p * 2)(*pair) for pair in (addresses[:2], addresses[2:]))
            return artifact._table.run(workspace, ins, outs)  # pyright: ignore[reportPrivateUsage]

        overlap = BY_NAME["BUFFERS_OVERLAP"]
        assert run(x, h, y, hn) == 0
        assert run(x, h, y, h) == 0
        assert run(x, x, y, hn) == 0
        for wrong in ((x, h, x, hn), (x, h, y, x), (x, h, y, h + 64), (x, h, y, y), (x, h, h, hn)):
            assert run(*wrong) == overlap
        step.close()


@pytest.mark.parametrize(
    ("state", "code"),
    [
        ({"g": "hn"}, "unknown-input"),
        ({"h": "gn"}, "unknown-output"),
        ({"c": "hn"}, "state-type"),
        ({"h": "hn", "x": "hn"}, "state-twice"),
    ],
)
def test_wrong_state(state: dict[str, str], code: str) -> None:
    module = rtcc.parse_module(BRANCH)
    with pytest.raises(InvalidInput) as raised:
        rtcc.compile(module, state=state)
    assert raised.value.code == code


def test_a_plan_keeps_its_state(tmp_path: Path) -> None:
    rtcc.compile(rtcc.parse_module(CELL), state={"h": "hn"}, dump_ir=tmp_path).close()
    (plan,) = tmp_path.glob("*-plan-memory.rtir")
    with rtcc.compile(plan) as artifact:
        assert artifact.info.state == {"h": "hn"}
    with pytest.raises(InvalidInput, match="fixed-state"):
        rtcc.compile(plan, state={"x": "y"})


def test_the_header_names_the_pairs(tmp_path: Path) -> None:
    with rtcc.compile(rtcc.parse_module(CELL), state={"h": "hn"}) as artifact:
        header = artifact.save(tmp_path / "cell.so").with_suffix(".h").read_text()
    assert "*   output hn: input h. */" in header
