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
from rtcc.ir.ops.activation import Relu
from rtcc.ir.ops.fft_conv import transformed_filter
from rtcc.ir.ops.math import Add
from rtcc.ir.ops.nn import Conv
from rtcc.targets.tvm.kernels import fft_conv
from rtcc.targets.tvm.kernels.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.fft_tiles import FftProblem, FftTile, fft_illegal, scratch_bytes
from tests.targets.kernels import blocked, run
from tests.targets.packed import fft_weights
from tests.targets.test_microkernels import BiasRelu, Residual, convolved, expected_with_bias, numbers

lengths = pytest.mark.parametrize("lanes", [16, 8])
ONE, TWO, THREE, FIVE = (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3), (5, 5, 5, 5)
ERROR = 1e-6
"""Of the largest result."""

CASES: dict[str, tuple[ConvProblem, tuple[int, int], FftTile]] = {
    "whole tiles": (
        ConvProblem(1, 32, 20, 20, 32, (7, 7), pads=THREE, output_halo=ONE), (16, 16), FftTile(3, 2)
    ),
    "edges, batch, channels not whole blocks, wide halos": (
        ConvProblem(2, 20, 9, 11, 40, (5, 5), pads=TWO, input_halo=ONE, output_halo=(2, 1, 0, 3)),
        (8, 10), FftTile(2, 2, groups=2),
    ),
    "two splits, uneven pads": (
        ConvProblem(2, 20, 13, 15, 72, (6, 4), pads=(0, 2, 1, 1), output_halo=(0, 1, 0, 0)),
        (12, 8), FftTile(3, 1, groups=2, splits=2),
    ),
    "a row of taps": (
        ConvProblem(1, 20, 3, 60, 24, (1, 15), pads=(0, 7, 0, 7)), (1, 32), FftTile(3, 2)
    ),
    "a column of taps": (
        ConvProblem(1, 20, 21, 5, 24, (15, 1), pads=(7, 0, 7, 0)), (24, 2), FftTile(3, 2)
    ),
    "an image smaller than a tile": (ConvProblem(1, 16, 2, 1, 16, (5, 5), pads=(4, 4, 4, 4)), (8, 8), FftTile(4, 1)),
    "pads wider than the filter": (ConvProblem(1, 16, 4, 4, 16, (4, 4), pads=(9, 0, 6, 4)), (8, 8), FftTile(2, 1)),
    "depthwise": (
        ConvProblem(2, 20, 17, 19, 20, (9, 7), pads=(4, 3, 4, 3), groups=20, input_halo=ONE, output_halo=TWO),
        (20, 16), FftTile(),
    ),
    "depthwise of 31 taps": (
        ConvProblem(1, 16, 40, 40, 16, (31, 31), pads=(15, 15, 15, 15), groups=16), (48, 64), FftTile()
    ),
    "depthwise row": (
        ConvProblem(1, 24, 2, 50, 24, (1, 31), pads=(0, 15, 0, 15), groups=24), (1, 40), FftTile()
    ),
}  # fmt: skip


def result_of(p: FftProblem, tile: FftTile, epilogue, extra: list[np.ndarray]):
    """What the kernel gives for seeded data and weights, and those."""
    conv = p.conv
    data = numbers(conv.batch, conv.channels, conv.height, conv.width)
    weights = numbers(conv.filters, conv.channels // conv.groups, *conv.kernel)
    points = p.points if conv.kernel[1] > 1 or p.points[1] > 1 else (p.points[0], 1)
    packed = fft_weights(transformed_filter(weights, points).astype(np.float32), p, tile)
    func = fft_conv.make(p, epilogue, tile)
    inputs = [blocked(data, conv.input), packed, *extra]
    return run(func, conv.lanes, inputs, conv.output.shape, scratch_bytes(p, tile)), data, weights


def close_enough(result: np.ndarray, expected: np.ndarray, p: FftProblem) -> None:
    """Within a few roundings of a tile; halos and padding lanes are zero."""
    out = p.conv.output
    inside = blocked(np.ones((out.batch, out.channels, out.height, out.width)), out) == 1
    assert not result[~inside].any()
    assert np.abs(result - expected)[inside].max() <= ERROR * np.abs(expected).max()


@lengths
@pytest.mark.parametrize("name", CASES)
def test_fft_conv(name: str, lanes: int) -> None:
    conv, points, tile = CASES[name]
    p = FftProblem(replace(conv, lanes=lanes), points)
    bias = numbers(p.conv.output.blocks * lanes)
    result, data, weights = result_of(p, tile, BiasRelu(len(bias)), [bias])
    close_enough(result, expected_with_bias(data, weights, bias, p.conv), p)
