# pyright: basic, reportAttributeAccessIssue=false
"""The CUDA C that is printed of kernels, compiled for the host and run there.

`simt` runs TIR, whose integers wrap and whose types are what they are called; what is printed is C++. Here it
is taken as C++, by another compiler, with the instructions of a GPU as C++ of printed.hpp.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tvm import tirx

from rtcc.targets.cuda.device_code import PRELUDE, cuda_source, launch_of, lowered_for_device

HERE = Path(__file__).parent
DEFINITION = re.compile(r'extern "C" __global__ void __launch_bounds__\([\d, ]+\) (\w+)\(([^)]*)\) \{')
BARRIERS = ("__syncthreads", "rtcc_shuffle", "rtcc_ldmatrix", "rtcc_mma")

FLAGS = ("-std=c++17", "-O2", "-fno-strict-aliasing", "-ffp-contract=off", "-w", "-shared", "-fPIC")
"""Overflow of signed integers stays undefined. GPUs have no rule for pointers of different types."""


@dataclass(frozen=True)
class Printed:
    """Kernels by name, as functions of the host."""

    library: ctypes.CDLL

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Launch a kernel on arrays as it has them in memory, results last."""
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        getattr(self.library, f"run_{name}")(pointers)


def printed(functions: Mapping[str, tirx.PrimFunc], folder: Path, architecture: str = "sm_80") -> Printed:
    """The library of some kernels; names are C's."""
    parts = [f'#include "{HERE / "printed.hpp"}"', PRELUDE]
    parts += [_part(name, func, architecture) for name, func in functions.items()]
    source, library = folder / "printed.cpp", folder / "printed.so"
    source.write_text("\n".join(parts))
    subprocess.run(["g++", *FLAGS, source, "-o", library], check=True)
    return Printed(ctypes.CDLL(str(library)))


def _part(name: str, func: tirx.PrimFunc, architecture: str) -> str:
    """A kernel in a namespace of its own, and the function that launches it."""
    lowered = lowered_for_device(func, architecture)
    text = cuda_source(lowered, architecture)
    found = DEFINITION.search(text)
    assert found is not None, text
    launch, body = launch_of(lowered), text[found.end() :]
    arguments = [each.strip() for each in found[2].split(",") if each.strip()]
    types = [each.replace("__restrict__", "").rsplit(" ", 1)[0] for each in arguments]
    given = ", ".join(f"({type})arrays[{n}]" for n, type in enumerate(types))
    grid, block = ("{" + ", ".join(map(str, each)) + "}" for each in (launch.grid, launch.block))
    waits = str(any(each in body for each in BARRIERS)).lower()
    return (
        f"namespace of_{name} {{\nstatic void kernel({found[2]})\n{{{body}\n}}\n"
        f'extern "C" void run_{name}(void **arrays)\n{{\n'
        f"    host::launch({grid}, {block}, {waits}, [=] {{ of_{name}::kernel({given}); }});\n}}\n"
    )
