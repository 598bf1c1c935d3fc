"""QEMU in user mode: which program runs an architecture, and which CPUs it knows."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rtcc.errors import InvalidInput, ToolMissing, Unsupported
from rtcc.system.machine import Machine

PROGRAMS = {"aarch64": ("qemu-aarch64", "qemu-aarch64-static")}
"""By architecture; others are not emulated."""

LOADERS = {"aarch64": "lib/ld-linux-aarch64.so.1"}
"""Where an architecture's dynamic loader lies in the folder of its libraries."""

PACKAGES = {"aarch64": ("qemu-user", "libc6-arm64-cross")}
"""Debian's, that have QEMU and the libraries; the latter comes with gcc-aarch64-linux-gnu."""

ANY_CPU = "max"
"""QEMU's CPU that has all it can emulate."""


@dataclass(frozen=True)
class Emulator:
    """QEMU for one architecture: its program, and the folder of that architecture's libraries."""

    architecture: str
    program: str
    libraries: Path

    def command(self, cpu: str) -> list[str]:
        """What stands before a program's own words; cpu: as QEMU calls it."""
        return [self.program, "-L", str(self.libraries), "-cpu", cpu]


def find_emulator(architecture: str) -> Emulator:
    """QEMU and the C library for an architecture.

    Raises Unsupported `no-emulator` for an architecture that is not emulated, ToolMissing `emulator-missing`
    where QEMU or the libraries are not installed; $QEMU_LD_PREFIX names another folder of libraries.
    """
    if architecture not in PROGRAMS:
        known = ", ".join(PROGRAMS)
        message = f"artefacts for {architecture} are not emulated, those for {known} are"
        raise Unsupported("no-emulator", message, hint="run it where it was compiled for")
    qemu, library = PACKAGES[architecture]
    program = next(filter(None, map(shutil.which, PROGRAMS[architecture])), None)
    if program is None:
        names = " or ".join(PROGRAMS[architecture])
        raise ToolMissing("emulator-missing", f"{names} is not installed",
                          hint=f"apt-get install {qemu} (Debian, Ubuntu)")  # fmt: skip
    libraries = Path(os.environ.get("QEMU_LD_PREFIX") or f"/usr/{Machine(architecture).triple}")
    if not (libraries / LOADERS[architecture]).exists():
        raise ToolMissing(
            "emulator-missing",
            f"there is no C library for {architecture}: {libraries / LOADERS[architecture]} does not exist",
            hint=f"apt-get install {library} (Debian, Ubuntu), or name another folder in $QEMU_LD_PREFIX",
        )
    return Emulator(architecture, program, libraries)


@cache
def cpus_of(program: str) -> frozenset[str]:
    """The CPUs that a QEMU knows."""
    listed = subprocess.run([program, "-cpu", "help"], capture_output=True, text=True, check=False)
    return frozenset(listed.stdout.split())


def emulated_cpu(emulator: Emulator, names: Sequence[str]) -> str:
    """The first of some CPUs that the emulator knows; what stands behind a comma are properties of it.

    InvalidInput `emulator-cpu` where it knows none.
    """
    known = cpus_of(emulator.program)
    for name in names:
        if name.partition(",")[0] in known:
            return name
    raise InvalidInput(
        "emulator-cpu",
        f"{Path(emulator.program).name} does not emulate {' or '.join(names)}",
        hint=f"`{Path(emulator.program).name} -cpu help` lists what it does",
    )
