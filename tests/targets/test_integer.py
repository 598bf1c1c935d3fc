# pyright: basic
"""Integer kernels equal the interpreter to the bit: random shapes, with and without VNNI, guard pages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.integer import (
    AddToSum,
    ConvSum,
    GlobalSum,
    MatMulSum,
    QuantizedAdd,
    Requantize,
    WindowSum,
    padded_offset,
)
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.pooling import GlobalMaxPool, MaxPool
from rtcc.ir.ops.window import Window
from rtcc.passes.fuse import Fuse
from rtcc.passes.outline_kernels import OutlineKernels
from rtcc.passes.plan_memory import PlanMemory
from rtcc.passes.select_conv import SelectConv
from rtcc.passes.select_layout import SelectLayout
from rtcc.pipeline.inputs import random_kernel_inputs
from tests.targets.kernels import require_lanes
from tests.targets.lowered import Kernels

TARGETS = {"x86:cascadelake": 16, "x86:skylake-avx512": 16, "x86:x86-64-v3": 8}
targets = pytest.mark.parametrize("target", TARGETS)


def outlined(module: Module, algorithm: str = "direct") -> Module:
    """The module's kernels, laid out and planned, convolutions by a micro-kernel."""
    for each in (Fuse(), SelectConv(conv=algorithm), SelectLayout(), OutlineKernels(), PlanMemory()):
        each.run(module)
    return module


def check(module: Module, algorithm: str = "direct") -> list[str]:
    """Compile every kernel and compare it with the interpreter; the algorithms that they have."""
    require_lanes(TARGETS[module.target])
    kernels = Kernels.of(outlined(module, algorithm))
    for seed, (name, kernel) in enumerate(module.kernels.items()):
        kernels.check(name, random_kernel_inputs(kernel, seed))
    return [kernel.attributes.get("algorithm", "") for kernel in module.kernels.values()]


def convolution(random: np.random.Generator, problem: dict, target: str) -> Module:
    """conv_sum, requantised, a residual added; or added to the sum itself; or the sum alone."""
    batch, channels, filters, group = (problem[key] for key in ("batch", "channels", "filters", "group"))
    spatial, kernel = problem["spatial"], problem["kernel"]
    count = len(spatial)
    window = Window(kernel, problem["strides"], problem["dilations"], problem["pads"])
    module = Module(target=target)
    weight = random.integers(-128, 128, (filters, channels // group, *kernel), np.int8)
    offset = padded_offset(weight, random.integers(-999, 999, filters), problem["zero"], window, spatial)
    sizes = window.output_sizes(spatial)
    graph = Graph("main", [
        ("x", TensorType(DType.U8, (batch, channels, *spatial))),
        ("r", TensorType(DType.U8, (batch, filters, *sizes))),
    ])  # fmt: skip
    module.graphs["main"] = graph
    x, r = graph.parameters

    def constant(name: str, array: np.ndarray):
        return module.add_constant(name, array, TensorType(DType.of(array.dtype), array.shape))

    total = ConvSum(
        x, constant("w", weight), constant("o", offset.astype(np.int32)), group=group,
        pads=problem["pads"], strides=problem["strides"], dilations=problem["dilations"],
    )  # fmt: skip
    scale = np.float32(74 * 40 * np.sqrt(weight[0].size))
    factor = random.uniform(0.5, 2, (filters, *(1,) * count)).astype(np.float32) / scale
    zero = constant("z", np.array(9, np.uint8))
    graph.append(total)
    if problem.get("sum_alone"):
        graph.return_(total.result)
        return module
    if problem.get("to_sum"):
        half = constant("h", np.array(0.3125, np.float32))
        joined = AddToSum(
            total.result, constant("f", factor), r, half, zero, constant("y", np.array(4, np.uint8))
        )
        graph.return_(graph.append(joined).result)
        return module
    scaled = Requantize(total.result, constant("f", factor), zero)
    added = QuantizedAdd(
        scaled.result, constant("g", np.array(0.7, np.float32)), zero,
        r, constant("h", np.array(0.3, np.float32)), zero, constant("y", np.array(4, np.uint8)),
    )  # fmt: skip
    for op in (scaled, added):
        graph.append(op)
    graph.return_(added.result)
    return module


def dilations_of(kernel: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
    """None, mostly; no filter reaches over more than 13."""
    return st.sampled_from([(1,) * len(kernel), tuple(2 if k <= 5 else 1 for k in kernel)])


def reaches(kernel: tuple[int, ...], dilations: tuple[int, ...]) -> list[int]:
    """How far a filter reaches along each axis."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]


@st.composite
def problems(draw: st.DrawFn) -> dict:
    count = draw(st.sampled_from([1, 2, 2, 2]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 1), (2, 5), (7, 7)]))[-count:]
    dilations = draw(dilations_of(kernel))
    spatial = tuple(draw(st.integers(k, 13)) for k in reaches(kernel, dilations))
    group = draw(st.sampled_from([1, 1, 1, 2]))
    channels, filters = (draw(st.integers(1, 70)) for _ in range(2))
    if group > 1:
        channels, filters = (32 * draw(st.integers(1, 2)) for _ in range(2))
    pads = tuple(draw(st.integers(0, k - 1)) for k in (*kernel, *kernel))
    strides = tuple(draw(st.integers(1, 2)) for _ in kernel)
    return {
        "batch": draw(st.integers(1, 2)), "channels": channels, "filters": filters, "group": group,
        "spatial": spatial, "kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations,
        "zero": draw(st.sampled_from([0, 0, 128, 37])), "to_sum": draw(st.booleans()),
    }  # fmt: skip


@targets
@settings(max_examples=6, deadline=None)
@given(problems(), st.integers(0, 9))
def test_convolutions(target: str, problem: dict, seed: int) -> None:
    module = convolution(np.random.default_rng(seed), problem, target)
    assert "direct" in check(module)


@targets
@settings(max_examples=6, deadline=None)
@given(problems(), st.sampled_from([2, 4, 8]), st.integers(1, 9), st.integers(0, 9))
def test_convolutions_in_narrow_groups(target: str, problem: dict, size: int, groups: int, seed: int) -> None:
    narrow = {"group": groups, "channels": size * groups, "filters": size * groups}
    if groups == 1 or size == TARGETS[target]:
        return
    module = convolution(np.random.default_rng(seed), {**problem, **narrow}, target)
    assert "grouped" in check(module, "grouped")


@st.composite
def plain_problems(draw: st.DrawFn) -> dict:
    kernel = draw(st.sampled_from([(3, 3), (7, 7), (1, 2), (5, 4), (2, 9)]))
    dilations = (draw(dilations_of(kernel))[0], 1)  # along the width four taps lie side by side
    spatial = tuple(draw(st.integers(k, 40)) for k in reaches(kernel, dilations))
    return {
        "batch": draw(st.integers(1, 2)), "channels": draw(st.integers(1, 5)),
        "filters": draw(st.integers(1, 70)), "group": 1, "spatial": spatial, "kernel": kernel,
        "strides": (draw(st.integers(1, 2)), draw(st.integers(1, 3))),
        "pads": tuple(draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)), "dilations": dilations,
        "zero": draw(st.sampled_from([0, 0, 128, 37])),
    }  # fmt: skip


@targets
@settings(max_examples=6, deadline=None)
@given(plain_problems(), st.integers(0, 9))
def test_convolutions_of_plain_pictures(target: str, problem: dict, seed: int) -> None:
    module = convolution(np.random.default_rng(seed), problem, target)
    assert "direct_plain" in check(module, "direct_plain")


@st.composite
def depthwise_problems(draw: st.DrawFn) -> dict:
    kernel = draw(st.sampled_from([(3, 3), (3, 3), (5, 5), (1, 3), (3, 1), (2, 4), (3,), (7,)]))
    dilations = draw(dilations_of(kernel))
    spatial = tuple(draw(st.integers(k, 19)) for k in reaches(kernel, dilations))
    channels = draw(st.integers(2, 40))
    return {
        "batch": draw(st.integers(1, 2)), "channels": channels, "filters": channels, "group": channels,
        "spatial": spatial, "kernel": kernel, "strides": tuple(draw(st.integers(1, 2)) for _ in kernel),
        "pads": tuple(draw(st.integers(0, k // 2)) for k in (*kernel, *kernel)), "dilations": dilations,
        "zero": draw(st.sampled_from([0, 0, 128, 37])),
    }  # fmt: skip


@targets
@settings(max_examples=8, deadline=None)
@given(depthwise_problems(), st.integers(0, 9))
def test_depthwise_convolutions(target: str, problem: dict, seed: int) -> None:
    module = convolution(np.random.default_rng(seed), problem, target)
    assert "depthwise" in check(module, "depthwise")


def product(random: np.random.Generator, sizes: tuple[int, ...], columns: int, target: str) -> Module:
    """mat_mul_sum, an offset added, requantised per column."""
    module, depth = Module(target=target), sizes[-1]
    weight = random.integers(-128, 128, (depth, columns), np.int8)
    graph = Graph("main", [("x", TensorType(DType.U8, sizes))])
    module.graphs["main"] = graph

    def constant(name: str, array: np.ndarray):
        return module.add_constant(name, array, TensorType(DType.of(array.dtype), array.shape))

    total = graph.append(MatMulSum(graph.parameters[0], constant("w", weight)))
    moved = graph.append(Add(total.result, constant("o", random.integers(-99, 99, columns, np.int32))))
    factor = (random.uniform(0.5, 2, columns) / (74 * np.sqrt(depth) * 40)).astype(np.float32)
    zero = constant("z", np.array(-9, np.int8))
    scaled = graph.append(Requantize(moved.result, constant("f", factor), zero))
    graph.return_(scaled.result)
    return module


@targets
@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=2), st.integers(1, 40), st.integers(1, 150))
def test_products(target: str, lead: list[int], depth: int, columns: int) -> None:
    module = product(np.random.default_rng(depth), (*lead, 4 * depth), columns, target)
    check(module)
    decisions = {kernel.attributes.get("algorithm") for kernel in module.kernels.values()}
    assert decisions <= {"matmul", "generic"}
    assert "matmul" in decisions or depth * columns < 999


@targets
def test_largest_sums_are_exact(target: str) -> None:
    """All bytes at their limits, where pairs of products exceed 16 bits."""
    problem = {
        "batch": 1, "channels": 40, "filters": 20, "group": 1, "spatial": (5, 6), "kernel": (3, 3),
        "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "zero": 0, "sum_alone": True,
    }  # fmt: skip
    module = convolution(np.random.default_rng(0), problem, target)
    require_lanes(TARGETS[target])
    kernels = Kernels.of(outlined(module))
    (name,) = (name for name, kernel in module.kernels.items() if "algorithm" in kernel.attributes)
    feeds = random_kernel_inputs(kernels.kernel(name), 0)
    for data, weight in ((255, 127), (255, -128)):
        feeds = [
            np.full_like(feed, {DType.U8: data, DType.I8: weight}.get(p.type.dtype, 0))
            if p.type.rank == 4
            else feed
            for p, feed in zip(kernels.kernel(name).parameters, feeds, strict=True)
        ]
        kernels.check(name, feeds)


@targets
@pytest.mark.parametrize("channels", [16, 21])
def test_pools_of_bytes(target: str, channels: int) -> None:
    """A convolution, so that blocks are planned, then the largest of windows, sum and largest of all."""
    problem = {
        "batch": 2, "channels": 16, "filters": channels, "group": 1, "spatial": (9, 10), "kernel": (1, 1),
        "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "zero": 0,
    }  # fmt: skip
    module = convolution(np.random.default_rng(3), problem, target)
    graph = module.graphs["main"]
    (whole,) = graph.returned
    graph.erase(graph.terminator)
    largest = graph.append(MaxPool(whole, kernel_shape=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)))
    total = graph.append(GlobalSum(largest.results[0]))
    most = graph.append(GlobalMaxPool(largest.results[0]))
    graph.return_(total.result, most.result)
    check(module)
    assert any(
        isinstance(op, MaxPool) and op.results[0].type.layout
        for kernel in module.kernels.values()
        for op in kernel.ops
    )


@st.composite
def windows(draw: st.DrawFn) -> dict:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return {
        "kernel_shape": kernel, "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "pads": tuple(draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)),
        "ceil_mode": draw(st.integers(0, 1)),
    }  # fmt: skip


@targets
@settings(max_examples=5, deadline=None)
@given(windows(), st.tuples(st.integers(4, 11), st.integers(4, 20)), st.integers(1, 40))
def test_sums_of_windows(target: str, window: dict, spatial: tuple[int, int], channels: int) -> None:
    """Behind a convolution, in blocks of channels, requantised by a map of factors."""
    problem = {
        "batch": 1, "channels": 16, "filters": channels, "group": 1, "spatial": spatial, "kernel": (1, 1),
        "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "zero": 0,
    }  # fmt: skip
    module = convolution(np.random.default_rng(channels), problem, target)
    graph = module.graphs["main"]
    (whole,) = graph.returned
    graph.erase(graph.terminator)
    total = graph.append(WindowSum(whole, **window))
    factors = np.random.default_rng(0).uniform(0.01, 0.1, (1, 1, *total.type.sizes[2:])).astype(np.float32)
    factor, zero = (
        module.add_constant(name, array, TensorType(DType.of(array.dtype), array.shape))
        for name, array in (("factors", factors), ("least", np.array(3, np.uint8)))
    )
    graph.return_(graph.append(Requantize(total.result, factor, zero)).result)
    check(module)


@targets
def test_floats_are_rounded_once(target: str) -> None:
    """`quant.requantize` of f32 at halves, beyond both ends, at infinities and NaN."""
    require_lanes(TARGETS[target])
    text = """kernel @round(%x: f32[2,21,3,5], %f: f32[21,1,1], %z: i8[]) {
      %y = quant.requantize(%x, %f, %z) : i8[2,21,3,5]
      return(%y)
    }"""
    numbers = [0.5, 1.5, -0.5, 2.5, 1e9, -1e9, np.inf, -np.inf, np.nan, 126.5, -128.5, 3.2]
    x = np.resize(np.array(numbers, np.float32), (2, 21, 3, 5))
    Kernels(text, target).check("round", [x, np.ones((21, 1, 1), np.float32), np.array(1, np.int8)])


@targets
@pytest.mark.parametrize("dtype", ["u16", "i16", "u8", "i8"])
def test_zero_points_may_differ_and_have_16_bits(target: str, dtype: str) -> None:
    """`quant.requantize` of f32 and i32 with a zero point per channel, at both ends and halves too."""
    require_lanes(TARGETS[target])
    text = f"""kernel @floats(%x: f32[2,21,3,5], %z: {dtype}[21,1,1]) {{
      %f = math.mul(%x, %x) : f32[2,21,3,5]
      %y = quant.requantize(%x, %f, %z) : {dtype}[2,21,3,5]
      return(%y)
    }}
    kernel @sums(%x: i32[2,21,3,5], %f: f32[21,1,1], %z: {dtype}[21,1,1]) {{
      %y = quant.requantize(%x, %f, %z) : {dtype}[2,21,3,5]
      return(%y)
    }}"""
    kind = np.dtype({"u": "uint", "i": "int"}[dtype[0]] + dtype[1:])
    limits = np.iinfo(kind)
    zero = np.resize(np.array([0, limits.min, limits.max, 77], kind), (21, 1, 1))
    numbers = [0.5, 1.5, -2.5, 1e9, -1e9, np.inf, np.nan, 32.7, -3.2, 40.1, limits.max - 0.5, limits.min]
    kernels = Kernels(text, target)
    kernels.check("floats", [np.resize(np.array(numbers, np.float32), (2, 21, 3, 5)), zero])
    sums = np.resize(np.array([2**31 - 1, -(2**31), 3, -5, 70_001, -66_003, 1], np.int32), (2, 21, 3, 5))
    factor = np.resize(np.array([0.5, 1.0, 1e-3, 1e30, np.nan, np.inf], np.float32), (21, 1, 1))
    kernels.check("sums", [sums, factor, zero])


@targets
def test_plain_loops(target: str) -> None:
    """What no micro-kernel takes, weights that are not constant, gives the same."""
    require_lanes(TARGETS[target])
    text = """kernel @sum(%x: u8[1,3,6,5], %w: i8[4,3,3,3], %o: i32[4,3,3]) {
      %y = quant.conv_sum(%x, %w, %o) {pads = [1,1,1,1]} : i32[1,4,6,5]
      return(%y)
    }
    kernel @product(%x: u8[2,3,6], %w: i8[6,5]) {
      %y = quant.mat_mul_sum(%x, %w) : i32[2,3,5]
      return(%y)
    }
    kernel @windows(%x: u8[2,3,6,5]) {
      %y = quant.window_sum(%x) {kernel_shape = [3,2], pads = [1,0,2,1], strides = [2,1]} : i32[2,3,4,5]
      return(%y)
    }
    kernel @global(%x: u8[2,3,6,5]) {
      %y = quant.global_sum(%x) : i32[2,3,1,1]
      return(%y)
    }
    kernel @most(%x: u8[2,3,6,5]) {
      %y = nn.global_max_pool(%x) : u8[2,3,1,1]
      return(%y)
    }
    kernel @most_signed(%x: i8[2,3,6,5]) {
      %y = nn.global_max_pool(%x) : i8[2,3,1,1]
      return(%y)
    }
    """
    kernels = Kernels(text, target)
    for name in ("sum", "product", "windows", "global", "most", "most_signed"):
        kernels.check(name, random_kernel_inputs(kernels.kernel(name), 1))


def test_sums_of_many_small_products_have_kernels() -> None:
    """It is not their number that decides: 72,000 products of weights of 2 fit."""
    module = Module(target="x86:cascadelake")
    data, weight = TensorType(DType.U8, (1, 8000, 3, 3)), TensorType(DType.I8, (16, 8000, 3, 3))
    graph = Graph("main", [("x", data)])
    module.graphs["main"] = graph
    w = module.add_constant("w", np.array(2, np.int8), weight)
    o = module.add_constant("o", np.array(0, np.int32), TensorType(DType.I32, (16,)))
    op = graph.append(ConvSum(graph.parameters[0], w, o))
    graph.return_(op.result)
    assert check(module) == ["", "direct"]
