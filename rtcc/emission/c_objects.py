"""Kernels in C as objects, like those that code generation makes for other targets: each can run alone."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from rtcc.artifact.codes import enum_text
from rtcc.emission.c_kernel import PLACEHOLDER, CKernel
from rtcc.emission.emit_c import part_text
from rtcc.emission.toolchain import Toolchain, find_toolchain
from rtcc.system.machine import Machine

C99 = ("-std=c99", "-O2", "-fPIC", "-Wall", "-Wextra", "-pedantic", "-Werror")
"""What the C is written to pass."""


def objects_of(kernels: Mapping[str, bytes], machine: Machine) -> dict[str, bytes]:
    """An object of each kernel, whose one function takes what all kernels take (`targets/tvm/build.py`).

    kernels: as `CKernel.to_bytes` gives them. The first task does everything. Raises `ToolMissing`, and
    `ArtifactError` `link-failed` where the compiler finds anything to say.
    """
    toolchain = find_toolchain(machine)
    return {name: _object(CKernel.from_bytes(data), toolchain) for name, data in kernels.items()}


def _object(kernel: CKernel, toolchain: Toolchain) -> bytes:
    headers = sorted({"float.h", "stddef.h", "stdint.h", "string.h", *kernel.headers})
    head = part_text("source_head.c").partition("/* The start of the caller's memory")[0]
    includes = (f"#include <{header}>" for header in headers)
    parts = [enum_text(), *includes, head, *kernel.helpers.values(), kernel.function]
    with tempfile.TemporaryDirectory(prefix="rtcc-") as name:
        folder = Path(name)
        (folder / "kernel.c").write_text("\n".join([*parts, _entry(kernel)]), encoding="ascii")
        toolchain.run([*toolchain.compile, *C99, "-c", "kernel.c", "-o", "kernel.o"], folder)
        return (folder / "kernel.o").read_bytes()


_ENTRY = """\
int32_t rtcc_kernel(@PARAMETERS@);
int32_t rtcc_kernel(@PARAMETERS@)
{
    (void)tasks;
    (void)code;
    if (task == 0)
        @CALL@;
    return 0;
}
"""


def _entry(kernel: CKernel) -> str:
    """The function that other targets' kernels are, around the one in C."""
    pointers = [f"p{number}" for number in range(len(kernel.parameters))]
    parameters = ["int32_t task", "int32_t tasks", *(f"void *{each}" for each in pointers), "int32_t *code"]
    call = f"{PLACEHOLDER}({', '.join(pointers)})"
    text = _ENTRY.replace("@PARAMETERS@", ", ".join(parameters))
    return text.replace("@CALL@", f"*code = {call}" if kernel.can_fail else call)
