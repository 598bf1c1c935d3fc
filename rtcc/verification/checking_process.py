"""What `--verify-kernels` does in a process of its own: opens the kernels, or what interprets them, and
checks them one by one."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rtcc.ir import Module
from rtcc.ir.op import Array
from rtcc.target import parse_target
from rtcc.text import read_module
from rtcc.verification.check import check_kernel
from rtcc.verification.library import KernelLibrary

Arrays = Sequence[Array]


@dataclass(frozen=True)
class Kernels:
    """Where the kernels are: as text and as a shared object, with scratch bytes by name, in its order."""

    text: Path
    library: Path
    scratch: tuple[tuple[str, int], ...]


def open_kernels(kernels: Kernels) -> None:
    """Load the kernels into this process; CodegenError `cpu-unsupported` where it cannot run them."""
    _opened(kernels)


def check(kernels: Kernels, name: str, seed: int, seconds: float) -> None:
    """Check one kernel, which may run for so many seconds at a time; raises CodegenError `kernel-wrong`."""
    module, library = _opened(kernels)

    def run(name: str, operands: Arrays, results: Arrays, tasks: int = 1, **how: Any) -> int:
        # nobody handles SIGALRM: a kernel that does not end dies of it
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            return library.run(name, operands, results, tasks, **how)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    check_kernel(name, module.kernels[name], run, seed)


def check_interpreted(text: Path, target: str, name: str, seed: int) -> None:
    """Check a kernel of a file as its target interprets it; errors as of `check`, and Unsupported."""
    kernel = _read(text).kernels[name]
    check_kernel(name, kernel, parse_target(target).interpreted(kernel), seed)


_read = lru_cache(maxsize=1)(read_module)


@lru_cache(maxsize=1)
def _opened(kernels: Kernels) -> tuple[Module, KernelLibrary]:
    names = [name for name, _ in kernels.scratch]
    return read_module(kernels.text), KernelLibrary(kernels.library, names, dict(kernels.scratch))
