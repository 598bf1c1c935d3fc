# pyright: basic
"""Products and convolutions on tensor cores: bit-equal for bytes, every element of the others in float64."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.device_code import build_device_code
from rtcc.targets.cuda.kernels import tensor_conv, tensor_matmul
from rtcc.targets.cuda.kernels.fragment_tiles import (
    TILES,
    FragmentTile,
    Kind,
    best_tiles,
    conv_illegal,
    conv_shape,
    grid_illegal,
    product_illegal,
    tile_illegal,
)
from rtcc.targets.cuda.kernels.gemm_tiles import GemmShape, Multiprocessors, product_shape
from rtcc.targets.cuda.simt import KernelFault, interpret
from rtcc.targets.tvm.function_builder import Expr
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.epilogue import Position
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, Right
from rtcc.targets.tvm.kernels.window import Window
from tests.targets.cuda.nvcc import needs_nvcc
from tests.targets.cuda.products import ONE, expected, launch

SMALL = FragmentTile(32, 32, 16, 16, 4, 3)

ELEMENTS = {
    Kind.F16: np.float16, Kind.BF16: ml_dtypes.bfloat16, Kind.TF32: np.float32, Kind.S8: np.int8,
    Kind.U8: np.uint8,
}  # fmt: skip


class As:
    """The sum as another type."""

    parameters = ()

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def emit(self, value: Expr, at: Position, buffers: object) -> Expr:
        return value.astype(self.dtype)


def integers(kind: Kind, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Small integers, that every kind holds exactly and whose sums float32 does; bytes of all values."""
    random = np.random.default_rng(5)
    exact = kind.bytes > 1
    low, high = (-4, 5) if exact else (-128, 128)
    left, right = (random.integers(low, high, shape) for shape in shapes)
    if kind is Kind.U8:
        left += 128
    return [
        left.astype(ELEMENTS[kind]),
        right.astype(np.int8 if kind is Kind.U8 else ELEMENTS[kind]),
    ]


def in_chunks(matrix: np.ndarray, block: int, chunk: int) -> np.ndarray:
    """[lines, terms] as [blocks of lines][chunks][lines of a block][elements of a chunk]."""
    lines, terms = matrix.shape
    padded = np.zeros((-(-lines // block) * block, terms), matrix.dtype)
    padded[:lines] = matrix
    return np.ascontiguousarray(padded.reshape(-1, block, terms // chunk, chunk).swapaxes(1, 2))


def stored(array: np.ndarray, kind: Kind) -> np.ndarray:
    """As a kernel's parameter: bf16 by its bits."""
    return array.view(np.uint16) if kind is Kind.BF16 else array


def multiplied(kind: Kind, problem: MatmulProblem, tile: FragmentTile) -> tuple[np.ndarray, np.ndarray]:
    left, right = integers(kind, (problem.rows, problem.depth), (problem.columns, problem.depth))
    found = np.zeros((problem.rows, problem.columns), kind.total)
    packed = in_chunks(right, tile.columns, kind.chunk)
    operands = [stored(left, kind).reshape(-1), stored(packed, kind).reshape(-1), found]
    launch(tensor_matmul, (problem, kind, None, tile, kind.total), operands, product_shape(problem))
    return found, left.astype(np.float64) @ right.astype(np.float64).T


@pytest.mark.parametrize("kind", Kind)
def test_products(kind: Kind) -> None:
    found, right = multiplied(kind, MatmulProblem(45, 42, 5 * kind.chunk), SMALL)
    np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize(
    "tile",
    [
        FragmentTile(64, 32, 64, 16, 2, 2), FragmentTile(16, 64, 16, 16, 8, 4),
        FragmentTile(32, 32, 16, 16, 2, 3, parts=4),
    ],
    ids=str,
)  # fmt: skip
def test_tiles(tile: FragmentTile) -> None:
    found, right = multiplied(Kind.F16, MatmulProblem(70, 37, 13 * 8), tile)
    np.testing.assert_array_equal(found, right)


CONVOLUTIONS = {
    "few filters": (9, 6, 4, (ONE, Window(9, 3), Window(7, 3))),
    "strided, padded": (9, 48, 4, (ONE, Window(9, 3, 2, 1, 1, 1), Window(7, 3, 1, 2, 2, 1))),
    "one tap": (32, 32, 4, (ONE, Window(5, 1), Window(6, 1))),
    "one axis": (16, 16, 3, (ONE, ONE, Window(30, 5, 1, 1, 2, 2))),
    "three axes": (8, 16, 5, (Window(4, 2), Window(4, 3, 1, 1, 1, 1), Window(5, 2, 2))),
}


@pytest.mark.parametrize(("kind", "case", "parts"), [
    *((kind, "strided, padded", 1) for kind in Kind),
    *((kind, "strided, padded", 3) for kind in (Kind.F16, Kind.U8)),
    (Kind.S8, "few filters", 1), (Kind.S8, "few filters", 2),
    *((Kind.F16, case, 1) for case in CONVOLUTIONS if case != "strided, padded"),
])  # fmt: skip
def test_convolutions(kind: Kind, case: str, parts: int) -> None:
    channels, filters, rank, windows = CONVOLUTIONS[case]
    problem = Im2colProblem(2, 1, channels, filters, rank, windows)
    extents, taps = ([getattr(w, name) for w in windows] for name in ("extent", "taps"))
    data, weights = integers(kind, (2, channels, *extents), (filters, channels, *taps))
    chunk, blocks = kind.chunk, -(-channels // kind.chunk)
    padded = np.zeros((2, blocks * chunk, *extents), data.dtype)
    padded[:, :channels] = data
    activations = np.ascontiguousarray(np.moveaxis(padded.reshape(2, blocks, chunk, *extents), 2, -1))
    deep = np.zeros((filters, blocks * chunk, *taps), weights.dtype)
    deep[:, :channels] = weights
    lines = np.moveaxis(deep.reshape(filters, blocks, chunk, *taps), 2, -1).reshape(filters, -1)
    packed = in_chunks(lines, SMALL.columns, chunk)
    found = np.full((2, -(-filters // chunk), *problem.output, chunk), 77, kind.total)
    operands = (stored(each, kind).reshape(-1) for each in (activations, packed))
    made_of = problem, kind, None, replace(SMALL, parts=parts), kind.total
    launch(tensor_conv, made_of, [*operands, found.reshape(-1, chunk)], conv_shape(problem, kind))
    plain = np.moveaxis(found, -1, 2).reshape(2, -1, *problem.output)
    np.testing.assert_array_equal(plain[:, :filters], expected(problem, data, weights))
    assert not plain[:, filters:].any()


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16])
@pytest.mark.parametrize(
    ("batch", "shared", "parts"), [(1, "", 1), (3, "", 1), (2, "left", 1), (2, "right", 1), (2, "", 3)]
)
def test_products_of_two_activations(kind: Kind, batch: int, shared: str, parts: int) -> None:
    problem = MatmulProblem(
        37, 40, 88, batch, shares_left=shared == "left", shares_right=shared == "right", right=Right.PLAIN
    )
    lefts, rights = (1 if shared == side else batch for side in ("left", "right"))
    left, right = integers(kind, (lefts, 37, 88), (rights, 88, 40))
    found = np.full((batch, 37, 40), np.nan, np.float32)
    made_of = problem, kind, None, replace(SMALL, parts=parts), kind.total
    operands = [stored(left, kind).reshape(-1), stored(right, kind).reshape(-1), found]
    launch(tensor_matmul, made_of, operands, product_shape(problem))
    np.testing.assert_array_equal(found, np.matmul(left.astype(np.float64), right.astype(np.float64)))


def test_results_are_rounded_once() -> None:
    problem = MatmulProblem(16, 16, 8)
    left, right = np.full((16, 8), 0.1, np.float16), np.full((16, 8), 0.1, np.float16)
    found = np.zeros((16, 16), np.float16)
    func = tensor_matmul.make(problem, Kind.F16, As("float16"), SMALL, "float16")
    interpret(func, [left.reshape(-1), in_chunks(right, 32, 8).reshape(-1), found])
    exact = left.astype(np.float32) @ right.astype(np.float32).T
    np.testing.assert_array_equal(found, exact.astype(np.float16))


@pytest.mark.parametrize(
    ("method", "code"), [("barrier", "race"), ("wait", "in-flight"), ("commit", "in-flight")]
)
def test_what_a_kernel_leaves_out_is_found(method: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceBuilder, method, lambda *_: None)
    with pytest.raises(KernelFault) as found:
        multiplied(Kind.F16, MatmulProblem(45, 42, 40), SMALL)
    assert found.value.code == code


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_tiles_are_legal(tile: FragmentTile) -> None:
    assert tile_illegal(tile) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"warp_rows": 8}, "no whole groups of 16"),
        ({"warp_columns": 8}, "no whole groups of 16"),
        ({"chunks": 3}, "no whole groups of 2"),
        ({"warp_rows": 128, "warp_columns": 32}, "expected at most 64"),
        ({"stages": 1}, "at least 2 stages"),
        ({"stages": 4}, "a block has 49152"),
    ],
)
def test_illegal_tiles(changed: dict[str, int], reason: str) -> None:
    assert reason in str(tile_illegal(replace(TILES[0], **changed)))


def test_illegal_convolutions() -> None:
    windows = (ONE, Window(5, 1), Window(6, 1))
    assert "2 groups" in str(conv_illegal(Im2colProblem(1, 2, 16, 16, 4, windows)))
    assert "a multiple of 16" in str(product_illegal(MatmulProblem(4, 4, 24), Kind.S8))
    assert "expected at most" in str(product_illegal(MatmulProblem(1 << 21, 4, 32), Kind.S8))
    plain = MatmulProblem(8, 12, 16, right=Right.PLAIN)
    assert "12 columns" in str(product_illegal(plain, Kind.F16))
    assert "elements of 4 bytes" in str(product_illegal(plain, Kind.TF32))
    assert "65536 products" in str(product_illegal(replace(plain, columns=16, batch=1 << 16), Kind.F16))
    assert "50688" in str(tile_illegal(TILES[0], by_terms=True))


def test_small_products_take_small_tiles() -> None:
    gpu = Multiprocessors(108)
    small, large = (
        best_tiles(GemmShape(n, n, n), Kind.F16, gpu)[0] for n in (196, 8192)
    )
    assert small.rows * small.columns < large.rows * large.columns


def test_few_results_of_many_terms_are_divided() -> None:
    shape = GemmShape(49, 512, 4608)
    tile = best_tiles(shape, Kind.F16, Multiprocessors(132))[0]
    assert tile.parts > 1
    assert grid_illegal(shape, tile, Kind.F16) is None
    assert "no 100 parts" in str(grid_illegal(shape, replace(tile, parts=100), Kind.F16))
    assert "65536 blocks" in str(grid_illegal(replace(shape, batch=1 << 16), SMALL, Kind.F16))
    assert best_tiles(GemmShape(50176, 512, 4608), Kind.F16, Multiprocessors(132))[0].parts == 1


@needs_nvcc
@pytest.mark.parametrize(("kind", "architecture"), [(Kind.F16, "sm_80"), (Kind.U8, "sm_90")])
def test_nothing_is_spilled(kind: Kind, architecture: str) -> None:
    windows = (ONE, Window(28, 3, 1, 1, 1, 1), Window(28, 3, 1, 1, 1, 1))
    problem = Im2colProblem(1, 1, 128, 128, 4, windows)
    made = build_device_code(tensor_conv.make(problem, kind, None, TILES[0], kind.total), architecture)
    divided = problem, kind, None, replace(TILES[5], parts=3), kind.total
    for func in (tensor_conv.make(*divided), tensor_conv.make_sums(*divided)):
        also = build_device_code(func, architecture)
        assert (also.spill_bytes, also.stack_bytes) == (0, 0)
    assert (made.spill_bytes, made.stack_bytes) == (0, 0)
    assert b"mma.sync.aligned" in made.ptx
    assert made.ptx.count(b"ldmatrix") >= 8


@needs_nvcc
def test_registers_are_kept_rather_than_one_more_block() -> None:
    """Four blocks of 64 registers fit into a multiprocessor, and ptxas would spill for them."""
    tile = FragmentTile(128, 64, 32, 32, 4, 4, 1)
    func = tensor_matmul.make(MatmulProblem(197, 1000, 384), Kind.F16, None, tile, "float32")
    made = build_device_code(func, "sm_90")
    assert (made.spill_bytes, made.stack_bytes) == (0, 0)
    assert made.registers > 64


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_no_tile_spills(tile: FragmentTile, kind: Kind, architecture: str) -> None:
    windows = (ONE, Window(28, 3, 1, 1, 1, 1), Window(28, 3, 1, 1, 1, 1))
    funcs = [
        tensor_matmul.make(MatmulProblem(197, 1000, 384), kind, None, tile, kind.total),
        tensor_conv.make(Im2colProblem(1, 1, 64, 64, 4, windows), kind, None, tile, kind.total),
    ]
    if kind.bytes == 2 and not tile_illegal(tile, by_terms=True):
        scores = MatmulProblem(128, 128, 64, 12, right=Right.PLAIN)
        funcs.append(tensor_matmul.make(scores, kind, None, tile, kind.total))
    for func in funcs:
        made = build_device_code(func, architecture)
        assert (made.spill_bytes, made.stack_bytes) == (0, 0)
