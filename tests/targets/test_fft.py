# pyright: basic
"""The kernel of convolution by Fourier transforms against NumPy in float64, in both vector lengths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import rtcc
from rtcc.compiler import Options, start
from rtcc.errors import InvalidInput
from rtcc.interpreter import interpret
from rtcc.ir import DType, Graph, Module, TensorType
from rtcc.ir.ops.nn import Conv
from rtcc.selection.decision import Decision
from rtcc.targets.tvm.caches import Caches
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.transformed.fft_tiles import (
    MOST_SCRATCH,
    MOST_WEIGHTS,
    FftProblem,
    choose_points,
    fft_illegal,
)
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import Blocking, scratch_bytes, weight_bytes
from tests.targets.kernels import blocked
from tests.targets.test_microkernels import BiasRelu, Residual, convolved, expected_with_bias, numbers
from tests.targets.transformed import Case, Layer, require_close, result_of

lengths = pytest.mark.parametrize("lanes", [16, 8])
ONE, TWO, THREE, FIVE = (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3), (5, 5, 5, 5)
ERROR = 1e-6
"""Of the largest result."""

CASES: dict[str, Case] = {
    "whole tiles": (
        ConvProblem(1, 32, 20, 20, 32, (7, 7), pads=THREE, output_halo=ONE), (16, 16), Blocking(3, 2)
    ),
    "edges, batch, channels not whole blocks, wide halos": (
        ConvProblem(2, 20, 9, 11, 40, (5, 5), pads=TWO, input_halo=ONE, output_halo=(2, 1, 0, 3)),
        (8, 10), Blocking(2, 2, groups=2),
    ),
    "two splits, uneven pads": (
        ConvProblem(2, 20, 13, 15, 72, (6, 4), pads=(0, 2, 1, 1), output_halo=(0, 1, 0, 0)),
        (12, 8), Blocking(3, 1, groups=2, splits=2),
    ),
    "a row of taps": (
        ConvProblem(1, 20, 3, 60, 24, (1, 15), pads=(0, 7, 0, 7)), (1, 32), Blocking(3, 2)
    ),
    "a column of taps": (
        ConvProblem(1, 20, 21, 5, 24, (15, 1), pads=(7, 0, 7, 0)), (24, 2), Blocking(3, 2)
    ),
    "an image smaller than a tile": (
        ConvProblem(1, 16, 2, 1, 16, (5, 5), pads=(4, 4, 4, 4)), (8, 8), Blocking(4, 1)
    ),
    "pads wider than the filter": (
        ConvProblem(1, 16, 4, 4, 16, (4, 4), pads=(9, 0, 6, 4)), (8, 8), Blocking(2, 1)
    ),
    "depthwise": (
        ConvProblem(2, 20, 17, 19, 20, (9, 7), pads=(4, 3, 4, 3), groups=20, input_halo=ONE, output_halo=TWO),
        (20, 16), Blocking(),
    ),
    "depthwise of 31 taps": (
        ConvProblem(1, 16, 40, 40, 16, (31, 31), pads=(15, 15, 15, 15), groups=16), (48, 64), Blocking()
    ),
    "depthwise row": (
        ConvProblem(1, 24, 2, 50, 24, (1, 31), pads=(0, 15, 0, 15), groups=24), (1, 40), Blocking()
    ),
}  # fmt: skip


@lengths
@pytest.mark.parametrize("name", CASES)
def test_fft_conv(name: str, lanes: int) -> None:
    conv, points, tile = CASES[name]
    p = FftProblem(replace(conv, lanes=lanes), points)
    bias = numbers(p.conv.output.blocks * lanes)
    result, data, weights = result_of(p, tile, BiasRelu(len(bias)), [bias])
    require_close(result, expected_with_bias(data, weights, bias, p.conv), p.conv, ERROR)


@lengths
def test_residual(lanes: int) -> None:
    conv = ConvProblem(2, 16, 9, 10, 32, (5, 5), pads=TWO, lanes=lanes)
    form = replace(conv.output, halo=(1, 2, 0, 1))
    other = numbers(2, 32, 9, 10)
    epilogue = Residual(form.shape, form.halo)
    p = FftProblem(conv, (12, 12))
    result, data, weights = result_of(p, Blocking(2, 2), epilogue, [blocked(other, form)])
    require_close(result, blocked(convolved(data, weights, conv) + other, conv.output), conv, ERROR)


@lengths
def test_results_do_not_depend_on_the_blocking(lanes: int) -> None:
    conv = ConvProblem(1, 24, 13, 13, 64, (5, 5), pads=TWO, lanes=lanes)
    p = FftProblem(conv, (8, 8))
    tiles = [Blocking(2, 2), Blocking(3, 1, 2), Blocking(1, 2, 4, 2)]
    first, *others = (result_of(p, tile, None, [])[0] for tile in tiles)
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize(
    ("problem", "word"),
    [
        (ConvProblem(1, 16, 8, 8, 16, (7, 7), (2, 2)), "stride"),
        (ConvProblem(1, 16, 20, 20, 16, (7, 7), dilations=(2, 2)), "dilation"),
        (ConvProblem(1, 32, 8, 8, 32, (7, 7), groups=2), "groups"),
        (ConvProblem(1, 16, 8, 8, 16, (3, 3)), "3x3"),
        (ConvProblem(1, 16, 80, 80, 16, (1, 65)), "at most 64"),
        (ConvProblem(1, 1024, 32, 32, 1024, (15, 15)), "would take 1024 MiB, more than 256"),
    ],
)
def test_what_it_cannot_do(problem: ConvProblem, word: str) -> None:
    assert word in (fft_illegal(problem) or "")


def test_weights_and_scratch_keep_their_bounds() -> None:
    problem = ConvProblem(1, 512, 28, 28, 512, (7, 7), pads=THREE)
    assert fft_illegal(problem) is None
    chosen, tile = choose_points(problem, 32, Caches(48 << 10, 1 << 20, 32 << 20))
    assert weight_bytes(chosen, tile) <= MOST_WEIGHTS
    assert scratch_bytes(chosen, tile) <= MOST_SCRATCH


@pytest.mark.parametrize(
    ("algorithm", "taps", "group"), [("fft", 31, 16), ("fft", 7, 1), ("winograd4", 3, 1), ("direct", 3, 1)]
)
def test_errors_go_with_the_magnitude_of_data_and_weights(algorithm: str, taps: int, group: int) -> None:
    """One large number that no result has a term of: the bound is of max |x| times a filter's sum of |w|."""
    weights = np.zeros((16, 16 // group, taps, taps), np.float32)
    weights[:, :, -1, -1] = 1
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 16, 40, 40)))]))
    weight, pads = module.add_constant("w", weights), (taps // 2,) * 4
    graph.return_(graph.append(Conv(graph.parameters[0], weight, pads=pads, group=group)).result)
    data = np.ones((1, 16, 40, 40), np.float32)
    data[0, :, 0, 0] = 1e6
    (expected,) = interpret(module, {"x": data}, precision="f64").values()
    compilation = start(module, Options(conv=algorithm, explain=True))
    compilation.lower()
    assert compilation.report is not None
    (decision,) = (each for each in compilation.report.decisions if isinstance(each, Decision))
    (found,) = rtcc.compile(module, conv=algorithm).run({"x": data}).values()
    scale = 1e6 * np.abs(weights).sum(axis=(1, 2, 3)).max()
    assert np.abs(found - expected).max() <= decision.chosen.candidate.error * scale


WHOLE = {
    "7x7": Layer((1, 32, 20, 20), (48, 32, 7, 7), THREE),
    "edges and batch": Layer((2, 20, 9, 11), (24, 20, 5, 5), (2, 1, 2, 3)),
    "one axis": Layer((1, 16, 90), (32, 16, 31), (15, 15)),
    "a row of taps": Layer((1, 16, 5, 40), (32, 16, 1, 11), (0, 5, 0, 5)),
    "a column of taps": Layer((1, 16, 40, 5), (32, 16, 11, 1), (5, 0, 5, 0)),
    "a column": Layer((1, 16, 60, 1), (16, 16, 11, 1), (5, 0, 5, 0)),
    "depthwise": Layer((1, 20, 30, 30), (20, 1, 13, 13), (6, 6, 6, 6), 20),
}


@pytest.mark.parametrize("name", WHOLE)
def test_through_the_compiler(name: str) -> None:
    WHOLE[name].require_right("fft", ERROR)


DIVIDED = {
    "dense": Layer((1, 64, 48, 48), (64, 64, 7, 7), THREE),
    "splits of channels": Layer((1, 128, 10, 10), (256, 128, 7, 7), THREE),
    "depthwise": Layer((1, 64, 64, 64), (64, 1, 21, 21), (10,) * 4, 64),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_two_threads_share_a_convolution(name: str) -> None:
    DIVIDED[name].require_divided("fft", ERROR)


def layer(shape: tuple[int, ...], weights: tuple[int, ...], pad: int, group: int = 1) -> Module:
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, shape))]))
    weight = module.add_constant("w", numbers(*weights))
    graph.return_(graph.append(Conv(graph.parameters[0], weight, pads=(pad,) * 4, group=group)).result)
    return module


@pytest.mark.parametrize("algorithm", ["fft", "winograd4"])
def test_padding_is_that_of_the_kernel_before(algorithm: str) -> None:
    taps = 5 if algorithm == "fft" else 3
    module = Module()
    graph = module.add_graph(Graph("main", [("x", TensorType(DType.F32, (1, 16, 9, 9)))]))
    weight = module.add_constant("w", numbers(16, 16, taps, taps))
    conv = Conv(graph.parameters[0], weight, auto_pad="SAME_UPPER", kernel_shape=(taps, taps))
    graph.return_(graph.append(conv).result)
    compilation = start(module, Options(conv=algorithm))
    compilation.lower()
    anchors = [op for op in compilation.module.walk() if op.name in ("nn.fft_conv", "nn.winograd_conv")]
    assert [op.attributes["pads"] for op in anchors] == [(taps // 2,) * 4]


@pytest.mark.parametrize(
    ("module", "algorithm"),
    [
        (layer((1, 64, 56, 56), (64, 64, 7, 7), 3), "fft"),
        (layer((1, 64, 56, 56), (64, 1, 31, 31), 15, 64), "fft"),
        (layer((1, 64, 56, 56), (64, 1, 7, 7), 3, 64), "depthwise"),
        (layer((1, 64, 56, 56), (64, 1, 13, 13), 6, 64), "fft"),
        (layer((1, 64, 56, 56), (64, 1, 5, 5), 2, 64), "depthwise"),
    ],
)
def test_the_cheapest_where_the_kernel_is_large(module: Module, algorithm: str) -> None:
    compilation = start(module, Options(target="x86:znver5"))
    compilation.lower()
    chosen = [kernel.attributes.get("algorithm") for kernel in compilation.module.kernels.values()]
    assert algorithm in chosen


def test_refused_for_small_kernels() -> None:
    with pytest.raises(InvalidInput, match="the kernel is 3x3"):
        start(layer((1, 16, 8, 8), (16, 16, 3, 3), 1), Options(conv="fft")).lower()
