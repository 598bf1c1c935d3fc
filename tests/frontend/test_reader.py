"""What a read module looks like: names, locations, constants, symbols, functions, regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

import rtcc
from rtcc.errors import RtccError
from rtcc.ir import DType, symbol
from tests.frontend.models import (
    Array,
    assert_same,
    interpreted,
    make_model,
    op_names,
    run_onnxruntime,
    value,
)
from tests.growth import growth

X = np.array([[-1.5, 0.0, 2.0], [3.0, -0.25, 1.0]], np.float32)


def test_nodes_become_ops_with_names_and_locations() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["a"], name="first"), helper.make_node("Add", ["a", "w"], ["y"])]
    module = rtcc.read(make_model(nodes, [value("x", (2, 3))], ["y"], {"w": np.ones(3, np.float32)}))
    assert module.level == "graph"
    assert op_names(module) == ["math.abs", "math.add"]
    first, second, _ = module.main.ops
    assert (first.location.nodes, second.location.nodes) == (("first",), ("Add_1",))
    assert [p.name for p in module.main.parameters] == ["x"]
    assert (first.result.name, second.result.name) == ("a", "y")
    assert list(module.constants) == ["w"]
    assert module.main.attributes["outputs"] == ("y",)
    assert str(second.result.type) == "f32[2,3]"


def test_metadata_is_kept() -> None:
    model = make_model([helper.make_node("Abs", ["x"], ["y"])], [value("x", (2,))], ["y"])
    model.metadata_props.add(key="author", value="someone")
    assert rtcc.read(model).metadata == {"author": "someone"}


def test_read_from_path_and_bytes(tmp_path: Path) -> None:
    model = make_model([helper.make_node("Abs", ["x"], ["y"])], [value("x", (2,))], ["y"])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    for source in (path, str(path), model.SerializeToString()):
        assert op_names(rtcc.read(source)) == ["math.abs"]


@pytest.mark.parametrize(
    ("attribute", "content"),
    [
        ({"value_int": 3}, np.array(3, np.int64)),
        ({"value_ints": [1, 2]}, np.array([1, 2], np.int64)),
        ({"value_float": 0.5}, np.array(0.5, np.float32)),
        ({"value_floats": [0.5, 1.5]}, np.array([0.5, 1.5], np.float32)),
        ({"value": numpy_helper.from_array(np.eye(2, dtype=np.float16))}, np.eye(2, dtype=np.float16)),
    ],
)
def test_constant_nodes_become_constants_named_as_their_output(
    attribute: dict[str, Any], content: Array
) -> None:
    nodes = [helper.make_node("Constant", [], ["c"], **attribute), helper.make_node("Identity", ["c"], ["y"])]
    module = rtcc.read(make_model(nodes, [], ["y"]))
    assert op_names(module) == ["math.identity"]
    np.testing.assert_array_equal(module.constants["c"].array, content)
    assert module.constants["c"].array.dtype == content.dtype


def test_optional_operands_may_be_absent() -> None:
    nodes = [helper.make_node("Clip", ["x", "", "high"], ["y"])]
    model = make_model(nodes, [value("x", (2, 3))], ["y"], {"high": np.float32(1)})
    (clip, _) = rtcc.read(model).main.ops
    assert clip.operands[1] is None
    np.testing.assert_array_equal(interpreted(model, {"x": X})["y"], np.minimum(X, 1))


def test_unused_outputs_are_left_out() -> None:
    nodes = [helper.make_node("TopK", ["x", "k"], ["", "i"])]
    model = make_model(nodes, [value("x", (2, 3))], ["i"], {"k": np.array([1])})
    np.testing.assert_array_equal(interpreted(model, {"x": X})["i"], [[2], [0]])


def test_nodes_out_of_order_are_sorted() -> None:
    nodes = [helper.make_node("Abs", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"])]
    assert op_names(rtcc.read(make_model(nodes, [value("x", (2,))], ["y"]))) == ["math.neg", "math.abs"]


def test_outputs_may_be_inputs_or_constants() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["y"])]
    model = make_model(nodes, [value("x", (2, 3))], ["y", "x", "w"], {"w": np.ones(2, np.float32)})
    module = rtcc.read(model)
    assert [v.name for v in module.main.returned] == ["y", "x", "w"]
    assert list(interpreted(module, {"x": X})) == ["y", "x", "w"]


# ---- symbolic dimensions


def symbolic_model() -> Any:
    nodes = [helper.make_node("Abs", ["x"], ["y"])]
    return make_model(nodes, [value("x", ("batch", 3, None))], ["y"])


def test_named_and_anonymous_sizes_become_symbols() -> None:
    module = rtcc.read(symbolic_model())
    (x,) = module.main.parameters
    assert x.type.shape == (symbol("batch", 1), 3, symbol("x_2", 1))
    assert set(module.dimensions) == {"batch", "x_2"}
    assert module.dimensions["batch"][0] == 1


def test_question_marks_are_no_names() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["y"])]
    module = rtcc.read(make_model(nodes, [value("x", ("?", 3, "?"))], ["y"]), shapes={"x": (2, 3, 4)})
    assert str(module.main.parameters[0].type) == "f32[2,3,4]"


@pytest.mark.parametrize(
    ("shapes", "dims", "expected"),
    [
        ({"x": (4, 3, 5)}, None, "f32[4,3,5]"),
        (None, {"batch": 4}, "f32[4,3,x_2]"),
        ({"x": ("batch", 3, 8)}, {"batch": 2}, "f32[2,3,8]"),
        ({"x": ("N", 3, 8)}, None, "f32[N,3,8]"),
        (None, {"batch": 1, "x_2": 7}, "f32[1,3,7]"),
    ],
)
def test_shapes_and_dims_bind_symbols(
    shapes: dict[str, tuple[int | str, ...]] | None, dims: dict[str, int] | None, expected: str
) -> None:
    (x,) = rtcc.read(symbolic_model(), shapes=shapes, dims=dims).main.parameters
    assert str(x.type) == expected


def test_an_input_of_open_rank_needs_a_shape() -> None:
    model = make_model([helper.make_node("Abs", ["x"], ["y"])], [value("x")], ["y"])
    assert str(rtcc.read(model, shapes={"x": (2, 5)}).main.parameters[0].type) == "f32[2,5]"
    with pytest.raises(RtccError, match="unknown-rank"):
        rtcc.read(model)


def test_initialisers_that_are_inputs_are_constants_unless_named() -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    model = make_model(nodes, [value("x", (3,)), value("w", (3,))], ["y"], {"w": np.ones(3, np.float32)})
    assert [p.name for p in rtcc.read(model).main.parameters] == ["x"]
    named = rtcc.read(model, shapes={"w": (3,)})
    assert [p.name for p in named.main.parameters] == ["x", "w"]
    assert not named.constants


def test_values_fix_inputs() -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    model = make_model(nodes, [value("x", (2, 3)), value("s", (2,), np.int64)], ["y"])
    module = rtcc.read(model, values={"s": np.array([3, 2])})
    assert [p.name for p in module.main.parameters] == ["x"]
    assert str(module.main.returned[0].type) == "f32[3,2]"


def test_shape_arithmetic_in_the_graph_is_followed() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Concat", ["n", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    constants = {"zero": np.array([0]), "rest": np.array([-1])}
    model = make_model(nodes, [value("x", ("N", 3, 4))], ["y"], constants)
    assert str(rtcc.read(model).main.returned[0].type) == "f32[N,12]"


def test_axes_computed_from_constants_are_folded_where_needed() -> None:
    nodes = [
        helper.make_node("Sub", ["two", "one"], ["axes"]),
        helper.make_node("Unsqueeze", ["x", "axes"], ["y"]),
    ]
    constants = {"two": np.array([2]), "one": np.array([1])}
    module = rtcc.read(make_model(nodes, [value("x", (2, 3))], ["y"], constants))
    assert str(module.main.returned[0].type) == "f32[2,1,3]"


# ---- initialisers


@pytest.mark.parametrize(
    "dtype", [d.numpy.name for d in DType if d.bits >= 8 and d.numpy.isbuiltin == 1 and d.bits < 128]
)
@pytest.mark.parametrize("raw", [True, False])
def test_every_element_type_and_field(dtype: str, raw: bool) -> None:
    array = np.array([[0, 1, 2], [100, 5, 1]]).astype(dtype)
    code = helper.np_dtype_to_tensor_dtype(array.dtype)
    content = array.tobytes() if raw else array.reshape(-1)
    tensor = helper.make_tensor("w", code, array.shape, content, raw=raw)
    model = make_model([helper.make_node("Identity", ["w"], ["y"])], [], ["y"])
    model.graph.initializer.append(tensor)
    constant = rtcc.read(model).constants["w"]
    assert constant.type.dtype is DType.of(array.dtype)
    np.testing.assert_array_equal(constant.array, array)
    assert not constant.array.flags.writeable


@pytest.mark.parametrize(
    "code", [TensorProto.INT4, TensorProto.UINT4, TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN]
)
@pytest.mark.parametrize("raw", [True, False])
def test_narrow_element_types(code: int, raw: bool) -> None:
    numbers = np.array([1, 2, 0, 3, 7], np.float32)
    array = numbers.astype(helper.tensor_dtype_to_np_dtype(code))
    tensor = numpy_helper.from_array(array, "w") if raw else helper.make_tensor("w", code, (5,), numbers)
    model = make_model([helper.make_node("Identity", ["w"], ["y"])], [], ["y"])
    model.graph.initializer.append(tensor)
    np.testing.assert_array_equal(rtcc.read(model).constants["w"].array.astype(np.float32), numbers)


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_initialisers_become_dense(linear: bool) -> None:
    values = numpy_helper.from_array(np.array([5.0, 7.0], np.float32), "w")
    indices = np.array([1, 5]) if linear else np.array([[0, 1], [1, 2]])
    sparse = SparseTensorProto(values=values, indices=numpy_helper.from_array(indices), dims=[2, 3])
    model = make_model([helper.make_node("Identity", ["w"], ["y"])], [], ["y"])
    model.graph.sparse_initializer.append(sparse)
    np.testing.assert_array_equal(rtcc.read(model).constants["w"].array, [[0, 5, 0], [0, 0, 7]])


def test_external_data_is_mapped(tmp_path: Path) -> None:
    weights = np.arange(2000, dtype=np.float32)
    (tmp_path / "w.bin").write_bytes(bytes(64) + weights.tobytes())
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[2000], data_location=TensorProto.EXTERNAL
    )
    for key, entry in (("location", "w.bin"), ("offset", "64"), ("length", "8000")):
        tensor.external_data.add(key=key, value=entry)
    model = make_model([helper.make_node("Add", ["x", "w"], ["y"])], [value("x", (2000,))], ["y"])
    model.graph.initializer.append(tensor)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    constant = rtcc.read(tmp_path / "m.onnx").constants["w"]
    np.testing.assert_array_equal(constant.array, weights)
    assert not constant.array.flags.owndata


# ---- functions and control flow


def test_local_functions_are_expanded_with_provenance() -> None:
    body = [
        helper.make_node("Mul", ["a", "b"], ["c"], name="scale"),
        helper.make_node("LeakyRelu", ["c"], ["d"]),
    ]
    body[1].attribute.add(name="alpha", ref_attr_name="slope", type=1)
    opsets = [helper.make_opsetid("", 21)]
    function = helper.make_function("mine", "Scaled", ["a", "b"], ["d"], body, opsets, ["slope"])
    call = helper.make_node("Scaled", ["x", "w"], ["y"], domain="mine", name="call", slope=0.25)
    inputs = [value("x", (2, 3)), value("w", (3,))]
    model = make_model([call], inputs, [value("y", (2, 3))], functions=[function], domains=["mine"])
    module = rtcc.read(model)
    assert op_names(module) == ["math.mul", "math.leaky_relu"]
    first, second, _ = module.main.ops
    assert first.location.nodes == ("call/scale",)
    assert second.attributes["alpha"] == 0.25
    assert second.result.name == "y"
    feeds = {"x": X, "w": np.array([1, 2, 3], np.float32)}
    assert_same(interpreted(module, feeds), run_onnxruntime(model, feeds))


def test_function_attributes_have_defaults_and_inputs_may_be_absent() -> None:
    body = [helper.make_node("Clip", ["a", "low", ""], ["c"]), helper.make_node("Elu", ["c"], ["d"])]
    body[1].attribute.add(name="alpha", ref_attr_name="alpha", type=1)
    function = helper.make_function(
        "mine", "F", ["a", "low"], ["d"], body, [helper.make_opsetid("", 21)],
        attribute_protos=[helper.make_attribute("alpha", 2.0)],
    )  # fmt: skip
    call = helper.make_node("F", ["x"], ["y"], domain="mine")
    module = rtcc.read(make_model([call], [value("x", (2,))], ["y"], functions=[function], domains=["mine"]))
    clip, elu, _ = module.main.ops
    assert list(clip.operands) == [module.main.parameters[0]]
    assert elu.attributes["alpha"] == 2.0


def test_operators_without_a_class_are_read_by_their_onnx_function() -> None:
    model = make_model(
        [helper.make_node("AffineGrid", ["theta", "size"], ["y"], name="grid")],
        [value("theta", (2, 2, 3))], ["y"], {"size": np.array([2, 1, 4, 5])},
    )  # fmt: skip
    module = rtcc.read(model)
    assert all(op.location.nodes[0].startswith("grid") for op in module.main.ops if op.name != "return")
    assert module.main.returned[0].type.rank == 4


def branch_model() -> Any:
    def branch(name: str, op: str) -> Any:
        node = helper.make_node(op, ["x", "w"], ["inner"], name="n")
        return helper.make_graph([node], name, [], [value("inner", (2, 3))])

    node = helper.make_node(
        "If", ["c"], ["y"], name="choose", then_branch=branch("t", "Add"), else_branch=branch("e", "Sub")
    )
    inputs = [value("c", (), np.bool_), value("x", (2, 3))]
    return make_model([node], inputs, [value("y", (2, 3))], {"w": np.ones(3, np.float32)})


@pytest.mark.parametrize("condition", [True, False])
def test_branches_become_regions_that_see_outer_values(condition: bool) -> None:
    model = branch_model()
    module = rtcc.read(model)
    (choose, _) = module.main.ops
    assert choose.name == "control.if"
    inner = next(choose.regions[0].ops)
    assert inner.location.nodes == ("choose/then_branch/n",)
    assert inner.operands[0] is module.main.parameters[1]
    feeds = {"c": np.array(condition), "x": X}
    assert_same(interpreted(module, feeds), run_onnxruntime(model, feeds))


def test_loop_with_carried_value_that_grows() -> None:
    body = helper.make_graph(
        [helper.make_node("Concat", ["v", "x"], ["w"], axis=0), helper.make_node("Identity", ["c"], ["d"])],
        "body",
        [value("i", (), np.int64), value("c", (), np.bool_), value("v", (None, 3))],
        [value("d", (), np.bool_), value("w", (None, 3)), value("x", (2, 3))],
    )
    body.node.add(op_type="Identity", input=["x"], output=["slice"])
    body.output[2].name = "slice"
    node = helper.make_node("Loop", ["n", "", "x"], ["y", "z"], body=body)
    inputs = [value("x", (2, 3)), value("n", (), np.int64)]
    model = make_model([node], inputs, [value("y", (None, 3)), value("z", (None, 2, 3))])
    feeds = {"x": X, "n": np.array(3)}
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


def test_scan() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Identity", ["t"], ["o"])],
        "body",
        [value("s", (3,)), value("e", (3,))],
        [value("t", (3,)), value("o", (3,))],
    )
    node = helper.make_node("Scan", ["s0", "x"], ["last", "all"], body=body, num_scan_inputs=1)
    inputs = [value("s0", (3,)), value("x", (2, 3))]
    model = make_model([node], inputs, [value("last", (3,)), value("all", (2, 3))])
    feeds = {"s0": np.ones(3, np.float32), "x": X}
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


def test_shadowed_names_stay_apart() -> None:
    inner = helper.make_graph([helper.make_node("Neg", ["x"], ["a"])], "t", [], [value("a", (2, 3))])
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["a"])], "e", [], [value("a", (2, 3))])
    nodes = [
        helper.make_node("If", ["c"], ["p"], then_branch=inner, else_branch=other),
        helper.make_node("If", ["c"], ["q"], then_branch=other, else_branch=inner),
        helper.make_node("Sub", ["p", "q"], ["y"]),
    ]
    inputs = [value("c", (), np.bool_), value("x", (2, 3))]
    model = make_model(nodes, inputs, [value("y", (2, 3))])
    feeds = {"c": np.array(True), "x": X}
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


# ---- size


def test_long_chains_are_read_without_recursion() -> None:
    count = 20_000
    nodes = [helper.make_node("Abs", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    model = make_model(nodes, [value("v0", (2,))], [f"v{count}"])
    module = rtcc.read(model)
    assert len(module.main) == count + 1


def test_the_work_of_reading_grows_with_the_length() -> None:
    def read_chain(count: int) -> None:
        nodes = [helper.make_node("Abs", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
        rtcc.read(make_model(nodes, [value("v0", (2,))], [f"v{count}"]))

    read_chain(10)  # imports
    assert growth(read_chain) < 1.2


def large_model() -> Any:
    random = np.random.default_rng(0)
    constants = {n: random.standard_normal((200, 200)).astype(np.float32) for n in ("a", "b")}
    nodes = [helper.make_node("MatMul", ["x", "a"], ["t"]), helper.make_node("MatMul", ["t", "b"], ["y"])]
    return make_model(nodes, [value("x", (1, 200))], ["y"], {"small": np.ones(1, np.float32), **constants})


def test_large_weights_are_read_past_the_parser(tmp_path: Path) -> None:
    model = large_model()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    parsed = rtcc.read(model)
    for source in (tmp_path / "m.onnx", model.SerializeToString()):
        module = rtcc.read(source)
        assert list(module.constants) == list(parsed.constants)
        for name, constant in module.constants.items():
            np.testing.assert_array_equal(constant.array, parsed.constants[name].array)


def test_damage_around_large_weights() -> None:
    whole = large_model().SerializeToString()
    for cut in (1, 7, 100, 159_000, 161_000, len(whole) // 2, len(whole) - 200):
        with pytest.raises(RtccError):
            rtcc.read(whole[:cut])
