# pyright: basic
"""Quantised networks from ONNX to machine code: against the interpreter to the bit, and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import rtcc
from benchmarks.models.networks import minilm
from rtcc.compiler import Options, start
from rtcc.interpreter import interpret
from rtcc.ir import DType
from rtcc.ir.ops.attention import TokenAttention
from rtcc.ir.ops.integer import ConvSum, MatMulSum, Requantize, WindowSum
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.nn import Conv, Gemm
from rtcc.ir.ops.tables import Curve
from rtcc.passes.lower_quantization import LowerQuantization
from rtcc.text import parse_module
from tests.targets.quantized import Qdq, branching_network, checked_kernels, residual_network


@pytest.mark.parametrize("signed", [False, True])
def test_a_residual_network(signed: bool) -> None:
    """All convolutions are integer sums; results are the lowered module's to the bit, and nearly ORT's."""
    model = residual_network(signed=signed)
    ops = [op for kernel in checked_kernels(model, units=2, share=0.05) for op in kernel.ops]
    assert sum(isinstance(op, ConvSum) for op in ops) >= 7
    assert not any(isinstance(op, Conv | Gemm) for op in ops)


@pytest.mark.parametrize("signed", [False, True])
def test_parts_and_enlarged_pictures_stay_integers(signed: bool) -> None:
    model = branching_network(signed=signed)
    for kernel in checked_kernels(model, units=2, share=0.05):
        is_first = kernel.parameters[0].type.dtype is DType.F32
        assert is_first or kernel.returned[0].type.dtype is not DType.F32, kernel.name


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_transposed_convolutions(kernel: int, stride: int, pad: int) -> None:
    net = Qdq(9)
    x = net.conv(net.input("input", (1, 3, 9, 7)), 20, 3, zero=9)
    model = net.model(net.transposed(x, 12, kernel, stride, pad))
    ops = [op for kernel in checked_kernels(model, units=1, share=0.02) for op in kernel.ops]
    assert sum(isinstance(op, ConvSum) for op in ops) == 2


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", ["Pad", "Gather", "Tile", "Expand", "GlobalMaxPool"])
def test_what_moves_elements_moves_bytes(kind: str, signed: bool) -> None:
    """Between two convolutions: no kernel but the first reads floats, and none writes them."""
    net = Qdq(3, signed=signed)
    x = net.conv(net.input("input", (1, 3, 9, 11)), 20, 3, zero=9)
    model = net.model(net.conv(net.moved(x, kind), 200, 1, zero=120, activation=""))
    for kernel in checked_kernels(model, units=1, share=0.05):
        types = {value.type.dtype for value in (*kernel.parameters, *kernel.returned)}
        is_first = kernel.parameters[0].type.sizes[1] == 3
        assert is_first or kernel.returned[0].type.dtype is not DType.F32, kernel.name
        assert is_first or kernel.parameters[0].type.dtype is not DType.F32, types


@pytest.mark.parametrize("padding", [0, 1])
def test_averages_of_windows(padding: int) -> None:
    net = Qdq(8)
    x = net.conv(net.input("input", (1, 3, 13, 11)), 20, 3, zero=9)
    model = net.model(net.average_pool(x, padding))
    ops = [op for kernel in checked_kernels(model, units=1, share=0.02) for op in kernel.ops]
    assert any(isinstance(op, WindowSum) for op in ops)


@pytest.mark.parametrize("zero", [0, 77])
@pytest.mark.parametrize(
    ("kernel", "stride", "activation"), [(1, 1, ""), (3, 1, "Relu"), (3, 2, ""), (5, 2, "Relu")]
)
def test_one_convolution_is_within_one_unit_of_onnx_runtime(
    kernel: int, stride: int, activation: str, zero: int
) -> None:
    net = Qdq(kernel + zero)
    first = net.input("input", (2, 19, 11, 9))
    model = net.model(net.conv(first, 37, kernel, stride, activation=activation, zero=zero))
    checked_kernels(model, units=1, share=0.01)


def test_a_qlinear_convolution_is_within_one_unit_of_onnx_runtime() -> None:
    """The same operator in one node, as the QOperator format has it."""
    random = np.random.default_rng(5)
    arrays = {
        "xs": np.array(0.02, np.float32), "xz": np.array(13, np.uint8),
        "w": random.integers(-127, 128, (24, 16, 3, 3)).astype(np.int8),
        "ws": random.uniform(0.5, 1.5, 24).astype(np.float32) / np.float32(800), "wz": np.zeros(24, np.int8),
        "ys": np.array(0.021, np.float32), "yz": np.array(101, np.uint8),
        "b": random.integers(-3000, 3000, 24).astype(np.int32),
    }  # fmt: skip
    node = onnx.helper.make_node("QLinearConv", ["x", *arrays], ["y"], pads=[1, 1, 1, 1])
    graph = onnx.helper.make_graph(
        [node], "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, 16, 9, 9])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, [1, 24, 9, 9])],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"x": random.integers(0, 256, (1, 16, 9, 9)).astype(np.uint8)}
    ops = [op for kernel in checked_kernels(model, feeds, units=1, share=0.01) for op in kernel.ops]
    assert any(isinstance(op, ConvSum) for op in ops)


def test_without_optimisation_nothing_is_lowered() -> None:
    """-O1 keeps the float arithmetic that the model writes out."""
    model = residual_network()
    compilation = start(model, Options(pipeline="-O1"))
    compilation.lower()
    ops = [op for kernel in compilation.module.kernels.values() for op in kernel.ops]
    assert not any(isinstance(op, ConvSum) for op in ops)


@pytest.mark.parametrize(("cpu", "lowers"), [("cascadelake", True), ("skylake-avx512", False)])
def test_a_layer_is_an_integer_sum_where_that_takes_no_longer_than_floats(cpu: str, lowers: bool) -> None:
    """Without VNNI products of bytes take as long as those of floats, which have Winograd's tiles."""
    text = f"""// rtir 1  level=graph  target=x86:{cpu}
const #s : f32[] = 0.02
const #z : u8[] = 3
const #w : i8[128,128,3,3] = splat(1)
graph @main(%x: u8[1,128,28,28]) {{
  %d = quant.dequantize_linear(%x, #s, #z) : f32[1,128,28,28]
  %f = quant.dequantize_linear(#w, #s) : f32[128,128,3,3]
  %c = nn.conv(%d, %f) {{pads = [1,1,1,1]}} : f32[1,128,28,28]
  %y = quant.quantize_linear(%c, #s, #z) : u8[1,128,28,28]
  return(%y)
}}
"""
    module = parse_module(text)
    LowerQuantization().run(module)
    assert any(isinstance(op, ConvSum) for op in module.walk()) == lowers


def test_a_quantised_encoder_keeps_its_attention_and_its_activation_in_one_kernel() -> None:
    """Biases are in the sums, GELU is a curve behind one, the rounding comes behind the joined heads."""
    random = np.random.default_rng(0)
    model = minilm(layers=1, hidden=64, heads=2, tokens=16, vocabulary=50)
    samples = {
        "input_ids": random.integers(0, 50, (4, 16)),
        "attention_mask": np.ones((4, 16), np.int64),
        "token_type_ids": np.zeros((4, 16), np.int64),
    }
    quantized = rtcc.quantize(model, samples, bias_correction=False).module
    compilation = start(quantized, Options())
    compilation.lower()
    kernels = [[type(op) for op in kernel.ops] for kernel in compilation.module.kernels.values()]
    assert any(TokenAttention in ops for ops in kernels)
    assert any(ops[-3:-1] == [Add, Curve] and ops[0] is MatMulSum for ops in kernels)
    feeds = {name: array[:1] for name, array in samples.items()}
    with rtcc.compile(quantized, verify_kernels=True) as artifact:
        (found,) = artifact.run(feeds).values()
    (expected,) = interpret(compilation.module, feeds).values()
    assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected), "floats around the integers"


GATE = """// rtir 1  level=graph
const #s : f32[] = 0.02
const #z : u8[] = 3
const #r : f32[] = 0.05
const #n : u8[] = 100
graph @main(%x: u8[1,4,4,4], %g: f32[1,4,1,1]) {
  %d = quant.dequantize_linear(%x, #s, #z) : f32[1,4,4,4]
  %m = math.mul(%g, %d) : f32[1,4,4,4]
  %y = quant.quantize_linear(%m, #r, #n) : u8[1,4,4,4]
  return(%y)
}
"""


def test_gates_that_are_not_finite_give_what_the_model_says() -> None:
    """A product that is NaN is quantised to the zero point, infinite ones to the limits."""
    gate = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32).reshape(1, 4, 1, 1)
    feeds = {"x": np.arange(64, dtype=np.uint8).reshape(1, 4, 4, 4), "g": gate}
    feeds["x"][0, 1:3, 0, 0] = 3
    (expected,) = interpret(parse_module(GATE), feeds).values()
    assert (expected[0, 0] == 100).all()
    assert {0, 100, 255} <= set(expected[0, 1:3].reshape(-1).tolist())
    compilation = start(parse_module(GATE), Options())
    compilation.lower()
    assert any(
        isinstance(op, Requantize) for kernel in compilation.module.kernels.values() for op in kernel.ops
    )
    with rtcc.compile(parse_module(GATE)) as artifact:
        (found,) = artifact.run(feeds).values()
    np.testing.assert_array_equal(found, expected)
