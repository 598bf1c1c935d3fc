# pyright: basic
"""Networks in ONNX Runtime's QOperator format, as its own quantiser writes them, compiled to integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import rtcc
from rtcc.compiler import Options, start
from rtcc.interpreter import interpret
from rtcc.ir.ops import nn
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.ir.ops.stored import StoredMatMul
from tests.targets.quantized import reference


class Samples(CalibrationDataReader):
    """Standard normal pictures."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.left = [random.standard_normal((1, 3, 16, 16)).astype(np.float32) for _ in range(8)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return {"x": self.left.pop()} if self.left else None


def float_network() -> onnx.ModelProto:
    """Convolutions, a residual addition, concatenation, pools, activations, a gate and a linear layer."""
    random = np.random.default_rng(1)
    weights: dict[str, np.ndarray] = {}

    def weight(name: str, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) or 1
        weights[name] = (random.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        return name

    def conv(x: str, y: str, filters: int, channels: int, size: int, group: int = 1) -> onnx.NodeProto:
        names = [x, weight(f"{y}.w", filters, channels // group, size, size), weight(f"{y}.b", filters)]
        return helper.make_node("Conv", names, [y], pads=[size // 2] * 4, group=group, name=y)

    nodes = [
        conv("x", "a", 16, 3, 3),
        helper.make_node("Relu", ["a"], ["ra"], name="ra"),
        conv("ra", "b", 16, 16, 3, 16),
        helper.make_node("LeakyRelu", ["b"], ["rb"], name="rb", alpha=0.1),
        helper.make_node("Add", ["ra", "rb"], ["c"], name="c"),
        conv("c", "d", 16, 16, 1),
        helper.make_node("Sigmoid", ["d"], ["gate"], name="gate"),
        helper.make_node("Mul", ["c", "gate"], ["e"], name="e"),
        helper.make_node("Concat", ["c", "e"], ["f"], name="f", axis=1),
        helper.make_node("AveragePool", ["f"], ["g"], name="g", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["g"], ["h"], name="h"),
        helper.make_node("Flatten", ["h"], ["flat"], name="flat"),
        helper.make_node(
            "Gemm", ["flat", weight("l.w", 10, 32), weight("l.b", 10)], ["y"], name="l", transB=1
        ),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(("activations", "per_channel"), [(QuantType.QUInt8, False), (QuantType.QInt8, True)])
def test_static_quantisation(tmp_path: Path, activations: QuantType, per_channel: bool) -> None:
    """Convolutions are integer sums; results are the lowered module's to the bit, ONNX Runtime's nearly."""
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(float_network(), source)
    quantize_static(
        source, target, Samples(), quant_format=QuantFormat.QOperator, per_channel=per_channel,
        activation_type=activations, weight_type=QuantType.QInt8,
    )  # fmt: skip
    model = onnx.load(target)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds >= {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QGemm"}
    assert kinds >= {"QLinearLeakyRelu", "QLinearAveragePool", "QLinearGlobalAveragePool"}
    feeds = {"x": np.random.default_rng(9).standard_normal((1, 3, 16, 16)).astype(np.float32)}
    compilation = start(model, Options())
    compilation.lower()
    ops = [op for kernel in compilation.module.kernels.values() for op in kernel.ops]
    assert sum(isinstance(op, ConvSum) for op in ops) >= 3
    assert sum(isinstance(op, MatMulSum) for op in ops) == 1
    assert not any(isinstance(op, nn.Gemm | nn.MatMul | StoredMatMul) for op in ops), "a float product"
    with rtcc.compile(model, verify_kernels=True) as artifact:
        (found,) = artifact.run(feeds).values()
    (lowered,) = interpret(compilation.module, feeds).values()
    np.testing.assert_allclose(found, lowered, rtol=1e-5)
    (expected,) = reference(model, feeds)
    step = _result_scale(model)
    assert np.abs(found - expected).max() <= 2.01 * step, "more than two units"


def test_dynamic_quantisation(tmp_path: Path) -> None:
    """What quantize_dynamic writes of linear layers, once fused by ONNX Runtime."""
    source, target = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    random = np.random.default_rng(3)
    weight = random.standard_normal((64, 48)).astype(np.float32) / 8
    bias = random.standard_normal(48).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="m"),
        helper.make_node("Add", ["m", "b"], ["y"], name="add"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [5, 64])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [5, 48])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), source)
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "fused.onnx")
    assert "DynamicQuantizeMatMul" in {node.op_type for node in model.graph.node}
    compilation = start(model, Options())
    compilation.lower()
    ops = [op for kernel in compilation.module.kernels.values() for op in kernel.ops]
    assert any(isinstance(op, MatMulSum) for op in ops)
    feeds = {"x": random.standard_normal((5, 64)).astype(np.float32)}
    with rtcc.compile(model, verify_kernels=True) as artifact:
        (found,) = artifact.run(feeds).values()
    (expected,) = reference(model, feeds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def _result_scale(model: onnx.ModelProto) -> float:
    """The scale that the last DequantizeLinear has."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    (last,) = [node for node in model.graph.node if node.output[0] == "y"]
    return float(arrays[last.input[1]])
