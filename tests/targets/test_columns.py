# pyright: basic
"""Winograd's convolution along the columns, and pools that join it, against NumPy in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtcc
from rtcc.compiler import Options, read_model, start
from rtcc.errors import InvalidInput
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.nn import Conv
from rtcc.ir.ops.pooling import AveragePool, MaxPool
from rtcc.ir.ops.winograd import transformed_filter
from rtcc.targets.tvm import vector_math
from rtcc.targets.tvm.function_builder import splat
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.epilogue import BufferSpec
from rtcc.targets.tvm.kernels.pooling.joined_pool import Pooling
from rtcc.targets.tvm.kernels.pooling.pool_problem import Reduction
from rtcc.targets.tvm.kernels.transformed import columns_conv
from rtcc.targets.tvm.kernels.transformed.columns_tiles import (
    ColumnsProblem,
    ColumnsTile,
    choose_tile,
    columns_illegal,
    pools,
    scratch_bytes,
    tile_illegal,
)
from tests.targets.kernels import blocked, run
from tests.targets.test_microkernels import REGISTERS, convolved, numbers
from tests.targets.transformed import pooled

lengths = pytest.mark.parametrize("lanes", [16, 8])
ERROR = 3e-6
"""Of the largest result."""

MAX, MEAN = Pooling(Reduction.MAXIMUM, 2, 2), Pooling(Reduction.AVERAGE, 2, 2)

CASES: dict[str, tuple[ConvProblem, int, Pooling | None, ColumnsTile | None]] = {
    "LeNet's first": (ConvProblem(1, 3, 32, 32, 6, (5, 5)), 4, None, None),
    "pooled": (ConvProblem(1, 3, 32, 32, 6, (5, 5)), 4, MAX, None),
    "pads, edges, batch, a halo": (
        ConvProblem(2, 2, 19, 21, 5, (3, 3), pads=(1, 2, 1, 0), output_halo=(1, 0, 2, 1)), 4, None, None
    ),
    "pads, edges, batch, a halo, pooled": (
        ConvProblem(2, 2, 19, 23, 5, (3, 3), pads=(1, 2, 1, 0), output_halo=(1, 0, 2, 1)), 4, MEAN, None
    ),
    "blocks of filters, the last not whole": (
        ConvProblem(1, 3, 11, 40, 20, (3, 3), pads=(1, 1, 1, 1)), 4, None, ColumnsTile(2, 1, 5)
    ),
    "blocks of filters, pooled": (
        ConvProblem(1, 3, 11, 40, 20, (3, 3), pads=(1, 1, 1, 1)), 2, MAX, ColumnsTile(1, 1, 3)
    ),
    "narrower than a vector": (ConvProblem(1, 4, 9, 7, 3, (4, 2), pads=(0, 1, 3, 0)), 3, None, None),
    "windows of one row and four columns": (
        ConvProblem(1, 1, 9, 70, 4, (2, 3)), 3, Pooling(Reduction.MAXIMUM, 1, 4), ColumnsTile(4, 1, 4)
    ),
    "windows of four rows": (
        ConvProblem(1, 1, 13, 12, 4, (3, 1)), 4, Pooling(Reduction.AVERAGE, 4, 1), None
    ),
    "taller pads than taps": (ConvProblem(1, 1, 3, 20, 2, (2, 2), pads=(3, 0, 4, 0)), 2, None, None),
}  # fmt: skip


class BiasRelu:
    """relu(value + bias), along the channels or along a row of one channel."""

    def __init__(self, extent: int) -> None:
        self.parameters = (BufferSpec("bias", (extent,)),)

    def emit(self, value, at, buffers):
        bias = buffers[0][at.vector_index(1)]
        return vector_math.relu(value + (bias if at.axis == 1 else splat(bias, at.lanes)))


def packed(weights: np.ndarray, p: ColumnsProblem) -> np.ndarray:
    """ONNX weights, transformed  →  [M/b][points][C][taps][b], zero-padded."""
    transformed = transformed_filter(weights, (p.outputs, 1)).astype(np.float32)
    padded = np.zeros((p.conv.output.blocks * p.conv.lanes, *transformed.shape[1:]), np.float32)
    padded[: len(transformed)] = transformed
    shape = (p.conv.output.blocks, p.conv.lanes, *transformed.shape[1:])
    return padded.reshape(shape).transpose(0, 3, 2, 4, 1)


def check(p: ColumnsProblem, tile: ColumnsTile | None) -> None:
    """The kernel against float64, two vector lengths apart; halos and padding lanes are zero."""
    conv = p.conv
    data = numbers(conv.batch, conv.channels, conv.height, conv.width)
    weights = numbers(conv.filters, conv.channels, *conv.kernel)
    bias = numbers(conv.output.blocks * conv.lanes)
    bias[conv.filters :] = 0
    tile = tile or choose_tile(p, REGISTERS[conv.lanes])
    assert tile_illegal(p, tile) is None
    form = replace(conv.output, height=p.height, width=p.width)
    func = columns_conv.make(p, BiasRelu(len(bias)), tile)
    inputs = [data, packed(weights, p), bias]
    result = run(func, conv.lanes, inputs, form.shape, scratch_bytes(p, tile))
    sums = np.maximum(convolved(data, weights, conv) + bias[: conv.filters, None, None], 0)
    expected = blocked(pooled(sums, p.pooling), form)
    assert np.abs(result - expected).max() <= ERROR * max(1.0, np.abs(sums).max())
    inside = blocked(np.ones((form.batch, form.channels, form.height, form.width)), form) == 1
    assert not result[~inside].any()


@lengths
@pytest.mark.parametrize("name", CASES)
def test_columns_conv(name: str, lanes: int) -> None:
    conv, outputs, pooling, tile = CASES[name]
    check(ColumnsProblem(replace(conv, lanes=lanes), outputs, pooling), tile)


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(
    outputs=st.sampled_from([2, 3, 4]), height=st.integers(5, 21), width=st.integers(5, 45),
    taps=st.tuples(st.integers(2, 4), st.integers(1, 5)), channels=st.integers(1, 4),
    filters=st.integers(1, 19), pads=st.tuples(*[st.integers(0, 3)] * 4),
    pooling=st.sampled_from([None, MAX, MEAN, Pooling(Reduction.MAXIMUM, 1, 2)]),
)  # fmt: skip
def test_any_shape(outputs, height, width, taps, channels, filters, pads, pooling) -> None:
    conv = ConvProblem(1, channels, height, width, filters, taps, pads=pads)
    if pooling is not None and not pools(conv, outputs, pooling):
        pooling = None
    check(ColumnsProblem(conv, outputs, pooling), None)


@lengths
def test_results_do_not_depend_on_the_tile(lanes: int) -> None:
    conv = ConvProblem(1, 3, 9, 50, 7, (3, 3), pads=(1, 1, 1, 1), lanes=lanes)
    p = ColumnsProblem(conv, 4, MAX)
    data, weights = numbers(1, 3, 9, 50), packed(numbers(7, 3, 3, 3), p)
    form = replace(conv.output, height=p.height, width=p.width)
    first, *others = (
        run(columns_conv.make(p, None, tile), lanes, [data, weights], form.shape, scratch_bytes(p, tile))
        for tile in (ColumnsTile(1, 1, 7), ColumnsTile(2, 1, 3), ColumnsTile(4, 1, 2))
    )
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("problem", "outputs", "word"),
    [
        (ConvProblem(1, 3, 8, 8, 16, (3, 3), (2, 2)), 4, "stride"),
        (ConvProblem(1, 4, 8, 8, 4, (3, 3), groups=2), 4, "groups"),
        (ConvProblem(1, 3, 8, 8, 4, (1, 3)), 4, "no strip of 4 rows has a transform for 1 taps"),
        (ConvProblem(1, 3, 9, 9, 4, (6, 3)), 4, "for 6 taps"),
        (ConvProblem(1, 64, 8, 8, 4, (3, 3)), 4, "192 products along the rows are more than 128"),
    ],
)
def test_what_it_cannot_do(problem: ConvProblem, outputs: int, word: str) -> None:
    assert word in (columns_illegal(problem, outputs) or "")


def network(pool: str = "max", filters: int = 6, **window) -> Module:
    """pool(relu(conv(x, w, b)))"""
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 3, 20, 36)))]))
    weight = module.add_constant("w", numbers(filters, 3, 5, 5))
    bias = module.add_constant("b", numbers(filters))
    conv = graph.append(Conv(graph.parameters[0], weight, bias))
    value = graph.append(Relu(conv.result)).result
    window = {"kernel_shape": (2, 2), "strides": (2, 2)} | window
    kind = {"max": MaxPool, "average": AveragePool}[pool]
    value = graph.append(kind(value, results=1, **window) if pool == "max" else kind(value, **window)).result
    value.name = "y"
    graph.return_(value)
    return module


def kernels(module: Module, **options) -> list[tuple[str, list[str]]]:
    """Each kernel's algorithm and operators, once lowered for a Zen 5."""
    compilation = start(module, Options(target="x86:znver5", **options))
    compilation.lower()
    return [
        (kernel.attributes.get("algorithm", ""), [op.name for op in kernel.ops][:-1])
        for kernel in compilation.module.kernels.values()
    ]


@pytest.mark.parametrize("pool", ["max", "average"])
@pytest.mark.parametrize("algorithm", ["columns2", "columns4"])
def test_through_the_compiler(algorithm: str, pool: str) -> None:
    module = network(pool)
    data = numbers(1, 3, 20, 36)
    expected = interpret(module, {"x": data}, precision="f64")["y"]
    joined = (algorithm, ["nn.winograd_conv", "math.relu", f"nn.{pool}_pool"])
    assert joined in kernels(module, conv=algorithm)
    for threads in (1, 2):
        with rtcc.compile(
            module, conv=algorithm, threads=threads, verify_each=True, verify_kernels=True
        ) as found:
            assert np.abs(found.run({"x": data})["y"] - expected).max() <= ERROR * np.abs(expected).max()


def test_the_cheapest_for_a_narrow_first_layer() -> None:
    for limit, algorithm in ((None, "columns4"), (7e-6, "columns2"), (4e-6, "direct_plain")):
        assert kernels(network(), max_error=limit)[0][0] == algorithm


@pytest.mark.parametrize(
    "window",
    [
        {"kernel_shape": (3, 3)},
        {"kernel_shape": (3, 2), "strides": (3, 2)},
        {"kernel_shape": (2, 3), "strides": (2, 3)},
        {"pads": (0, 0, 1, 1)},
        {"strides": (1, 1)},
    ],
)
def test_pools_that_stay_alone(window: dict) -> None:
    algorithms = [names for _, names in kernels(network(**window), conv="columns4")]
    assert ["nn.winograd_conv", "math.relu"] in algorithms


def test_an_edited_dump_may_not_pool_behind_other_kernels(tmp_path) -> None:
    compilation = start(network(), Options(target="x86:znver5", conv="columns4", dump_ir=tmp_path))
    compilation.lower()
    text = next(tmp_path.glob("*-outline-kernels.rtir")).read_text()
    edited = tmp_path / "edited.rtir"
    for wanted in ("winograd4", "direct"):
        edited.write_text(text.replace('"columns4"', f'"{wanted}"'))
        with pytest.raises(InvalidInput, match=r"computes nn\.winograd_conv without nn\.max_pool behind it"):
            start(read_model(edited), Options(target="x86:znver5")).lower()
