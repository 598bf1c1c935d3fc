"""What rtcc declares of NVIDIA's driver (cuda_driver.h), held against NVIDIA's own cuda.h."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import rtcc.emission
from rtcc.emission.toolchain import find_toolchain
from rtcc.errors import RtccError
from rtcc.system.machine import Machine
from tests.targets.cuda.nvcc import needs_nvcc

OURS = Path(rtcc.emission.__file__).parent / "cuda_driver.h"

KERNEL = {
    "func": "func", "grid": "gridDimX", "block": "blockDimX", "shared_bytes": "sharedMemBytes",
    "parameters": "kernelParams", "extra": "extra",
}  # fmt: skip
SIDE = {
    "x": "XInBytes", "y": "Y", "z": "Z", "level": "LOD", "memory_type": "MemoryType", "host": "Host",
    "device": "Device", "array": "Array", "pitch": "Pitch", "height": "Height",
}  # fmt: skip
COPY = {
    **{f"source.{ours}": f"src{theirs}" for ours, theirs in SIDE.items()}, "source.reserved": "reserved0",
    **{f"destination.{ours}": f"dst{theirs}" for ours, theirs in SIDE.items()},
    "destination.reserved": "reserved1", "width": "WidthInBytes", "height": "Height", "depth": "Depth",
}  # fmt: skip
"""Our names for the members of its structs."""


def _checks(ours: str) -> str:
    """C that compiles where all that is declared is what NVIDIA's header has.

    Our types and constants have a prefix there, so that both headers can be read; a name that both declare
    as the same type needs none. Parameters of functions are then written in NVIDIA's own types.
    """
    constants = re.findall(r"^    (CU[A-Z0-9_]+) = ", ours, re.MULTILINE)
    renamed = [*constants, *re.findall(r"^typedef unsigned int (\w+);", ours, re.MULTILINE)]
    structs = {"CUDA_KERNEL_NODE_PARAMS": KERNEL, "CUDA_MEMCPY3D": COPY}
    renamed += structs
    assert len(constants) > 15
    lines = ["#define __CUDA_API_VERSION_INTERNAL 1 /* the functions under the names of their symbols */",
             "#include <cuda.h>", *(f"#define {name} ours_{name}" for name in renamed),
             f'#include "{OURS.name}"', *(f"#undef {name}" for name in renamed),
             "#define CUDA_KERNEL_NODE_PARAMS CUDA_KERNEL_NODE_PARAMS_v1 /* of the symbol without _v2 */",
             "#define SAME(one, other) __builtin_types_compatible_p(__typeof__(one), other)",
             "#define CHECK(name, parameters) _Static_assert(SAME(name, CUresult parameters), #name);",
             "RTCC_DRIVER(CHECK)", "RTCC_DRIVER_NEWER(CHECK)"]  # fmt: skip
    lines += [f'_Static_assert((int)ours_{name} == (int){name}, "{name}");' for name in constants]
    for name, members in structs.items():
        lines.append(f'_Static_assert(sizeof(ours_{name}) == sizeof({name}), "{name}");')
        lines += [
            f'_Static_assert(offsetof(ours_{name}, {mine}) == offsetof({name}, {theirs}), "{mine}");'
            for mine, theirs in members.items()
        ]
    return "\n".join([*lines, ""])


def _compile(header: str, folder: Path) -> None:
    (folder / OURS.name).write_text(header)
    (folder / "checks.c").write_text(_checks(header))
    toolchain = find_toolchain(Machine.host())
    include = [f"-I{each}" for each in (".", *_include())]
    toolchain.run([*toolchain.compile, "-std=gnu11", "-fsyntax-only", "-w", *include, "checks.c"], folder)


def _include() -> list[str]:
    """Where NVIDIA's headers are, as its compiler says it; nothing where that is a folder of the system's."""
    done = subprocess.run(
        ["nvcc", "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True, check=True
    )
    return re.findall(r'-I([^" ]+)', done.stderr)


@needs_nvcc
def test_declarations_are_nvidias(tmp_path: Path) -> None:
    _compile(OURS.read_text(), tmp_path)


@needs_nvcc
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("CU_DEVICE_ATTRIBUTE_INTEGRATED = 18", "CU_DEVICE_ATTRIBUTE_INTEGRATED = 19"),
        ("size_t x, y, z, level;", "unsigned int x, y, z, level;"),
        ("void **parameters, **extra;", "void **extra, **parameters;"),
        ("(CUstream stream, CUevent event, uns", "(CUevent event, CUstream stream, uns"),
        ("size_t count, CUstream stream)", "unsigned int count, CUstream stream)"),
    ],
)
def test_a_wrong_declaration_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    header = OURS.read_text()
    assert right in header
    with pytest.raises(RtccError):
        _compile(header.replace(right, wrong), tmp_path)
