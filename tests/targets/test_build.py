# pyright: basic
"""Objects: their symbols, their names, and that equal input gives equal bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rtcc.artifact.elf import Elf
from rtcc.errors import CodegenError
from rtcc.targets.tvm import kernels
from rtcc.targets.tvm.build import KERNEL_SYMBOL, build_object, target_of, tir_text
from rtcc.targets.tvm.function_builder import FunctionBuilder, splat, vector
from rtcc.targets.tvm.kernels.convolution import direct_conv
from rtcc.targets.tvm.kernels.convolution.conv_problem import ConvProblem

PRINT_HASH = """
import hashlib
from tests.targets.test_build import convolution
print(hashlib.sha256(convolution()).hexdigest())
"""


def convolution(cpu: str = "skylake-avx512", triple: str = "x86_64-linux-gnu") -> bytes:
    lanes = 16 if "avx512" in cpu else 4
    problem = ConvProblem(1, 32, 8, 8, 32, (1, 1), lanes=lanes)
    return build_object(direct_conv.make(problem), target_of(cpu, triple=triple))


@pytest.mark.parametrize(
    ("cpu", "triple"), [("skylake-avx512", "x86_64-linux-gnu"), ("cortex-a76", "aarch64-linux-gnu")]
)
def test_object_holds_one_function(cpu: str, triple: str) -> None:
    symbols = Elf(convolution(cpu, triple), "kernel").symbols
    functions = [s.name for s in symbols if s.is_defined and s.is_global and s.is_function and not s.is_weak]
    assert functions == [KERNEL_SYMBOL]
    assert not [s.name for s in symbols if s.name and not s.is_defined]


def test_equal_in_every_process() -> None:
    hashes = {hashlib.sha256(convolution()).hexdigest()}
    for seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", PRINT_HASH]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        hashes.add(done.stdout.strip())
    assert len(hashes) == 1


def test_text_names_the_buffers() -> None:
    text = tir_text(direct_conv.make(ConvProblem(1, 16, 4, 4, 16, (1, 1))))
    assert "weights: T.Buffer" in text
    assert "output: T.Buffer" in text


def test_large_internal_buffer_is_refused() -> None:
    kernel = FunctionBuilder()
    y = kernel.buffer("y", (2048,))
    big = kernel.local("big", (2048,))
    with kernel.serial("i", 2048) as i:
        kernel.store(big, [2047 - i], splat(1.0, 1))
    with kernel.serial("i", 2048) as i:
        kernel.store(y, [i], big[i] + big[2047 - i])
    with pytest.raises(CodegenError, match="__TVMBackendAllocWorkspace"):
        build_object(kernel.finish(), target_of("haswell"))


def test_arrays_beyond_the_index_range_are_refused() -> None:
    kernel = FunctionBuilder()
    y = kernel.buffer("y", (1 << 16, 1 << 15))
    kernel.store(y, [0, vector(0, 4)], splat(1.0, 4))
    with pytest.raises(CodegenError, match="array y of a kernel has 2147483648 elements"):
        build_object(kernel.finish(), target_of("haswell"))


def test_alignment_promises_are_refused() -> None:
    from tvm import tirx

    kernel = FunctionBuilder()
    y = kernel.buffer("y", (16,))
    kernel.store(y, [vector(0, 16)], splat(1.0, 16))
    func: Any = kernel.finish()
    strict = tirx.decl_buffer((16,), "float32", "y")
    body = tirx.BufferStore(strict, splat(1.0, 16), [vector(0, 16)])
    with pytest.raises(AssertionError, match="alignment"):
        build_object(tirx.PrimFunc([*func.params[:2], strict], body), target_of("haswell"))


def test_what_decides_loads_without_tvm() -> None:
    folder = Path(kernels.__path__[0])
    files = [path for kind in ("problem", "tiles", "demand") for path in sorted(folder.rglob(f"*_{kind}.py"))]
    assert len(files) > 8
    names = (".".join(path.relative_to(folder).with_suffix("").parts) for path in files)
    modules = ", ".join(f"{kernels.__name__}.{name}" for name in names)
    subprocess.run(
        [sys.executable, "-c", f"import sys, {modules}; assert 'tvm' not in sys.modules"], check=True
    )


def test_bare_name_is_refused() -> None:
    command = [sys.executable, "-c", "import targets"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert "import rtcc.targets" in done.stderr
