"""What an artefact for a bare machine takes of flash and memory, from its objects, before it is linked."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rtcc.artifact.archive import defining_object, objects_of
from rtcc.artifact.elf import Elf, Section
from rtcc.artifact.info import ArtifactInfo
from rtcc.emission.stack import CallGraph, Depth, deepest
from rtcc.emission.toolchain import Toolchain
from rtcc.emission.weights import WEIGHTS_OBJECT

MODEL_OBJECT = "model.o"

LIBRARIES = ("libm.a", "libc.a", "libgcc.a")
"""Where functions that kernels call are looked for, as linkers do."""

DROPPED = ".text.tvm.fp16.conv"
"""A section of every kernel that nothing calls: linkers leave it out (--gc-sections)."""


CALLED = ("init", "run", "output_shape", "finish", "info", "error")
"""The functions of a library that a program calls."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of flash and of memory.

    weights, runtime: of constants; of launches, checks, names and texts. kernels: of code, by file.
    library: of functions of the C library and the compiler's, by name, and all that those call; None where
    there is no library to look into. workspace, stack, data: of memory, without the caller's inputs and
    outputs; data: variables of the library, whose first values are in flash, too.
    """

    weights: int
    runtime: int
    kernels: Mapping[str, int]
    library: Mapping[str, int] | None
    workspace: int
    stack: Depth
    data: int = 0

    @property
    def flash(self) -> int:
        """Bytes that do not change."""
        library = sum((self.library or {}).values())
        return self.weights + self.runtime + sum(self.kernels.values()) + library

    @property
    def ram(self) -> int:
        """Bytes that do."""
        return self.workspace + self.stack.bytes + self.data

    def __str__(self) -> str:
        library = "unknown" if self.library is None else f"{sum(self.library.values()):,}"
        data = f", the library's variables {self.data:,}" if self.data else ""
        return (
            f"flash {self.flash:,} bytes: weights {self.weights:,}, kernels {sum(self.kernels.values()):,}, "
            f"runtime and texts {self.runtime:,}, library functions {library}\n"
            f"RAM {self.ram:,} bytes: workspace {self.workspace:,}, stack {self.stack}{data}"
        )


def footprint_of(path: Path, info: ArtifactInfo, toolchain: Toolchain) -> Footprint:
    """What a static library takes; toolchain: whose C library it will be linked with."""
    elves = {name: Elf(contents, f"{path} ({name})") for name, contents in objects_of(path).items()}
    own = {symbol.name for elf in elves.values() for symbol in elf.symbols if symbol.is_defined}
    called = {s.name for elf in elves.values() for s in elf.symbols if s.name and not s.is_defined} - own
    library = _library(called, toolchain)
    sizes = {name: _loaded_bytes(elf) for name, elf in elves.items()}
    weights, runtime = sizes.pop(WEIGHTS_OBJECT, 0), sizes.pop(MODEL_OBJECT)
    linked = [*elves.values(), *(library or {}).values()]
    graph = CallGraph(linked, whole=library is not None)
    stack = deepest(graph.depth(f"{info.name}_{function}") for function in CALLED)
    found = None if library is None else {name: _loaded_bytes(elf) for name, elf in library.items()}
    data = sum(_bytes_of(elf, _is_variable) for elf in linked)
    return Footprint(weights, runtime, sizes, found, info.workspace_bytes, stack, data)


def _loaded_bytes(elf: Elf) -> int:
    """Bytes of flash: of the sections that a program holds, and of variables' first values."""
    return _bytes_of(elf, lambda section: section.has_bytes)


def _is_variable(section: Section) -> bool:
    """Whether it lies in memory that changes."""
    return section.is_written


def _bytes_of(elf: Elf, counts: Callable[[Section], bool]) -> int:
    """Bytes of some of the sections that a program holds, each from a multiple of its alignment on."""
    kept = (each for each in elf.sections if each.is_loaded and elf.name_of(each) not in _left_out(elf))
    taken = (each for each in kept if each.size and counts(each))
    return sum(-(-each.size // each.alignment) * each.alignment for each in taken)


def _left_out(elf: Elf) -> set[str]:
    """Sections that no program of ours has: what nothing calls, and tables for unwinding."""
    return {
        name
        for name in map(elf.name_of, elf.sections)
        if name == DROPPED or name.startswith((".ARM.exidx", ".ARM.extab"))
    }


def _library(names: set[str], toolchain: Toolchain) -> dict[str, Elf] | None:
    """The objects of the library that define functions, and those that they need, each under one name."""
    paths = [_library_path(file, toolchain) for file in LIBRARIES]
    if None in paths:
        return None
    archives = [path.read_bytes() for path in paths if path is not None]
    found: dict[str, Elf] = {}
    seen: set[str] = set()
    left = sorted(names)
    while left:
        name = left.pop(0)
        if name in seen:
            continue
        member = next(filter(None, (defining_object(data, name) for data in archives)), None)
        seen.add(name)
        if member is None:
            continue  # weak, or of the program's own
        elf = found[name] = Elf(member, name)
        seen |= {symbol.name for symbol in elf.symbols if symbol.is_defined}
        left += sorted({s.name for s in elf.symbols if s.name and not s.is_defined and not s.is_weak} - seen)
    return found


def _library_path(file: str, toolchain: Toolchain) -> Path | None:
    """Where a toolchain has a library; None where it has none."""
    command = [*toolchain.compile, f"-print-file-name={file}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return Path(found) if Path(found).is_absolute() else None
