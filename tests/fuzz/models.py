"""Eight small models that between them use most of what a reader and a code generator have to look at."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper

from tests.frontend.models import make_model, value


def models() -> list[ModelProto]:
    """Layers, shape arithmetic, control flow, a function, recurrence, bytes, selections, indices."""
    f32 = np.float32
    convolution = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], name="c", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["p", "s"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["y"], transB=1),
    ]
    arrays = {
        "w": np.ones((4, 3, 3, 3), f32), "b": np.ones(4, f32), "s": np.array([1, -1]),
        "g": np.ones((5, 16), f32),
    }  # fmt: skip
    shapes = [
        helper.make_node("Shape", ["x"], ["n"]),
        helper.make_node("Gather", ["n", "i"], ["d"], axis=0),
        helper.make_node("ConstantOfShape", ["d"], ["z"]),
        helper.make_node("Concat", ["x", "z"], ["k"], axis=1),
        helper.make_node("Slice", ["k", "from", "to"], ["l"]),
        helper.make_node("Softmax", ["l"], ["m"], axis=-1),
        helper.make_node("ReduceMean", ["m", "axes"], ["y"], keepdims=0),
    ]
    integers = {
        "i": np.array([0, 1]), "from": np.array([0, 1]), "to": np.array([2, 99]), "axes": np.array([1]),
    }  # fmt: skip
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "x"], ["o"]), helper.make_node("Identity", ["c"], ["d"])], "body",
        [value("i", (), np.int64), value("c", (), np.bool_), value("v", (3,))],
        [value("d", (), np.bool_), value("o", (3,))],
    )  # fmt: skip
    branch = helper.make_graph([helper.make_node("Neg", ["t"], ["e"])], "branch", [], [value("e", (3,))])
    other = helper.make_graph([helper.make_node("Abs", ["t"], ["e"])], "other", [], [value("e", (3,))])
    control = [
        helper.make_node("Loop", ["n", "", "x"], ["t"], body=body),
        helper.make_node("If", ["q"], ["y"], then_branch=branch, else_branch=other),
    ]
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 21)],
    )  # fmt: skip
    called = helper.make_node("Twice", ["x"], ["y"], domain="mine")
    return [
        make_model(convolution, [value("x", (1, 3, 4, 4))], ["y"], arrays),
        make_model(shapes, [value("x", (2, 3))], ["y"], integers),
        make_model(control, [value("x", (3,)), value("q", (), np.bool_)], ["y"], {"n": np.array(4)}),
        make_model([called], [value("x", ("N",))], ["y"], functions=[function], domains=["mine"]),
        recurrent(), quantised(), selecting(), indexing(),
    ]  # fmt: skip


def recurrent() -> ModelProto:
    """A bidirectional LSTM, a GRU after it, and a normalisation."""
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["s", "h"], hidden_size=4, direction="bidirectional"),
        helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "shape"], ["f"]),
        helper.make_node("GRU", ["f", "v", "q"], ["g"], hidden_size=3, linear_before_reset=1),
        helper.make_node("Squeeze", ["g", "axes"], ["e"]),
        helper.make_node("LayerNormalization", ["e", "scale"], ["y"], axis=-1),
    ]
    arrays = {
        "w": weights(2, 16, 3), "r": weights(2, 16, 4), "b": weights(2, 32), "v": weights(1, 9, 8),
        "q": weights(1, 9, 3), "shape": np.array([0, 0, 8]), "axes": np.array([1]),
        "scale": np.ones(3, np.float32),
    }  # fmt: skip
    return make_model(nodes, [value("x", (5, 1, 3))], ["y", "h"], arrays)


def quantised() -> ModelProto:
    """A convolution and a product of bytes, between conversions."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["q"]),
        helper.make_node("QLinearConv", ["q", "sx", "zx", "w", "sw", "zw", "sy", "zx", "b"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "sy", "zx"], ["d"]),
        helper.make_node("HardSigmoid", ["d"], ["g"]),
        helper.make_node("Mul", ["d", "g"], ["m"]),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("DynamicQuantizeLinear", ["f"], ["l", "ls", "lz"]),
        helper.make_node("MatMulInteger", ["l", "k", "lz"], ["i"]),
        helper.make_node("Cast", ["i"], ["o"], to=1),
        helper.make_node("Mul", ["o", "ls"], ["y"]),
    ]
    random = np.random.default_rng(1)
    arrays = {
        "sx": np.float32(0.05), "zx": np.uint8(120), "sw": np.full(4, 0.02, np.float32),
        "zw": np.zeros(4, np.int8), "sy": np.float32(0.1),
        "w": random.integers(-9, 9, (4, 2, 3, 3)).astype(np.int8),
        "b": np.arange(4, dtype=np.int32), "k": random.integers(-9, 9, (36, 5)).astype(np.int8),
    }  # fmt: skip
    return make_model(nodes, [value("x", (1, 2, 5, 5))], ["y"], arrays)


def selecting() -> ModelProto:
    """Results whose size the data decide, and the largest elements."""
    nodes = [
        helper.make_node("TopK", ["x", "k"], ["v", "at"], axis=1),
        helper.make_node("Greater", ["x", "zero"], ["p"]),
        helper.make_node("NonZero", ["p"], ["n"]),
        helper.make_node("Transpose", ["n"], ["t"]),
        helper.make_node("GatherND", ["x", "t"], ["found"]),
        helper.make_node("Unique", ["at"], ["u", "", "", "counts"]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["kept"]),
    ]
    arrays = {
        "k": np.array([2]), "zero": np.float32(0), "most": np.array([3]),
        "overlap": np.array([0.3], np.float32),
    }  # fmt: skip
    inputs = [value("x", (3, 4)), value("boxes", (1, 6, 4)), value("scores", (1, 2, 6))]
    return make_model(nodes, inputs, ["v", "t", "found", "u", "counts", "kept"], arrays)


def indexing() -> ModelProto:
    """Gathers, scatters, resizing, einsum, running sums and reductions."""
    nodes = [
        helper.make_node("Gather", ["x", "i"], ["g"], axis=1),
        helper.make_node("ScatterND", ["g", "places", "rows"], ["s"]),
        helper.make_node("CumSum", ["s", "axis"], ["c"], exclusive=1),
        helper.make_node("Einsum", ["c", "s"], ["e"], equation="ij,kj->ik"),
        helper.make_node("Unsqueeze", ["e", "front"], ["p"]),
        helper.make_node("Resize", ["p", "", "scales"], ["r"], mode="linear"),
        helper.make_node("Pad", ["r", "pads"], ["q"], mode="reflect"),
        helper.make_node("ArgMax", ["q"], ["a"], axis=-1, keepdims=0),
        helper.make_node("ReduceL2", ["q", "last"], ["y"]),
        helper.make_node("Mod", ["n", "m"], ["z"]),
    ]
    arrays = {
        "i": np.array([2, 0, -1]), "places": np.array([[1], [0]]), "rows": np.ones((2, 3), np.float32),
        "axis": np.array(0), "front": np.array([0, 1]), "scales": np.array([1, 1, 2, 1.5], np.float32),
        "pads": np.array([0, 0, 1, 0, 0, 0, 1, 1]), "last": np.array([3]),
        "m": np.array([3, -2, 5], np.int32),
    }  # fmt: skip
    return make_model(nodes, [value("x", (4, 3)), value("n", (3,), np.int32)], ["a", "y", "z"], arrays)
