"""What is written runs in ONNX Runtime with the results of the model that was read."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import rtcc
from benchmarks.models.light import LIGHT_MODELS, light_model
from rtcc.errors import InvalidInput, Unsupported
from rtcc.ir import Graph, Module, TensorType
from rtcc.ir.dtype import DType
from rtcc.ir.ops.fused import Fused
from rtcc.ir.ops.math import Abs, Add
from rtcc.onnx import to_model, writer
from tests.frontend.models import (
    assert_equal,
    assert_same,
    make_model,
    random_inputs,
    run_onnxruntime,
    typed,
    value,
)
from tests.frontend.test_opsets import CASES

F32 = np.float32


def written(model: ModelProto | Module) -> ModelProto:
    """The model after one way through rtcc, accepted by ONNX's own checker."""
    result = to_model(model if isinstance(model, Module) else rtcc.read(model))
    checker: Any = onnx.checker
    checker.check_model(result, full_check=True)
    return result


@pytest.mark.parametrize(("op", "opset", "shape", "constants", "outputs", "attributes"), CASES)
def test_newest_forms_run_as_the_older_ones_did(
    op: str, opset: int, shape: Any, constants: dict[str, Any], outputs: int, attributes: dict[str, Any]
) -> None:
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, ["x", *constants], results, name="node", **attributes)
    model = typed(make_model([node], [value("x", shape)], results, constants, opset))
    feeds = random_inputs(model)
    assert_same(run_onnxruntime(written(model), feeds), run_onnxruntime(model, feeds))


REORDERED = ("shufflenet",)
"""Networks whose sums ONNX Runtime adds in another order once they are written anew."""
LARGE = ("alexnet", "vgg19", "zfnet512")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LARGE else n for n in LIGHT_MODELS]
)
def test_light_models(name: str) -> None:
    model = light_model(name)
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in stored]
    feeds = {i.name: np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(F32) for i in inputs}
    moved = 8e-6 if name in REORDERED else 0.0
    assert_equal(run_onnxruntime(written(model), feeds), run_onnxruntime(model, feeds), moved)


def test_names_metadata_and_symbols_survive() -> None:
    nodes = [helper.make_node("Add", ["in:0", "w/1"], ["out:0"], name="layer/add")]
    model = make_model(nodes, [value("in:0", ("N", 3))], [value("out:0", ("N", 3))], {"w/1": np.ones(3, F32)})
    model.metadata_props.add(key="k", value="v")
    result = written(model)
    assert [n.name for n in result.graph.node] == ["layer/add"]
    assert [i.name for i in result.graph.input] == ["in:0"]
    assert [o.name for o in result.graph.output] == ["out:0"]
    assert [t.name for t in result.graph.initializer] == ["w/1"]
    assert result.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert result.graph.output[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert {p.key: p.value for p in result.metadata_props} == {"k": "v"}


def test_defaults_are_left_out_and_absent_operands_stay_absent() -> None:
    nodes = [
        helper.make_node("Clip", ["x", "", "m"], ["a"]),
        helper.make_node("Softmax", ["a"], ["y"], axis=-1),
    ]
    result = written(make_model(nodes, [value("x", (2, 3))], ["y"], {"m": F32(1)}))
    assert list(result.graph.node[0].input) == ["x", "", "m"]
    assert not result.graph.node[1].attribute


def test_writing_twice_gives_equal_bytes() -> None:
    model = light_model("squeezenet")
    first, second = (to_model(rtcc.read(model)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_reading_what_was_written_gives_the_same_again() -> None:
    once = to_model(rtcc.read(light_model("shufflenet")))
    again = to_model(rtcc.read(once))
    assert again.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_outputs_that_no_node_makes() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["y"])]
    infos = [value(n, (3,)) for n in ("y", "x", "w")]
    model = make_model(nodes, [value("x", (3,))], infos, {"w": np.array([1, 2, 3], F32)})
    feeds = {"x": np.array([-1, 0, 1], F32)}
    assert_same(run_onnxruntime(written(model), feeds), run_onnxruntime(model, feeds))


def test_large_splats_become_nodes() -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (100, 100)))]))
    half = module.add_constant("half", np.array(0.5, F32), TensorType(DType.F32, (100, 100)))
    add = graph.append(Add(graph.parameters[0], half))
    graph.return_(add.result)
    result = written(module)
    assert [n.op_type for n in result.graph.node] == ["Constant", "ConstantOfShape", "Add"]
    assert result.ByteSize() < 1000
    x = np.ones((100, 100), F32)
    (found,) = run_onnxruntime(result, {"x": x}).values()
    np.testing.assert_array_equal(found, x + F32(0.5))


def test_fused_regions_are_written_out() -> None:
    type = TensorType(DType.F32, (3,))
    module = Module(level="fused")
    graph = module.add_graph(Graph("main", [("x", type)]))
    body = Graph("", [("p", type)])
    first = body.append(Abs(body.parameters[0]))
    body.return_(body.append(Add(first.result, body.parameters[0])).result)
    fused = graph.append(Fused(graph.parameters[0], regions=[body]))
    fused.result.name = "y"
    graph.return_(fused.result)
    result = written(module)
    assert [n.op_type for n in result.graph.node][:2] == ["Abs", "Add"]
    x = np.array([-1, 2, 3], F32)
    np.testing.assert_array_equal(run_onnxruntime(result, {"x": x})["y"], abs(x) + x)


@pytest.mark.parametrize("level", ["kernels", "plan"])
def test_later_levels_have_no_onnx_form(level: str) -> None:
    with pytest.raises(Unsupported, match="wrong-level"):
        to_model(Module(level=level))


def test_control_flow() -> None:
    then = helper.make_graph([helper.make_node("Add", ["x", "w"], ["a"])], "t", [], [value("a", (3,))])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["a"])], "e", [], [value("a", (3,))])
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "p"], ["u"]), helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [value("i", (), np.int64), value("c", (), np.bool_), value("v", (3,))],
        [value("d", (), np.bool_), value("u", (3,))],
    )
    nodes = [
        helper.make_node("If", ["b"], ["p"], then_branch=then, else_branch=other),
        helper.make_node("Loop", ["n", "", "x"], ["y"], body=body),
    ]
    inputs = [value("b", (), np.bool_), value("n", (), np.int64), value("x", (3,))]
    model = make_model(nodes, inputs, [value("y", (3,))], {"w": np.ones(3, F32)})
    feeds = {"b": np.array(True), "n": np.array(4), "x": np.array([1, 2, 3], F32)}
    assert_same(run_onnxruntime(written(model), feeds), run_onnxruntime(model, feeds))


# ---- files


def test_files_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_text("old")
    module = rtcc.read(make_model([helper.make_node("Abs", ["x"], ["y"])], [value("x", (3,))], ["y"]))
    rtcc.write(module, path)
    assert rtcc.read(path).main.returned[0].name == "y"
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    module = rtcc.read(make_model([helper.make_node("Abs", ["x"], ["y"])], [value("x", (3,))], ["y"]))
    with pytest.raises(InvalidInput, match="cannot-write"):
        rtcc.write(module, tmp_path / "nowhere" / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_write_that_is_cut_off_leaves_a_model_and_its_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever rename is the last one that happens."""
    monkeypatch.setattr(writer, "LARGEST_INSIDE", 10_000)
    modules: list[Module] = []
    for start in range(2):
        weights = np.arange(start, start + 3000, dtype=F32).reshape(50, 60)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        model = make_model(nodes, [value("x", (2, 50))], [value("y", (2, 60))], {"w": weights})
        modules.append(rtcc.read(model))
    path = tmp_path / "m.onnx"
    replace = os.replace
    for renames in range(3):
        rtcc.write(modules[0], path)
        done = 0

        def cut_off(source: Path, target: Path, last: int = renames) -> None:
            nonlocal done
            if done == last:
                raise KeyboardInterrupt
            done += 1
            replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr("rtcc.system.files.os.replace", cut_off)
            if renames < 2:
                with pytest.raises(KeyboardInterrupt):
                    rtcc.write(modules[1], path)
            else:
                rtcc.write(modules[1], path)
        expected = modules[renames == 2].constants["w"].array
        np.testing.assert_array_equal(rtcc.read(path).constants["w"].array, expected)
        assert not list(tmp_path.glob(".*"))


def test_large_weights_go_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "LARGEST_INSIDE", 10_000)
    weights = np.random.default_rng(0).standard_normal((50, 60)).astype(F32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "b"], ["y"])]
    constants = {"w": weights, "b": np.ones(60, F32)}
    model = make_model(nodes, [value("x", (2, 50))], [value("y", (2, 60))], constants)
    path = tmp_path / "m.onnx"
    rtcc.write(rtcc.read(model), path)
    (data,) = tmp_path.glob("m.onnx-*.data")
    assert data.stat().st_size == weights.nbytes
    assert path.stat().st_size < 2000
    np.testing.assert_array_equal(rtcc.read(path).constants["w"].array, weights)
    feeds = random_inputs(model)
    import onnxruntime

    runtime: Any = onnxruntime
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["y"], feeds)[0], run_onnxruntime(model, feeds)["y"], rtol=1e-5)
