"""`--verify-kernels`: run every compiled kernel alone and compare it with the interpreter.

No interpretation of the graph can see wrong machine code, and a wrong kernel hides well inside a whole
model. Each kernel runs on seeded operands, divided among several tasks, into memory filled with garbage;
the bytes it wrote, padding included, are compared with what `evaluate` says in float64.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.artifact.elf import defined_function
from rtcc.artifact.toolchain import find_toolchain
from rtcc.errors import CodegenError
from rtcc.interpreter import interpret_graph
from rtcc.ir import Graph, Module, TensorType
from rtcc.pipeline.inputs import random_kernel_inputs
from rtcc.target import Target

TASKS = 3
"""Parts that each kernel is divided into."""

RTOL = 2e-5
"""Allowed error of float32 results, relative to the largest result: sums of a few thousand terms in another order."""

_RTOL_BY_BYTES = {2: 2e-2, 4: RTOL, 8: 1e-10}


def verify_kernels(module: Module, objects: Mapping[str, bytes], target: Target, seed: int = 0) -> int:
    """Compare every kernel of a planned module with `evaluate`; how many were compared.

    Raises CodegenError `kernel-wrong` naming the first kernel that deviates, and by how much.
    """
    with tempfile.TemporaryDirectory(prefix="rtcc-kernels-") as name:
        table = _load(objects, target, Path(name))
        for number, (kernel_name, kernel) in enumerate(module.kernels.items()):
            _check_kernel(kernel_name, kernel, table[number], seed)
    return len(module.kernels)


def _load(objects: Mapping[str, bytes], target: Target, folder: Path) -> Any:
    """All kernels in one shared object, as an array of function addresses."""
    names = [defined_function(contents) for contents in objects.values()]
    for number, contents in enumerate(objects.values()):
        (folder / f"k{number}.o").write_bytes(contents)
    toolchain = find_toolchain(target.machine)
    parts: list[str] = []
    for number, symbol in enumerate(names):
        code = f"extern int {symbol}(void);\nvoid *rtcc_kernel_{number} = (void *)&{symbol};\n"
        (folder / f"t{number}.c").write_text(code)
        part = f"p{number}.so"
        toolchain.run([*toolchain.compile, "-shared", "-fPIC", "-Wl,-Bsymbolic", f"t{number}.c", f"k{number}.o", "-lm",
                       "-o", part], folder)  # fmt: skip
        parts.append(part)
    return [
        ctypes.c_void_p.in_dll(ctypes.CDLL(str(folder / part)), f"rtcc_kernel_{number}").value
        for number, part in enumerate(parts)
    ]


def _check_kernel(name: str, kernel: Graph, address: int, seed: int) -> None:
    feeds = random_kernel_inputs(kernel, seed)
    expected = interpret_graph(kernel, feeds, precision="f64")
    operands = [_stored(p.type, feed) for p, feed in zip(kernel.parameters, feeds, strict=True)]
    results = [_garbage(value.type) for value in kernel.returned]
    pointers = [array.ctypes.data for array in (*operands, *results)]
    function = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, *[ctypes.c_void_p] * len(pointers))(address)
    for task in range(TASKS):
        code = function(task, TASKS, *pointers)
        if code != 0:
            raise CodegenError("kernel-wrong", f"kernel @{name} returned {code} on valid data")
    for value, result, reference in zip(kernel.returned, results, expected, strict=True):
        _compare(name, value.type, result, _stored(value.type, np.asarray(reference)))


def _compare(name: str, type: TensorType, found: NDArray[Any], expected: NDArray[Any]) -> None:
    if not type.dtype.is_float:
        if not np.array_equal(found, expected):
            wrong = int(np.count_nonzero(found != expected))
            raise CodegenError("kernel-wrong", f"kernel @{name}: {wrong} of {found.size} elements of {type} are wrong")
        return
    got, want = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(want)
    scale = float(np.max(np.abs(want[finite]), initial=0.0))
    allowed = _RTOL_BY_BYTES[type.dtype.bytes] * max(scale, float(np.finfo(np.float32).tiny))
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    error = np.abs(np.where(same, 0.0, got - want))
    if not np.all(error <= allowed):
        raise CodegenError(
            "kernel-wrong",
            f"kernel @{name}: {type} is off by {np.nanmax(error):.3g}, allowed {allowed:.3g}",
            hint="--dump-ir keeps the kernel's text; please report it",
        )


def _stored(type: TensorType, array: NDArray[Any]) -> NDArray[Any]:
    """The array in storage order, in its own element type unless it is wider (a float64 reference)."""
    return np.ascontiguousarray(type.layout.pack(array) if type.layout else array)


def _garbage(type: TensorType) -> NDArray[Any]:
    """Memory for a result, filled with bytes that are wrong for any of them."""
    array = np.empty(type.physical_shape, type.dtype.numpy)
    array.view(np.uint8).fill(0xA5) if array.size else None
    return array
