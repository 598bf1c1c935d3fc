"""Objects of kernels as one shared object, and running a kernel of it on arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rtcc.artifact.elf import rename_and_hide
from rtcc.emission.toolchain import find_toolchain
from rtcc.ir.op import Array
from rtcc.machine import Machine

GARBAGE = 0xA5
"""What memory holds before a kernel runs."""


def link_kernels(objects: Mapping[str, bytes], machine: Machine, folder: Path) -> Path:
    """Objects of kernels linked into one shared object, with a table of them in their order."""
    for number, (name, contents) in enumerate(objects.items()):
        (folder / f"k{number}.o").write_bytes(rename_and_hide(contents, name, f"k{number}"))
    declared = "\n".join(f"extern int k{number}(void);" for number in range(len(objects)))
    listed = ", ".join(f"(void *)k{number}" for number in range(len(objects)))
    (folder / "table.c").write_text(f"{declared}\nvoid *rtcc_kernels[] = {{{listed or 0}}};\n")
    toolchain = find_toolchain(machine)
    files = [f"k{number}.o" for number in range(len(objects))]
    toolchain.run(
        [*toolchain.compile, "-shared", "-fPIC", "table.c", *files, "-lm", "-o", "kernels.so"], folder
    )
    return folder / "kernels.so"


class KernelLibrary:
    """A shared object of kernels, loaded into this process."""

    def __init__(self, path: Path, names: Sequence[str], scratch: Mapping[str, int] | None = None) -> None:
        """names: of the kernels, in the order of the table. scratch: bytes per task, by kernel."""
        self._scratch = dict(scratch or {})
        self._numbers = {name: number for number, name in enumerate(names)}
        self._library = ctypes.CDLL(str(path))
        self._table = (ctypes.c_void_p * max(1, len(names))).in_dll(self._library, "rtcc_kernels")

    def run(self, name: str, operands: Sequence[Array], results: Sequence[Array], tasks: int = 1) -> int:
        """Run a kernel, task after task, on arrays in storage order; its code, 0 or negative."""
        pointers = [array.ctypes.data for array in (*operands, *results)]
        scratch = np.full(self._scratch.get(name, 0), GARBAGE, np.uint8)
        pointers += [scratch.ctypes.data] if scratch.size else []
        types = [ctypes.c_int32, ctypes.c_int32, *(ctypes.c_void_p for _ in pointers), ctypes.c_void_p]
        function = ctypes.CFUNCTYPE(ctypes.c_int32, *types)(self._table[self._numbers[name]] or 0)
        code = ctypes.c_int32(0)
        for task in range(tasks):
            function(task, tasks, *pointers, ctypes.addressof(code))
        return code.value
