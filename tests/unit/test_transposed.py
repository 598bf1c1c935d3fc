"""Transposed convolutions written as convolutions compute the same."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.nn import ConvTranspose
from rtcc.passes.legalization.transposed import conv_transpose_to_conv
from rtcc.pipeline.rewriter import apply

Case = tuple[int, int, int, tuple[int, int], int, tuple[int, ...], tuple[int, ...]]

CASES: list[Case] = [
    # channels, filters, group, kernel, stride, pads, output padding
    (4, 6, 1, (2, 2), 2, (0, 0, 0, 0), ()),
    (4, 6, 2, (3, 3), 2, (1, 1, 1, 1), (1, 1)),
    (4, 3, 1, (4, 4), 2, (1, 1, 1, 1), ()),
    (3, 3, 1, (3, 3), 1, (1, 1, 1, 1), ()),
    (3, 2, 1, (2, 2), 1, (2, 0, 0, 2), ()),
    (3, 5, 1, (5, 4), 3, (2, 1, 0, 2), ()),
    (4, 4, 4, (2, 2), 4, (0, 0, 0, 0), ()),
    (4, 4, 1, (2, 3), 4, (0, 1, 0, 0), ()),
]


def module(case: Case) -> Module:
    channels, filters, group, kernel, stride, pads, output_padding = case
    random = np.random.default_rng(0)
    built = Module()
    graph = built.add_graph(Graph("main", [("x", TensorType(DType.F32, (2, channels, 5, 7)))]))
    shape = (channels, filters // group, *kernel)
    weight = built.add_constant("w", random.standard_normal(shape).astype(np.float32))
    bias = built.add_constant("b", random.standard_normal(filters).astype(np.float32))
    op = ConvTranspose(
        graph.parameters[0], weight, bias, group=group, strides=(stride, stride), pads=pads,
        kernel_shape=kernel, output_padding=output_padding,
    )  # fmt: skip
    graph.append(op)
    op.result.name = "y"
    graph.return_(op.result)
    return built


@pytest.mark.parametrize("case", CASES)
def test_phases_compute_the_same(case: Case) -> None:
    built = module(case)
    x = np.random.default_rng(1).standard_normal(built.main.parameters[0].type.sizes)
    expected = interpret(built, {"x": x.astype(np.float32)}, precision="f64")["y"]
    assert apply(built, (conv_transpose_to_conv,), "legalize")
    assert "nn.conv_transpose" not in {op.name for op in built.walk()}
    found = interpret(built, {"x": x.astype(np.float32)}, precision="f64")["y"]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
