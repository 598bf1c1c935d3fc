"""Random layers and graphs: the compiled program leaves in DRAM what the operators' semantics give."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.errors import InvalidModel
from rtcc.ir import Constant, DType, Graph, TensorType, Value
from rtcc.ir.ops.accelerator import (
    AcceleratorAdd,
    AcceleratorAveragePool,
    AcceleratorConv,
    AcceleratorConvSum,
)
from rtcc.ir.ops.movement import Concat
from rtcc.ir.ops.pooling import MaxPool
from rtcc.targets.fpga.compiler.meaning_check import check_program
from rtcc.targets.fpga.compiler.tiling import geometry
from rtcc.targets.fpga.core import Core, standard_core
from rtcc.targets.fpga.target import Fpga
from rtcc.targets.fpga.verilated.run import Memory, run_rtl
from tests.targets.fpga.regions import Array, compiled, evaluated, memory_of, outputs_of, simulated

SMALL = Core(n=8, inp_bytes=8192, wgt_bytes=8192, acc_bytes=4096, out_bytes=1024, prm_bytes=256, dram_bits=64)
"""Buffers so small that most layers take several tiles, and weights do not stay."""

CORES = (standard_core(16), standard_core(8), SMALL)


def graph_of(*shapes: tuple[int, ...]) -> Graph:
    """A region with inputs of these shapes and no operators yet."""
    return Graph("region", [(f"x{n}", TensorType(DType.I8, shape)) for n, shape in enumerate(shapes)])


def numbers(seed: int, *shapes: tuple[int, ...]) -> list[Array]:
    """Random s8."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-128, 128, shape).astype(np.int8) for shape in shapes]


def conv(data: Value, weight: Array, seed: int, **attributes: Any) -> AcceleratorConv:
    """A convolution with random bias and factors, whose results spread over s8."""
    rng = np.random.default_rng(seed)
    count = len(weight)
    bias = rng.integers(-5000, 5000, count).astype(np.int32)
    factor = (rng.uniform(0.2, 1.0, count) / np.sqrt(weight[0].size) / 60).astype(np.float32)
    constants = [Constant(name, array) for name, array in (("w", weight), ("b", bias), ("f", factor))]
    return AcceleratorConv(data, *constants, **attributes)


def conv_sum(data: Value, weight: Array, seed: int, **attributes: Any) -> AcceleratorConvSum:
    """A convolution with random biases of all sizes, whose sums are the result."""
    bias = np.random.default_rng(seed).integers(-(2**28), 2**28, len(weight)).astype(np.int32)
    return AcceleratorConvSum(data, Constant("w", weight), Constant("b", bias), **attributes)


def _agrees(graph: Graph, core: Core, seed: int) -> None:
    inputs = numbers(seed, *(each.type.sizes for each in graph.parameters))
    program = compiled(graph, core)
    assert not check_program(program)
    for found, wanted in zip(simulated(program, inputs), evaluated(graph, inputs), strict=True):
        np.testing.assert_array_equal(found, wanted)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    draw = data.draw
    core, seed = draw(st.sampled_from(CORES)), draw(st.integers(0, 2**32 - 1))
    group = draw(st.sampled_from((1, 1, 1, 2, 3)))
    channels, outputs = (group * draw(st.integers(1, 40 // group)) for _ in range(2))
    if draw(st.booleans()) and group == 1:
        group = outputs = channels
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    strides, dilations = (draw(st.tuples(st.integers(1, 3), st.integers(1, 2))) for _ in range(2))
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw(st.integers(0, extent - 1)) for extent in (*extents, *extents)]
    size = [draw(st.integers(max(1, extent - 1), 20)) for extent in extents]
    low, high = sorted(draw(st.tuples(st.integers(-128, 127), st.integers(-128, 127))))
    (weight,) = numbers(seed, (outputs, channels // group, *kernel))
    graph = graph_of((draw(st.integers(1, 3)), channels, *size))
    window = {"strides": strides, "dilations": dilations, "pads": tuple(pads), "group": group}
    fill, zero = draw(st.tuples(st.integers(-128, 127), st.integers(-128, 127)))
    value = graph.parameters[0]
    try:
        if draw(st.booleans()):
            op = conv(value, weight, seed, fill=fill, low=low, high=high, zero_point=zero, **window)
        else:
            op = conv_sum(value, weight, seed, fill=fill, **window)
    except (InvalidModel, ValueError):
        return
    if min(op.type.sizes) < 1:
        return
    graph.append(op)
    graph.return_(op.result)
    target = Fpga("cascadelake", {})
    target.core = core
    if target.why_not_accelerated(op):
        return
    _agrees(graph, core, seed)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_pools_and_sums(data: st.DataObject) -> None:
    draw = data.draw
    core, seed = draw(st.sampled_from(CORES)), draw(st.integers(0, 2**32 - 1))
    shape = tuple(draw(st.integers(least, most)) for least, most in ((1, 3), (1, 40), (3, 20), (3, 20)))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pads = tuple(draw(st.integers(0, extent - 1)) for extent in (*kernel, *kernel))
    graph = graph_of(shape, shape)
    left, right = graph.parameters
    way: dict[str, Any] = {"zero_point": draw(st.integers(-128, 127)), "low": -100, "high": 90}
    by = [draw(st.integers(-(2**20) + 1, 2**20 - 1)) for _ in range(2)]
    total = AcceleratorAdd(left, right, left_multiplier=by[0], right_multiplier=by[1], bias=12345,
                           factor=2.0**-20, **way)  # fmt: skip
    window: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    largest = MaxPool(total.result, ceil_mode=draw(st.integers(0, 1)), **window)
    mean = AcceleratorAveragePool(total.result, bias=-77, factor=0.11, fill=draw(st.integers(-128, 127)),
                                  **window, **way)  # fmt: skip
    for op in (total, largest, mean):
        graph.append(op)
    graph.return_(total.result, largest.results[0], mean.result)
    _agrees(graph, core, seed)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("core", CORES, ids=("16", "8", "small"))
def test_parts_of_a_concatenation_lie_in_it(core: Core, images: int) -> None:
    graph = graph_of((images, 16, 5, 6))
    (data,) = graph.parameters
    weights = numbers(1, (32, 16, 1, 1), (16, 16, 3, 3), (8, 80, 1, 1))
    one = conv(data, weights[0], 1)
    two = conv(data, weights[1], 2, pads=(1, 1, 1, 1))
    joined = Concat(one.result, two.result, data, two.result, axis=1)
    again = Concat(two.result, one.result, axis=1)
    last = conv(joined.result, weights[2], 3)
    for op in (one, two, joined, again, last):
        graph.append(op)
    graph.return_(last.result, again.result, two.result)
    _agrees(graph, core, 5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
@pytest.mark.parametrize("core", CORES, ids=("16", "8", "small"))
def test_layers_on_the_rtl_whatever_the_memory_does(core: Core) -> None:
    for seed in range(40):
        memory = Memory(latency=5 + seed, jitter=seed % 7 * 5, stall_percent=seed % 3 * 30, seed=seed + 1)
        _agrees_on_the_rtl(_random_chain(seed), core, seed, memory)


@pytest.mark.skipif(shutil.which("verilator") is None, reason="verilator is not installed")
def test_sums_on_the_rtl() -> None:
    """Rows of a product, images with windows over their edges, depthwise ones: i32 to the bit."""
    graph = graph_of((3, 40, 3, 2), (2, 12, 9, 10))
    rows, image = graph.parameters
    weights = numbers(4, (37, 40, 3, 2), (20, 12, 3, 3), (12, 1, 2, 3))
    results = [
        conv_sum(rows, weights[0], 1, fill=7),
        conv_sum(image, weights[1], 2, fill=-5, pads=(1, 1, 1, 1), strides=(2, 1)),
        conv_sum(image, weights[2], 3, group=12, fill=3, pads=(1, 0, 0, 2)),
    ]
    for op in results:
        graph.append(op)
    graph.return_(*(op.result for op in results))
    _agrees(graph, SMALL, 6)
    _agrees_on_the_rtl(graph, SMALL, 6, Memory(latency=9, jitter=10, stall_percent=20))


def _agrees_on_the_rtl(graph: Graph, core: Core, seed: int, memory: Memory) -> None:
    program = compiled(graph, core)
    inputs = numbers(seed, *(each.type.sizes for each in graph.parameters))
    outcome = run_rtl(core, memory_of(program, inputs), 0, len(program.instructions), memory)
    assert not outcome.faults, outcome.fault_text()
    for found, wanted in zip(outputs_of(program, outcome.dram), evaluated(graph, inputs), strict=True):
        np.testing.assert_array_equal(found, wanted)


def _random_chain(seed: int) -> Graph:
    """A dense, a grouped, a depthwise convolution, a pool, a mean, an addition, sums, one after the other."""
    rng = np.random.default_rng(seed)
    channels, middle = int(rng.integers(1, 40)), 4 * int(rng.integers(1, 9))
    size = [int(each) for each in rng.integers(7, 18, 2)]
    kernel = tuple(int(each) for each in rng.integers(1, 4, 2))
    graph = graph_of((1 + seed % 3, channels, *size))
    dense, grouped, deep, last = numbers(
        seed, (middle, channels, *kernel), (middle, middle // 4, 1, 3), (middle, 1, 3, 3), (19, middle, 1, 2)
    )
    strides, dilations = (tuple(int(each) for each in rng.integers(1, 3, 2)) for _ in range(2))
    pads = tuple(int(rng.integers(0, k)) for k in (*kernel, *kernel))
    one = conv(graph.parameters[0], dense, seed, pads=pads, dilations=(1, dilations[1]), fill=-9)
    two = conv(one.result, grouped, seed + 1, group=4, pads=(0, 1, 0, 1), fill=4, low=-90, zero_point=3)
    three = conv(two.result, deep, seed + 2, group=middle, pads=(1, 1, 1, 1), strides=strides)
    four = MaxPool(three.result, kernel_shape=(2, 2), pads=(1, 1, 1, 1))
    five = AcceleratorAveragePool(four.result, kernel_shape=(2, 2), factor=0.25, zero_point=1, bias=3)
    six = AcceleratorAdd(three.result, five.result, left_multiplier=70001, right_multiplier=-30000,
                         factor=2.0**-17)  # fmt: skip
    seven = conv_sum(six.result, last, seed + 3, pads=(0, 1, 0, 0), fill=2)
    for op in (one, two, three, four, five, six, seven):
        graph.append(op)
    graph.return_(six.result, two.result, seven.result)
    return graph


@pytest.mark.parametrize("core", CORES, ids=("16", "8", "small"))
def test_rows_are_pixels(core: Core) -> None:
    """Rows of a product, and flattened images that a product takes whole, share the weights of a tap."""
    graph = graph_of((70, 40, 1, 1), (9, 12, 3, 4))
    rows, images = graph.parameters
    weights = numbers(4, (37, 40, 1, 1), (20, 12, 3, 4), (20, 12, 1, 4))
    results = [
        conv(rows, weights[0], 1),
        conv_sum(images, weights[1], 2, fill=-5),
        conv(images, weights[2], 3, strides=(3, 1)),
    ]
    for op in results:
        graph.append(op)
    graph.return_(*(op.result for op in results))
    _agrees(graph, core, 6)
    layers = compiled(graph, core).layers
    assert [geometry(each.layer).result for each in layers] == [(1, 70), (9, 1), (9, 1)]


def test_no_images_stay_on_the_host() -> None:
    op = MaxPool(graph_of((0, 8, 9, 9)).parameters[0], kernel_shape=(1, 1))
    assert Fpga("cascadelake", {}).why_not_accelerated(op) == "it has no elements"


def test_a_layer_that_fits_no_buffer_names_the_limit() -> None:
    graph = graph_of((1, 512, 9, 9))
    (weight,) = numbers(1, (8, 512, 9, 9))
    op = conv(graph.parameters[0], weight, 1)
    target = Fpga("cascadelake", {"n": "8", "inp": "16K", "wgt": "8K"})
    assert target.why_unsupported(op)
    assert Fpga("cascadelake", {}).why_unsupported(next(_random_chain(1).ops)) is None
    assert "half of inp holds" in target.why_not_accelerated(op)
    assert "rows of weights" in Fpga("cascadelake", {"n": "8", "wgt": "512"}).why_not_accelerated(op)


def test_windows_that_reach_further_beyond_the_data_than_a_load_pads_stay_on_the_host() -> None:
    target = Fpga("cascadelake", {"n": "8"})
    for size, kernel, strides, message in (
        ((21, 21), (20, 20), (20, 20), "beyond the data"),
        ((25, 40), (20, 20), (20, 20), ""),
        ((90, 2048), (2, 1), (40, 1), ""),
    ):
        graph = graph_of((1, 8, *size))
        op = MaxPool(graph.parameters[0], kernel_shape=kernel, strides=strides, ceil_mode=1)
        assert message in target.why_not_accelerated(op)
        assert bool(message) == bool(target.why_not_accelerated(op))
        if not message:
            graph.append(op)
            graph.return_(op.results[0])
            _agrees(graph, target.core, 1)


def test_multipliers_that_an_instruction_does_not_hold_stay_on_the_host() -> None:
    target = Fpga("cascadelake", {})
    left, right = graph_of((1, 16, 4, 4), (1, 16, 4, 4)).parameters
    for most, message in ((target.addition_bits, ""), (target.addition_bits + 1, "beyond 1048575")):
        op = AcceleratorAdd(left, right, left_multiplier=(1 << most) - 1, right_multiplier=1, factor=0.5)
        assert message in target.why_not_accelerated(op)
        assert bool(message) == bool(target.why_not_accelerated(op))
    with pytest.raises(InvalidModel, match="out of i32"):
        AcceleratorAdd(left, right, left_multiplier=1 << 23, right_multiplier=-(1 << 23), factor=0.5)
