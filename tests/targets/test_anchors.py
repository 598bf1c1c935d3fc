"""Anchors through the whole compiler: each convolution and product gets its micro-kernel and is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rtcc
from rtcc.compiler import Options, start
from rtcc.interpreter import input_names, interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.math import Add, Clip
from rtcc.ir.ops.nn import Conv, Gemm, MatMul
from rtcc.pipeline.inputs import random_inputs
from rtcc.rounding.analysis import analysed
from rtcc.rounding.bounded import distance

Form = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any], str]

CONVOLUTIONS: dict[str, Form] = {
    "pointwise": ((1, 32, 5, 5), (48, 32, 1, 1), {}, "direct"),
    "3x3 with padding": ((1, 20, 7, 9), (24, 20, 3, 3), {"pads": (1, 1, 1, 1)}, "direct"),
    "strided": ((2, 16, 9, 9), (16, 16, 3, 3), {"pads": (1, 1, 0, 0), "strides": (2, 2)}, "direct"),
    "dilated": ((1, 16, 9, 9), (16, 16, 3, 3), {"dilations": (2, 2)}, "direct"),
    "first layer": ((1, 3, 12, 12), (8, 3, 5, 5), {"pads": (2, 2, 2, 2), "strides": (2, 2)}, "direct_plain"),
    "depthwise": ((1, 24, 8, 8), (24, 1, 3, 3), {"pads": (1, 1, 1, 1), "group": 24}, "depthwise"),
    "grouped by blocks": ((1, 32, 6, 6), (32, 16, 3, 3), {"group": 2}, "direct"),
    "grouped finely": ((1, 12, 6, 6), (12, 4, 3, 3), {"group": 3}, "generic"),
    "one axis": ((1, 16, 30), (32, 16, 5), {"pads": (2, 2)}, "direct"),
    "a column": ((1, 32, 30, 1), (32, 32, 5, 1), {"pads": (2, 0, 2, 0)}, "direct"),
    "three axes": ((1, 4, 5, 6, 7), (6, 4, 3, 3, 3), {}, "generic"),
}


def compiled_and_interpreted(module: Module, feeds: dict[str, Any], conv: str = "auto") -> None:
    """Every element of what the compiled module gives is within the bound on its rounding error."""
    expected = analysed(module.main, [feeds[name] for name in input_names(module.main)])
    found = rtcc.compile(module, conv=conv).run(feeds)
    for array, bounded in zip(found.values(), expected, strict=True):
        assert (distance(array, bounded.value) <= bounded.error).all()


def algorithms(module: Module) -> list[str | None]:
    compilation = start(module, Options())
    compilation.lower()
    return [kernel.attributes.get("algorithm") for kernel in compilation.module.kernels.values()]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    shape, weight_shape, attributes, algorithm = CONVOLUTIONS[name]
    random = np.random.default_rng(0)
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, shape))]))
    weight = module.add_constant("w", random.standard_normal(weight_shape).astype(np.float32))
    bias = module.add_constant("b", random.standard_normal(weight_shape[0]).astype(np.float32))
    conv = graph.append(Conv(graph.parameters[0], weight, bias, **attributes))
    residual = module.add_constant("r", random.standard_normal(conv.type.sizes).astype(np.float32))
    total = graph.append(Add(conv.result, residual))
    total.result.name = "y"
    graph.return_(total.result)
    feeds = {"x": random.standard_normal(shape).astype(np.float32)}
    compiled_and_interpreted(module, feeds, conv=algorithm)


@pytest.mark.parametrize(
    ("left", "right", "constant", "algorithm"),
    [
        ((1, 40), (40, 33), True, "matmul"),
        ((7, 40), (40, 33), True, "matmul"),
        ((2, 3, 5, 16), (16, 20), True, "matmul"),
        ((2, 3, 5, 16), (2, 3, 16, 6), False, "matmul"),
        ((2, 9, 4, 8), (2, 9, 8, 6), False, "matmul"),
        ((2, 1, 4, 8), (1, 3, 8, 6), False, "generic"),
        ((16,), (16, 5), True, "generic"),
    ],
)
def test_products(left: tuple[int, ...], right: tuple[int, ...], constant: bool, algorithm: str) -> None:
    random = np.random.default_rng(0)
    module = Module()
    graph = module.add_graph(Graph("main", [("a", TensorType(DType.F32, left))]))
    feeds = {"a": random.standard_normal(left).astype(np.float32)}
    other = random.standard_normal(right).astype(np.float32)
    if constant:
        b = module.add_constant("b", other)
    else:
        b = graph.add_parameter(TensorType(DType.F32, right), "b")
        feeds["b"] = other
    product = graph.append(MatMul(graph.parameters[0], b))
    product.result.name = "y"
    graph.return_(product.result)
    assert algorithm in algorithms(module)
    compiled_and_interpreted(module, feeds)


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_with_addend(transposed: int) -> None:
    random = np.random.default_rng(0)
    module = Module()
    graph = module.add_graph(Graph("main", [("a", TensorType(DType.F32, (3, 20)))]))
    shape = (35, 20) if transposed else (20, 35)
    weight = module.add_constant("w", random.standard_normal(shape).astype(np.float32))
    addend = module.add_constant("c", random.standard_normal(35).astype(np.float32))
    gemm = graph.append(Gemm(graph.parameters[0], weight, addend, transB=transposed))
    gemm.result.name = "y"
    graph.return_(gemm.result)
    compiled_and_interpreted(module, {"a": random.standard_normal((3, 20)).astype(np.float32)})


QUANTISED = """// rtir 1  level=graph
const #s : f32[] = 0.05
const #z : u8[] = 128
graph @main(%x: f32[1,3,8,8], %w: f32[4,3,3,3]) {
  %c = nn.conv(%x, %w, _) {pads = [1,1,1,1]} : f32[1,4,8,8]
  %y = quant.quantize_linear(%c, #s, #z) : u8[1,4,8,8]
  return(%y)
}
"""


def test_a_quantised_result_with_padding_lanes() -> None:
    """Rounding to integers changes the type: it is no part of the convolution's float kernel."""
    module = rtcc.parse_module(QUANTISED)
    feeds = random_inputs(module, 1)
    with rtcc.compile(module) as artifact:
        found = artifact.run(feeds)["y"].astype(int)
    assert np.abs(found - interpret(module, feeds)["y"].astype(int)).max() <= 1  # sums in another order


@pytest.mark.parametrize("target", ["x86", "x86:x86-64-v3"])
def test_clipping_by_known_numbers_keeps_nan(target: str) -> None:
    module = Module(target=target)
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 16, 5, 5)))]))
    weight = module.add_constant("w", np.eye(16, dtype=np.float32).reshape(16, 16, 1, 1))
    bounds = [module.add_constant(f"b{n}", np.array(n, np.float32)) for n in (0, 6)]
    conv = graph.append(Conv(graph.parameters[0], weight))
    clipped = graph.append(Clip(conv.result, *bounds))
    clipped.result.name = "y"
    graph.return_(clipped.result)
    x = np.random.default_rng(0).normal(3, 4, (1, 16, 5, 5)).astype(np.float32)
    x[0, 3, 2, 2] = np.nan
    x[0, 4, 0, :2] = np.inf, -np.inf
    compiled_and_interpreted(module, {"x": x}, conv="direct")
