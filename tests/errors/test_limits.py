"""Models that ask for too much: too deep, too many, too large, or cheap to write and dear to compile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, helper

import rtcc
from rtcc.cli.run import describe
from rtcc.errors import InvalidInput, InvalidModel, ParseError, RtccError, Unsupported, VerifyError
from rtcc.targets.tvm import worker_pool
from tests.frontend.models import make_model, value

F32 = np.float32


def one(node: Any, shape: Any = (4,), **constants: Any) -> ModelProto:
    return make_model([node], [value("x", shape)], ["y"], constants)


def pools(count: int) -> ModelProto:
    """Each halves a symbolic size: (((N-1)//2)-1)//2 …"""
    options: dict[str, Any] = {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}
    nodes = [helper.make_node("MaxPool", [f"v{i}"], [f"v{i + 1}"], **options) for i in range(count)]
    return make_model(nodes, [value("v0", (1, 1, "N"))], [f"v{count}"])


def product(rank: int) -> ModelProto:
    """(A+2)·(B+2)·(C+2)… has 2^rank terms."""
    nodes = [helper.make_node("Pad", ["x", "p"], ["a"]), helper.make_node("Flatten", ["a"], ["y"], axis=0)]
    shape = [f"D{axis}" for axis in range(rank)]
    return make_model(nodes, [value("x", shape)], ["y"], {"p": np.ones(2 * rank, np.int64)})


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (pools(400), "nested-too-deep"),
        (product(20), "symbolic-product"),
        (one(helper.make_node("Tile", ["x", "n"], ["y"]), n=np.array([-2])), "absurd-size"),
        (one(helper.make_node("Neg", ["x"], ["y"]), (1,) * 70), "absurd-size"),
        (one(helper.make_node("Add", ["x", "w"], ["y"]), w=np.ones((1,) * 40, F32)), "absurd-size"),
        (one(helper.make_node("Unsqueeze", ["x", "a"], ["y"]), a=np.arange(40)), "absurd-size"),
    ],
)
def test_refused_when_read(model: ModelProto, code: str) -> None:
    with pytest.raises(RtccError) as raised:
        rtcc.read(model)
    assert raised.value.code == code


def indexed(op_type: str, shape: Any = (3, 4), *arrays: Any, **attributes: Any) -> ModelProto:
    """A node whose further operands are the arrays."""
    constants = {f"c{number}": np.asarray(array) for number, array in enumerate(arrays)}
    return one(helper.make_node(op_type, ["x", *constants], ["y"], **attributes), shape, **constants)


def conv(bias: Any, dtype: Any = F32) -> ModelProto:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    return one(node, (1, 1, 3, 3), w=np.ones((4, 1, 3, 3), dtype), b=bias)


@pytest.mark.parametrize("model", [
    conv(np.ones(5, F32)), conv(np.ones((4, 1), F32)), conv(np.ones(4)), conv(np.ones(4, F32), np.float64),
    one(helper.make_node("Concat", ["x", ""], ["y"], axis=0)), one(helper.make_node("Sum", ["", "x"], ["y"])),
    indexed("ScatterND", (3, 4), [[0], [1]], np.ones((2, 3), F32)),
    indexed("ScatterElements", (3, 4), [[0, 1]], np.ones((1, 1), F32)),
    indexed("ScatterElements", (3, 4), np.zeros((1, 5), int), np.ones((1, 5), F32)),
    indexed("GatherElements", (3, 4), np.zeros((1, 5), int)),
    indexed("GatherND", (3, 4), np.zeros((2, 1), int), batch_dims=1),
    indexed("NonMaxSuppression", (1, 6, 4), np.ones((1, 2, 5), F32), [3]),
    indexed("NonMaxSuppression", (1, 6, 4), np.ones((2, 2, 6), F32), [3]),
    indexed("RoiAlign", (1, 1, 4, 4), np.ones((2, 4), F32), [0]),
    indexed("GridSample", (2, 1, 4, 4), np.ones((1, 2, 2, 2), F32)),
    indexed("ReverseSequence", (3, 4), [1, 2]),
    indexed("DeformConv", (1, 1, 3, 3), np.ones((1, 1, 2, 2), F32), np.ones((1, 4, 2, 2), F32)),
])  # fmt: skip
def test_operands_that_kernels_would_read_past(model: ModelProto) -> None:
    with pytest.raises(InvalidModel):
        rtcc.read(model)


def test_absurd_operator_set_versions() -> None:
    model = one(helper.make_node("Twice", ["x"], ["y"], domain="mine"))
    body = [helper.make_node("Neg", ["a"], ["b"], domain="other")]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("other", 2**40)]
    model.functions.append(helper.make_function("mine", "Twice", ["a"], ["b"], body, opsets))
    model.opset_import.add(domain="mine", version=1)
    with pytest.raises(InvalidModel, match="no version"):
        rtcc.read(model)


def test_sizes_past_int32_inside_a_kernel() -> None:
    nodes = [
        helper.make_node("Pad", ["x", "p"], ["a"]),
        helper.make_node("ReduceSum", ["a"], ["y"], keepdims=0),
    ]
    model = make_model(nodes, [value("x", (4,))], ["y"], {"p": np.array([2**33, 2**33])})
    with pytest.raises(RtccError) as raised:
        rtcc.compile(model)
    assert raised.value.code in ("tensor-too-large", "array-too-large")
    assert "ReduceSum" in (raised.value.where or "")


@pytest.mark.parametrize("op", ["Max", "Mul", "Sub"])
def test_values_used_twice_do_not_double_the_work(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """x = op(x, sin x), forty times, once took 2^40 steps."""
    monkeypatch.setattr(worker_pool, "MOST_SECONDS", 90.0)
    nodes: list[Any] = []
    for i in range(40):
        nodes.append(helper.make_node("Sin", [f"v{i}"], [f"s{i}"]))
        nodes.append(helper.make_node(op, [f"v{i}", f"s{i}"], [f"v{i + 1}"]))
    module = rtcc.read(make_model(nodes, [value("v0", (5,))], ["v40"]))
    feeds = {"v0": np.linspace(-1, 1, 5, dtype=F32)}
    found = rtcc.compile(module).run(feeds)["v40"]
    np.testing.assert_allclose(found, rtcc.interpret(module, feeds)["v40"], rtol=1e-4, atol=1e-5)


def test_a_constant_that_is_both_sides_of_a_product() -> None:
    matrix = np.arange(40 * 40, dtype=F32).reshape(40, 40) / 800 - 1
    nodes = [helper.make_node("MatMul", ["c", "c"], ["m"]), helper.make_node("Add", ["m", "x"], ["y"])]
    model = make_model(nodes, [value("x", (40, 40))], ["y"], {"c": matrix})
    lowering = "legalize,fuse,select-conv,select-layout,outline-kernels,plan-memory"
    feed = np.ones((40, 40), F32)
    found = rtcc.compile(model, pipeline=lowering).run({"x": feed})["y"]
    np.testing.assert_allclose(found, matrix @ matrix + feed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("graph @main(%x: f32[" + "(" * 3000 + "1]) { return(%x) }", Unsupported),
        ("dim N in [1," + "9" * 5000 + "]", ParseError),
        ("graph @main(%x: f32[" + "9" * 5000 + "]) { return(%x) }", ParseError),
        ("graph @main(%x: f32[-3]) { return(%x) }", VerifyError),
        ("graph @main(%x: f32[3]) { %y = math.neg(%x) : f32[4] return(%y) }", VerifyError),
    ],
)
def test_text_that_asks_for_too_much(tmp_path: Path, text: str, kind: type[RtccError]) -> None:
    path = tmp_path / "m.rtir"
    path.write_text(f"// rtir 1  level=graph\n{text}\n")
    with pytest.raises(RtccError) as raised:
        rtcc.compile(path)
    assert isinstance(raised.value, kind), raised.value


def test_a_plan_is_verified_before_it_is_compiled(tmp_path: Path) -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["t"]), helper.make_node("Softmax", ["t"], ["y"], axis=0)]
    model = make_model(nodes, [value("x", (3, 4))], ["y"])
    rtcc.compile(model, dump_ir=tmp_path)
    (plan,) = tmp_path.glob("*-plan-memory.rtir")
    text = plan.read_text()
    assert '"workspace+0"' in text
    plan.write_text(text.replace('"workspace+0"', '"workspace+4096"'))
    with pytest.raises(VerifyError):
        rtcc.compile(plan)


@pytest.mark.parametrize(("tile", "why"), [
    ("1,9,1,1", "blocks"),
    ("1,0,1,1", "has 0, expected 1 or more"),
    ("-1,1,1,1", "has -1, expected 1 or more"),
])  # fmt: skip
def test_a_tile_that_does_not_fit_the_weights(tmp_path: Path, tile: str, why: str) -> None:
    model = one(helper.make_node("MatMul", ["x", "w"], ["y"]), (4, 64), w=np.ones((64, 64), F32))
    rtcc.compile(model, dump_ir=tmp_path)
    (plan,) = tmp_path.glob("*-plan-memory.rtir")
    text, count = re.subn(r"tile = \[[-\d,]+\]", f"tile = [{tile}]", plan.read_text())
    assert count == 1
    plan.write_text(text)
    with pytest.raises(InvalidInput, match=why):
        rtcc.compile(plan)


def test_weights_that_the_epilogue_reads_too() -> None:
    matrix = np.arange(32 * 32, dtype=F32).reshape(32, 32) / 512 - 1
    nodes = [helper.make_node("MatMul", ["x", "c"], ["m"]), helper.make_node("Add", ["m", "c"], ["y"])]
    feed = np.ones((32, 32), F32)
    model = make_model(nodes, [value("x", (32, 32))], ["y"], {"c": matrix})
    found = rtcc.compile(model).run({"x": feed})["y"]
    np.testing.assert_allclose(found, feed @ matrix + matrix, rtol=1e-4, atol=1e-4)


def test_infinite_results_are_described_without_warnings() -> None:
    assert "min -inf max inf" in describe("y", np.array([np.inf, -np.inf], F32))
