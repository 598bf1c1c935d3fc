# pyright: basic, reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
"""Products and convolutions for tests of GPU kernels: operands as kernels take them, results in float64."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from types import ModuleType

import numpy as np
from tvm import tirx

from rtcc.targets.cuda.kernels import implicit_gemm, matmul
from rtcc.targets.cuda.kernels.fragment_tiles import FragmentTile
from rtcc.targets.cuda.kernels.gemm_tiles import GemmShape, GemmTile, conv_shape, product_shape
from rtcc.targets.cuda.simt import interpret
from rtcc.targets.tvm.function_builder import Expr, Index
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.epilogue import BufferSpec, Position
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, Right
from rtcc.targets.tvm.kernels.window import Window

ONE = Window(1, 1)


class BiasPerAxis:
    """value + bias[the position on an axis]"""

    def __init__(self, axis: int, size: int) -> None:
        self.axis = axis
        self.parameters = (BufferSpec("bias", (size,)),)

    def emit(self, value: Expr, at: Position, buffers: Sequence[tirx.Buffer]) -> Expr:
        return value + buffers[0][self._index(at)]

    def _index(self, at: Position) -> Index:
        return at.vector_index(self.axis)


def packed(matrix: np.ndarray, block: int) -> np.ndarray:
    """[lines, terms] as [blocks][terms][lines of a block], zeros behind the last line."""
    lines, terms = matrix.shape
    padded = np.zeros((-(-lines // block) * block, terms), matrix.dtype)
    padded[:lines] = matrix
    return np.ascontiguousarray(padded.reshape(-1, block, terms).swapaxes(1, 2)).reshape(-1)


def launch(
    kernels: ModuleType, made_of: Sequence[object], arrays: list[np.ndarray], shape: GemmShape
) -> None:
    """Run a kernel, and the one that adds up where its tile has parts; made_of: what `make` takes."""
    tile = next(each for each in made_of if isinstance(each, GemmTile | FragmentTile))
    if tile.parts == 1:
        interpret(kernels.make(*made_of), arrays)
        return
    functions = kernels.make(*made_of), kernels.make_sums(*made_of)
    scratch = functions[0].params[-1].ty
    extents = tuple(map(int, scratch.shape))
    assert prod(extents) * 4 == shape.scratch_bytes(tile.parts)
    sums = np.zeros(extents, str(scratch.dtype))
    sums[...] = np.nan if sums.dtype.kind == "f" else 77
    for func in functions:
        interpret(func, [*arrays, sums])


def multiplied(problem: MatmulProblem, tile: GemmTile) -> tuple[np.ndarray, np.ndarray]:
    """What the kernel makes of seeded operands with a bias per column, and what it should."""
    random = np.random.default_rng(1)
    lefts = 1 if problem.shares_left else problem.batch
    rights = 1 if problem.shares_right or problem.right is Right.PACKED else problem.batch
    left = random.standard_normal((lefts, problem.rows, problem.depth), np.float32)
    right = random.standard_normal((rights, problem.depth, problem.columns), np.float32)
    bias = random.standard_normal(problem.columns, np.float32)
    stored = packed(right[0].T, tile.columns) if problem.right is Right.PACKED else right.reshape(-1)
    found = np.full((problem.batch, problem.rows, problem.columns), np.nan, np.float32)
    made_of = problem, BiasPerAxis(2, problem.columns), tile
    launch(matmul, made_of, [left.reshape(-1), stored, bias, found], product_shape(problem))
    return found, np.matmul(left.astype(np.float64), right) + bias


def convolved(problem: Im2colProblem, tile: GemmTile) -> tuple[np.ndarray, np.ndarray]:
    """What the kernel makes of seeded operands with a bias per filter, and what it should."""
    random = np.random.default_rng(2)
    extents = tuple(window.extent for window in problem.windows)
    taps = tuple(window.taps for window in problem.windows)
    channels = problem.channels // problem.groups
    data = random.standard_normal((problem.batch, problem.channels, *extents), np.float32)
    weights = random.standard_normal((problem.filters, channels, *taps), np.float32)
    bias = random.standard_normal(problem.filters, np.float32)
    found = np.full((problem.batch, problem.filters, *problem.output), np.nan, np.float32)
    stored = packed(weights.reshape(problem.filters, -1), tile.rows)
    made_of = problem, BiasPerAxis(1, problem.filters), tile
    launch(implicit_gemm, made_of, [data, stored, bias, found], conv_shape(problem))
    return found, expected(problem, data, weights) + bias[:, None, None, None]


def expected(problem: Im2colProblem, data: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The convolution in float64, tap by tap."""
    pads = [(window.before, max(window.after, window.overhang)) for window in problem.windows]
    padded = np.pad(data.astype(np.float64), [(0, 0), (0, 0), *pads])
    grouped = padded.reshape(problem.batch, problem.groups, -1, *padded.shape[2:])
    filters = weights.astype(np.float64).reshape(problem.groups, problem.group_filters, *weights.shape[1:])
    found = np.zeros((problem.batch, problem.groups, problem.group_filters, *problem.output))
    for tap in np.ndindex(*weights.shape[2:]):
        cut = tuple(
            slice(at * w.dilation, at * w.dilation + (w.count - 1) * w.stride + 1, w.stride)
            for at, w in zip(tap, problem.windows, strict=True)
        )
        found += np.einsum("gmc,ngczyx->ngmzyx", filters[:, :, :, *tap], grouped[:, :, :, *cut])
    return found.reshape(problem.batch, problem.filters, *problem.output)
