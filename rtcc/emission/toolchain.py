"""The C compiler found for a machine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from rtcc.errors import ArtifactError, ToolMissing
from rtcc.system.machine import Machine

_ZIG_LIBRARIES = "gnu.2.28", "musl"
"""The oldest C library that artefacts linked by zig run with, and the one of static programs."""


@dataclass(frozen=True)
class Toolchain:
    """Commands that compile and link C, that make static libraries, and that link programs which need no
    library of the machine they run on, for one architecture."""

    compile: tuple[str, ...]
    archive: tuple[str, ...]
    static: tuple[str, ...]

    def run(self, command: Sequence[str], folder: Path) -> None:
        """Run one command in a folder. Raises `ArtifactError` `link-failed` with what the tool wrote."""
        environment = {**os.environ, "LC_ALL": "C", "ZERO_AR_DATE": "1", "TMPDIR": str(folder)}
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            output = (done.stderr or done.stdout).strip()
            shown = " ".join(command)
            raise ArtifactError("link-failed", f"`{shown}` ended with {done.returncode}:\n{output}")


def find_toolchain(machine: Machine) -> Toolchain:
    """The C compiler for a machine: $CC, a cross compiler, cc, gcc, clang, else PyPI's ziglang.

    A compiler counts when it says that it compiles for the machine's architecture. Raises `ToolMissing`.
    """
    chosen = os.environ.get("CC", "").strip()
    if chosen and shutil.which(_words(chosen)[0]) is None:
        raise ToolMissing(
            "compiler-missing", f"$CC names {chosen!r}, which was not found", hint="unset CC, or correct it"
        )
    names = [chosen] if chosen else []
    for name in [*names, f"{machine.tools}-gcc", "cc", "gcc", "clang"]:
        command = shlex.split(name)
        if shutil.which(command[0]) and _compiles_for(command, machine):
            words = (*command, *machine.flags)
            return Toolchain(words, (_archiver(command), "rcsD"), (*words, "-static"))
    if find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang")
        shared, static = (
            (*zig, "cc", *_zig_target(machine, each), "-fno-sanitize=undefined") for each in _ZIG_LIBRARIES
        )
        return Toolchain(shared, (*zig, "ar", "rcsD"), (*static, "-static"))
    is_native = machine.architecture == Machine.host().architecture
    package = "gcc" if is_native else f"gcc-{machine.tools.replace('_', '-')}"
    raise ToolMissing(
        "compiler-missing",
        f"no C compiler for {machine.triple} was found; looked for $CC, {machine.tools}-gcc, cc, gcc, "
        "clang and ziglang",
        hint=f"install one: `pip install ziglang`, or Debian's package {package}",
    )


def _zig_target(machine: Machine, library: str) -> tuple[str, ...]:
    """What zig is told to compile for: with a C library on Linux, with none elsewhere."""
    if not machine.is_bare:
        return "-target", f"{machine.architecture}-linux-{library}"
    cpu = "".join([machine.cpu.replace("-", "_"), *(f"-{feature}" for feature in machine.absent)])
    return "-target", f"thumb-freestanding-{machine.system.partition('-')[2]}", f"-mcpu={cpu}"


def _words(chosen: str) -> list[str]:
    """$CC as words of a command."""
    try:
        return shlex.split(chosen) or [""]
    except ValueError as error:
        raise ToolMissing(
            "compiler-missing", f"$CC is no command: {chosen!r} ({error})", hint="unset CC, or correct it"
        ) from error


def _compiles_for(command: list[str], machine: Machine) -> bool:
    answer = _told(command, "-dumpmachine")
    return answer is not None and answer.startswith(_answer(machine))


def _told(command: list[str], option: str) -> str | None:
    """What a compiler that is there prints for an option; None where it fails."""
    path = Path(shutil.which(command[0]) or command[0])
    return _asked(path, path.stat().st_mtime_ns, (*command, option))


@cache
def _asked(path: Path, changed: int, command: tuple[str, ...]) -> str | None:
    """Asked once, as long as the compiler's file stays what it is."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout if answer.returncode == 0 else None


def _answer(machine: Machine) -> str:
    """How the triple begins that a compiler for a machine tells."""
    return machine.tools if machine.is_bare else f"{machine.architecture}-"


def _archiver(command: list[str]) -> str:
    return (_told(command, "-print-prog-name=ar") or "").strip() or "ar"
