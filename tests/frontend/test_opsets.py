"""Older forms of operators mean what ONNX Runtime takes them to mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import rtcc
from rtcc.errors import InvalidModel
from tests.frontend.models import (
    Shape,
    assert_same,
    interpreted,
    make_model,
    random_inputs,
    run_onnxruntime,
    typed,
    value,
)

F32 = np.float32


def case(
    op: str,
    opset: int,
    shape: Shape,
    constants: dict[str, Any] | None = None,
    outputs: int = 1,
    **attributes: Any,
) -> Any:
    label = ",".join(f"{k}={v}" for k, v in attributes.items())
    return pytest.param(op, opset, shape, constants or {}, outputs, attributes, id=f"{op}-{opset}-{label}")


def f(*numbers: float) -> Any:
    return np.array(numbers, F32)


def n(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


NONE = f()
GRID = {"g": np.linspace(-1, 1, 18, dtype=F32).reshape(1, 3, 3, 2)}
ROIS = {"r": f(1, 1, 6, 6).reshape(1, 4), "b": n(0)}
STATISTICS = {"s": f(2, 2, 1), "b": f(1, 0, 1), "m": f(0.5, 0, 1), "v": f(4, 1, 2)}
IMAGE = (1, 1, 4, 6)

CASES = [
    case("Clip", 7, (2, 3), min=-0.5, max=0.5),
    case("Clip", 10, (2, 3), max=0.5),
    case("Squeeze", 7, (1, 3, 1), axes=[0]),
    case("Squeeze", 11, (1, 3, 1)),
    case("Squeeze", 12, (1, 3, 1), axes=[-1]),
    case("Unsqueeze", 7, (2, 3), axes=[0, 2]),
    case("Unsqueeze", 12, (2, 3), axes=[-1]),
    case("Split", 7, (6, 2), outputs=3),
    case("Split", 11, (6, 2), outputs=2, split=[4, 2]),
    case("Split", 13, (6, 2), outputs=2),
    case("Split", 13, (6, 2), {"s": n(5, 1)}, outputs=2),
    case("Split", 18, (7, 2), outputs=3, num_outputs=3),
    case("Slice", 7, (4, 5), starts=[1, -3], ends=[3, 100], axes=[0, 1]),
    case("Slice", 9, (4, 5), starts=[1], ends=[3]),
    case("Slice", 10, (4, 5), {"s": n(3), "e": n(0), "a": n(1), "t": n(-1)}),
    case("Pad", 7, (2, 3), pads=[1, 0, 0, 2], value=1.5),
    case("Pad", 10, (2, 3), pads=[0, 1, 0, 1], mode="reflect"),
    case("Pad", 11, (2, 3), {"p": n(0, 1, 1, 0), "v": F32(2)}),
    case("TopK", 7, (3, 5), outputs=2, k=2),
    case("TopK", 10, (3, 5), {"k": n(2)}, outputs=2, axis=0),
    case("TopK", 11, (3, 5), {"k": n(2)}, outputs=2, largest=0),
    *(case(f"Reduce{op}", 7, (2, 3, 4), axes=[1], keepdims=0) for op in ("Sum", "Mean", "Max", "Min")),
    *(case(f"Reduce{op}", 13, (2, 3, 4), axes=[0, -1]) for op in ("L1", "L2", "Prod", "SumSquare")),
    case("ReduceLogSumExp", 11, (2, 3)),
    case("ReduceSum", 13, (2, 3), {"a": n(1)}),
    case("Softmax", 7, (2, 3, 4)),
    case("Softmax", 11, (2, 3, 4), axis=2),
    case("Softmax", 11, (2, 3, 4), axis=-2),
    case("Softmax", 11, (2, 3, 1), axis=1),
    case("Softmax", 12, (2, 3), axis=0),
    case("Softmax", 13, (2, 3, 4)),
    case("LogSoftmax", 7, (2, 3, 4), axis=1),
    case("Hardmax", 11, (2, 3, 4), axis=1),
    case("Dropout", 7, (2, 3), ratio=0.3),
    case("Dropout", 10, (2, 3), ratio=0.3),
    case("Dropout", 12, (2, 3)),
    case("BatchNormalization", 7, (2, 3, 4), STATISTICS),
    case("BatchNormalization", 9, (2, 3), STATISTICS, epsilon=0.1),
    case("GroupNormalization", 18, (2, 6, 5), {"s": f(2, 3), "b": f(1, 0)}, num_groups=2),
    case("Upsample", 7, (1, 1, 2, 3), mode="nearest", scales=[1.0, 1.0, 2.0, 3.0]),
    case("Upsample", 7, (1, 1, 3, 4), mode="linear", scales=[1.0, 1.0, 2.0, 2.0]),
    case("Upsample", 9, (1, 1, 2, 3), {"s": f(1, 1, 2.5, 1.5)}),
    case("Resize", 10, IMAGE, {"s": f(1, 1, 2, 2)}),
    case("Resize", 10, IMAGE, {"s": f(1, 1, 0.5, 0.6)}),
    case("Resize", 10, IMAGE, {"s": f(1, 1, 0.6, 1.7)}),
    case("Resize", 10, IMAGE, {"s": f(1, 1, 1, 1)}),
    case("Resize", 10, IMAGE, {"s": f(1, 1, 1.5, 2)}, mode="linear"),
    case("Resize", 11, IMAGE, {"r": NONE, "s": f(1, 1, 2, 2)}, mode="linear"),
    case("Resize", 11, IMAGE, {"r": NONE, "s": NONE, "z": n(1, 1, 7, 3)}),
    case("Resize", 11, IMAGE, {"r": NONE, "s": f(1, 1, 2.6, 0.7)},
         coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="floor"),
    case("Resize", 13, IMAGE, {"r": NONE, "s": f(1, 1, 2, 2)}, mode="cubic"),
    case("GridSample", 16, (1, 1, 4, 4), GRID),
    case("GridSample", 16, (1, 1, 4, 4), GRID, mode="bicubic"),
    case("RoiAlign", 10, (1, 2, 8, 8), ROIS, output_height=3, output_width=3),
    case("RoiAlign", 16, (1, 2, 8, 8), ROIS, output_height=3, output_width=3),
    case("DFT", 17, (1, 8, 1), axis=1),
    case("DFT", 17, (1, 8, 1), axis=1, onesided=1),
    case("Scatter", 9, (3, 3), {"i": np.array([[1, 0, 2]]), "u": np.ones((1, 3), F32)}, axis=1),
    case("Gemm", 7, (2, 3), {"b": np.ones((3, 4), F32), "c": np.arange(4, dtype=F32)}, alpha=0.5, beta=2.0),
    case("Gemm", 11, (2, 3), {"b": np.ones((4, 3), F32)}, transB=1),
    case("AveragePool", 7, (1, 1, 5, 5), kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", 10, (1, 1, 5, 5), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", 8, (1, 1, 5, 5), kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ArgMax", 7, (2, 3), axis=1, keepdims=0),
    case("DepthToSpace", 7, (1, 8, 2, 2), blocksize=2),
    case("Flatten", 9, (2, 3, 4), axis=2),
    case("LRN", 7, (1, 5, 3, 3), size=3),
    case("Elu", 7, (2, 3), alpha=0.5),
    case("PRelu", 7, (2, 3), {"s": f(0.1, 0.2, 0.3)}),
    case("Cast", 9, (2, 3), to=6),
    case("QuantizeLinear", 10, (2, 3), {"s": F32(0.1), "z": np.uint8(128)}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "opset", "shape", "constants", "outputs", "attributes"), CASES)
def test_older_form(
    op: str, opset: int, shape: Shape, constants: dict[str, Any], outputs: int, attributes: dict[str, Any]
) -> None:
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, ["x", *constants], results, name="node", **attributes)
    model = typed(make_model([node], [value("x", shape)], results, constants, opset))
    feeds = random_inputs(model)
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


def test_softmax_of_older_opsets_with_symbolic_shape() -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], axis=1)]
    outs = [value("y", ("N", 3, "M"))]
    model = make_model(nodes, [value("x", ("N", 3, "M"))], outs, opset=11)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 5)).astype(F32)}
    assert_same(interpreted(model, feeds), run_onnxruntime(model, feeds))


def test_cast_like_takes_the_other_type() -> None:
    nodes = [helper.make_node("CastLike", ["x", "t"], ["y"])]
    model = make_model(nodes, [value("x", (3,))], ["y"], {"t": np.zeros((), np.int32)})
    feeds = {"x": f(1.7, -1.7, 0.2)}
    assert_same(interpreted(model, feeds), run_onnxruntime(typed(model), feeds))


X = np.arange(24, dtype=F32).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("shape", "attributes", "aligned"),
    [
        ((3, 4), {"broadcast": 1}, (3, 4)),
        ((3,), {"broadcast": 1, "axis": 1}, (3, 1)),
        ((2, 3), {"broadcast": 1, "axis": 0}, (2, 3, 1)),
        ((4,), {"broadcast": 1, "axis": -1}, (4,)),
        ((2, 3, 4), {}, (2, 3, 4)),
    ],
)
def test_broadcast_of_opset_6(
    shape: tuple[int, ...], attributes: dict[str, Any], aligned: tuple[int, ...]
) -> None:
    right = np.arange(np.prod(shape), dtype=F32).reshape(shape)
    nodes = [helper.make_node("Mul", ["x", "b"], ["y"], **attributes)]
    model = make_model(nodes, [value("x", (2, 3, 4))], ["y"], {"b": right}, opset=6)
    np.testing.assert_array_equal(interpreted(model, {"x": X})["y"], X * right.reshape(aligned))


def test_no_broadcast_of_opset_6_unless_asked_for() -> None:
    nodes = [helper.make_node("Mul", ["x", "b"], ["y"], name="node")]
    model = make_model(nodes, [value("x", (2, 3, 4))], ["y"], {"b": np.ones(4, F32)}, opset=6)
    with pytest.raises(InvalidModel, match="without broadcast"):
        rtcc.read(model)


def test_prelu_of_opset_6_has_slopes_per_channel() -> None:
    nodes = [helper.make_node("PRelu", ["x", "s"], ["y"])]
    model = make_model(nodes, [value("x", (2, 3, 4))], ["y"], {"s": f(1, 2, 3)}, opset=6)
    found = interpreted(model, {"x": -X})["y"]
    np.testing.assert_array_equal(found, -X * f(1, 2, 3)[:, None])
