# pyright: basic
"""Kernels written as IR text, compiled together, and run against guard pages and the interpreter."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rtcc.ir import Graph, Module
from rtcc.target import Target, parse_target
from rtcc.targets.tvm.lower.compile import compile_kernel
from rtcc.text import parse_module
from rtcc.verification.check import compare, expected, stored, true_parts
from rtcc.verification.kernels import scratch_of
from rtcc.verification.library import KernelLibrary, link_kernels
from rtcc.verification.memory import Place, placed

Array = NDArray[Any]
SPLITS = ((Place.FIRST, 1), (Place.LAST, 3))
"""Where buffers lie in their pages, and into how many tasks the kernel is divided."""


class Kernels:
    """Compiled kernels of one module, by name."""

    def __init__(self, text: str, target: str = "x86") -> None:
        """text: the kernels, without the header."""
        self._compile(parse_module("// rtir 1  level=kernels\n" + text), parse_target(target))

    @classmethod
    def of(cls, module: Module) -> Kernels:
        """The kernels of a module, at the kernels' level or below."""
        found = cls.__new__(cls)
        found._compile(module, parse_target(module.target or "x86"))
        return found

    def _compile(self, module: Module, target: Target) -> None:
        self.module = module
        objects = {name: compile_kernel(kernel, target) for name, kernel in module.kernels.items()}
        with tempfile.TemporaryDirectory() as folder:
            library = link_kernels(target.runnable(objects), target.machine, Path(folder))
            scratch = {name: target.scratch_bytes(kernel) for name, kernel in module.kernels.items()}
            self.library = KernelLibrary(library, list(objects), scratch | scratch_of(module))

    def kernel(self, name: str) -> Graph:
        """The IR of a kernel."""
        return self.module.kernels[name]

    def run(
        self, name: str, feeds: Sequence[Array], place: Place = Place.LAST, tasks: int = 1
    ) -> tuple[int, list[Array]]:
        """The code, and the results in storage order, with every buffer against an unmapped page."""
        kernel = self.kernel(name)
        operands = [placed(stored(p.type, f), place) for p, f in zip(kernel.parameters, feeds, strict=True)]
        results = [
            placed(np.full(r.type.largest.physical_shape, 77).astype(r.type.dtype.numpy), place)
            for r in kernel.returned
        ]
        code = self.library.run(name, operands, results, tasks, place=place)
        return code, [np.array(result) for result in results]

    def check(self, name: str, feeds: Sequence[Array]) -> None:
        """The kernel gives what the interpreter gives, in one task and in three."""
        wanted = expected(self.kernel(name), feeds)
        for place, tasks in SPLITS:
            code, results = self.run(name, feeds, place, tasks)
            assert code == 0
            compare(name, wanted, true_parts(wanted, results))


def text_of(kernels: Mapping[str, str]) -> str:
    """Module text of kernels by name; each body starts with its parameter list."""
    return "\n".join(f"kernel @{name}{body}" for name, body in kernels.items())
