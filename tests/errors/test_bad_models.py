"""Models that cannot be read: each ends in a typed error that names the place, never in a traceback."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

import rtcc
from rtcc.errors import InvalidInput, InvalidModel, RtccError, Unsupported
from tests.frontend.models import make_model, value

F32 = np.float32


def error_of(source: Any, **options: Any) -> RtccError:
    with pytest.raises(RtccError) as raised:
        rtcc.read(source, **options)
    error = raised.value
    assert str(error).startswith(f"error[{error.code}]: ")
    return error


def abs_model(**options: Any) -> ModelProto:
    return make_model(
        [helper.make_node("Abs", ["x"], ["y"], name="node")], [value("x", (2, 3))], ["y"], **options
    )


def one_node(
    op: str, inputs: list[str], constants: dict[str, Any] | None = None, **attributes: Any
) -> ModelProto:
    domain = attributes.pop("domain", "")
    node = helper.make_node(op, inputs, ["y"], name="the_node", domain=domain, **attributes)
    return make_model([node], [value("x", (2, 3))], ["y"], constants, domains=[domain] if domain else ())


# ---- files


def test_missing_file(tmp_path: Path) -> None:
    error = error_of(tmp_path / "no.onnx")
    assert (type(error), error.code) == (InvalidModel, "missing-file")
    assert error.where == str(tmp_path / "no.onnx")


def test_folder_instead_of_file(tmp_path: Path) -> None:
    assert error_of(tmp_path).code == "not-a-model"


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"this is not a model", b"\x08\x07"])
def test_not_a_model(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    error = error_of(path)
    assert (type(error), error.code, error.where) == (InvalidModel, "not-a-model", str(path))


def test_every_truncation_is_a_typed_error() -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    whole = make_model(
        nodes, [value("x", (3,))], [value("y", (3,))], {"w": np.ones(3, F32)}
    ).SerializeToString()
    read = 0
    for length in range(len(whole)):
        try:
            rtcc.read(whole[:length])
            read += 1
        except RtccError:
            pass
    assert read < len(whole) // 4  # cutting the trailing opset entry or nothing of meaning may leave a model


def test_flipped_bytes_are_typed_errors_or_models() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="c", pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["a", "s"], ["y"]),
    ]
    constants = {"w": np.ones((2, 3, 3, 3), F32), "s": np.array([1, -1])}
    whole = make_model(nodes, [value("x", (1, 3, 4, 4))], ["y"], constants).SerializeToString()
    random = np.random.default_rng(0)
    outcomes: Counter[str] = Counter()
    for _ in range(400):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 2):
            damaged[place] = random.integers(0, 256)
        try:
            rtcc.read(bytes(damaged))
            outcomes["read"] += 1
        except RtccError as error:
            outcomes[error.code] += 1
    assert len(outcomes) > 5  # not all stopped by one early check
    assert outcomes["read"] > 20


def test_model_without_outputs() -> None:
    model = abs_model()
    del model.graph.output[:]
    assert error_of(model).code == "empty-graph"


def test_text_and_number_sources_of_other_kinds_are_programming_errors() -> None:
    with pytest.raises(TypeError):
        rtcc.read(3)  # pyright: ignore


# ---- versions, operators, domains


def test_opset_newer_than_known() -> None:
    error = error_of(abs_model(opset=99))
    assert (type(error), error.code) == (Unsupported, "opset-too-new")
    assert "99" in error.message
    assert str(rtcc.onnx.NEWEST_OPSET) in error.message


def test_opset_older_than_supported() -> None:
    error = error_of(abs_model(opset=5))
    assert (type(error), error.code) == (Unsupported, "opset-too-old")
    assert "5" in error.message
    assert "6" in error.message
    assert "Abs" in error.message


def test_old_opsets_whose_operators_are_the_same() -> None:
    nodes = [helper.make_node("Not", ["x"], ["y"])]
    model = make_model(nodes, [value("x", (3,), np.bool_)], ["y"], opset=1)
    module = rtcc.read(model)
    assert not rtcc.interpret(module, {"x": np.ones(3, np.bool_)})["y"].any()


def test_unknown_operator_names_the_nearest() -> None:
    error = error_of(one_node("Sofmax", ["x"]))
    assert (error.code, error.where) == ("unknown-operator", "the_node")
    assert error.hint is not None
    assert "Softmax" in error.hint


def test_operator_newer_than_the_models_opset() -> None:
    model = one_node("Gelu", ["x"])
    model.opset_import[0].version = 13
    error = error_of(model)
    assert (error.code, error.where) == ("unknown-operator", "the_node")
    assert error.hint is not None
    assert "opset 20" in error.hint


def test_unknown_domain() -> None:
    error = error_of(one_node("FusedConv", ["x"], domain="com.example"))
    assert (error.code, error.where) == ("unknown-operator", "the_node")
    assert "com.example" in error.message


def test_domain_that_is_not_imported() -> None:
    model = one_node("FusedConv", ["x"], domain="com.example")
    del model.opset_import[1:]
    error = error_of(model)
    assert (error.code, error.where) == ("unknown-domain", "the_node")


def test_a_domain_that_is_no_text() -> None:
    model = one_node("FusedConv", ["x"], domain="com.example")
    model.opset_import[1].domain = "broken"
    data = model.SerializeToString().replace(b"broken", b"br\xffken")
    assert error_of(data).code == "unknown-domain"


# ---- the graph


def test_cycle() -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Abs", ["a"], ["b"], name="second"),
    ]
    error = error_of(make_model(nodes, [value("x", (3,))], ["b"]))
    assert (type(error), error.code) == (InvalidModel, "cyclic-graph")
    assert error.where in ("first", "second")


def test_node_that_reads_itself() -> None:
    model = make_model([helper.make_node("Abs", ["a"], ["a"], name="n")], [], ["a"])
    assert (error_of(model).code, error_of(model).where) == ("cyclic-graph", "n")


def test_undefined_value() -> None:
    error = error_of(one_node("Add", ["x", "nowhere"]))
    assert (error.code, error.where) == ("undefined-value", "the_node")
    assert "'nowhere'" in error.message


def test_undefined_output() -> None:
    model = abs_model()
    model.graph.output[0].name = "z"
    error = error_of(model)
    assert error.code == "undefined-value"
    assert "'z'" in error.message


def _twice(kind: str) -> ModelProto:
    model = one_node("Add", ["x", "w"], {"w": np.ones(3, F32)})
    if kind == "input":
        model.graph.input.append(model.graph.input[0])
    elif kind == "output":
        model.graph.output.append(model.graph.output[0])
    elif kind == "initialiser":
        model.graph.initializer.append(model.graph.initializer[0])
    elif kind == "node output":
        model.graph.node.append(model.graph.node[0])
    else:
        model.graph.node[0].output[0] = "x"
    return model


@pytest.mark.parametrize("kind", ["input", "output", "initialiser", "node output", "input and output"])
def test_duplicate_names(kind: str) -> None:
    error = error_of(_twice(kind))
    assert (type(error), error.code) == (InvalidModel, "duplicate-name")


@pytest.mark.parametrize(
    ("model", "code"),
    [
        (one_node("Add", ["x"]), "invalid-operator"),
        (one_node("Add", ["x", ""]), "invalid-operator"),
        (one_node("Abs", ["x", "x"]), "invalid-operator"),
        (one_node("Abs", []), "invalid-operator"),
        (one_node("Concat", ["x", "x"]), "invalid-operator"),
        (one_node("Concat", ["x", "x"], axis=5), "invalid-operator"),
        (one_node("Concat", ["x", "x"], axis="front"), "invalid-operator"),
        (one_node("Transpose", ["x"], perm=[0, 5]), "invalid-operator"),
        (one_node("Flatten", ["x"], axis=9), "invalid-operator"),
        (one_node("Add", ["x", "w"], {"w": np.ones(4, F32)}), "shape-mismatch"),
        (one_node("Add", ["x", "w"], {"w": np.ones(3, np.int64)}), "invalid-operator"),
        (one_node("MatMul", ["x", "w"], {"w": np.ones((4, 4), F32)}), "invalid-operator"),
        (one_node("Reshape", ["x", "s"], {"s": np.array([4, 4])}), "invalid-operator"),
        (one_node("Reshape", ["x", "s"], {"s": np.array([-1, -1])}), "invalid-operator"),
        (one_node("Constant", []), "invalid-operator"),
        (one_node("Relu", ["x"], mystery=3), "unknown-attribute"),
        (one_node("Cast", ["x"], to=77), "unknown-dtype"),
        (one_node("If", ["x"]), "invalid-operator"),
        (one_node("Loop", ["x"]), "invalid-operator"),
        (one_node("Scan", ["x"]), "invalid-operator"),
        (one_node("Conv", ["x", "x"]), "invalid-operator"),
    ],
)
def test_operators_with_wrong_operands_or_attributes(model: ModelProto, code: str) -> None:
    error = error_of(model)
    assert (error.code, error.where) == (code, "the_node")


def test_attribute_that_is_not_text() -> None:
    model = one_node("Pad", ["x", "p"], {"p": np.array([0, 0, 1, 1])}, mode="edge")
    model.graph.node[0].attribute[0].s = b"\xff\xfe"
    assert (error_of(model).code, error_of(model).where) == ("invalid-operator", "the_node")


# ---- types


@pytest.mark.parametrize(
    "info",
    [
        helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, (2,)),
        helper.make_sparse_tensor_value_info("x", TensorProto.FLOAT, (2,)),
        value("x", (2,), np.object_),
    ],
)
def test_inputs_that_are_not_tensors_of_numbers(info: Any) -> None:
    error = error_of(make_model([helper.make_node("Identity", ["x"], ["y"])], [info], ["y"]))
    assert (type(error), error.code) == (Unsupported, "unsupported-type")


def test_input_without_type() -> None:
    model = abs_model()
    model.graph.input[0].ClearField("type")
    assert error_of(model).code == "missing-type"


def test_element_type_without_support() -> None:
    model = abs_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT4E2M1
    error = error_of(model)
    assert (type(error), error.code) == (Unsupported, "unsupported-dtype")
    assert "FLOAT4E2M1" in error.message


@pytest.mark.parametrize(
    ("shape", "dtype", "code"),
    [
        ((2, 4), F32, "shape-mismatch"),
        ((2, 3, 1), F32, "shape-mismatch"),
        ((2, 3), np.int64, "type-mismatch"),
    ],
)
@pytest.mark.parametrize("place", ["output", "value_info"])
def test_declared_types_that_contradict(shape: Any, dtype: Any, code: str, place: str) -> None:
    info = value("y", shape, dtype)
    model = abs_model()
    getattr(model.graph, place).append(info)
    if place == "output":
        del model.graph.output[0]
    error = error_of(model)
    assert (type(error), error.code) == (InvalidModel, code)
    assert error.where in ("node", "output 'y'")


@pytest.mark.parametrize("place", ["output", "value_info"])
def test_the_caller_may_say_that_a_declared_shape_is_wrong(place: str) -> None:
    model = abs_model()
    getattr(model.graph, place).append(value("y", (2, 4)))
    if place == "output":
        del model.graph.output[0]
    assert rtcc.read(model, shapes={"y": (2, 3)}).main.returned[0].type.sizes == (2, 3)
    with pytest.raises(InvalidModel, match=r"shape-mismatch.*is given with the shape \[2, 5\]"):
        rtcc.read(model, shapes={"y": (2, 5)})


@pytest.mark.parametrize(
    ("op", "inputs", "types"),
    [
        ("Gemm", ((2, 3), (3, 4)), (F32, np.float64)),
        ("Where", ((2,), (2,), (2,)), (np.bool_, F32, np.float64)),
        ("Concat", ((2,), (2,), (2,)), (F32, F32, np.int32)),
        ("Pad", ((2,), (2,), ()), (F32, np.int64, np.int32)),
        ("LayerNormalization", ((2, 3), (3,)), (F32, np.float16)),
    ],
)
def test_operands_of_one_type_variable_that_differ(op: str, inputs: Any, types: Any) -> None:
    names = [f"x{index}" for index in range(len(inputs))]
    attributes: dict[str, Any] = {"axis": 0} if op == "Concat" else {}
    node = helper.make_node(op, names, ["y"], name="node", **attributes)
    error = error_of(
        make_model([node], [value(*each) for each in zip(names, inputs, types, strict=True)], ["y"])
    )
    assert (type(error), error.code, error.where) == (InvalidModel, "invalid-operator", "node")
    last = len(inputs) - 1
    assert f"and {last} must have one element type" in error.message


# ---- absurd sizes


def test_absurd_input() -> None:
    model = make_model([helper.make_node("Abs", ["x"], ["y"])], [value("x", (2**31, 2**31))], ["y"])
    assert error_of(model).code == "absurd-size"


def test_absurd_initialiser() -> None:
    model = abs_model()
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[2**40, 2**22]))
    error = error_of(model)
    assert (error.code, error.where) == ("absurd-size", "initialiser 'w'")


def test_absurd_results() -> None:
    constants = {"s": np.array([2**31, 2**31])}
    error = error_of(one_node("ConstantOfShape", ["s"], constants))
    assert (error.code, error.where) == ("absurd-size", "the_node")


@pytest.mark.parametrize("dims", [[-1], [2, 2], [5]])
def test_initialiser_whose_data_does_not_fit(dims: list[int]) -> None:
    model = abs_model()
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=dims, raw_data=bytes(12)))
    error = error_of(model)
    assert error.code in ("tensor-size", "absurd-size")
    assert error.where == "initialiser 'w'"


def test_initialiser_with_too_few_entries() -> None:
    model = abs_model()
    model.graph.initializer.append(TensorProto(name="w", data_type=1, dims=[4], float_data=[1, 2, 3]))
    assert error_of(model).code == "tensor-size"


@pytest.mark.parametrize(
    ("dims", "indices", "code"),
    [
        ([2, 3], [9], "sparse-index"),
        ([2, 3], [-1], "sparse-index"),
        ([2, 3], [[0, 3]], "sparse-index"),
        ([2, 3], [0, 1], "sparse-index"),
        ([2**20, 2**20], [0], "sparse-too-large"),
    ],
)
def test_bad_sparse_initialisers(dims: list[int], indices: list[Any], code: str) -> None:
    values = numpy_helper.from_array(np.array([5.0], F32), "w")
    sparse = SparseTensorProto(values=values, indices=numpy_helper.from_array(np.array(indices)), dims=dims)
    model = abs_model()
    model.graph.sparse_initializer.append(sparse)
    error = error_of(model)
    assert (error.code, error.where) == (code, "initialiser 'w'")


# ---- functions and nesting


def _function(name: str, calls: list[str]) -> Any:
    nodes = [
        helper.make_node(c, ["a" if i == 0 else f"t{i - 1}"], [f"t{i}"], domain="mine")
        for i, c in enumerate(calls)
    ]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["a"], [f"t{len(calls) - 1}"], nodes, opsets)


def _call(name: str, functions: list[Any]) -> ModelProto:
    node = helper.make_node(name, ["x"], ["y"], domain="mine", name="call")
    return make_model([node], [value("x", (2,))], ["y"], functions=functions, domains=["mine"])


def test_recursive_functions() -> None:
    error = error_of(_call("F", [_function("F", ["G"]), _function("G", ["F"])]))
    assert (type(error), error.code) == (InvalidModel, "recursive-function")
    assert "F → G → F" in error.message


def test_functions_that_multiply_without_end() -> None:
    levels = [_function(f"F{i}", [f"F{i + 1}"] * 10) for i in range(9)]
    opsets = [helper.make_opsetid("", 21)]
    last = helper.make_function("mine", "F9", ["a"], ["b"], [helper.make_node("Abs", ["a"], ["b"])], opsets)
    error = error_of(_call("F0", [*levels, last]))
    assert (type(error), error.code) == (Unsupported, "expansion-too-large")


def test_function_defined_twice() -> None:
    function = _function("F", ["G"])
    assert error_of(_call("F", [function, function])).code == "duplicate-name"


def test_function_with_too_many_operands() -> None:
    opsets = [helper.make_opsetid("", 21)]
    function = helper.make_function(
        "mine", "F", ["a"], ["b"], [helper.make_node("Abs", ["a"], ["b"])], opsets
    )
    model = _call("F", [function])
    model.graph.node[0].input.append("x")
    assert (error_of(model).code, error_of(model).where) == ("invalid-operator", "call")


def test_graphs_nested_without_end() -> None:
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["o"])], "g", [], [value("o", (2, 3))])
    innermost = graph
    for _ in range(28):
        node = helper.make_node("If", ["c"], ["o"], then_branch=graph, else_branch=innermost)
        graph = helper.make_graph([node], "g", [], [value("o", (2, 3))])
    inputs = [value("c", (), np.bool_), value("x", (2, 3))]
    model = make_model(list(graph.node), inputs, ["o"])
    error = error_of(model)
    assert (type(error), error.code) == (Unsupported, "nested-too-deep")


def test_errors_inside_functions_and_branches_name_the_inner_node() -> None:
    body = [helper.make_node("MatMul", ["a", "a"], ["b"], name="inner")]
    function = helper.make_function("mine", "F", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    model = _call("F", [function])
    model.graph.input[0].CopyFrom(value("x", (2, 3)))
    assert error_of(model).where == "call/inner"


# ---- shapes and dimensions given by the user


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ({"shapes": {"z": (2, 3)}}, "unknown-input", "x"),
        ({"dims": {"M": 3}}, "unknown-dimension", "N"),
        ({"shapes": {"x": (2, 3, 4)}}, "wrong-rank", "2"),
        ({"shapes": {"x": (2, 4)}}, "shape-conflict", "4"),
        ({"shapes": {"x": (2, 3)}, "dims": {"N": 5}}, "shape-conflict", "5"),
        ({"dims": {"N": -2}}, "bad-dimension", "-2"),
        ({"values": {"x": np.zeros((2, 3))}}, "wrong-dtype", "float64"),
    ],
)
def test_wrong_shapes_and_dims(options: dict[str, Any], code: str, named: str) -> None:
    model = make_model([helper.make_node("Abs", ["x"], ["y"])], [value("x", ("N", 3))], ["y"])
    error = error_of(model, **options)
    assert (type(error), error.code) == (InvalidInput, code)
    assert named in str(error)


# ---- external data


def external_model(folder: Path, location: str, **entries: str) -> Path:
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, entry in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=entry)
    model = make_model([helper.make_node("Add", ["x", "w"], ["y"])], [value("x", (4,))], ["y"])
    model.graph.initializer.append(tensor)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return folder / "m.onnx"


def _symbolic_link(folder: Path) -> str:
    (folder / "link.bin").symlink_to(folder / "w.bin")
    return "link.bin"


def _hard_link(folder: Path) -> str:
    (folder / "link.bin").hardlink_to(folder / "w.bin")
    return "link.bin"


def _named(location: str) -> Callable[[Path], str]:
    return lambda folder: location


def _outside(folder: Path) -> str:
    (folder.parent / "out.bin").write_bytes(bytes(16))
    return "../out.bin"


def _linked_folder(folder: Path) -> str:
    (folder.parent / "elsewhere").mkdir()
    (folder.parent / "elsewhere" / "w.bin").write_bytes(bytes(16))
    (folder / "sub").symlink_to(folder.parent / "elsewhere")
    return "sub/w.bin"


def _pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


@pytest.mark.parametrize(
    "prepare",
    [
        _named(""),
        _named("nowhere.bin"),
        _named("/etc/hostname"),
        _named("sub/../../w.bin"),
        _named("a\0b"),
        _named("."),
        _outside,
        _symbolic_link,
        _hard_link,
        _linked_folder,
        _pipe,
    ],
)
def test_external_data_in_forbidden_places(tmp_path: Path, prepare: Callable[[Path], str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(bytes(16))
    error = error_of(external_model(folder, prepare(folder)))
    assert (type(error), error.code) == (InvalidModel, "external-data")
    assert error.where == "initialiser 'w'"


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({"offset": "4"}, "external-data"),
        ({"offset": "-4"}, "external-data"),
        ({"offset": "0", "length": "400"}, "external-data"),
        ({"offset": "0", "length": "-1"}, "external-data"),
        ({"offset": "x"}, "external-data"),
        ({"length": "8"}, "tensor-size"),
        ({"offset": "99999999999999999999999"}, "external-data"),
    ],
)
def test_external_data_of_wrong_extent(tmp_path: Path, entries: dict[str, str], code: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    error = error_of(external_model(tmp_path, "w.bin", **entries))
    if entries == {"offset": "4"}:
        assert error.code in (code, "tensor-size")
    else:
        assert error.code == code


def test_external_data_without_a_path(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(16))
    content = external_model(tmp_path, "w.bin").read_bytes()
    error = error_of(content)
    assert error.code == "external-data"
    assert error.hint is not None
    assert "path" in error.hint


def test_attribute_of_an_unknown_kind() -> None:
    model = one_node("Relu", ["x"])
    model.graph.node[0].attribute.append(AttributeProto(name="odd", type=AttributeProto.TYPE_PROTO))
    assert error_of(model).where == "the_node"
