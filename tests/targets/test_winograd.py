# pyright: basic
"""Winograd's kernel against NumPy in float64, in both vector lengths, with buffers against guard pages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import CodegenError, InvalidInput
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.fft_conv import FftConv
from rtcc.ir.ops.nn import Conv
from rtcc.ir.ops.pooling import AveragePool, MaxPool
from rtcc.ir.ops.winograd import OUTPUTS, WinogradConv
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.pooling.joined_pool import Pooling
from rtcc.targets.tvm.kernels.pooling.pool_problem import Reduction
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import Blocking, register_tiles
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem, pools, winograd_illegal
from rtcc.verification.check import compare, stored
from rtcc.verification.check import expected as expected_results
from rtcc.verification.special import special_kernel_inputs
from tests.targets.kernels import blocked
from tests.targets.lowered import Kernels
from tests.targets.test_microkernels import BiasRelu, Residual, convolved, expected_with_bias, numbers
from tests.targets.transformed import Case, Layer, pooled, require_close, result_of

lengths = pytest.mark.parametrize("lanes", [16, 8])
lengths_by_lane = pytest.mark.parametrize("lanes", [16, 8, 4])
ONE = (1, 1, 1, 1)
ERROR = {2: 1e-6, 3: 1e-6, 4: 3e-6}
"""Of the largest result, by the outputs of a tile."""

CASES: dict[str, Case] = {
    "whole tiles, all inputs within the halo": (
        ConvProblem(1, 32, 12, 16, 32, (3, 3), pads=ONE, input_halo=ONE, output_halo=ONE),
        (4, 4), Blocking(6, 2),
    ),
    "edges, batch, channels not whole blocks, wide halos": (
        ConvProblem(2, 20, 9, 11, 40, (3, 3), pads=ONE, input_halo=ONE, output_halo=(2, 1, 0, 3)),
        (4, 4), Blocking(5, 2, groups=2),
    ),
    "no halo, two splits": (
        ConvProblem(2, 20, 9, 11, 72, (3, 3), pads=(0, 2, 1, 1), output_halo=(0, 1, 0, 0)),
        (2, 2), Blocking(5, 1, groups=2, splits=2),
    ),
    "a row of taps": (
        ConvProblem(1, 20, 9, 11, 40, (1, 3), pads=(0, 1, 0, 1), output_halo=(0, 1, 0, 0)),
        (1, 4), Blocking(5, 1, groups=2),
    ),
    "a column of taps": (
        ConvProblem(1, 20, 9, 11, 40, (3, 1), pads=(1, 0, 1, 0), input_halo=ONE),
        (4, 1), Blocking(5, 2, groups=2, splits=2),
    ),
    "an image smaller than a tile": (
        ConvProblem(1, 16, 2, 1, 16, (3, 3), pads=ONE), (4, 4), Blocking(4, 1)
    ),
    "pads wider than the filter": (
        ConvProblem(1, 16, 4, 4, 16, (3, 3), pads=(5, 0, 6, 4)), (4, 4), Blocking(4, 1)
    ),
    "2x2 taps": (
        ConvProblem(1, 20, 9, 11, 40, (2, 2), pads=ONE, output_halo=(0, 1, 0, 0)),
        (3, 3), Blocking(5, 2, groups=2),
    ),
    "2x4 taps, mixed tiles": (
        ConvProblem(2, 20, 9, 11, 24, (2, 4), pads=(0, 2, 1, 1), input_halo=ONE), (4, 2), Blocking(5, 1)
    ),
    "a column of 5 taps": (
        ConvProblem(1, 20, 22, 1, 40, (5, 1), pads=(2, 0, 1, 0)), (4, 1), Blocking(5, 2, splits=2)
    ),
}  # fmt: skip


@lengths_by_lane
@pytest.mark.parametrize("name", CASES)
def test_winograd_conv(name: str, lanes: int) -> None:
    conv, outputs, tile = CASES[name]
    p = WinogradProblem(replace(conv, lanes=lanes, by_lane=lanes == 4), outputs)
    bias = numbers(p.conv.output.blocks * lanes)
    result, data, weights = result_of(p, tile, BiasRelu(len(bias)), [bias])
    expected = expected_with_bias(data, weights, bias, p.conv)
    require_close(result, expected, p.conv, ERROR[max(outputs)])


@pytest.mark.parametrize(
    ("size", "outputs", "products"), [(14, 4, 22), (7, 4, 11), (5, 4, 9), (14, 3, 24), (8, 4, 12), (3, 4, 5)]
)
def test_last_tiles_take_fewer_products(size: int, outputs: int, products: int) -> None:
    """Along an axis, outputs + taps - 1 of each tile, of the outputs that it has; as many register tiles."""
    conv = ConvProblem(1, 64, size, size, 64, (3, 3), pads=ONE, input_halo=ONE, lanes=4, by_lane=True)
    p = WinogradProblem(conv, (outputs, outputs))
    assert sum(len(tiles) * count for tiles, count in p.shares) == products**2
    assert sorted(number for kind in p.kinds for number in kind.numbers) == list(range(p.tiles))
    ((width, count),) = register_tiles(p, Blocking(1, 4))
    assert (width, count) == (1, products**2)


def test_what_is_left_of_a_block_may_take_a_narrower_register_tile() -> None:
    conv = ConvProblem(1, 64, 7, 7, 64, (3, 3), pads=ONE, input_halo=ONE, lanes=4, by_lane=True)
    found = register_tiles(WinogradProblem(conv, (4, 4)), Blocking(4, 4))
    assert found == [(4, 25), (2, 5 + 5 + 1)]


MAX, MEAN = Pooling(Reduction.MAXIMUM, 2, 2), Pooling(Reduction.AVERAGE, 2, 2)

POOLED: dict[str, tuple[ConvProblem, tuple[int, int], Pooling]] = {
    "whole tiles": (
        ConvProblem(1, 32, 12, 16, 32, (3, 3), pads=ONE, input_halo=ONE, output_halo=ONE), (4, 4), MAX
    ),
    "a rest that fills no window, batch, halos": (
        ConvProblem(2, 20, 9, 11, 40, (3, 3), pads=ONE, output_halo=(2, 1, 0, 3)), (4, 4), MAX
    ),
    "a rest that no tile computes": (ConvProblem(1, 16, 9, 13, 24, (3, 3), pads=ONE), (4, 4), MEAN),
    "one window a tile": (ConvProblem(1, 16, 9, 7, 24, (3, 3), output_halo=ONE), (2, 2), MEAN),
    "windows of 4 by 2": (ConvProblem(1, 16, 13, 9, 24, (3, 3)), (4, 4), Pooling(Reduction.MAXIMUM, 4, 2)),
    "a row of taps": (ConvProblem(1, 16, 9, 13, 24, (1, 3)), (1, 4), Pooling(Reduction.MAXIMUM, 1, 2)),
}  # fmt: skip


@lengths
@pytest.mark.parametrize("name", POOLED)
def test_pooled(name: str, lanes: int) -> None:
    conv, outputs, pooling = POOLED[name]
    p = WinogradProblem(replace(conv, lanes=lanes), outputs, pooling)
    assert pools(replace(p, pooling=None), pooling)
    bias = numbers(p.conv.output.blocks * lanes)
    result, data, weights = result_of(p, Blocking(5, 1, 2), BiasRelu(len(bias)), [bias])
    sums = np.maximum(convolved(data, weights, p.conv) + bias[: conv.filters, None, None], 0)
    expected = blocked(pooled(sums, pooling), p.stored)
    inside = blocked(np.ones((conv.batch, conv.filters, p.stored.height, p.stored.width)), p.stored) == 1
    assert not result[~inside].any()
    assert np.abs(result - expected)[inside].max() <= ERROR[max(outputs)] * np.abs(sums).max()


def test_windows_across_tiles_are_not_pooled() -> None:
    conv = ConvProblem(1, 16, 12, 12, 16, (3, 3), pads=ONE)
    assert not pools(WinogradProblem(conv, (3, 3)), MAX)
    assert not pools(WinogradProblem(conv, (2, 2)), Pooling(Reduction.MAXIMUM, 2, 4))
    assert not pools(WinogradProblem(replace(conv, height=1), (4, 4)), MAX)


@pytest.mark.parametrize("pool", [MaxPool, AveragePool])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_pool_joins_through_the_compiler(pool: type[MaxPool | AveragePool], threads: int) -> None:
    """One kernel computes pool(relu(conv)), and rightly; its neighbours read halos."""
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 16, 21, 30)))]))
    value = graph.parameters[0]
    for name, channels in (("first", 16), ("second", 32)):
        weight = module.add_constant(name, numbers(32, channels, 3, 3))
        value = graph.append(Relu(graph.append(Conv(value, weight, pads=ONE)).result)).result
        value = graph.append(pool(value, kernel_shape=(2, 2), strides=(2, 2))).result
    value.name = "y"
    graph.return_(value)
    compilation = start(module, Options(conv="winograd4", threads=threads))
    compilation.lower()
    pooling = [k for k in compilation.module.kernels.values() if any(isinstance(op, pool) for op in k.ops)]
    assert [kernel.attributes.get("algorithm") for kernel in pooling] == ["winograd4", "winograd4"]
    data = numbers(1, 16, 21, 30)
    expected = interpret(module, {"x": data}, precision="f64")["y"]
    options = {"conv": "winograd4", "threads": threads, "verify_each": True, "verify_kernels": True}
    with rtcc.compile(module, **options) as artifact:
        found = artifact.run({"x": data})["y"]
    assert np.abs(found - expected).max() <= 2 * ERROR[4] * np.abs(expected).max()


@lengths
def test_residual(lanes: int) -> None:
    conv = ConvProblem(2, 16, 6, 7, 32, (3, 3), pads=ONE, lanes=lanes, input_halo=ONE)
    form = replace(conv.output, halo=(1, 2, 0, 1))
    other = numbers(2, 32, 6, 7)
    epilogue = Residual(form.shape, form.halo)
    p = WinogradProblem(conv, (4, 4))
    result, data, weights = result_of(p, Blocking(4, 2), epilogue, [blocked(other, form)])
    require_close(result, blocked(convolved(data, weights, conv) + other, conv.output), conv, ERROR[4])


@lengths
def test_results_do_not_depend_on_the_blocking(lanes: int) -> None:
    conv = ConvProblem(1, 24, 13, 13, 64, (3, 3), pads=ONE, lanes=lanes, input_halo=ONE)
    p = WinogradProblem(conv, (4, 4))
    tiles = [Blocking(4, 2), Blocking(3, 1, 2), Blocking(5, 2, 4, 2)]
    first, *others = (result_of(p, tile, None, [])[0] for tile in tiles)
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("problem", "outputs", "word"),
    [
        (ConvProblem(1, 16, 8, 8, 16, (3, 3), (2, 2)), (4, 4), "stride"),
        (ConvProblem(1, 16, 8, 8, 16, (3, 3), dilations=(2, 2)), (4, 4), "dilation"),
        (ConvProblem(1, 32, 8, 8, 32, (3, 3), groups=2), (4, 4), "groups"),
        (ConvProblem(1, 16, 8, 8, 16, (6, 3)), (4, 4), "6x3, too large for tiles of 4x4"),
        (ConvProblem(1, 16, 8, 8, 16, (5, 5)), (4, 4), "grow 29.8 times"),
        (ConvProblem(1, 16, 8, 8, 16, (1, 1)), (4, 4), "1x1"),
    ],
)
def test_what_it_cannot_do(problem: ConvProblem, outputs: tuple[int, int], word: str) -> None:
    assert word in (winograd_illegal(problem, outputs) or "")


WHOLE = {
    "3x3": Layer((1, 32, 14, 14), (48, 32, 3, 3), ONE),
    "edges and batch": Layer((2, 20, 9, 11), (24, 20, 3, 3), (0, 1, 2, 0)),
    "one axis": Layer((1, 16, 30), (32, 16, 3), (1, 1)),
    "a row of taps": Layer((1, 16, 9, 9), (32, 16, 1, 3), (0, 1, 0, 1)),
    "a column of taps": Layer((1, 16, 9, 9), (32, 16, 3, 1), (1, 0, 1, 0)),
    "a column": Layer((1, 16, 30, 1), (16, 16, 3, 1), (1, 0, 1, 0)),
    "2x2": Layer((1, 20, 9, 11), (24, 20, 2, 2), ONE),
    "a column of 5 taps": Layer((1, 16, 30, 1), (32, 16, 5, 1), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", WHOLE)
def test_through_the_compiler(name: str, outputs: int) -> None:
    WHOLE[name].require_right(f"winograd{outputs}", ERROR[outputs])


@pytest.mark.parametrize(
    "layer", [Layer((1, 64, 56, 56), (64, 64, 3, 3), ONE), Layer((1, 256, 8, 8), (512, 256, 3, 3), ONE)]
)
def test_two_threads_share_a_convolution(layer: Layer) -> None:
    layer.require_divided("winograd4", ERROR[4])


def test_the_cheapest_where_the_picture_is_large() -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 64, 56, 56)))]))
    weight = module.add_constant("w", numbers(64, 64, 3, 3))
    graph.return_(graph.append(Conv(graph.parameters[0], weight, pads=ONE)).result)
    for limit, algorithm in ((None, "winograd4"), (1e-5, "winograd3"), (5e-6, "winograd2")):
        compilation = start(module, Options(target="x86:znver5", max_error=limit))
        compilation.lower()
        chosen = [kernel.attributes.get("algorithm") for kernel in compilation.module.kernels.values()]
        assert algorithm in chosen


def test_refused_for_other_kernels() -> None:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 16, 8, 8)))]))
    weight = module.add_constant("w", numbers(16, 16, 7, 7))
    graph.return_(graph.append(Conv(graph.parameters[0], weight)).result)
    with pytest.raises(InvalidInput, match="the kernel is 7x7"):
        start(module, Options(conv="winograd4")).lower()


TILED = {"winograd2": 3, "winograd4": 3, "fft": 7}
"""Taps along each axis, by algorithm."""


def with_one(value: float, algorithm: str, taps: int) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """What an artefact gives for a picture with one such number, what direct sums give in float64; a tile."""
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 16, 40, 40)))]))
    weight = module.add_constant("w", numbers(16, 16, taps, taps))
    pads = (taps // 2,) * 4
    result = graph.append(Conv(graph.parameters[0], weight, pads=pads)).result
    result.name = "y"
    graph.return_(result)
    data = numbers(1, 16, 40, 40)
    data[0, 3, 17, 22] = value
    compilation = start(module, Options(conv=algorithm))
    compilation.lower()
    ops = [op for kernel in compilation.module.kernels.values() for op in kernel.ops]
    (tile,) = (op.outputs for op in ops if isinstance(op, WinogradConv | FftConv))
    with rtcc.compile(module, conv=algorithm, verify_each=True, verify_kernels=True) as artifact:
        return artifact.run({"x": data})["y"], interpret(module, {"x": data}, precision="f64")["y"], tile


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("algorithm", TILED)
def test_what_is_not_finite_stays_in_its_tiles(algorithm: str, value: float) -> None:
    """docs/arithmetic.md: a tile's outputs are NaN, infinite or right; those of other tiles are untouched."""
    taps = TILED[algorithm]
    found, expected, tile = with_one(value, algorithm, taps)
    finite = np.isfinite(found)
    assert not finite[~np.isfinite(expected)].any()
    allowed = 1e-5 * np.abs(expected[np.isfinite(expected)]).max()
    assert (np.abs(found[finite] - expected[finite]) <= allowed).all()
    reading = [
        np.repeat([m * n <= at + taps // 2 < m * (n + 1) + taps - 1 for n in range(40)], m)[:40]
        for at, m in zip((17, 22), tile, strict=True)
    ]
    inside = np.outer(*reading)
    assert finite[:, :, ~inside].all()
    assert 0 < (~finite[0, 0]).sum() <= inside.sum()


def test_verification_sees_a_wrong_tile_beside_one_that_is_not_finite() -> None:
    module = WHOLE["3x3"].module()
    compilation = start(module, Options(conv="winograd4"))
    compilation.lower()
    kernels = Kernels.of(compilation.module)
    named = compilation.module.kernels.items()
    (name,) = (name for name, kernel in named if kernel.attributes.get("algorithm") == "winograd4")
    feeds = special_kernel_inputs(kernels.kernel(name), seed=1)
    assert feeds is not None
    wanted = expected_results(kernels.kernel(name), feeds)
    code, results = kernels.run(name, feeds)
    assert code == 0
    compare(name, wanted, results)
    held = np.flatnonzero(~stored(kernels.kernel(name).returned[0].type, wanted[0].free) & (results[0] != 0))
    assert 0 < held.size < results[0].size
    for place in held[:: held.size // 10]:
        wrong = results[0].copy()
        wrong.reshape(-1)[place] *= 1.5
        if np.isfinite(wrong.reshape(-1)[place]):
            with pytest.raises(CodegenError, match="elements are wrong"):
                compare(name, wanted, [wrong])
