"""Sequences and optional values are resolved while a model is read; the oracle is ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

import rtcc
from rtcc.backend import InterpreterBackend
from rtcc.errors import InvalidInput, InvalidModel, RtccError, Unsupported
from tests.frontend.models import (
    Array,
    assert_same,
    interpreted,
    make_model,
    op_names,
    run_onnxruntime,
    value,
)

F32, I64 = np.float32, np.int64


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def sequence(name: str) -> ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, None)


def optional(name: str, of_sequence: bool = False) -> ValueInfoProto:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None if of_sequence else (2, 3))
    inner = helper.make_sequence_type_proto(tensor) if of_sequence else tensor
    return helper.make_value_info(name, helper.make_optional_type_proto(inner))


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(F32)


def agree(model: ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The interpreter gives what ONNX Runtime does, and no operator on sequences is left."""
    module = rtcc.read(model)
    assert not [name for name in op_names(module) if "sequence" in name or "optional" in name]
    found = interpreted(module, feeds)
    typed = ModelProto.FromString(model.SerializeToString())
    del typed.graph.output[:]
    typed.graph.output.extend(value(name, None, array.dtype) for name, array in found.items())
    assert_same(found, run_onnxruntime(typed, feeds))
    return found


def three(*nodes: NodeProto, **constants: Any) -> ModelProto:
    """A model whose first node makes the sequence `s` of the inputs a, b and c."""
    first = node("SequenceConstruct", ["a", "b", "c"], ["s"])
    inputs = [value(name, (2, 3)) for name in "abc"]
    return make_model([first, *nodes], inputs, ["y"], {n: np.asarray(v) for n, v in constants.items()})


FEEDS = {name: numbers(2, 3, seed=seed) for seed, name in enumerate("abc")}


@pytest.mark.parametrize("position", [-3, -1, 0, 2])
def test_one_of_them(position: int) -> None:
    agree(three(node("SequenceAt", ["s", "p"], ["y"]), p=position), FEEDS)


@pytest.mark.parametrize("position", [None, -3, -1, 0, 3])
def test_one_more(position: int | None) -> None:
    places = {} if position is None else {"p": position}
    insert = node("SequenceInsert", ["s", "x", *places], ["t"])
    agree(three(insert, node("ConcatFromSequence", ["t"], ["y"], axis=0), x=numbers(1, 3), **places), FEEDS)


@pytest.mark.parametrize("position", [None, -3, -1, 0, 2])
def test_one_less(position: int | None) -> None:
    places = {} if position is None else {"p": position}
    erase = node("SequenceErase", ["s", *places], ["t"])
    agree(three(erase, node("ConcatFromSequence", ["t"], ["y"], axis=-1), **places), FEEDS)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_joined_along_a_new_axis(axis: int) -> None:
    agree(three(node("ConcatFromSequence", ["s"], ["y"], axis=axis, new_axis=1)), FEEDS)


def test_how_many() -> None:
    model = three(node("Identity", ["s"], ["t"]), node("SequenceLength", ["t"], ["y"]))
    assert agree(model, FEEDS)["y"] == 3


def test_from_nothing() -> None:
    nodes = [
        node("SequenceEmpty", [], ["none"]),
        node("SequenceLength", ["none"], ["n"]),
        node("SequenceInsert", ["none", "x"], ["one"]),
        node("SequenceAt", ["one", "n"], ["y"]),
    ]
    agree(make_model(nodes, [value("x", (2,))], ["y"]), {"x": numbers(2)})


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        (None, {}),
        (None, {"keepdims": 0, "axis": 1}),
        (2, {"axis": -1}),
        ([1, 3, 1], {"axis": 1}),
        ([2, 0, 3], {"axis": 1, "keepdims": 0}),
    ],
)
@pytest.mark.parametrize("index", [0, 1])
def test_splits(sizes: Any, options: dict[str, Any], index: int) -> None:
    constants = {"i": np.array(index)} | ({} if sizes is None else {"sizes": np.array(sizes)})
    given = [] if sizes is None else ["sizes"]
    nodes = [node("SplitToSequence", ["x", *given], ["s"], **options), node("SequenceAt", ["s", "i"], ["y"])]
    agree(make_model(nodes, [value("x", (4, 5))], ["y"], constants), {"x": numbers(4, 5)})


@pytest.mark.parametrize("position", [1, -1])
def test_a_position_that_the_data_decide(position: int) -> None:
    model = three(node("SequenceAt", ["s", "p"], ["y"]))
    model.graph.input.append(value("p", (), I64))
    feeds = FEEDS | {"p": np.array(position)}
    agree(model, feeds)
    assert_same(rtcc.compile(model).run(feeds), interpreted(model, feeds))


def body(nodes: list[NodeProto], inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]) -> GraphProto:
    return helper.make_graph(nodes, "body", inputs, outputs)


def test_mapping_over_sequences() -> None:
    inner = body(
        [node("Mul", ["e", "k"], ["twice"]), node("Shape", ["e"], ["sizes"])],
        [value("e", None), value("k", None)],
        [value("twice", None), value("sizes", None, I64)],
    )
    nodes = [
        node("SequenceConstruct", ["x", "z"], ["s"]),
        node("SequenceMap", ["s", "x"], ["t", "shapes"], body=inner),
        node("ConcatFromSequence", ["t"], ["y"], axis=0),
        node("ConcatFromSequence", ["shapes"], ["n"], axis=0, new_axis=1),
    ]
    model = make_model(nodes, [value("x", (1, 3)), value("z", (4, 3))], ["y", "n"])
    agree(model, {"x": numbers(1, 3), "z": numbers(4, 3)})


def collecting(rounds: int | None, stop: int | None = None) -> ModelProto:
    """A loop that puts x · i into a sequence, for a number of rounds or until i is `stop`."""
    nodes = [
        node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["x", "f"], ["scaled"]),
        node("SequenceInsert", ["s", "scaled"], ["t"]),
        node("Less", ["i", "stop"], ["on"]) if stop is not None else node("Identity", ["cond"], ["on"]),
        node("Identity", ["scaled"], ["slice"]),
    ]
    inner = body(
        nodes,
        [value("i", (), I64), value("cond", (), np.bool_), sequence("s")],
        [value("on", (), np.bool_), sequence("t"), value("slice", (2, 3))],
    )
    trips = [] if rounds is None else ["rounds"]
    outer = [
        node("SequenceEmpty", [], ["none"]),
        node("Loop", [*(trips or [""]), "true", "none"], ["all", "slices"], body=inner),
        node("ConcatFromSequence", ["all"], ["y"], axis=0),
    ]
    constants: dict[str, Any] = {"true": np.array(True)}
    constants |= {} if rounds is None else {"rounds": np.array(rounds)}
    constants |= {} if stop is None else {"stop": np.array(stop)}
    return make_model(outer, [value("x", (2, 3))], ["y", "slices"], constants)


@pytest.mark.parametrize(("rounds", "stop"), [(3, None), (None, 4), (2, 4), (6, 3)])
def test_loops_that_carry_sequences(rounds: int | None, stop: int | None) -> None:
    agree(collecting(rounds, stop), {"x": numbers(2, 3)})


def test_a_compiled_loop() -> None:
    model, feeds = collecting(3), {"x": numbers(2, 3)}
    assert_same(rtcc.compile(model).run(feeds), interpreted(model, feeds))


@pytest.mark.parametrize("then", [True, False])
@pytest.mark.parametrize("is_known", [True, False])
def test_branches_that_give_sequences(is_known: bool, then: bool) -> None:
    sides = [
        body([node("SequenceConstruct", names, [out])], [], [sequence(out)])
        for names, out in ((["a", "b"], "t"), (["c", "a"], "e"))
    ]
    nodes = [
        node("If", ["which"], ["s"], then_branch=sides[0], else_branch=sides[1]),
        node("ConcatFromSequence", ["s"], ["y"], axis=0),
    ]
    inputs, feeds = [value(name, (2, 3)) for name in "abc"], dict(FEEDS)
    if not is_known:
        inputs.append(value("which", (), np.bool_))
        feeds["which"] = np.array(then)
    constants = {"which": np.array(then)} if is_known else {}
    agree(make_model(nodes, inputs, ["y"], constants), feeds)


def test_sequences_in_and_out() -> None:
    """They are as many tensors, named after them."""
    nodes = [node("SequenceInsert", ["s", "x"], ["y"]), node("SequenceLength", ["y"], ["n"])]
    model = make_model(nodes, [sequence("s"), value("x", (5,))], [sequence("y"), value("n", (), I64)])
    module = rtcc.read(model, shapes={"s_0": (2,), "s_1": (3, 4)})
    assert [parameter.name for parameter in module.main.parameters] == ["s_0", "s_1", "x"]
    feeds = {"s_0": numbers(2), "s_1": numbers(3, 4), "x": numbers(5)}
    found = interpreted(module, feeds)
    expected = {f"y_{i}": array for i, array in enumerate(feeds.values())}
    assert_same(found, expected | {"n": np.array(3)})
    assert list(rtcc.compile(module).run(feeds)) == ["y_0", "y_1", "y_2", "n"]
    prepared = InterpreterBackend.prepare(model)
    outputs, count = prepared.run([[feeds["s_0"], feeds["s_1"]], feeds["x"]])
    assert [array.shape for array in outputs] == [(2,), (3, 4), (5,)]
    assert prepared.run([[], feeds["x"]])[1] == 1
    assert count == 3


def presence() -> ModelProto:
    """Whether the optional input `o` is there, and the element of an optional `x`."""
    nodes = [
        node("OptionalHasElement", ["o"], ["has"]),
        node("Optional", ["x"], ["maybe"]),
        node("OptionalGetElement", ["maybe"], ["y"]),
    ]
    return make_model(
        nodes, [optional("o"), value("x", (2,))], [value("has", (), np.bool_), value("y", (2,))]
    )


def test_optional_values() -> None:
    model, x = presence(), numbers(2)
    assert interpreted(rtcc.read(model), {"o": numbers(2, 3), "x": x})["has"]
    absent = rtcc.read(model, values={"o": None})
    assert [parameter.name for parameter in absent.main.parameters] == ["x"]
    found = interpreted(absent, {"x": x})
    assert not found["has"]
    np.testing.assert_array_equal(found["y"], x)
    with pytest.raises(InvalidInput, match="not optional"):
        rtcc.read(model, values={"x": None})


def _error(model: ModelProto, **options: Any) -> RtccError:
    with pytest.raises(RtccError) as raised:
        rtcc.read(model, **options)
    assert raised.value.where
    return raised.value


AT = node("SequenceAt", ["s", "p"], ["y"])


@pytest.mark.parametrize(
    "model",
    [
        three(AT, p=3),
        three(AT, p=-4),
        three(AT, p=1.0),
        three(node("SequenceInsert", ["s", "a", "p"], ["t"]), node("SequenceLength", ["t"], ["y"]), p=4),
        three(node("SequenceErase", ["s", "p"], ["t"]), node("SequenceLength", ["t"], ["y"]), p=3),
        three(node("SequenceLength", ["a"], ["y"])),
        three(node("SplitToSequence", ["a", "p"], ["t"]), node("SequenceLength", ["t"], ["y"]), p=0),
        three(node("SplitToSequence", ["a", "p"], ["t"]), node("SequenceLength", ["t"], ["y"]), p=[1, 2]),
        three(node("SplitToSequence", ["a"], ["t"], axis=2), node("SequenceLength", ["t"], ["y"])),
        three(node("SequenceEmpty", [], ["t"]), node("ConcatFromSequence", ["t"], ["y"], axis=0)),
        three(
            node("Optional", [], ["t"], type=helper.make_tensor_type_proto(TensorProto.FLOAT, (2,))),
            node("OptionalGetElement", ["t"], ["y"]),
        ),
    ],
)
def test_what_is_wrong(model: ModelProto) -> None:
    assert isinstance(_error(model), InvalidModel)


def test_what_is_refused() -> None:
    """With what to do about it."""
    tensors = three(node("Relu", ["s"], ["y"]))
    assert "expected a tensor" in _error(tensors).message
    of_unknown_length = make_model([node("SequenceLength", ["s"], ["y"])], [sequence("s")], ["y"])
    assert "--shape s_0=" in (_error(of_unknown_length).hint or "")
    open_position = three(node("SequenceErase", ["s", "p"], ["t"]), node("SequenceLength", ["t"], ["y"]))
    open_position.graph.input.append(value("p", (), I64))
    assert "--value" in (_error(open_position).hint or "")
    open_loop = collecting(3)
    del open_loop.graph.initializer[1]
    open_loop.graph.input.append(value("rounds", (), I64))
    error = _error(open_loop)
    assert isinstance(error, Unsupported)
    assert "how often" in error.message
    assert "rounds" in _error(collecting(2000)).message
    nothing = make_model([node("SequenceEmpty", [], ["y"])], [value("x", (2,))], [sequence("y")])
    assert "without elements" in _error(nothing).message
    nowhere = make_model([node("Identity", ["o"], ["y"])], [optional("o", of_sequence=True)], [optional("y")])
    assert "absent" in _error(nowhere, values={"o": None}).message


def test_loops_in_loops_are_written_out_within_a_bound() -> None:
    """Each with few rounds, all of them with more than can be read in seconds."""
    inner = body(
        [node("SequenceErase", ["s"], ["t"]), node("SequenceInsert", ["t", "x"], ["u"])],
        [value("i", (), I64), value("c", (), np.bool_), sequence("s")],
        [value("c", (), np.bool_), sequence("u")],
    )
    outer = body(
        [node("Loop", ["rounds", "", "q"], ["r"], body=inner)],
        [value("j", (), I64), value("d", (), np.bool_), sequence("q")],
        [value("d", (), np.bool_), sequence("r")],
    )
    nodes = [
        node("SequenceConstruct", ["x"], ["one"]),
        node("Loop", ["rounds", "", "one"], ["all"], body=outer),
        node("ConcatFromSequence", ["all"], ["y"], axis=0),
    ]
    model = make_model(nodes, [value("x", (2,))], ["y"], {"rounds": np.array(200)})
    error = _error(model)
    assert error.code == "expansion-too-large"
    assert "--value" in (error.hint or "")
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array(20), "rounds"))
    agree(model, {"x": numbers(2)})


@pytest.mark.parametrize("dtype", [I64, F32])
def test_a_carried_counter_decides_when_a_long_loop_ends(dtype: type[np.number[Any]]) -> None:
    """Which is not followed back to the first round from each."""
    inner = body(
        [
            node("Add", ["n", "one"], ["k"]), node("Add", ["k", "one"], ["l"]),
            node("Sub", ["l", "one"], ["m"]), node("Less", ["m", "last"], ["on"]),
            node("SequenceErase", ["s"], ["t"]), node("SequenceInsert", ["t", "x"], ["u"]),
        ],
        [value("i", (), I64), value("c", (), np.bool_), value("n", (), dtype), sequence("s")],
        [value("on", (), np.bool_), value("m", (), dtype), sequence("u")],
    )  # fmt: skip
    nodes = [
        node("SequenceConstruct", ["x"], ["first"]),
        node("Loop", ["", "true", "zero", "first"], ["n", "all"], body=inner),
        node("ConcatFromSequence", ["all"], ["z"], axis=0),
    ]
    counts = {name: np.array(n, dtype) for name, n in (("zero", 0), ("one", 1), ("last", 999))}
    model = make_model(nodes, [value("x", (2,))], ["n", "z"], {"true": np.array(True), **counts})
    assert agree(model, {"x": numbers(2)})["n"] == 999


def test_branches_of_different_lengths() -> None:
    sides = [
        body([node("SequenceConstruct", names, [out])], [], [sequence(out)])
        for names, out in ((["x", "x"], "t"), (["x"], "e"))
    ]
    nodes = [
        node("If", ["which"], ["s"], then_branch=sides[0], else_branch=sides[1]),
        node("SequenceLength", ["s"], ["y"]),
    ]
    model = make_model(nodes, [value("x", (2,)), value("which", (), np.bool_)], ["y"])
    assert "different lengths" in _error(model).message
    found = interpreted(rtcc.read(model, values={"which": True}), {"x": numbers(2)})
    assert found["y"] == 2
