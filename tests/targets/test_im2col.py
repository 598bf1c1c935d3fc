# pyright: basic
"""Convolution by gathered panels against the interpreter, through the compiler, in both vector lengths."""

from __future__ import annotations

import numpy as np
import pytest

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import InvalidInput
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.nn import Conv
from tests.targets.kernels import CPUS, require_lanes
from tests.targets.test_microkernels import numbers

targets = pytest.mark.parametrize("lanes", [16, 8])

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, object]]] = {
    "groups of four": ((2, 16, 9, 14), (16, 4, 3, 3), {"pads": (1, 1, 1, 1), "group": 4}),
    "groups of three by five filters": ((1, 9, 7, 7), (15, 3, 3, 3), {"pads": (0, 1, 2, 1), "group": 3}),
    "dilated, strided": (
        (1, 6, 23, 37), (5, 6, 3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2), "strides": (2, 2)}
    ),
    "pointwise groups": ((1, 12, 5, 20), (24, 6, 1, 1), {"group": 2}),
    "one axis": ((2, 8, 50), (8, 4, 5), {"pads": (2, 2), "group": 2, "dilations": (3,)}),
    "three axes": ((1, 5, 6, 7, 9), (7, 5, 3, 3, 3), {"pads": (1, 1, 1, 1, 1, 1)}),
    "three axes, strides": (
        (2, 4, 7, 8, 18), (6, 2, 3, 2, 5),
        {"pads": (1, 0, 2, 1, 1, 2), "strides": (2, 1, 2), "group": 2},
    ),
    "a long sum": ((1, 80, 5, 6), (3, 80, 3, 3), {"pads": (1, 1, 1, 1)}),
    "pads wider than the filter": ((1, 2, 3, 3), (2, 2, 2, 2), {"pads": (4, 5, 3, 20)}),
}  # fmt: skip


def network(name: str) -> Module:
    """relu(conv(x, w, b) + r·column)"""
    shape, weights, attributes = CASES[name]
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, shape))]))
    weight, bias = module.add_constant("w", numbers(*weights)), module.add_constant("b", numbers(weights[0]))
    conv = graph.append(Conv(graph.parameters[0], weight, bias, **attributes))  # type: ignore[arg-type]
    residual = module.add_constant("r", numbers(*conv.type.sizes))
    along = module.add_constant("a", numbers(conv.type.sizes[-1]))
    total = graph.append(Add(graph.append(Add(conv.result, residual)).result, along))
    result = graph.append(Relu(total.result)).result
    result.name = "y"
    graph.return_(result)
    return module


@targets
@pytest.mark.parametrize("name", CASES)
def test_through_the_compiler(name: str, lanes: int) -> None:
    require_lanes(lanes)
    module, target = network(name), f"x86:{CPUS[lanes]}"
    data = numbers(*CASES[name][0])
    expected = interpret(module, {"x": data}, precision="f64")["y"]
    for threads in (1, 2):
        compilation = start(module, Options(target=target, conv="im2col", threads=threads))
        compilation.lower()
        kernels = compilation.module.kernels.values()
        assert "im2col" in [kernel.attributes.get("algorithm") for kernel in kernels]
        artifact = rtcc.compile(
            module, target=target, conv="im2col", threads=threads, verify_kernels=threads == 1
        )
        found = artifact.run({"x": data})["y"]
        assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("shape", "weights", "attributes"),
    [
        ((1, 32, 16, 28, 28), (32, 32, 3, 3, 3), {"pads": (1,) * 6}),
        ((1, 96, 28, 28), (96, 3, 3, 3), {"pads": (1, 1, 1, 1), "group": 32}),
    ],
)
def test_the_cheapest_where_blocks_do_not_fit(
    shape: tuple[int, ...], weights: tuple[int, ...], attributes: dict[str, object]
) -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, shape))]))
    conv = Conv(graph.parameters[0], module.add_constant("w", numbers(*weights)), **attributes)  # type: ignore[arg-type]
    graph.return_(graph.append(conv).result)
    compilation = start(module, Options(target="x86:znver5"))
    compilation.lower()
    chosen = [kernel.attributes.get("algorithm") for kernel in compilation.module.kernels.values()]
    assert "im2col" in chosen


def test_refused_for_wide_rows_of_taps() -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 2, 40)))]))
    weight = module.add_constant("w", numbers(2, 2, 17))
    graph.return_(graph.append(Conv(graph.parameters[0], weight)).result)
    with pytest.raises(InvalidInput, match="17 taps in a row"):
        start(module, Options(conv="im2col")).lower()
