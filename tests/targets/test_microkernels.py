# pyright: basic
"""The micro-kernels against NumPy in float64, in both vector lengths, with buffers against guard pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rtcc.targets.tvm import vector_math
from rtcc.targets.tvm.kernels.attention import softmax
from rtcc.targets.tvm.kernels.convolution import depthwise_conv, direct_conv, plain_conv
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.convolution.conv_tiles import (
    depthwise_tile,
    direct_illegal,
    direct_tile,
    plain_tile,
)
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Position
from rtcc.targets.tvm.kernels.matrix_product import matmul
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import (
    MatmulProblem,
    MatmulTile,
    Right,
    choose_tile,
    scratch_bytes,
)
from rtcc.targets.tvm.kernels.pooling import pool
from rtcc.targets.tvm.kernels.pooling.pool_problem import PoolProblem, Reduction
from tests.targets.kernels import blocked, close, run
from tests.targets.packed import depthwise_weights, direct_weights, matmul_weights, plain_weights

REGISTERS = {16: 32, 8: 16, 4: 32}
lengths = pytest.mark.parametrize("lanes", [16, 8])
lengths_by_lane = pytest.mark.parametrize("lanes", [16, 8, 4])
"""Besides, as on ARM: short vectors that are multiplied lane by lane."""


class BiasRelu:
    """relu(value + bias), the bias along the vectors' axis."""

    def __init__(self, extent: int) -> None:
        self.parameters: Sequence[BufferSpec] = (BufferSpec("bias", (extent,)),)

    def emit(self, value, at: Position, buffers):
        return vector_math.relu(value + buffers[0][at.vector_index(at.axis)])


class Residual:
    """value + another activation of the output's own shape and layout."""

    def __init__(self, shape: tuple[int, ...], halo: tuple[int, int, int, int]) -> None:
        self.parameters: Sequence[BufferSpec] = (BufferSpec("residual", shape),)
        self.halo = halo

    def emit(self, value, at: Position, buffers):
        n, channel, y, x = at.index
        lane = replace(at, index=(n, 0, y, x)).vector_index(1)
        block = (
            channel // at.lanes if isinstance(channel, int) else vector_math.tirx.truncdiv(channel, at.lanes)
        )
        return value + buffers[0][n, block, y + self.halo[0], x + self.halo[1], lane]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def convolved(data: np.ndarray, weights: np.ndarray, p: ConvProblem) -> np.ndarray:
    top, left, bottom, right = p.pads
    padded = np.pad(data.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    height, width = p.output_height, p.output_width
    result = np.zeros((p.batch, p.groups, p.filters // p.groups, height, width))
    grouped = padded.reshape(p.batch, p.groups, -1, *padded.shape[2:])
    filters = weights.astype(np.float64).reshape(p.groups, p.filters // p.groups, *weights.shape[1:])
    for r in range(p.kernel[0]):
        for s in range(p.kernel[1]):
            y, x = r * p.dilations[0], s * p.dilations[1]
            rows = slice(y, y + (height - 1) * p.strides[0] + 1, p.strides[0])
            columns = slice(x, x + (width - 1) * p.strides[1] + 1, p.strides[1])
            result += np.einsum("ngchw,gkc->ngkhw", grouped[:, :, :, rows, columns], filters[..., r, s])
    return result.reshape(p.batch, p.filters, height, width)


def expected_with_bias(data, weights, bias, p: ConvProblem) -> np.ndarray:
    sums = convolved(data, weights, p) + bias[: p.filters, None, None]
    return blocked(np.maximum(sums, 0), p.output)


DIRECT = {
    "tile does not divide the width": ConvProblem(
        1, 32, 9, 29, 64, (3, 3), pads=(1, 1, 1, 1), input_halo=(1, 1, 1, 1), output_halo=(1, 1, 1, 1)
    ),
    "stride 2, channels not whole blocks": ConvProblem(
        1, 20, 9, 11, 24, (3, 3), (2, 2), pads=(1, 1, 1, 1), input_halo=(1, 1, 1, 1), output_halo=(2, 1, 0, 3)
    ),
    "pointwise with joined rows": ConvProblem(2, 33, 7, 7, 50, (1, 1)),
    "pointwise with an output halo": ConvProblem(1, 16, 5, 6, 40, (1, 1), output_halo=(0, 1, 2, 0)),
    "groups of whole blocks": ConvProblem(2, 32, 7, 7, 96, (1, 1), groups=2, output_halo=(1, 1, 1, 1)),
    "dilation, halo wider than the padding": ConvProblem(
        1, 16, 8, 17, 40, (3, 5), dilations=(2, 1), pads=(2, 2, 2, 2), input_halo=(3, 2, 2, 4)
    ),
    "halo that is not read": ConvProblem(1, 16, 12, 12, 16, (1, 1), (2, 2), input_halo=(1, 1, 1, 1)),
    "one pixel": ConvProblem(1, 16, 1, 1, 16, (3, 3), pads=(1, 1, 1, 1), input_halo=(1, 1, 1, 1)),
}


@lengths_by_lane
@pytest.mark.parametrize("name", DIRECT)
def test_direct_conv(name: str, lanes: int) -> None:
    p = replace(DIRECT[name], lanes=lanes, by_lane=lanes == 4)
    tile = direct_tile(p, REGISTERS[lanes])
    data, weights = (
        numbers(p.batch, p.channels, p.height, p.width),
        numbers(p.filters, p.channels // p.groups, *p.kernel),
    )
    bias = numbers(p.output.blocks * lanes)
    func = direct_conv.make(p, BiasRelu(len(bias)), tile)
    packed = direct_weights(weights, p, tile)
    result = run(func, lanes, [blocked(data, p.input), packed, bias], p.output.shape)
    close(result, expected_with_bias(data, weights, bias, p), weights[0].size)


@lengths_by_lane
@pytest.mark.parametrize("name", [name for name, p in DIRECT.items() if any(p.pads)])
def test_direct_conv_multiplies_no_padding(name: str, lanes: int) -> None:
    """What lies in the border is not read: were it not zero, results would be the same."""
    p = replace(DIRECT[name], lanes=lanes, by_lane=lanes == 4)
    tile = direct_tile(p, REGISTERS[lanes])
    data = numbers(p.batch, p.channels, p.height, p.width)
    weights, bias = numbers(p.filters, p.channels // p.groups, *p.kernel), numbers(p.output.blocks * lanes)
    stored = blocked(data, p.input)
    top, left, _, _ = p.input_halo
    border = np.ones(stored.shape, bool)
    border[:, :, top : top + p.height, left : left + p.width] = False
    func = direct_conv.make(p, BiasRelu(len(bias)), tile)
    arguments = [np.where(border, np.float32(np.nan), stored), direct_weights(weights, p, tile), bias]
    result = run(func, lanes, arguments, p.output.shape)
    close(result, expected_with_bias(data, weights, bias, p), weights[0].size)


@pytest.mark.parametrize(
    ("p", "pairs"),
    [
        (ConvProblem(1, 16, 7, 7, 16, (3, 3), pads=(1, 1, 1, 1)), 19 / 21 * 19 / 21),
        (ConvProblem(1, 16, 8, 8, 16, (3, 3), (2, 2), pads=(1, 1, 1, 1)), 11 / 12 * 11 / 12),
        (ConvProblem(1, 16, 7, 7, 16, (1, 1)), 1.0),
    ],
)
def test_share_of_products_inside_the_data(p: ConvProblem, pairs: float) -> None:
    """The first and last of seven rows have two of three taps inside; with stride 2 only the first has."""
    assert p.share_inside == pytest.approx(pairs)


@lengths_by_lane
def test_direct_conv_in_several_passes(lanes: int) -> None:
    """Sums that rest in the output between passes; the last group has fewer rows and blocks."""
    p = ConvProblem(1, 80, 7, 7, 48, (3, 3), pads=(1, 1, 1, 1), lanes=lanes, input_halo=(1, 1, 1, 1))
    p = replace(p, by_lane=lanes == 4)
    tile = Tile(pixels=4, blocks=4, depth=3, rows=5)
    data, weights, bias = numbers(1, 80, 7, 7), numbers(48, 80, 3, 3), numbers(48)
    func = direct_conv.make(p, BiasRelu(48), tile)
    packed = direct_weights(weights, p, tile)
    result = run(func, lanes, [blocked(data, p.input), packed, bias], p.output.shape)
    close(result, expected_with_bias(data, weights, bias, p), 720)


@lengths
def test_residual_epilogue_sees_logical_positions(lanes: int) -> None:
    p = ConvProblem(2, 16, 6, 6, 32, (1, 1), lanes=lanes)
    tile = Tile(5, 2, joined=3)
    data, weights, other = numbers(2, 16, 6, 6), numbers(32, 16, 1, 1), numbers(2, 32, 6, 6)
    form = replace(p.output, halo=(1, 2, 0, 1))
    func = direct_conv.make(p, Residual(form.shape, form.halo), tile)
    packed = direct_weights(weights, p, tile)
    result = run(func, lanes, [blocked(data, p.input), packed, blocked(other, form)], p.output.shape)
    close(result, blocked(convolved(data, weights, p) + other, p.output), 16)


def test_direct_conv_says_what_it_cannot_do() -> None:
    narrow = ConvProblem(1, 16, 8, 8, 16, (3, 3), pads=(1, 1, 1, 1))
    assert "halo" in (direct_illegal(narrow) or "")
    grouped = ConvProblem(1, 32, 8, 8, 32, (1, 1), groups=4)
    assert "blocks of 16" in (direct_illegal(grouped) or "")


PLAIN = {
    "first layer of ResNet, narrower": ConvProblem(
        1, 3, 38, 60, 64, (7, 7), (2, 2), pads=(3, 3, 3, 3), output_halo=(1, 1, 1, 1)
    ),
    "LeNet, vectors along the row": ConvProblem(1, 3, 32, 32, 6, (5, 5)),
    "few filters, padded rows, dilated": ConvProblem(
        2, 2, 9, 75, 3, (3, 4), (2, 1), (1, 2), pads=(1, 0, 2, 0), output_halo=(1, 0, 1, 2)
    ),
    "few filters, padded sides": ConvProblem(1, 3, 8, 33, 4, (3, 3), pads=(1, 1, 1, 1)),
    "dilated, uneven padding": ConvProblem(
        2, 1, 13, 11, 20, (3, 5), (2, 1), (2, 2), pads=(3, 2, 4, 5), output_halo=(0, 1, 2, 0)
    ),
    "image smaller than the filter": ConvProblem(1, 2, 5, 2, 17, (3, 3), pads=(1, 1, 1, 1)),
    "padding wider than the filter": ConvProblem(1, 3, 6, 6, 17, (3, 3), pads=(3, 4, 5, 4)),
    "pointwise, rows of no whole tiles": ConvProblem(2, 21, 5, 27, 40, (1, 1)),
    "rows shorter than a vector": ConvProblem(1, 5, 4, 3, 24, (1, 1)),
}


@lengths_by_lane
@pytest.mark.parametrize("name", PLAIN)
def test_plain_conv(name: str, lanes: int) -> None:
    p = replace(PLAIN[name], lanes=lanes, by_lane=lanes == 4)
    tile = plain_tile(p, REGISTERS[lanes])
    data, weights = numbers(p.batch, p.channels, p.height, p.width), numbers(p.filters, p.channels, *p.kernel)
    bias = numbers(p.output.blocks * lanes)
    func = plain_conv.make(p, BiasRelu(len(bias)), tile)
    result = run(func, lanes, [data, plain_weights(weights, p, tile), bias], p.output.shape)
    close(result, expected_with_bias(data, weights, bias, p), weights[0].size)


DEPTHWISE = {
    "stride 2": ConvProblem(
        1, 20, 9, 9, 20, (3, 3), (2, 2), pads=(1, 1, 1, 1), groups=20, input_halo=(1, 1, 1, 1),
        output_halo=(1, 2, 0, 1),
    ),
    "wide row": ConvProblem(
        2, 8, 3, 37, 8, (3, 3), pads=(1, 1, 1, 1), groups=8, input_halo=(1, 1, 1, 1)
    ),
    "7x7, looping over the filter's rows": ConvProblem(
        1, 24, 11, 11, 24, (7, 7), pads=(3, 3, 3, 3), groups=24, input_halo=(3, 3, 3, 3)
    ),
    "dilated": ConvProblem(
        2, 17, 9, 8, 17, (3, 3), dilations=(2, 3), pads=(2, 3, 2, 3), groups=17, input_halo=(2, 3, 4, 3)
    ),
}  # fmt: skip


@lengths
@pytest.mark.parametrize("tasks", [1, 2])
@pytest.mark.parametrize("name", DEPTHWISE)
def test_depthwise_conv(name: str, tasks: int, lanes: int) -> None:
    p = replace(DEPTHWISE[name], lanes=lanes)
    data, weights = numbers(p.batch, p.channels, p.height, p.width), numbers(p.filters, 1, *p.kernel)
    bias = numbers(p.output.blocks * lanes)
    func = depthwise_conv.make(p, BiasRelu(len(bias)), depthwise_tile(p, REGISTERS[lanes], tasks))
    packed = depthwise_weights(weights, p)
    result = run(func, lanes, [blocked(data, p.input), packed, bias], p.output.shape)
    close(result, expected_with_bias(data, weights, bias, p), weights[0].size)


MATMUL = {
    "vector by plain": MatmulProblem(1, 150, 33, batch=2, right=Right.PLAIN),
    "vector by whole plain groups": MatmulProblem(3, 128, 33, batch=2, right=Right.PLAIN),
    "vector by transposed": MatmulProblem(2, 45, 39, batch=3, right=Right.TRANSPOSED),
    "vector by few transposed": MatmulProblem(1, 5, 64, right=Right.TRANSPOSED),
    "vector by matrix": MatmulProblem(1, 120, 400),
    "few columns": MatmulProblem(1, 10, 84),
    "one product": MatmulProblem(1, 3, 1),
    "columns and rows that divide nothing": MatmulProblem(33, 70, 65, batch=2),
    "several column groups, partial last": MatmulProblem(5, 1000, 24),
    "plain": MatmulProblem(5, 37, 19, batch=3, right=Right.PLAIN),
    "plain, shared": MatmulProblem(9, 150, 33, batch=2, shares_right=True, right=Right.PLAIN),
    "transposed": MatmulProblem(17, 137, 35, batch=3, right=Right.TRANSPOSED),
    "transposed, shared left": MatmulProblem(9, 20, 33, batch=2, shares_left=True, right=Right.TRANSPOSED),
}


@lengths
@pytest.mark.parametrize("name", MATMUL)
def test_matmul(name: str, lanes: int) -> None:
    p = replace(MATMUL[name], lanes=lanes)
    check_matmul(p, choose_tile(p, REGISTERS[lanes]))


@lengths
def test_matmul_with_partial_row_groups(lanes: int) -> None:
    check_matmul(MatmulProblem(23, 40, 12, batch=2, lanes=lanes), MatmulTile(4, 2, steps=2, group=4))


def check_matmul(p: MatmulProblem, tile: MatmulTile) -> None:
    left = numbers(1 if p.shares_left else p.batch, p.rows, p.depth)
    right = numbers(1 if p.shares_right or p.right is Right.PACKED else p.batch, p.depth, p.columns)
    p = replace(p, shares_right=len(right) == 1)
    stored = matmul_weights(right, p, tile) if p.right is Right.PACKED else right
    if p.right is Right.TRANSPOSED:
        stored = right.transpose(0, 2, 1)
    bias = numbers(p.columns)
    func = matmul.make(p, BiasRelu(p.columns), tile)
    shape = (p.batch, p.rows, p.columns)
    result = run(func, p.lanes, [left, stored, bias], shape, scratch_bytes(p, tile))
    close(result, np.maximum(left.astype(np.float64) @ right.astype(np.float64) + bias, 0), p.depth)


POOL = {
    "ResNet": PoolProblem(Reduction.MAXIMUM, 1, 20, 13, 30, (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    "dilated, halos": PoolProblem(
        Reduction.MAXIMUM, 2, 20, 13, 9, (3, 4), (2, 3), (2, 1), pads=(1, 2, 2, 1), input_halo=(1, 0, 0, 2),
        output_halo=(1, 1, 2, 0),
    ),
    "ceil": PoolProblem(Reduction.MAXIMUM, 1, 18, 10, 12, (3, 3), (2, 2), ceil_mode=True),
    "average": PoolProblem(Reduction.AVERAGE, 1, 18, 11, 13, (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    "padded average": PoolProblem(Reduction.PADDED_AVERAGE, 1, 18, 11, 13, (3, 3), (2, 2), pads=(1, 1, 1, 1)),
    "average, ceil": PoolProblem(
        Reduction.AVERAGE, 1, 18, 10, 12, (3, 3), (2, 2), pads=(1, 1, 0, 0), ceil_mode=True
    ),
    "padded average, ceil": PoolProblem(
        Reduction.PADDED_AVERAGE, 1, 18, 10, 12, (3, 3), (2, 2), pads=(1, 1, 0, 0), ceil_mode=True
    ),
    "global average": PoolProblem(Reduction.AVERAGE, 1, 24, 7, 7, (7, 7)),
    "global maximum, halo": PoolProblem(Reduction.MAXIMUM, 2, 20, 5, 19, (5, 19), input_halo=(1, 2, 3, 4)),
}  # fmt: skip


def pooled(data: np.ndarray, p: PoolProblem) -> np.ndarray:
    down, across = p.window(0), p.window(1)
    result = np.zeros((p.batch, p.channels, down.count, across.count))
    for y in range(down.count):
        for x in range(across.count):
            rows = [down.coordinate(y, tap) for tap in range(down.taps)]
            columns = [across.coordinate(x, tap) for tap in range(across.taps)]
            inside = np.ix_([r for r in rows if 0 <= r < p.height], [c for c in columns if 0 <= c < p.width])
            window = data.astype(np.float64)[:, :, *inside]
            count = window[0, 0].size
            if p.reduction is Reduction.PADDED_AVERAGE:
                count = sum(r < p.height + p.pads[2] for r in rows) * sum(
                    c < p.width + p.pads[3] for c in columns
                )
            maximum = p.reduction is Reduction.MAXIMUM
            result[:, :, y, x] = window.max((2, 3)) if maximum else window.sum((2, 3)) / count
    return result


@lengths
@pytest.mark.parametrize("name", POOL)
def test_pool(name: str, lanes: int) -> None:
    p = replace(POOL[name], lanes=lanes)
    data = numbers(p.batch, p.channels, p.height, p.width)
    result = run(pool.make(p), lanes, [blocked(data, p.input)], p.output.shape)
    close(result, blocked(pooled(data, p), p.output), 1)


def test_maximum_pool_keeps_nan() -> None:
    p = PoolProblem(Reduction.MAXIMUM, 1, 16, 4, 4, (2, 2), (2, 2))
    data = numbers(1, 16, 4, 4)
    data[0, 3, 0, 1] = np.nan
    result = run(pool.make(p), 16, [blocked(data, p.input)], p.output.shape)
    assert np.argwhere(np.isnan(result)).tolist() == [[0, 0, 0, 0, 3]]


def test_tiles_leave_every_task_work() -> None:
    p = ConvProblem(1, 64, 56, 56, 64, (1, 1))
    alone, shared = direct_tile(p, 32), direct_tile(p, 32, tasks=4)
    assert alone.joined == 56
    assert 56 // shared.joined >= 4


SOFTMAX = [(5, 16), (3, 37), (4, 64), (2, 129), (3, 257), (1, 1000)]


@lengths
@pytest.mark.parametrize(("rows", "count"), SOFTMAX)
def test_softmax(rows: int, count: int, lanes: int) -> None:
    data, bias = 30 * numbers(rows, count), numbers(count)
    result = run(softmax.make(rows, count, lanes, BiasRelu(count)), lanes, [data, bias], (rows, count))
    powers = np.exp(data.astype(np.float64) - data.max(1, keepdims=True))
    expected = np.maximum(powers / powers.sum(1, keepdims=True) + bias, 0)
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=2e-7)


@lengths
def test_softmax_at_corners(lanes: int) -> None:
    """Masked elements count nothing; NaN, infinity and rows that are masked throughout give NaN."""
    data = np.zeros((5, 21), np.float32)
    data[0, ::2], data[0, 1], data[1, 3], data[2, 20] = -np.inf, 200, np.nan, np.inf
    data[3], data[4, 0] = -np.inf, -1e30
    result = run(softmax.make(5, 21, lanes), lanes, [data], (5, 21))
    assert result[0, 1] == 1
    assert not result[0, [0, 2, 3, 20]].any()
    assert np.isnan(result[1:4]).all()
    assert result[4, 0] == 0
    np.testing.assert_allclose(result[4, 1:], 1 / 20, rtol=1e-6)
