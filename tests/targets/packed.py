# pyright: basic
"""Weights in the order that micro-kernels read, for tests that call them without select-layout."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem, Tile
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, MatmulTile
from rtcc.targets.tvm.kernels.transformed.fft_tiles import FftProblem
from rtcc.targets.tvm.kernels.transformed.transformed_tiles import Blocking
from rtcc.targets.tvm.kernels.transformed.winograd_tiles import WinogradProblem


def depthwise_weights(weights: NDArray[Any], problem: ConvProblem) -> NDArray[Any]:
    """ONNX weights [C][1][R][S]  →  [C/b][R][S][b], zero-padded."""
    channels, _, rows, taps = weights.shape
    padded = np.zeros((problem.output.blocks * problem.lanes, rows, taps), weights.dtype)
    padded[:channels] = weights[:, 0]
    return np.ascontiguousarray(padded.reshape(-1, problem.lanes, rows, taps).transpose(0, 2, 3, 1))


def plain_weights(weights: NDArray[Any], problem: ConvProblem, tile: Tile) -> NDArray[Any]:
    """ONNX weights [K][C][R][S]  →  [K/(nt·b)][C][R][S][nt·b], zero-padded."""
    columns = tile.blocks * problem.lanes
    filters = weights.shape[0]
    padded = np.zeros((-(-filters // columns) * columns, *weights.shape[1:]), weights.dtype)
    padded[:filters] = weights
    return np.ascontiguousarray(padded.reshape(-1, columns, *weights.shape[1:]).transpose(0, 2, 3, 4, 1))


def direct_weights(weights: NDArray[Any], problem: ConvProblem, tile: Tile) -> NDArray[Any]:
    """ONNX weights [K][C/groups][R][S]  →  [K/(nt·b)][C/b][R][S][b][nt·b], zero-padded."""
    lanes, columns = problem.lanes, tile.blocks * problem.lanes
    filters, channels, rows, taps = weights.shape
    padded = np.zeros(
        (-(-filters // columns) * columns, -(-channels // lanes) * lanes, rows, taps), weights.dtype
    )
    padded[:filters, :channels] = weights
    shape = (padded.shape[0] // columns, columns, padded.shape[1] // lanes, lanes, rows, taps)
    return np.ascontiguousarray(padded.reshape(shape).transpose(0, 2, 4, 5, 3, 1))


def matmul_weights(weights: NDArray[Any], problem: MatmulProblem, tile: MatmulTile) -> NDArray[Any]:
    """[K][N] (or [batch][K][N])  →  [batch][groups][K][nt·b], zero-padded."""
    columns = tile.vectors * problem.lanes
    matrices = weights.reshape(-1, problem.depth, problem.columns)
    groups = -(-problem.columns // columns)
    padded = np.zeros((len(matrices), problem.depth, groups * columns), weights.dtype)
    padded[..., : problem.columns] = matrices
    return np.ascontiguousarray(
        padded.reshape(len(matrices), problem.depth, groups, columns).transpose(0, 2, 1, 3)
    )


def winograd_weights(transformed: NDArray[Any], problem: WinogradProblem, tile: Blocking) -> NDArray[Any]:
    """Transformed weights [M, C, rows, columns]  →  [M/(nt·b)][rows][columns][C][nt·b], zero-padded."""
    columns = tile.blocks * problem.conv.lanes
    filters, channels = transformed.shape[:2]
    padded = np.zeros((-(-filters // columns) * columns, channels, *problem.points), transformed.dtype)
    padded[:filters] = transformed
    shape = (-1, columns, channels, *problem.points)
    return np.ascontiguousarray(padded.reshape(shape).transpose(0, 3, 4, 2, 1))


def fft_weights(transformed: NDArray[Any], problem: FftProblem, tile: Blocking) -> NDArray[Any]:
    """[M, C, pairs, 2]  →  [M/(nt·b)][pairs][C][2][nt·b]; depthwise [C/b][pairs][2][b]; zero-padded."""
    columns = (1 if problem.is_depthwise else tile.blocks) * problem.conv.lanes
    filters, channels, pairs, _ = transformed.shape
    padded = np.zeros((-(-filters // columns) * columns, channels, pairs, 2), transformed.dtype)
    padded[:filters] = transformed
    packed = padded.reshape(-1, columns, channels, pairs, 2).transpose(0, 3, 2, 4, 1)
    return np.ascontiguousarray(packed[:, :, 0] if problem.is_depthwise else packed)
