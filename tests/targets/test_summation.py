# pyright: basic
"""Long sums err no more than blocks do: equal terms, whose rounding errors do not cancel."""

from __future__ import annotations

import numpy as np
import pytest
from tvm import tirx

from rtcc.ir.ops.winograd import amplification, transformed_filter
from rtcc.targets.tvm.kernels.convolution import direct_conv, plain_conv
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem
from rtcc.targets.tvm.kernels.convolution.conv_tiles import direct_tile, plain_tile
from rtcc.targets.tvm.kernels.matrix_product import matmul
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, MatmulTile, choose_tile
from rtcc.targets.tvm.kernels.tiling import even_part, together
from rtcc.targets.tvm.kernels.transformed import winograd_conv
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import Blocking, scratch_bytes
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem
from rtcc.targets.tvm.summation import BLOCK, LONGEST, block_length, transformed_roundings
from tests.targets.kernels import blocked, run
from tests.targets.lowered import Kernels
from tests.targets.packed import direct_weights, matmul_weights, plain_weights, winograd_weights

U = 2.0**-24
TERM = np.float32(0.1)


def bound(terms: int) -> float:
    """The relative error that blocks allow for equal terms."""
    block = block_length(terms)
    return (block + -(-terms // block)) * U


def test_blocks_bound_the_error() -> None:
    assert block_length(LONGEST) == LONGEST
    assert block_length(LONGEST + 1) == BLOCK
    assert block_length(1 << 20) == 1 << 10
    for terms in (1, 511, 512, 513, 9216, 1 << 20):
        block = block_length(terms)
        assert block + -(-terms // block) <= max(LONGEST + 1, 2 * terms**0.5 + BLOCK + 1)


@pytest.mark.parametrize("tile", [None, MatmulTile(1, 1, 4), MatmulTile(2, 2, 3)])
@pytest.mark.parametrize("depth", [9216, 9217, 8191])
def test_products(depth: int, tile: MatmulTile | None) -> None:
    problem = MatmulProblem(3, 40, depth)
    tile = tile or choose_tile(problem, 32)
    left, right = np.full((1, 3, depth), TERM), np.ones((depth, 40), np.float32)
    packed = matmul_weights(right, problem, tile)
    result = run(matmul.make(problem, None, tile), 16, [left, packed], (1, 3, 40))
    exact = depth * float(TERM)
    assert np.abs(result - exact).max() <= bound(depth) * exact


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions(kernel: int) -> None:
    channels = 9216 // kernel**2
    p = ConvProblem(1, channels, kernel, kernel + 1, 16, (kernel, kernel))
    tile = direct_tile(p, 32)
    data, weights = np.full((1, channels, kernel, kernel + 1), TERM), np.ones((16, channels, kernel, kernel))
    packed = direct_weights(weights.astype(np.float32), p, tile)
    result = run(direct_conv.make(p, None, tile), 16, [blocked(data, p.input), packed], p.output.shape)
    exact = 9216 * float(TERM)
    assert np.abs(result - exact).max() <= bound(9216) * exact


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_of_plain_pictures(kernel: int) -> None:
    channels = 9216 // kernel**2
    p = ConvProblem(1, channels, kernel, kernel + 1, 16, (kernel, kernel))
    data, weights = np.full((1, channels, kernel, kernel + 1), TERM), np.ones((16, channels, kernel, kernel))
    packed = plain_weights(weights.astype(np.float32), p, plain_tile(p, 32))
    result = run(plain_conv.make(p), 16, [data, packed], p.output.shape)
    exact = 9216 * float(TERM)
    assert np.abs(result - exact).max() <= bound(9216) * exact


@pytest.mark.parametrize("channels", [9216, 9209, 200])
@pytest.mark.parametrize("outputs", [2, 4])
def test_winograd(outputs: int, channels: int) -> None:
    size = outputs + 2
    p = WinogradProblem(ConvProblem(1, channels, size, size, 16, (3, 3)), (outputs, outputs))
    tile = Blocking(1, 1)
    weights = np.zeros((16, channels, 3, 3), np.float32)
    weights[:, :, 1, 1] = 1
    packed = winograd_weights(transformed_filter(weights, p.outputs).astype(np.float32), p, tile)
    data = np.full((1, channels, size, size), TERM)
    func = winograd_conv.make(p, None, tile)
    result = run(func, 16, [blocked(data, p.conv.input), packed], p.conv.output.shape, scratch_bytes(p, tile))
    exact = channels * float(TERM)
    steps = transformed_roundings(channels) + 4 * size
    assert np.abs(result - exact).max() <= amplification(p.outputs, (3, 3)) * steps * U * exact


@pytest.mark.parametrize(
    ("outputs", "lanes", "most"), [(2, 16, 2.95), (4, 16, 8.2), (2, 4, 4.1), (4, 4, 11.0)]
)
def test_winograd_adds_random_terms_by_parts(outputs: int, lanes: int, most: float) -> None:
    """Root mean squares: errors, over u · √Σ terms². By parts of 32 channels they are 3.1 and 8.8.

    Where lanes are multiplied parts are of 64: 4.0 and 10.9."""
    random, channels, size = np.random.default_rng(0), 512, 16
    conv = ConvProblem(1, channels, size, size, 32, (3, 3), lanes=lanes, by_lane=lanes == 4)
    p = WinogradProblem(conv, (outputs, outputs))
    tile = Blocking(4, 2)
    weights = random.standard_normal((32, channels, 3, 3)).astype(np.float32)
    data = np.maximum(random.standard_normal((1, channels, size, size)), 0).astype(np.float32)
    packed = winograd_weights(transformed_filter(weights, p.outputs).astype(np.float32), p, tile)
    func = winograd_conv.make(p, None, tile)
    inputs = [blocked(data, p.conv.input), packed]
    result = run(func, lanes, inputs, p.conv.output.shape, scratch_bytes(p, tile))
    windows = np.lib.stride_tricks.sliding_window_view(data[0].astype(np.float64), (3, 3), (1, 2))
    exact = np.einsum("cyxrs,kcrs->kyx", windows, weights, optimize=True)
    terms = np.einsum("cyxrs,kcrs->kyx", windows**2, weights.astype(np.float64) ** 2, optimize=True)
    found = result.transpose(0, 1, 4, 2, 3).reshape(exact.shape)
    error = np.sqrt(np.mean((found - exact) ** 2) / np.mean(terms)) / U
    assert error <= most


def test_sums_of_transformed_products_have_three_levels() -> None:
    assert [transformed_roundings(channels) for channels in (1, 16, 17, 64, 128, 129, 512)] == [
        1, 16, 18, 20, 24, 26, 28,
    ]  # fmt: skip
    by_lane = [transformed_roundings(channels, by_lane=True) for channels in (1, 64, 65, 512)]
    assert by_lane == [1, 64, 66, 72]


def test_channels_are_taken_together_where_they_divide() -> None:
    assert [together(count) for count in (1, 2, 3, 4, 6, 8)] == [1, 2, 1, 4, 2, 4]
    assert together(tirx.Var("count", "int32")) == 1


def test_parts_are_equal_where_that_costs_little() -> None:
    assert [even_part(blocks, 32) for blocks in (144, 240, 64, 33, 37)] == [24, 24, 32, 32, 32]


REDUCTIONS = {
    "last": ("f32[2,20000]", "f32[2,1]", "1", 20000 // 16 + 16),
    "last_uneven": ("f32[2,20011]", "f32[2,1]", "1", 20011 // 16 + 16),
    "columns": ("f32[9000,40]", "f32[1,40]", "0", 9000),
    "several": ("f32[70,40,33]", "f32[1,1,1]", "0,1,2", 70 * 40 * 2 + 16),
    "outer": ("f32[300,40,33]", "f32[1,1,33]", "0,1", 300 * 40),
}  # fmt: skip


@pytest.fixture(scope="module")
def reductions() -> Kernels:
    text = "".join(
        f"const #{name} : i64[{axes.count(',') + 1}] = [{axes}]\n"
        for name, (_, _, axes, _) in REDUCTIONS.items()
    )
    for name, (data, result, _, _) in REDUCTIONS.items():
        text += f"kernel @{name}(%x: {data}) {{\n  %y = reduce.reduce_sum(%x, #{name}) : {result}\n"
        text += "  return(%y)\n}\n"
    return Kernels(text)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(reductions: Kernels, name: str) -> None:
    data = np.full(reductions.kernel(name).parameters[0].type.sizes, TERM)
    code, (result,) = reductions.run(name, [data])
    assert code == 0
    exact = data.size / result.size * float(TERM)
    assert np.abs(result - exact).max() <= bound(REDUCTIONS[name][3]) * exact
