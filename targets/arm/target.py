"""What 64-bit ARM CPUs are, besides what every CPU target is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from rtcc.targets.arm.cpus import CPUS, EMULATED, host_cpu
from rtcc.targets.cpu.model import Cpu
from rtcc.targets.cpu.target import SOURCES, CpuTarget


class Arm(CpuTarget):
    """64-bit ARM with NEON, under Linux."""

    name: ClassVar[str] = "arm"
    cpus: ClassVar[tuple[str, ...]] = tuple(CPUS)
    architecture: ClassVar[str] = "aarch64"
    models: ClassVar[Mapping[str, Cpu]] = CPUS
    sources: ClassVar[tuple[Path, ...]] = (*SOURCES, Path(__file__).parent)

    @classmethod
    def native(cls) -> Cpu:
        return host_cpu()

    @property
    def facts(self) -> Mapping[str, object]:
        cpu = self.model
        return {**super().facts, "L3 bytes": cpu.reach.l3, "nominal gigahertz": cpu.gigahertz,
                "vectors of multiply-adds a cycle": cpu.multiplies_per_cycle,
                "features not used": sorted(cpu.absent)}  # fmt: skip

    @property
    def emulated_cpus(self) -> tuple[str, ...]:
        return EMULATED.get(self.cpu, (self.cpu,))
