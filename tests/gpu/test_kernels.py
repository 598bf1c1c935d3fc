# pyright: basic
"""Every kernel of the set on the GPU, each by itself, as `--verify-kernels` does it on CPUs: seeded operands
and special values, memory that held garbage, four times the same bits, each element within its own bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from rtcc.verification.check import check_kernel
from tests.gpu.device import Gpu, GpuKernel
from tests.gpu.sets import read_kernel

pytestmark = pytest.mark.gpu


def test_kernels_compute_what_the_interpreter_does(
    kernel_code: tuple[str, Path] | None, gpu_set: Path, gpu: Gpu
) -> None:
    assert kernel_code is not None, "the set has no kernels"
    kernel, phases, scratch = read_kernel(gpu_set, *kernel_code)
    check_kernel(kernel_code[1].stem, kernel, GpuKernel(gpu, phases, scratch).run)
