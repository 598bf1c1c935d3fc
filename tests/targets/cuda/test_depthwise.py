# pyright: basic
"""Depthwise convolutions on GPUs: every element, by the interpreter; registers, by ptxas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rtcc.ir import Layout
from rtcc.targets.cuda.device_code import build_device_code
from rtcc.targets.cuda.kernels import depthwise
from rtcc.targets.cuda.kernels.depthwise_tiles import (
    TILES,
    DepthwiseNumbers,
    DepthwiseTile,
    best_tiles,
    depthwise_illegal,
)
from rtcc.targets.cuda.kernels.gemm_tiles import Multiprocessors
from rtcc.targets.cuda.simt import interpret
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.window import Window
from tests.targets.cuda.nvcc import needs_nvcc
from tests.targets.cuda.products import ONE, BiasPerAxis, expected


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


@pytest.mark.parametrize(("dtype", "block"), [(np.float16, 8), (np.uint8, 16), (np.int8, 16)])
@pytest.mark.parametrize("case", ["three by three", "strided", "one axis"])
def test_blocks_of_channels(case: str, dtype: type, block: int) -> None:
    """Small integers, which halves hold exactly; bytes of all values."""
    problem = replace(CONVOLUTIONS[case], channels=19, filters=19, groups=19)
    random, info = np.random.default_rng(6), np.iinfo(dtype) if dtype is not np.float16 else None
    low, high = (-8, 9) if info is None else (info.min, info.max + 1)
    extents, taps = ([getattr(w, name) for w in problem.windows] for name in ("extent", "taps"))
    data = random.integers(low, high, (problem.batch, 19, *extents)).astype(dtype)
    weights = random.integers(-8, 9, (19, 1, *taps)).astype(np.float16 if info is None else np.int8)
    total = "float32" if info is None else "int32"
    numbers = DepthwiseNumbers(np.dtype(dtype).name, weights.dtype.name, total, total, block)
    layout, packing = Layout.blocked(5, block), Layout.blocked(5, block, axis=0)
    found = np.full(layout.physical_shape((problem.batch, 19, *problem.output)), 77, total)
    func = depthwise.make(problem, None, DepthwiseTile(4, 64), numbers)
    interpret(func, [layout.pack(data), packing.pack(weights), found])
    np.testing.assert_array_equal(found, layout.pack(expected(problem, data, weights)))


def test_what_is_illegal() -> None:
    assert "one to a channel" in str(depthwise_illegal(CONVOLUTIONS["two filters to a channel"], 8))
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
