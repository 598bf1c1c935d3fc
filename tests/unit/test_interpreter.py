"""Running modules at every level, and what feeds that do not fit say."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rtcc
from rtcc.errors import InvalidInput
from rtcc.interpreter import input_names, interpret_graph, output_names
from rtcc.ir import DType, Graph, Module, TensorType, Value
from rtcc.ir.op import Array
from rtcc.ir.ops.math import Add
from rtcc.text import parse_module

X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2

SYMBOLIC = """// rtir 1  level=graph
dim N in [1,8]
const #c : f32[3] = [1.0,2.0,3.0]
graph @main(%x: f32[N,3], %y: f32[2*N,3]) {
  %r = math.relu(%x) : f32[N,3]
  %z = math.add(%r, #c) : f32[N,3]
  return(%z, %y, %z)
}
"""


def test_outputs_are_named_and_repeated_ones_numbered() -> None:
    y = np.ones((4, 3), np.float32)
    outputs = rtcc.interpret(parse_module(SYMBOLIC), {"x": X, "y": y})
    assert list(outputs) == ["z", "y", "z_1"]
    expected = np.maximum(X, 0) + np.array([1, 2, 3], np.float32)
    assert np.array_equal(outputs["z"], expected)
    assert outputs["y"] is not y
    assert outputs["y"].flags.writeable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "missing x; the inputs are x, y"),
        ({"z": X}, "there is no input z; the inputs are x, y"),
        ({"x": X.astype(np.float64)}, "input x has the dtype float64, expected float32"),
        ({"x": X[0]}, r"input x has the shape \(3,\), expected f32\[N,3\]"),
        ({"x": X[:, :2]}, r"input x has the shape \(2, 2\), expected f32\[N,3\]"),
        ({"y": X}, r"input y has the shape \(2, 3\), expected f32\[2\*N,3\] with N = 2"),
        ({"x": np.ones((9, 3), np.float32)}, "input x has the size 9 for N, expected 1 to 8"),
    ],
)
def test_feeds_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    feeds = {"x": X, "y": np.ones((4, 3), np.float32)} | change
    feeds = {name: array for name, array in feeds.items() if array is not None}
    with pytest.raises(InvalidInput, match=message):
        rtcc.interpret(parse_module(SYMBOLIC), feeds)


def test_only_modules_are_interpreted() -> None:
    model: Any = "model.onnx"
    with pytest.raises(InvalidInput, match="runs a module, not str"):
        rtcc.interpret(model, {})


def test_double_precision_rounds_nothing() -> None:
    text = """// rtir 1  level=graph
const #c : bf16[] = 0.1
graph @main(%x: bf16[1000]) {
  %y = math.mul(%x, #c) : bf16[1000]
  %z = math.mul(%y, %y) : bf16[1000]
  return(%z)
}
"""
    module = parse_module(text)
    x = np.linspace(0, 1, 1000).astype(ml_dtypes.bfloat16)
    native = rtcc.interpret(module, {"x": x})["z"]
    exact = rtcc.interpret(module, {"x": x}, precision="f64")["z"]
    c = np.float64(ml_dtypes.bfloat16(0.1))
    assert native.dtype == ml_dtypes.bfloat16
    assert exact.dtype == np.float64
    assert np.array_equal(exact, (x.astype(np.float64) * c) ** 2)
    assert np.array_equal(rtcc.interpret(module, {"x": x.astype(np.float64)}, precision="f64")["z"], exact)


def test_arrays_are_freed_after_their_last_use() -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1000,)))]))
    value = graph.parameters[0]
    for _ in range(20):
        value = graph.append(Add(value, value)).result
    graph.return_(value)
    alive: list[weakref.ref[Array]] = []
    most = 0

    def observe(_value: Value, array: Array) -> None:
        nonlocal most
        alive.append(weakref.ref(array))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))

    rtcc.interpret(module, {"x": np.ones(1000, np.float32)}, observe=observe)
    assert len(alive) == 21
    assert most <= 4


def test_regions_use_outer_values_and_are_observed() -> None:
    text = """// rtir 1  level=graph
const #n : i64[] = 3
graph @main(%x: f32[2,3]) {
  %y = control.loop(#n, _, %x) { (%i: i64[], %p: bool[], %s: f32[2,3])
    %t = math.add(%s, %x) : f32[2,3]
    return(%p, %t)
  } : f32[2,3]
  return(%y)
}
"""
    seen: list[str | None] = []
    outputs = rtcc.interpret(parse_module(text), {"x": X}, observe=lambda value, _: seen.append(value.name))
    assert np.array_equal(outputs["y"], 4 * X)
    assert seen == ["x", "t", "t", "t", "y"]


def test_fused_regions_and_kernels() -> None:
    text = """// rtir 1  level=LEVEL
graph @main(%x: f32[2,3]) {
  %y = OP : f32[2,3]
  return(%y)
}
"""
    body = "%r = math.relu(%a) : f32[2,3]\n  return(%r)\n}"
    fused = text.replace("OP", f"control.fused(%x) {{ (%a: f32[2,3])\n {body}").replace("LEVEL", "fused")
    called = text.replace("OP", "control.call(%x) {kernel = @k}").replace("LEVEL", "kernels")
    called += f"kernel @k(%a: f32[2,3]) {{\n {body}"
    for each in (fused, called):
        assert np.array_equal(rtcc.interpret(parse_module(each), {"x": X})["y"], np.maximum(X, 0))
    kernel = parse_module(called).kernels["k"]
    assert np.array_equal(interpret_graph(kernel, [X])[0], np.maximum(X, 0))
    with pytest.raises(InvalidInput, match="input a has the dtype"):
        interpret_graph(kernel, [X.astype(np.int32)])


PLAN = """// rtir 1  level=plan
const #w : f32[2,1] = [1.0,10.0]
const #p : bool[] = true
graph @main(%x: f32[2,3]{NC/2c2}) attributes {const = 12, workspace = 72} {
  %w = plan.constant(#w) {place = "const+0"} : f32[2,1]
  %p = plan.constant(#p) {place = "const+8"} : bool[]
  %a = plan.launch(%x, %w) {kernel = @scale, places = ["workspace+0"]} : f32[2,3]
  %v = plan.view(%a) {offset = 12} : f32[1,3]
  %b = plan.loop(%p, %a) {places = ["workspace+24"], trip = 3} { (%i: i64[], %s: f32[2,3])
    %n = plan.launch(%s, %v) {kernel = @add, places = ["workspace+48"]} : f32[2,3]
    return(%p, %n)
  } : f32[2,3]
  %c = plan.if(%p) {places = ["user:0"]} { ()
    return(%b)
  } { ()
    return(%a)
  } : f32[2,3]
  return(%c)
}
kernel @scale(%a: f32[2,3]{NC/2c2}, %b: f32[2,1]) {
  %y = math.mul(%a, %b) : f32[2,3]
  return(%y)
}
kernel @add(%a: f32[2,3], %b: f32[1,3]) {
  %y = math.add(%a, %b) : f32[2,3]
  return(%y)
}
"""


def test_a_plan_runs_through_its_memory() -> None:
    scaled = X * np.array([[1], [10]], np.float32)
    assert np.array_equal(rtcc.interpret(parse_module(PLAN), {"x": X})["c"], scaled + 3 * scaled[1:])


def test_a_wrong_offset_gives_a_wrong_answer() -> None:
    right = rtcc.interpret(parse_module(PLAN), {"x": X})["c"]
    for good, bad in [
        ("offset = 12", "offset = 8"),
        ('["workspace+24"]', '["workspace+4"]'),
        ("const+8", "const+4"),
    ]:
        wrong = rtcc.interpret(parse_module(PLAN.replace(good, bad)), {"x": X})["c"]
        assert not np.array_equal(wrong, right), bad
    with pytest.raises(AssertionError, match="of a space of 72"):
        rtcc.interpret(parse_module(PLAN.replace("workspace+48", "workspace+49")), {"x": X})


def test_plans_run_natively_only() -> None:
    with pytest.raises(InvalidInput, match="natively only"):
        rtcc.interpret(parse_module(PLAN), {"x": X}, precision="f64")


def test_names_of_inputs_and_outputs() -> None:
    type = TensorType(DType.F32, ())
    graph = Graph("g", [("a", type), (None, type), ("a", type), ("a_1", type)])
    graph.return_(*graph.parameters[:3])
    assert input_names(graph) == ("a", "input_1", "a_1", "a_1_1")
    assert output_names(graph) == ("a", "output_1", "a_1")


def test_a_declared_type_that_evaluation_does_not_give_is_a_fault() -> None:
    module = parse_module(SYMBOLIC.replace("math.relu(%x) : f32[N,3]", "math.relu(%x) : f32[1,3]"))
    with pytest.raises(AssertionError, match="was computed with shape"):
        rtcc.interpret(module, {"x": X, "y": np.ones((4, 3), np.float32)})
