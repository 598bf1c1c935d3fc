# pyright: basic
"""Depthwise convolutions on GPUs: every element, by the interpreter; registers, by ptxas."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.targets.cuda.device_code import build_device_code
from rtcc.targets.cuda.kernels import depthwise
from rtcc.targets.cuda.kernels.depthwise_tiles import TILES, DepthwiseTile, best_tiles, depthwise_illegal
from rtcc.targets.cuda.kernels.gemm_tiles import Multiprocessors
from rtcc.targets.cuda.simt import interpret
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.window import Window
from tests.targets.cuda.products import ONE, BiasPerAxis, expected
from tests.targets.cuda.test_device_code import needs_nvcc


def around(extent: int) -> Window:
    """Three taps, padded so that results are as many."""
    return Window(extent, 3, 1, 1, 1, 1)


CONVOLUTIONS = {
    "three by three": Im2colProblem(2, 5, 5, 5, 4, (ONE, around(9), around(12))),
    "strided": Im2colProblem(1, 3, 3, 3, 4, (ONE, Window(10, 3, 2, 1, 1, 0), Window(13, 3, 2, 1, 1, 1))),
    "dilated": Im2colProblem(1, 2, 2, 2, 4, (ONE, Window(10, 3, 1, 2, 2, 2), Window(11, 5, 1, 2, 4, 4))),
    "two filters to a channel": Im2colProblem(1, 3, 3, 6, 4, (ONE, Window(5, 2), Window(7, 3))),
    "one axis": Im2colProblem(2, 4, 4, 4, 3, (ONE, ONE, Window(70, 7, 1, 1, 3, 3))),
    "three axes": Im2colProblem(1, 2, 2, 2, 5, (around(4), Window(5, 3), Window(6, 3, 1, 1, 0, 1))),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("pixels", [1, 4])
def test_depthwise(case: str, pixels: int) -> None:
    problem = CONVOLUTIONS[case]
    random = np.random.default_rng(4)
    extents, taps = ([getattr(w, name) for w in problem.windows] for name in ("extent", "taps"))
    data = random.standard_normal((problem.batch, problem.channels, *extents), np.float32)
    weights = random.standard_normal((problem.filters, 1, *taps), np.float32)
    bias = random.standard_normal(problem.filters, np.float32)
    found = np.full((problem.batch, problem.filters, *problem.output), np.nan, np.float32)
    func = depthwise.make(problem, BiasPerAxis(1, problem.filters), DepthwiseTile(pixels, 64))
    interpret(func, [data, weights, bias, found])
    right = expected(problem, data, weights) + bias[:, None, None, None]
    np.testing.assert_allclose(found, right, rtol=0, atol=1e-5)


def test_what_is_illegal() -> None:
    windows = (ONE, Window(20, 15), Window(20, 15))
    assert "more than 128 taps" in str(depthwise_illegal(Im2colProblem(1, 4, 4, 4, 4, windows)))
    assert "this has 2" in str(depthwise_illegal(Im2colProblem(1, 4, 8, 4, 4, windows)))


def test_tiles_by_what_they_load() -> None:
    gpu = Multiprocessors(108)
    large = Im2colProblem(8, 96, 96, 96, 4, (ONE, around(112), around(112)))
    assert best_tiles(large, gpu)[0].pixels == 4


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_no_tile_spills(tile: DepthwiseTile) -> None:
    for stride in (1, 2):
        side = Window(56, 3, stride, 1, 1, 1)
        func = depthwise.make(Im2colProblem(1, 96, 96, 96, 4, (ONE, side, side)), None, tile)
        made = build_device_code(func, "sm_90")
        assert (made.spill_bytes, made.stack_bytes) == (0, 0)
