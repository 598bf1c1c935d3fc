# pyright: basic
"""Products and convolutions in float32 on GPUs: every element, by the interpreter; registers, by ptxas."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rtcc.targets.cuda.device_builder import DeviceBuilder
from rtcc.targets.cuda.device_code import build_device_code
from rtcc.targets.cuda.kernels import implicit_gemm, matmul
from rtcc.targets.cuda.kernels.gemm_tiles import (
    TILES,
    GemmShape,
    GemmTile,
    Multiprocessors,
    best_tiles,
    group_illegal,
    tile_illegal,
)
from rtcc.targets.cuda.simt import KernelFault
from rtcc.targets.tvm.kernels.convolution.im2col_tiles import Im2colProblem
from rtcc.targets.tvm.kernels.matrix_product.matmul_tiles import MatmulProblem, Right
from rtcc.targets.tvm.kernels.window import Window
from tests.targets.cuda.nvcc import needs_nvcc
from tests.targets.cuda.products import ONE, convolved, multiplied

SMALL = GemmTile(32, 32, 16, 8, 4, 3)

PRODUCTS = {
    "plain": (MatmulProblem(37, 44, 36, right=Right.PLAIN), SMALL),
    "ragged": (MatmulProblem(33, 45, 35, batch=2, right=Right.PLAIN), SMALL),
    "shared left": (MatmulProblem(5, 32, 20, batch=2, shares_left=True, right=Right.PLAIN), SMALL),
    "shared right": (MatmulProblem(5, 31, 20, batch=3, shares_right=True, right=Right.PLAIN), SMALL),
    "packed": (MatmulProblem(37, 45, 40), SMALL),
    "one step": (MatmulProblem(3, 8, 7), SMALL),
    "four sums deep": (MatmulProblem(20, 70, 70), GemmTile(16, 64, 32, 4, 8, 2)),
    "slices": (MatmulProblem(37, 45, 90), GemmTile(32, 32, 32, 4, 4, 4, slices=4)),
    "eight slices": (MatmulProblem(17, 45, 140, right=Right.PLAIN), GemmTile(16, 32, 64, 4, 4, 3, slices=8)),
    "eight by eight": (MatmulProblem(70, 65, 33), GemmTile(64, 64, 16, 8, 8, 3)),
    "parts": (MatmulProblem(37, 45, 90), replace(SMALL, parts=3)),
    "parts of a batch": (MatmulProblem(5, 31, 70, batch=3, shares_right=True, right=Right.PLAIN),
                         replace(SMALL, parts=2)),
    "parts of slices": (MatmulProblem(3, 10, 140), GemmTile(32, 32, 32, 4, 4, 4, slices=4, parts=5)),
}

SAME9, SAME11 = Window(9, 3, 1, 1, 1, 1), Window(11, 3, 1, 1, 1, 1)

CONVOLUTIONS = {
    "strided, padded": (
        Im2colProblem(2, 1, 5, 37, 4, (ONE, Window(9, 3, 2, 1, 1, 1), Window(11, 3, 1, 2, 2, 1))), SMALL,
    ),
    "one tap": (Im2colProblem(1, 1, 20, 37, 4, (ONE, Window(8, 1), Window(6, 1))), SMALL),
    "one tap, ragged": (Im2colProblem(2, 1, 18, 20, 4, (ONE, Window(5, 1), Window(7, 1))), SMALL),
    "one tap, strided": (Im2colProblem(1, 1, 18, 20, 4, (ONE, Window(9, 1, 2), Window(9, 1, 2))), SMALL),
    "groups": (Im2colProblem(1, 2, 10, 64, 4, (ONE, Window(6, 3, 1, 1, 1, 1), SAME9)), SMALL),
    "three axes": (
        Im2colProblem(1, 1, 3, 8, 5, (Window(4, 2), Window(5, 3, 1, 1, 1, 1), Window(6, 2, 2))), SMALL,
    ),
    "one axis": (Im2colProblem(1, 1, 6, 8, 3, (ONE, ONE, Window(50, 5, 1, 1, 2, 2))), SMALL),
    "slices": (Im2colProblem(1, 1, 12, 37, 4, (ONE, SAME9, SAME11)), GemmTile(32, 32, 64, 4, 4, 2, slices=4)),
    "parts of groups": (
        Im2colProblem(2, 2, 10, 64, 4, (ONE, Window(6, 3, 1, 1, 1, 1), SAME9)), replace(SMALL, parts=3),
    ),
    "fewer threads than pixels": (
        Im2colProblem(1, 1, 4, 30, 4, (ONE, SAME9, SAME11)), GemmTile(32, 128, 16, 8, 8, 3),
    ),
}  # fmt: skip


def assert_close(found: np.ndarray, right: np.ndarray, depth: int) -> None:
    """Sums in float32 of so many terms of size 1."""
    np.testing.assert_allclose(found, right, rtol=0, atol=4e-7 * depth)


@pytest.mark.parametrize("case", PRODUCTS)
def test_products(case: str) -> None:
    problem, tile = PRODUCTS[case]
    found, right = multiplied(problem, tile)
    assert_close(found, right, problem.depth)


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case: str) -> None:
    problem, tile = CONVOLUTIONS[case]
    found, right = convolved(problem, tile)
    assert_close(found, right, problem.depth)


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_tiles_are_legal(tile: GemmTile) -> None:
    assert tile_illegal(tile, left_in_rows=True) is None
    assert tile_illegal(tile, left_in_rows=False) is None


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rows": 100}, "no whole groups of 8"),
        ({"thread_columns": 2}, "no whole groups of 4"),
        ({"columns": 8}, "expected whole warps"),
        ({"thread_rows": 16, "rows": 256}, "expected at most 64"),
        ({"stages": 1}, "at least 2 stages"),
        ({"stages": 4}, "a block has 49152"),
        ({"slices": 8}, "no whole groups of 32"),
        ({"slices": 4, "thread_rows": 16, "thread_columns": 4}, "sums of 4 slices do not fit"),
    ],
)
def test_illegal_tiles(changed: dict[str, int], reason: str) -> None:
    tile = replace(GemmTile(128, 128), **changed)
    assert reason in str(tile_illegal(tile, left_in_rows=True))


def test_parts_that_add_up_to_the_same_from_run_to_run() -> None:
    problem, tile = PRODUCTS["parts of slices"]
    once, again = (multiplied(problem, tile)[0] for _ in range(2))
    assert once.tobytes() == again.tobytes()


@pytest.mark.parametrize(("depth", "parts"), [(90, 4), (16, 2), (90, 0)])
def test_no_part_is_empty(depth: int, parts: int) -> None:
    assert f"no {parts} parts" in str(GemmShape(37, 45, depth).illegal(replace(SMALL, parts=parts)))


def test_few_results_of_many_terms_are_divided() -> None:
    """The last layers of a ResNet make fewer blocks than a large GPU has multiprocessors."""
    gpu = Multiprocessors(108)
    tile = best_tiles(GemmShape(512, 49, 4608), gpu, left_in_rows=False, illegal=lambda _: None)[0]
    assert tile.parts > 1
    wide = best_tiles(GemmShape(512, 50176, 4608), gpu, left_in_rows=False, illegal=lambda _: None)[0]
    assert wide.parts == 1


def test_illegal_grids_and_groups() -> None:
    assert "65536 blocks" in str(GemmShape(8, 8, 8, 1 << 16).illegal(SMALL))
    problem = Im2colProblem(1, 2, 10, 40, 4, (ONE, Window(6, 1), Window(9, 1)))
    assert "a multiple of 32" in str(group_illegal(problem, SMALL))


HOT = {
    "matmul": matmul.make(MatmulProblem(384, 1536, 384), None, GemmTile(128, 128)),
    "conv": implicit_gemm.make(
        Im2colProblem(1, 1, 64, 64, 4, (ONE, Window(56, 3, 1, 1, 1, 1), Window(56, 3, 1, 1, 1, 1))),
        None, GemmTile(64, 64, 16, 8, 8, 3),
    ),
    "parts": matmul.make(MatmulProblem(49, 512, 4608), None, GemmTile(32, 32, 64, 4, 4, 2, 4, parts=4)),
}  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize(
    ("case", "architecture"), [("matmul", "sm_80"), ("conv", "sm_90"), ("parts", "sm_90")]
)
def test_nothing_is_spilled(case: str, architecture: str) -> None:
    made = build_device_code(HOT[case], architecture)
    assert (made.spill_bytes, made.stack_bytes) == (0, 0)
    assert made.registers <= 168
    assert b"cp.async" in made.ptx
    assert b"ld.shared.v4" in made.ptx


@needs_nvcc
def test_adding_up_takes_few_registers() -> None:
    func = matmul.make_sums(MatmulProblem(49, 512, 4608), None, GemmTile(32, 32, parts=16, thread_rows=4))
    made = build_device_code(func, "sm_80")
    assert (made.spill_bytes, made.stack_bytes) == (0, 0)
    assert made.registers <= 64
    assert made.ptx.count(b"v4.f32") >= 16


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_no_tile_spills(tile: GemmTile, architecture: str) -> None:
    windows = (ONE, Window(28, 3, 1, 1, 1, 1), Window(28, 3, 1, 1, 1, 1))
    for func in (
        matmul.make(MatmulProblem(197, 1000, 384), None, tile),
        matmul.make(MatmulProblem(197, 197, 64, 6, right=Right.PLAIN), None, tile),
        implicit_gemm.make(Im2colProblem(1, 1, 128, 128, 4, windows), None, tile),
        implicit_gemm.make(Im2colProblem(1, 1, 3, 64, 4, windows), None, tile),
    ):
        made = build_device_code(func, architecture)
        assert (made.spill_bytes, made.stack_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("method", "code"), [("barrier", "race"), ("wait", "in-flight"), ("commit", "in-flight")]
)
def test_what_a_kernel_leaves_out_is_found(method: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceBuilder, method, lambda *_: None)
    with pytest.raises(KernelFault) as found:
        multiplied(*PRODUCTS["plain"])
    assert found.value.code == code
