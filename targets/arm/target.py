"""What 64-bit ARM CPUs are, besides what every CPU target is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from rtcc.ir import DType
from rtcc.targets.arm.cpus import CACHE_WAYS, CPUS, EMULATED, SCHEDULED, host_cpu
from rtcc.targets.cpu.model import Cpu
from rtcc.targets.cpu.target import SOURCES, CpuTarget


class Arm(CpuTarget):
    """64-bit ARM with NEON, under Linux."""

    name: ClassVar[str] = "arm"
    cpus: ClassVar[tuple[str, ...]] = tuple(CPUS)
    architecture: ClassVar[str] = "aarch64"
    models: ClassVar[Mapping[str, Cpu]] = CPUS
    sources: ClassVar[tuple[Path, ...]] = (*SOURCES, Path(__file__).parent)
    tools: ClassVar[dict[str, str]] = {
        "aarch64-linux-gnu-gcc": "links for AArch64, as ziglang does (Debian: gcc-aarch64-linux-gnu)",
        "qemu-aarch64 or qemu-aarch64-static": "--emulate (Debian: qemu-user, libc6-arm64-cross)",
        "llvm-mca-19 or llvm-mca": "what `rtcc bench` estimates loops by (Debian: llvm-19)",
    }

    @classmethod
    def native(cls) -> Cpu:
        return host_cpu()

    @property
    def facts(self) -> Mapping[str, object]:
        cpu = self.model
        return {**super().facts, "L3 bytes": cpu.reach.l3, "nominal gigahertz": cpu.gigahertz,
                "vectors of multiply-adds a cycle": cpu.multiplies_per_cycle,
                "asks for memory ahead": cpu.asks_ahead,
                "features not used": sorted(cpu.absent)}  # fmt: skip

    @property
    def sum_data(self) -> DType:
        """s8 where four products of those are one instruction, and those of u8 by s8 are not."""
        features = self.model.features
        return DType.I8 if "dotprod" in features and "i8mm" not in features else DType.U8

    @property
    def pass_options(self) -> Mapping[str, str]:
        return {"convert-signedness": "to=i8"} if self.sum_data is DType.I8 else {}

    @property
    def emulated_cpus(self) -> tuple[str, ...]:
        return EMULATED.get(self.cpu, (self.cpu,))

    @property
    def scheduling_model(self) -> str:
        return SCHEDULED.get(self.cpu, self.cpu)

    @property
    def multiplies_per_cycle(self) -> float:
        return self.model.multiplies_per_cycle

    @property
    def data_caches(self) -> tuple[tuple[int, int], ...]:
        cpu = self.model
        levels = (cpu.l1, cpu.l2) if cpu.reach.l3 <= cpu.l2 else (cpu.l1, cpu.l2, cpu.reach.l3)
        return tuple(zip(levels, CACHE_WAYS, strict=False))
