"""An artefact for a microcontroller, run by QEMU on an emulated board without an operating system."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from rtcc.artifact.archive import info_of
from rtcc.artifact.elf import Elf
from rtcc.artifact.info import ArtifactInfo
from rtcc.emission.header import TABLE
from rtcc.emission.toolchain import Toolchain, find_toolchain
from rtcc.errors import ArtifactError, InvalidInput, ToolMissing
from rtcc.runner.foreign import Answer, Foreign
from rtcc.runner.program import REPORT, report_source
from rtcc.system.machine import Machine
from rtcc.system.time_limit import run_within, time_limit
from rtcc.target import Target, parse_target

PROGRAM = "qemu-system-arm"
IMAGE = "image.elf"

TENSOR_ALIGNMENT = 64


@dataclass(frozen=True)
class _Board:
    """Where a board has what stands for flash, and memory; its clock's ticks, in nanoseconds, as which QEMU
    counts instructions."""

    flash: int = 0
    ram: int = 0x20000000
    tick: int = 40


_BOARDS = {"mps2-an505": _Board(0x10000000, 0x38000000, 50)}
"""Boards that differ from those of the Cortex-M3, M4 and M7 (Arm, Application Notes AN385 and AN505)."""

_COMPILE = (
    "-std=gnu11", "-Os", "-ffreestanding", "-fno-builtin", "-fno-tree-loop-distribute-patterns",
    "-ffunction-sections", "-fdata-sections", "-fno-pic", "-Wall", "-Wextra",
)  # fmt: skip
_LINK = ("-nostartfiles", "-static", "-Wl,--gc-sections", "-Wl,--build-id=none", "-Wl,-T,board.ld")


@dataclass(frozen=True)
class Linked:
    """What a linked artefact takes, in bytes, without what runs it: its code, tables and weights, library
    functions that it calls, its workspace, and what the last run took of the stack.

    data, zeros: variables of the library, with first values in flash and without. instructions: of the last
    run, in steps of 40 or 50; 0 before it, and where they are more than the board's clock counts, which are
    670 million."""

    model: int
    library: int
    workspace: int
    data: int = 0
    zeros: int = 0
    stack: int = 0
    instructions: int = 0

    @property
    def flash(self) -> int:
        """Bytes that do not change."""
        return self.model + self.library + self.data

    @property
    def ram(self) -> int:
        """Bytes that do, without the caller's inputs and outputs."""
        return self.workspace + self.stack + self.data + self.zeros

    def __str__(self) -> str:
        counted = f"{self.instructions:,} instructions" if self.instructions else "instructions not counted"
        return f"as linked and run: flash {self.flash:,} bytes, RAM {self.ram:,} bytes, {counted}"


class EmulatedBoard(Foreign):
    """A static library for a microcontroller, linked with a program that runs it, which QEMU runs; what it
    computes is exact, its time means nothing."""

    def __init__(self, path: str | Path, cpu: str | None = None, *, threads: int | None = None) -> None:
        """Open PATH.a.

        cpu: another core than it was compiled for. threads: there is one. Raises ToolMissing where QEMU or
        the C compiler is missing, `ArtifactError` where the file is no such artefact or is too large for the
        board, InvalidInput for a core that is not emulated and for more threads than one.
        """
        self.path = Path(path)
        self._describe(info_of(self.path), threads)
        target = parse_target(self.info.target)
        if not target.machine.is_bare:
            message = f"{self.path.name} is a static library for {self.info.target}, which no board here has"
            raise InvalidInput("static-library", message, hint="compile to .so, for here or for QEMU")
        self.cpu = cpu or target.cpu
        self._command = _command(target, self.cpu, self.info)
        self._board = _BOARDS.get(target.emulated_boards[self.cpu], _Board())
        with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
            image = _linked(self.path, self.info, target.machine, self._board, Path(folder))
            self._image = image.read_bytes()
        self.linked = _measured(self._image)

    def _told(self, folder: Path, words: Sequence[str]) -> bytes:
        """The runner knows its tensors, and takes no words; nothing it does is timed."""
        (folder / IMAGE).write_bytes(self._image)
        command = [*self._command, "-kernel", IMAGE]
        done = run_within(time_limit(), command, self.late, str(self.path), folder=folder)
        if done.returncode != 0:
            said = (done.stderr + done.stdout).decode(errors="replace").strip()
            raise self._failure(said or "the program faulted")
        return (folder / "report").read_bytes()

    def _answer(self, folder: Path, words: Sequence[str]) -> Answer:
        answer = super()._answer(folder, words)
        instructions = answer.ticks * self._board.tick
        self.linked = replace(self.linked, stack=answer.stack, instructions=instructions)
        return answer


@cache
def _boards() -> str:
    """The boards that QEMU knows, as it lists them."""
    return subprocess.run([PROGRAM, "-machine", "help"], capture_output=True, text=True, check=False).stdout


def _command(target: Target, cpu: str, info: ArtifactInfo) -> list[str]:
    """QEMU with a board that has a core, which must run the target's code."""
    boards = target.emulated_boards
    if cpu not in boards:
        features = ", ".join(info.features) or "no extensions"
        hint = f"it was compiled for {info.target}, with {features}; its code runs on {', '.join(boards)}"
        message = f"{cpu} lacks instructions of {info.target}, or is not emulated"
        raise ArtifactError("cpu-unsupported", message, hint=hint)
    if shutil.which(PROGRAM) is None:
        raise ToolMissing("emulator-missing", f"{PROGRAM} is not installed",
                          hint="apt-get install qemu-system-arm (Debian, Ubuntu)")  # fmt: skip
    if f"{boards[cpu]} " not in _boards():
        raise InvalidInput("emulator-cpu", f"this {PROGRAM} has no board {boards[cpu]} for the {cpu}",
                           hint=f"`{PROGRAM} -machine help` lists those it has")  # fmt: skip
    return [PROGRAM, "-machine", boards[cpu], "-display", "none", "-serial", "none", "-monitor", "none",
            "-icount", "shift=0", "-semihosting-config", "enable=on,target=native"]  # fmt: skip


def _linked(path: Path, info: ArtifactInfo, machine: Machine, board: _Board, folder: Path) -> Path:
    """The program that runs an artefact, linked in a folder."""
    toolchain = find_toolchain(machine)
    _require_library(toolchain)
    for name in ("bare_runner.c", "board.ld"):
        (folder / name).write_bytes(files("rtcc.emulation").joinpath(name).read_bytes())
    (folder / REPORT).write_bytes(report_source())
    (folder / "artifact_table.h").write_text("#include <stddef.h>\n#include <stdint.h>\n" + TABLE)
    (folder / "tensors.h").write_text(_sizes(info))
    shutil.copyfile(path, folder / "model.a")
    places = f"-Wl,--defsym,flash_begin={board.flash},--defsym,ram_begin={board.ram}"
    words = [places, *_LINK, "bare_runner.c", "model.a", "-lm", "-o", IMAGE]
    try:
        toolchain.run([*toolchain.compile, *_COMPILE, *words], folder)
    except ArtifactError as error:
        if "overflowed by" in str(error):
            error.code, error.hint = "board-too-small", "the boards have 4 MiB of flash and 4 MiB of memory"
        raise
    return folder / IMAGE


def _require_library(toolchain: Toolchain) -> None:
    """Refuse a toolchain without a C library for bare machines."""
    command = [*toolchain.compile, "-print-file-name=libc.a"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not Path(found).is_absolute():
        name = Path(toolchain.compile[0]).name
        raise ToolMissing(
            "emulator-missing", f"{name} has no C library to link the emulated program with",
            hint="apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi (Debian, Ubuntu)",
        )  # fmt: skip


def _sizes(info: ArtifactInfo) -> str:
    """What the runner is told of an artefact."""
    rows = [f"{{'i', {each.bytes}u, 0}}" for each in info.inputs]
    rows += [f"{{'o', {each.bytes}u, {len(each.symbolic or ())}}}" for each in info.outputs]
    tensors = (*info.inputs, *info.outputs)
    room = sum((each.bytes // TENSOR_ALIGNMENT + 1) * TENSOR_ALIGNMENT for each in tensors)
    return "\n".join([
        f"#define WORKSPACE_BYTES {info.workspace_bytes}u",
        f"#define TENSOR_BYTES {room}u",
        f"#define TENSORS {', '.join(rows)}",
        "",
    ])  # fmt: skip


def _measured(image: bytes) -> Linked:
    """What the sections of a linked program hold."""
    elf = Elf(image, IMAGE)
    sizes = {elf.name_of(section): section.size for section in elf.sections}
    marks = {symbol.name: symbol.value for symbol in elf.symbols}
    data = marks["library_data_end"] - marks["data_begin"]
    zeros = marks["library_bss_end"] - marks["bss_begin"]
    return Linked(sizes[".model"], sizes.get(".library", 0), sizes[".workspace"], data, zeros)
