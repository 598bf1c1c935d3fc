"""Counting what a program executes, by a plugin of QEMU; and what caches would have missed."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rtcc.emission.toolchain import find_toolchain
from rtcc.emulation.emulator import Emulator
from rtcc.errors import ToolMissing
from rtcc.runner.program import PROGRAM, kept_program
from rtcc.system.machine import Machine

LINE_BYTES = 64
"""Of the caches that are simulated."""


@dataclass(frozen=True)
class Cache:
    """A cache of data that is simulated: what was used least recently goes first, nothing comes ahead."""

    bytes: int
    ways: int


@dataclass(frozen=True)
class Block:
    """A run of instructions without a branch inside, as QEMU translated it, and how often it began.

    address: of the first, as the file has it. loaded, stored: bytes. missed: of each cache, bytes of lines
    that were not found there.
    """

    address: int
    instructions: int
    times: int
    loaded: int = 0
    stored: int = 0
    missed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Counts:
    """Instructions executed: in all, and by blocks."""

    instructions: int
    blocks: tuple[Block, ...]

    def less(self, other: Counts) -> Counts:
        """What this one executed beyond another, block by block."""
        fewer = {(each.address, each.instructions): each for each in other.blocks}
        rest = [_less(each, fewer.get((each.address, each.instructions))) for each in self.blocks]
        return Counts(self.instructions - other.instructions, tuple(each for each in rest if each.times))

    def divided(self, runs: int) -> Counts:
        """Of one of so many equal runs."""
        blocks = [
            Block(each.address, each.instructions, each.times // runs, each.loaded // runs,
                  each.stored // runs, tuple(missed // runs for missed in each.missed))
            for each in self.blocks
        ]  # fmt: skip
        return Counts(self.instructions // runs, tuple(blocks))


def _less(block: Block, other: Block | None) -> Block:
    if other is None:
        return block
    missed = tuple(a - b for a, b in zip(block.missed, other.missed, strict=True))
    loaded, stored = block.loaded - other.loaded, block.stored - other.stored
    return Block(block.address, block.instructions, block.times - other.times, loaded, stored, missed)


def plugin(emulator: Emulator) -> Path:
    """The plugin, compiled for this machine and as this QEMU wants it, kept in the cache.

    Raises ToolMissing `compiler-missing`, or `emulator-plugins` where QEMU takes none.
    """
    version = 1
    built = _built(version)
    probe = [*emulator.command("max"), *counting_words(built, Path("/dev/null"), ()), "/dev/null"]
    said = subprocess.run(probe, capture_output=True, text=True, check=False).stderr
    if newer := re.search(r"minimum version of (\d+)", said):
        return _built(int(newer[1]))
    if "plugin" in said.lower():
        raise ToolMissing(
            "emulator-plugins",
            f"{emulator.program} cannot count instructions: {said.strip().splitlines()[0]}",
            hint="apt-get install qemu-user (Debian, Ubuntu): what is linked statically takes no plugins",
        )
    return built


def _built(version: int) -> Path:
    """The plugin for a version of QEMU's interface."""
    toolchain = find_toolchain(Machine.host())
    sources = {"count.c": files("rtcc.emulation").joinpath("count.c").read_bytes()}
    options = ("-std=gnu11", "-O2", "-shared", "-fPIC", f"-DPLUGIN_VERSION={version}")
    words = (*toolchain.compile, *options, "count.c", "-o", PROGRAM)
    return kept_program(toolchain, sources, words, "count")


def counting_words(library: Path, out: Path, caches: Sequence[Cache]) -> list[str]:
    """QEMU's words for the plugin, which writes its counts to a file at the end."""
    words = f"{library},out={out}"
    if caches:
        words += ",caches=" + ":".join(f"{each.bytes}/{each.ways}" for each in caches)
    return ["-plugin", words]


def read_counts(file: Path, base: int) -> Counts:
    """What the plugin wrote, with addresses less a base; blocks that were translated again are one."""
    total: Counter[tuple[int, int]] = Counter()
    sums: dict[tuple[int, int], list[int]] = {}
    for line in file.read_text().splitlines():
        address, length, times, *rest = line.split()
        key = int(address, 16) - base, int(length)
        total[key] += int(times)
        row = sums.setdefault(key, [0] * len(rest))
        row[:] = [a + int(b) for a, b in zip(row, rest, strict=True)]
    blocks: list[Block] = []
    for (address, length), times in total.items():
        loaded, stored, *missed = sums[address, length] or [0, 0]
        lines = tuple(LINE_BYTES * each for each in missed)
        blocks.append(Block(address, length, times, loaded, stored, lines))
    return Counts(sum(each.instructions * each.times for each in blocks), tuple(blocks))


def count_program(emulator: Emulator, cpu: str, words: Sequence[str], environment: dict[str, str]) -> int:
    """Instructions that a program executes from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="rtcc-") as folder:
        out = Path(folder) / "counts"
        counting = counting_words(plugin(emulator), out, ())
        subprocess.run([*emulator.command(cpu), *counting, *words], env=environment, check=True)
        return read_counts(out, 0).instructions
