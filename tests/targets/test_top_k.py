# pyright: basic
"""Top-k, by which elements are sorted, too: a few in registers, many in a heap, against the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from rtcc.ir import DType
from tests.targets.lowered import Kernels

ROWS, SIZE = 3, 301
COUNTS = (1, 2, 5, 16, 17, 64, 128, 129, SIZE - 1, SIZE)


def elements(dtype: DType, seed: int) -> np.ndarray:
    """Many equal ones; of floats NaN, infinities and both zeros among them, of integers the ends."""
    random = np.random.default_rng(seed)
    x = random.integers(0, 2 if dtype is DType.BOOL else 50, (ROWS, SIZE)).astype(dtype.numpy)
    if dtype.is_integer:
        ends = np.iinfo(dtype.numpy)
        x[1, ::40], x[1, 5::40], x[2] = ends.min, ends.max, ends.min
    if dtype.is_float:
        x = x - dtype.numpy.type(3)
        x[random.random((ROWS, SIZE)) < 0.1] = np.nan
        x[0, :6] = [0.0, -0.0, np.inf, -np.inf, -0.0, 0.0]
    return x


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("dtype", "f32 f16 bf16 f64 i8 u8 u16 i32 u32 i64 u64 bool".split())
def test_any_elements_in_order(dtype: str, largest: int) -> None:
    """The lower index first among equal ones, NaN above every number, for every k up to the whole row."""
    constants = "".join(f"const #k{k} : i64[1] = [{k}]\n" for k in COUNTS)
    kernels = Kernels(
        constants
        + "".join(
            f"kernel @top{k}(%x: {dtype}[{ROWS},{SIZE}]) {{\n"
            f"  %v, %i = tensor.top_k(%x, #k{k}) {{largest = {largest}}} : "
            f"{dtype}[{ROWS},{k}], i64[{ROWS},{k}]\n  return(%v, %i)\n}}\n"
            for k in COUNTS
        )
    )
    x = elements(DType(dtype), largest)
    for k in COUNTS:
        kernels.check(f"top{k}", [x])


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("k", [3, 40])
def test_columns(k: int, largest: int) -> None:
    """Whose elements are not neighbours in memory."""
    kernels = Kernels(
        f"const #k : i64[1] = [{k}]\nkernel @top(%x: f32[{ROWS},90,7]) {{\n"
        f"  %v, %i = tensor.top_k(%x, #k) {{axis = 1, largest = {largest}}} : "
        f"f32[{ROWS},{k},7], i64[{ROWS},{k},7]\n  return(%v, %i)\n}}\n"
    )
    kernels.check("top", [elements(DType.F32, k).reshape(-1)[: ROWS * 90].repeat(7).reshape(ROWS, 90, 7)])


@pytest.mark.parametrize("k", [5, 1000, 50_000])
def test_long_rows(k: int) -> None:
    """Of which a sort that compares each with each would take minutes."""
    size = 50_000
    kernels = Kernels(
        f"const #k : i64[1] = [{k}]\nkernel @top(%x: i32[{size}]) {{\n"
        f"  %v, %i = tensor.top_k(%x, #k) {{largest = 0}} : i32[{k}], i64[{k}]\n  return(%v, %i)\n}}\n"
    )
    for x in (np.random.default_rng(0).integers(0, 9000, size), np.arange(size), np.arange(size)[::-1]):
        kernels.check("top", [np.ascontiguousarray(x, np.int32)])
