# pyright: basic
"""Compiles one kernel, loads it, and runs it with every buffer against guard pages."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rtcc.emission.toolchain import find_toolchain
from rtcc.system.machine import Machine
from rtcc.targets.tvm.build import KERNEL_SYMBOL, build_object, target_of
from rtcc.verification.memory import Place, placed

CPUS = {16: "skylake-avx512", 8: "haswell", 4: "x86-64-v3"}
"""A CPU for each vector length."""

TASKS = 3


def require_lanes(lanes: int) -> None:
    """Skips the test where this machine cannot run the code."""
    flags = Path("/proc/cpuinfo").read_text()
    if ("avx512f" if lanes == 16 else "avx2") not in flags:
        pytest.skip(f"no vectors of {lanes} floats on this machine")


def load(func: Any, lanes: int) -> Any:
    """The kernel as a C function."""
    require_lanes(lanes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernel.o").write_bytes(build_object(func, target_of(CPUS[lanes])))
        toolchain = find_toolchain(Machine.host())
        toolchain.run([*toolchain.compile, "-shared", "-o", "kernel.so", "kernel.o", "-lm"], folder)
        return getattr(ctypes.CDLL(str(folder / "kernel.so")), KERNEL_SYMBOL)


def run(
    func: Any,
    lanes: int,
    inputs: Sequence[NDArray[Any]],
    output: tuple[int, ...],
    scratch_bytes: int = 0,
    dtype: str = "float32",
) -> NDArray[Any]:
    """The output, with buffers against guard pages; equal from one task and from several."""
    kernel = load(func, lanes)
    results: list[NDArray[Any]] = []
    for place, tasks in ((Place.FIRST, 1), (Place.LAST, TASKS)):
        held = [placed(np.ascontiguousarray(array), place) for array in inputs]
        result = placed(np.full(output, 7, dtype), place)
        held.append(result)
        if scratch_bytes:
            held.append(placed(np.full(scratch_bytes // 4, np.nan, np.float32), place))
        code = placed(np.zeros(1, np.int32), place)
        for task in range(tasks):
            pointers = [ctypes.c_void_p(array.ctypes.data) for array in (*held, code)]
            assert kernel(ctypes.c_int32(task), ctypes.c_int32(tasks), *pointers) == 0
        assert code[0] == 0
        results.append(np.array(result))
    assert np.array_equal(results[0], results[1], equal_nan=True)
    return results[0]


def blocked(array: NDArray[Any], form: Any) -> NDArray[Any]:
    """An NCHW array in the blocked layout of `form`, halo and padding lanes zero."""
    n, c, h, w = array.shape
    top, left, _, _ = form.halo
    padded = np.zeros((n, form.blocks * form.lanes, h, w), array.dtype)
    padded[:, :c] = array
    result = np.zeros(form.shape, array.dtype)
    image = padded.reshape(n, form.blocks, form.lanes, h, w).transpose(0, 1, 3, 4, 2)
    result[:, :, top : top + h, left : left + w] = image
    return result


def close(actual: NDArray[Any], expected: NDArray[Any], terms: int) -> None:
    """Equal up to the rounding of a sum of so many terms of size 1."""
    assert not np.isnan(actual).any()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * max(1.0, terms**0.5))
