# pyright: basic
"""Tests that need a GPU, of what was built elsewhere:

    python -m tests.gpu.build set --target cuda:sm_90            here: TVM and nvcc, no GPU
    RTCC_GPU_SET=set python -m pytest -m gpu tests/gpu           there: NumPy, lark and pytest alone
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.gpu.device import Gpu
from tests.gpu.sets import ROOMY, kernels_of

VARIABLE = "RTCC_GPU_SET"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each model and each kernel of the set; one that fails where there is none."""
    name = os.environ.get(VARIABLE)
    folder = Path(name) if name else None
    if "library" in metafunc.fixturenames:
        paths = sorted(folder.glob("*.so")) if folder else []
        found = [path for path in paths if path.stem != ROOMY]
        metafunc.parametrize("library", found or [None], ids=[path.stem for path in found] or ["no set"])
    if "kernel_code" in metafunc.fixturenames:
        pairs = list(kernels_of(folder)) if folder else []
        names = [f"{source}-{path.stem}" for source, path in pairs] or ["no set"]
        metafunc.parametrize("kernel_code", pairs or [None], ids=names)


@pytest.fixture(scope="session")
def gpu_set() -> Path:
    """The folder of the set."""
    name = os.environ.get(VARIABLE)
    assert name, f"{VARIABLE} names no set; `python -m tests.gpu.build` makes one"
    return Path(name)


@pytest.fixture(scope="session")
def gpu(gpu_set: Path) -> Gpu:
    """The GPU."""
    return Gpu()
