"""What x86 CPUs are, besides what every CPU target is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from rtcc.targets.cpu.model import Cpu
from rtcc.targets.cpu.target import SOURCES, CpuTarget
from rtcc.targets.x86.cpus import CPUS, host_cpu


class X86(CpuTarget):
    """x86-64 with AVX-512, AVX2 or SSE4.2."""

    name: ClassVar[str] = "x86"
    cpus: ClassVar[tuple[str, ...]] = tuple(CPUS)
    architecture: ClassVar[str] = "x86_64"
    models: ClassVar[Mapping[str, Cpu]] = CPUS
    sources: ClassVar[tuple[Path, ...]] = (*SOURCES, Path(__file__).parent)

    @classmethod
    def native(cls) -> Cpu:
        return host_cpu()
