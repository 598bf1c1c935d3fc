"""Models compiled for ARM and run under QEMU."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from rtcc.compiler import Options, start, write
from rtcc.emulation import Emulated
from rtcc.emulation.disassembly import llvm_tool
from rtcc.errors import ToolMissing
from rtcc.ir import Module

CORES = ("cortex-a53", "cortex-a76", "neoverse-n2")
"""The least, one with products of four bytes, one with those of either sign."""


def require_emulation() -> None:
    """Skip a test where QEMU or the cross compiler is missing."""
    for tool in ("aarch64-linux-gnu-gcc", "qemu-aarch64-static"):
        if shutil.which(tool) is None and not (tool.startswith("qemu") and shutil.which("qemu-aarch64")):
            pytest.skip(f"{tool} is not installed")


def require_estimates() -> None:
    """Skip a test where QEMU has no plugins, or LLVM's tools are missing."""
    require_emulation()
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    try:
        llvm_tool("llvm-mca")
    except ToolMissing:
        pytest.skip("llvm-mca is not installed")


@dataclass(frozen=True)
class Outcome:
    """What one run gave: the module that was compiled, what went in and what came out."""

    module: Module
    feeds: dict[str, NDArray[Any]]
    results: dict[str, NDArray[Any]]


def emulated(
    model: Any, options: Options, folder: Path, feeds: dict[str, NDArray[Any]] | None = None
) -> Outcome:
    """A model, compiled and run once on the CPU that it was compiled for; feeds: seeded inputs by default."""
    require_emulation()
    compilation = start(model, options)
    compilation.lower()
    artefact = Emulated(write(compilation, folder / "model.so"))
    feeds = artefact.random_inputs() if feeds is None else feeds
    return Outcome(compilation.module, feeds, artefact.run(feeds))
