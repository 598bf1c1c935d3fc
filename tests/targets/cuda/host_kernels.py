# pyright: basic, reportArgumentType=false, reportAttributeAccessIssue=false
"""A GPU's kernels as functions of this machine, made of the same TIR: threads are loops, one after another.

That is right for kernels whose threads share nothing, as plain ones do. The others are run by the interpreter
(`targets/cuda/simt`), which the library calls back.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tvm import tirx

from rtcc.artifact.elf import rename_and_hide
from rtcc.emission.device_code import Phases
from rtcc.emission.toolchain import find_toolchain
from rtcc.ir import Module
from rtcc.system.machine import Machine
from rtcc.targets.cuda import Cuda
from rtcc.targets.cuda.compile import gpu_of, lower_phases
from rtcc.targets.cuda.device_builder import ALIGNMENT
from rtcc.targets.cuda.device_code import lowered_for_device
from rtcc.targets.cuda.instructions import SHUFFLE_XOR
from rtcc.targets.cuda.simt import interpret_lowered
from rtcc.targets.tvm.build import KERNEL_SYMBOL, build_object, target_of
from rtcc.targets.tvm.compile_kernels import kernel_text
from rtcc.targets.tvm.lower.compile import kernel_of
from rtcc.targets.tvm.vector_math import fence_of_llvm

Interpreted = dict[int, tuple[str, dict[str, bytes], str]]
"""The text and the blobs of kernels, and the phase, by number of a function."""

_HEAD = """
#include <stddef.h>
struct fake_kernel {
    const char *symbol; const unsigned char *image; size_t bytes;
    void (*function)(void **parameters); unsigned int grid[3], block[3], parameters;
};
void (*fake_interpreter)(int number, void **parameters);
"""


def works_together(func: tirx.PrimFunc) -> bool:
    """Whether threads may work together: what a `DeviceBuilder` made, and rows by warps."""
    return func.params[0].ty.data_alignment == ALIGNMENT or SHUFFLE_XOR.name in func.script()


def of_host(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with its blocks and threads as loops."""
    return func.with_body(_looped(func.body))


def _looped(stmt: tirx.Stmt) -> tirx.Stmt:
    match stmt:
        case tirx.AttrStmt() if stmt.attr_key == "thread_extent":
            return tirx.For(stmt.node.var, 0, stmt.value, tirx.ForKind.SERIAL, _looped(stmt.body))
        case tirx.AttrStmt():
            return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, _looped(stmt.body))
        case tirx.SeqStmt():
            return tirx.SeqStmt([_looped(each) for each in stmt.seq])
        case tirx.For():
            return tirx.For(stmt.loop_var, stmt.min, stmt.extent, stmt.kind, _looped(stmt.body))
        case tirx.While():
            return tirx.While(stmt.condition, _looped(stmt.body))
        case tirx.IfThenElse():
            otherwise = stmt.else_case and _looped(stmt.else_case)
            return tirx.IfThenElse(stmt.condition, _looped(stmt.then_case), otherwise)
        case tirx.Evaluate() if "thread_return" in str(stmt.value):
            return tirx.Return(tirx.IntImm("int32", 0))  # the run is lost anyway: its code is stored
    return stmt


def link_host_kernels(
    module: Module, target: Cuda, codes: Mapping[str, Phases], folder: Path
) -> tuple[Path, Interpreted]:
    """A library for the stand-in driver: for each image of a kernel, the function that does what it does.

    Also the text and blobs of the kernels that are to be interpreted, by number.
    """
    text, rows, files = [_HEAD], [], []
    interpreted: Interpreted = {}
    funcs = {
        (name, phase): func
        for name in codes
        for phase, func in lower_phases(module.kernels[name], target, fence_of_llvm).items()
    }
    for number, ((name, phase), func) in enumerate(funcs.items()):
        code, count = codes[name][phase], len(func.params)
        if works_together(func):
            interpreted[number] = (*kernel_text(module.kernels[name]), phase)
            text.append(f"static void run{number}(void **p) {{ fake_interpreter({number}, p); }}")
        else:
            contents = build_object(of_host(func), target_of("x86-64-v3"))
            (folder / f"k{number}.o").write_bytes(rename_and_hide(contents, KERNEL_SYMBOL, f"k{number}"))
            files.append(f"k{number}.o")
            text.append(f"int k{number}({', '.join(['void *'] * count)});")
            passed = ", ".join(f"p[{n}]" for n in range(count))
            text.append(f"static void run{number}(void **p) {{ k{number}({passed}); }}")
        for form, image in (("cubin", code.cubin), ("ptx", code.ptx)):
            (folder / f"k{number}.{form}").write_bytes(image)
            symbol = f"{form}{number}"
            text.append(f'__asm__(".section .rodata\\n{symbol}: .incbin \\"k{number}.{form}\\"\\n.text");')
            text.append(f"extern const unsigned char {symbol}[] __attribute__((visibility(\"hidden\")));")
            extents = [", ".join(map(str, each)) for each in (code.launch.grid, code.launch.block)]
            rows.append(f'    {{"{code.symbol}", {symbol}, {len(image)}, run{number}, '
                        f"{{{extents[0]}}}, {{{extents[1]}}}, {count}}},")  # fmt: skip
    text += ["const struct fake_kernel fake_kernels[] = {", *rows, "    {0},", "};",
             f"const size_t fake_kernel_count = {len(rows)};", ""]  # fmt: skip
    (folder / "kernels.c").write_text("\n".join(text))
    toolchain = find_toolchain(Machine.host())
    linked = [*toolchain.compile, "-shared", "-fPIC", "kernels.c", *files, "-lm", "-o", "kernels.so"]
    toolchain.run(linked, folder)
    return folder / "kernels.so", interpreted


def interpreter(interpreted: Interpreted, target: str) -> Callable[[int, int], None]:
    """What a library of kernels calls back: a kernel's number, the address of its parameters' addresses."""

    @cache
    def functions(number: int) -> tuple[tirx.PrimFunc, tirx.PrimFunc]:
        text, blobs, phase = interpreted[number]
        with kernel_of(text, blobs) as kernel:
            func = lower_phases(kernel, gpu_of(target))[phase]
        return func, lowered_for_device(func, "sm_80")

    def run(number: int, parameters: int) -> None:
        func, lowered = functions(number)
        addresses = (ctypes.c_void_p * len(func.params)).from_address(parameters)
        pairs = zip(addresses, func.params, strict=True)
        interpret_lowered(lowered, [_array_at(address, param) for address, param in pairs])

    return run


def _array_at(address: int, buffer: tirx.Buffer) -> np.ndarray:
    """The memory of a kernel's parameter."""
    kind = np.dtype(str(buffer.ty.dtype))
    count = math.prod(int(extent) for extent in buffer.ty.shape)
    memory: Any = (ctypes.c_char * (count * kind.itemsize)).from_address(address)
    return np.frombuffer(memory, kind)


def build_driver(folder: Path, *flags: str) -> Path:
    """The stand-in driver, as libcuda.so.1 in a folder."""
    here = Path(__file__).parent
    toolchain = find_toolchain(Machine.host())
    include = here.parents[2] / "rtcc" / "emission"
    toolchain.run(
        [*toolchain.compile, "-std=c11", "-Wall", "-Wextra", "-Werror", "-g", *flags, "-shared", "-fPIC",
         "-I", str(include), str(here / "driver.c"), str(here / "driver_streams.c"),
         "-Wl,-soname,libcuda.so.1", "-ldl", "-pthread", "-o", "libcuda.so.1"],
        folder,
    )  # fmt: skip
    return folder / "libcuda.so.1"
