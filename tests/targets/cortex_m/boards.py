"""Models compiled for Cortex-M and run on boards that QEMU emulates."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rtcc.compiler import Options, start, write
from rtcc.emulation import EmulatedBoard
from rtcc.ir import Module
from tests.targets.arm.emulation import Outcome

CORES = ("cortex-m3", "cortex-m4", "cortex-m7")
"""Without a float unit and the DSP extension, with them, and with a wider float unit."""


def require_boards() -> None:
    """Skip a test where QEMU or the cross compiler is missing."""
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def lowered(model: Any, options: Options, path: Path) -> tuple[Module, EmulatedBoard]:
    """A model, compiled to PATH.a and linked for the board of its core."""
    require_boards()
    compilation = start(model, options)
    compilation.lower()
    return compilation.module, EmulatedBoard(write(compilation, path))


def emulated(model: Any, options: Options, folder: Path, seed: int = 0) -> Outcome:
    """A model, compiled and run once on seeded inputs."""
    module, board = lowered(model, options, folder / "net.a")
    feeds = board.random_inputs(seed)
    return Outcome(module, feeds, board.run(feeds))
