"""Results whose size the data decide: compiled, sized by a bound, and returned with their true shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, parser

import rtcc
from rtcc.errors import InvalidModel, Unsupported
from tests.frontend.models import make_model, value

Arrays = dict[str, NDArray[Any]]


def agree(model: ModelProto, *feeds: Arrays, **options: Any) -> list[Arrays]:
    """The compiled model's results for each of the feeds, which are the interpreter's, bit for bit."""
    module = rtcc.read(model)
    found: list[Arrays] = []
    with rtcc.compile(model, verify_each=True, **options) as artifact:
        for each in feeds:
            results = artifact.run(each)
            for name, expected in rtcc.interpret(module, each).items():
                assert results[name].shape == expected.shape, name
                np.testing.assert_array_equal(results[name], expected)
            found.append(results)
    return found


def grid(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).integers(0, 3, (3, 4)).astype(np.float32)


def test_non_zero_and_what_reads_it() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Transpose", ["n"], ["t"]),
        helper.make_node("GatherND", ["x", "t"], ["v"]),
        helper.make_node("Mul", ["v", "two"], ["w"]),
        helper.make_node("ReduceSum", ["w"], ["total"], keepdims=0),
        helper.make_node("ReduceMax", ["w"], ["most"], keepdims=0),
        helper.make_node("Unsqueeze", ["w", "axes"], ["column"]),
        helper.make_node("Concat", ["column", "column"], ["pairs"], axis=1),
        helper.make_node("Gemm", ["pairs", "matrix"], ["product"]),
    ]
    stored = {
        "two": np.array(2, np.float32), "axes": np.array([1]),
        "matrix": np.array([[1, 2, 3], [4, 5, 6]], np.float32),
    }  # fmt: skip
    model = make_model(nodes, [value("x", (3, 4))], ["t", "v", "total", "most", "product"], stored)
    feeds = [{"x": grid(seed)} for seed in (0, 1)] + [{"x": np.zeros((3, 4), np.float32)}]
    shapes = [found["product"].shape for found in agree(model, *feeds)]
    assert shapes == [(np.count_nonzero(each["x"]), 3) for each in feeds]
    assert agree(model, *feeds, pipeline="-O0", threads=2)


def test_what_runs_along_the_open_axis() -> None:
    """What lies behind the true size is no part of means, softmaxes and places of extremes."""
    nodes = [
        helper.make_node("Compress", ["x", "keep"], ["c"], axis=1),
        helper.make_node("ReduceMean", ["c"], ["mean"], keepdims=0),
        helper.make_node("ReduceMean", ["c", "second"], ["means"]),
        helper.make_node("Softmax", ["c"], ["soft"], axis=1),
        helper.make_node("LogSoftmax", ["c"], ["log"], axis=1),
        helper.make_node("ArgMax", ["c"], ["most"], axis=1),
        helper.make_node("ArgMin", ["c"], ["least"], axis=1, keepdims=0),
    ]
    inputs = [value("x", (3, 9)), value("keep", (9,), np.bool_)]
    outputs = ["mean", "means", "soft", "log", "most", "least"]
    model = make_model(nodes, inputs, outputs, {"second": np.array([1])})
    random = np.random.default_rng(0)
    one = random.standard_normal((3, 9)).astype(np.float32)
    with rtcc.compile(model, verify_each=True) as artifact:
        for x in (one, np.abs(one), -np.abs(one)):
            feeds = {"x": x, "keep": random.random(9) < 0.5}
            found = artifact.run(feeds)
            for name, expected in rtcc.interpret(rtcc.read(model), feeds).items():
                np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("has_condition", [False, True])
def test_a_tensor_that_grows_for_a_known_number_of_rounds(has_condition: bool) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Concat", ["cache", "row"], ["longer"], axis=0),
            helper.make_node("ReduceMean", ["longer", "first"], ["mean"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [value("i", (), np.int64), value("go", (), np.bool_), value("row", (1, 3)), value("cache", ("n", 3))],
        [value("on", (), np.bool_), value("mean", (1, 3)), value("longer", ("m", 3))],
    )
    condition = "true" if has_condition else ""
    loop = helper.make_node("Loop", ["rounds", condition, "x", "x"], ["last", "all"], body=body)
    stored = {"first": np.array([0]), "rounds": np.array(4), "true": np.array(True)}
    (found,) = agree(
        make_model([loop], [value("x", (1, 3))], ["last", "all"], stored), {"x": grid(0)[:1, :3]}
    )
    assert found["all"].shape == (5, 3)


@pytest.mark.parametrize("is_sorted", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_unique(is_sorted: int, axis: int | None) -> None:
    options: dict[str, Any] = {"sorted": is_sorted} | ({} if axis is None else {"axis": axis})
    node = helper.make_node("Unique", ["x"], ["y", "first", "inverse", "counts"], **options)
    model = make_model([node], [value("x", (3, 4))], ["y", "first", "inverse", "counts"])
    special = np.array([[np.nan, 1, np.nan, 1], [0, 1, -0.0, 1], [np.nan, 1, np.nan, 1]], np.float32)
    agree(model, {"x": grid(0)}, {"x": np.zeros((3, 4), np.float32)}, {"x": special})


@pytest.mark.parametrize(
    ("shape", "axis", "dtype"),
    [
        ((200, 3), 0, np.float32), ((3, 150), 1, np.int32), ((3, 150), 0, np.uint8),
        ((12, 2, 3), 1, np.float64), ((1, 5), 0, np.float32), ((7, 1), 0, np.float16),
        ((20, 2), 0, np.bool_), ((500,), None, np.int64),
    ],
)  # fmt: skip
def test_unique_of_many(shape: tuple[int, ...], axis: int | None, dtype: Any) -> None:
    """Rows are sorted column after column; one with a NaN equals no other."""
    random = np.random.default_rng(0)
    x = random.integers(0, 3, shape).astype(dtype)
    if np.dtype(dtype).kind == "f":
        x[random.random(shape) < 0.05] = np.nan
        x[random.random(shape) < 0.05] = -0.0
    options: dict[str, Any] = {} if axis is None else {"axis": axis}
    node = helper.make_node("Unique", ["x"], ["y", "first", "inverse", "counts"], **options)
    agree(make_model([node], [value("x", shape, dtype)], ["y", "first", "inverse", "counts"]), {"x": x})


def test_a_scan_that_stacks_nothing() -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "row"], ["t"])],
        "body",
        [value("s", (4,)), value("row", (4,))],
        [value("t", (4,))],
    )
    node = helper.make_node("Scan", ["start", "x"], ["y"], body=body, num_scan_inputs=1)
    model = make_model([node], [value("start", (4,)), value("x", (3, 4))], ["y"])
    agree(model, {"start": grid(0)[0], "x": grid(1)})


@pytest.mark.parametrize("axis", [None, 1])
def test_compress(axis: int | None) -> None:
    options: dict[str, Any] = {} if axis is None else {"axis": axis}
    node = helper.make_node("Compress", ["x", "c"], ["y"], **options)
    model = make_model([node], [value("x", (3, 4)), value("c", (4,), np.bool_)], ["y"])
    conditions = ([False] * 4, [True] * 4, [False, True, True, False])
    agree(model, *({"x": grid(3), "c": np.array(each)} for each in conditions))


def test_suppression_of_boxes() -> None:
    nodes = [
        helper.make_node("NonMaxSuppression", ["b", "s", "most", "overlap", "least"], ["kept"]),
        helper.make_node("Gather", ["kept", "two"], ["at"], axis=1),
        helper.make_node("Squeeze", ["b", "zero"], ["boxes"]),
        helper.make_node("Gather", ["boxes", "at"], ["chosen"], axis=0),
    ]
    stored = {
        "most": np.array([20]), "overlap": np.array([0.05], np.float32), "two": np.array(2),
        "least": np.array([0.3], np.float32), "zero": np.array([0]),
    }  # fmt: skip
    model = make_model(nodes, [value("b", (1, 60, 4)), value("s", (1, 2, 60))], ["kept", "chosen"], stored)
    random = np.random.default_rng(0)
    corner, size = random.random((2, 1, 60, 2)) * [[[[5]]], [[[3]]]]
    boxes = np.concatenate([corner, corner + size], 2).astype(np.float32)
    scores = random.random((1, 2, 60)).astype(np.float32)
    many, none = agree(model, {"b": boxes, "s": scores}, {"b": boxes, "s": scores * 0})
    assert 0 < len(many["kept"]) < 40
    assert none["chosen"].shape == (0, 4)


def test_a_number_of_boxes_that_is_no_integer() -> None:
    node = helper.make_node("NonMaxSuppression", ["b", "s", "most"], ["kept"])
    inputs = [value("b", (1, 6, 4)), value("s", (1, 2, 6))]
    with pytest.raises(InvalidModel, match="must be an integer"):
        rtcc.read(make_model([node], inputs, ["kept"], {"most": np.array([0.3], np.float32)}))


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_margins_of_nothing(mode: str) -> None:
    node = helper.make_node("Pad", ["x", "pads"], ["y"], mode=mode)
    with pytest.raises(InvalidModel, match="empty axis"):
        rtcc.read(make_model([node], [value("x", (0,))], ["y"], {"pads": np.array([1, 0])}))


def test_how_many_there_are() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Shape", ["n"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["count"]),
        helper.make_node("Cast", ["count"], ["share"], to=1),
        helper.make_node("Div", ["share", "all"], ["y"]),
    ]
    model = make_model(
        nodes, [value("x", (3, 4))], ["shape", "y"], {"one": np.array(1), "all": np.array(12, np.float32)}
    )
    (found,) = agree(model, {"x": grid(0)})
    assert found["shape"].tolist() == [2, np.count_nonzero(grid(0))]


LOOP = """<ir_version: 10, opset_import: ["": 21]>
agraph (float[2] x) => (float[2] z, float[k, 2] y)
<int64 n = {6}, bool yes = {1}, float limit = {100}> {
    z, y = Loop (n, yes, x) <body = b (int64 i, bool c, float[2] s) => (bool go, float[2] t, float[2] u)
        { t = Add(s, s)  m = ReduceMax<keepdims = 0>(t)  go = Less(m, limit)  u = Neg(t) }>
}"""


def test_stacked_results_of_a_loop_that_may_end_early() -> None:
    feeds = ({"x": np.array(each, np.float32)} for each in ([1, 2], [30, 1], [200, 0]))
    assert [len(found["y"]) for found in agree(parser.parse_model(LOOP), *feeds)] == [6, 2, 1]


def test_a_count_that_is_an_output_too() -> None:
    text = """// rtir 1  level=graph
dim K in [0,6]
graph @main(%m: bool[6], %x: f32[6]) {
  %p, %n = tensor.positions(%m) : i64[6], i64[]
  %y = tensor.truncate(%x, %n) : f32[K]
  return(%n, %y)
}
"""
    with rtcc.compile(rtcc.parse_module(text)) as artifact:
        mask, data = np.array([True, False] * 3), np.arange(6, dtype=np.float32)
        found = artifact.run({"m": mask, "x": data})
        np.testing.assert_array_equal(found["y"], data[:3])
        assert found["n"] == 3
        step = artifact.bind({"m": mask, "x": data})
        for count in (3, 5, 0):
            mask[...] = np.arange(6) < count
            step()
            np.testing.assert_array_equal(step.results()["y"], data[:count])


@pytest.mark.parametrize(
    ("reader", "operator"),
    [("y = MatMul(f, t)", "nn.mat_mul"), ("y = Concat<axis = 1>(f, f)", "tensor.concat")],
)
def test_what_needs_the_size_is_refused_by_name(reader: str, operator: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["": 21]>
        agraph (float[6] x) => (float[a, b] y) {{
            n = NonZero(x)  f = Cast<to = 1>(n)  t = Transpose(f)  {reader}
        }}"""
    with pytest.raises(Unsupported, match=operator) as caught:
        rtcc.compile(parser.parse_model(text))
    assert caught.value.code == "data-dependent-size"


def test_loops_without_a_limit_say_which_to_give() -> None:
    with pytest.raises(Unsupported, match="nothing limits their number") as caught:
        rtcc.compile(parser.parse_model(LOOP.replace("<int64 n = {6}, ", "<").replace("Loop (n,", "Loop (,")))
    assert caught.value.code == "unbounded-loop"
    assert "trip count" in (caught.value.hint or "")
