"""Objects of kernels as one shared object, and running a kernel of it on arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rtcc.artifact.elf import rename_and_hide
from rtcc.emission.features import cpu_text
from rtcc.emission.toolchain import find_toolchain
from rtcc.errors import CodegenError
from rtcc.ir.op import Array
from rtcc.system.machine import Machine
from rtcc.verification.memory import Block, Place

SCRATCH_ALIGNMENT = 64
"""Bytes that scratch memory is aligned to in a workspace."""

_MODE = """
static _Thread_local rtcc_float_mode rtcc_mode;
int rtcc_kernels_refused(void) { return rtcc_cpu_lacks_features(); }
void rtcc_kernels_enter(void) { rtcc_mode = rtcc_float_enter(); }
void rtcc_kernels_leave(void) { rtcc_float_leave(rtcc_mode); }
"""


def link_kernels(objects: Mapping[str, bytes], machine: Machine, folder: Path) -> Path:
    """Objects of kernels linked into one shared object, with a table of them in their order.

    Unsupported `other-machine` where they are for another machine than this, on which they are to run.
    """
    hint = "verify and tune where the model will run; `rtcc run --emulate` runs whole artefacts"
    machine.require_here("kernels", hint)
    for number, (name, contents) in enumerate(objects.items()):
        (folder / f"k{number}.o").write_bytes(rename_and_hide(contents, name, f"k{number}"))
    declared = "\n".join(f"extern int k{number}(void);" for number in range(len(objects)))
    listed = ", ".join(f"(void *)k{number}" for number in range(len(objects)))
    table = f"{declared}\nvoid *rtcc_kernels[] = {{{listed or 0}}};\n"
    (folder / "table.c").write_text(cpu_text(machine) + _MODE + table)
    toolchain = find_toolchain(machine)
    files = [f"k{number}.o" for number in range(len(objects))]
    toolchain.run(
        [*toolchain.compile, "-shared", "-fPIC", "table.c", *files, "-lm", "-o", "kernels.so"], folder
    )
    return folder / "kernels.so"


def open_library(path: Path) -> ctypes.CDLL:
    """Load linked kernels; CodegenError `cpu-unsupported` where this machine's CPU cannot run them."""
    library = ctypes.CDLL(str(path))
    if library.rtcc_kernels_refused():
        raise CodegenError(
            "cpu-unsupported",
            "this machine's CPU lacks instructions that the kernels were compiled for",
            hint="run them on a machine that has them, or compile for this one: --target x86",
        )
    return library


class KernelLibrary:
    """A shared object of kernels, loaded into this process.

    Kernels run as in an artefact: each task with scratch memory of its own, denormals flushed.
    """

    def __init__(self, path: Path, names: Sequence[str], scratch: Mapping[str, int] | None = None) -> None:
        """names: of the kernels, in the order of the table. scratch: bytes per task, by kernel.

        Raises CodegenError `cpu-unsupported` where this machine's CPU cannot run them.
        """
        self._scratch = dict(scratch or {})
        self._numbers = {name: number for number, name in enumerate(names)}
        self._library = open_library(path)
        self._table = (ctypes.c_void_p * max(1, len(names))).in_dll(self._library, "rtcc_kernels")

    def run(
        self,
        name: str,
        operands: Sequence[Array],
        results: Sequence[Array],
        tasks: int = 1,
        *,
        order: Sequence[int] = (),
        at_once: bool = False,
        place: Place = Place.MIDDLE,
        fill: int = 0xFF,
    ) -> int:
        """Run a kernel on arrays in storage order; its lowest code, 0 or negative.

        order: of its tasks, one after another; as they are numbered where none is given. at_once: each on a
        thread. place, fill: where scratch memory lies, and what its bytes hold before. Raises CodegenError
        `kernel-wrong` where bytes around scratch memory were changed.
        """
        pointers = [array.ctypes.data for array in (*operands, *results)]
        size = self._scratch.get(name, 0)
        blocks = [Block(size, place, SCRATCH_ALIGNMENT) for _ in range(tasks)] if size else []
        for block in blocks:
            block.bytes[...] = fill
        types = [*(ctypes.c_int32,) * 2, *(ctypes.c_void_p,) * (len(pointers) + (size > 0) + 1)]
        function = ctypes.CFUNCTYPE(ctypes.c_int32, *types)(self._table[self._numbers[name]] or 0)
        codes = [ctypes.c_int32(0) for _ in range(tasks)]

        def run_task(task: int) -> None:
            scratch = [blocks[task].bytes.ctypes.data] if blocks else []
            self._library.rtcc_kernels_enter()
            function(task, tasks, *pointers, *scratch, ctypes.addressof(codes[task]))
            self._library.rtcc_kernels_leave()

        if at_once:
            with ThreadPoolExecutor(tasks) as pool:
                list(pool.map(run_task, range(tasks)))
        else:
            for task in order or range(tasks):
                run_task(task)
        if not all(block.is_intact for block in blocks):
            raise CodegenError("kernel-wrong", f"kernel @{name} wrote outside its {size} bytes of scratch")
        return min(code.value for code in codes)
