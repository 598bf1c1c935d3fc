"""What Cortex-M cores are, besides what every CPU target is: no operating system, little memory."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from rtcc.emission.emit_c import BARE_HEAD_BYTES, ModelSource
from rtcc.errors import InvalidInput
from rtcc.ir import Module, Op
from rtcc.ir.ops.integer import ConvSum, MatMulSum
from rtcc.system.machine import Machine
from rtcc.target import (
    DEFAULT_TARGET,
    NO_HALOS,
    Candidate,
    Halos,
    Source,
    WeightsName,
)
from rtcc.targets.cortex_m.cpus import CORES, INTEGER_REGISTERS, Core
from rtcc.targets.cpu.bare import BareTarget
from rtcc.targets.cpu.model import Cpu
from rtcc.targets.cpu.target import SOURCES
from rtcc.targets.tvm.candidate_basis import Vectors
from rtcc.targets.tvm.candidates import ALGORITHMS, OF_LITTLE_MEMORY, TRANSFORMED


class CortexM(BareTarget):
    """A Cortex-M microcontroller, without an operating system."""

    name: ClassVar[str] = "cortex-m"
    cpus: ClassVar[tuple[str, ...]] = tuple(CORES)
    models: ClassVar[Mapping[str, Cpu]] = {name: core.cpu for name, core in CORES.items()}
    sources: ClassVar[tuple[Path, ...]] = (*SOURCES, Path(__file__).parent)
    head_bytes: ClassVar[int] = BARE_HEAD_BYTES
    algorithms: ClassVar[dict[str, str]] = {
        name: meaning
        for name, meaning in {**ALGORITHMS, **OF_LITTLE_MEMORY}.items()
        if name not in TRANSFORMED
    }
    """None that stores more weights than the layer has: flash is what there is least of."""
    saves_memory: ClassVar[bool] = True
    tools: ClassVar[dict[str, str]] = {
        "arm-none-eabi-gcc": "compiles for Cortex-M (Debian: gcc-arm-none-eabi, libnewlib-arm-none-eabi)",
        "qemu-system-arm": "runs Cortex-M artefacts here (Debian: qemu-system-arm)",
    }

    def __init__(self, cpu: str, options: Mapping[str, str]) -> None:
        super().__init__(cpu, options)
        self.requantizes = self.core.requantizes

    @classmethod
    def native(cls) -> Cpu:
        raise InvalidInput("target-needs-cpu", "a microcontroller's core must be named",
                           hint=f"--target cortex-m:cortex-m4; known: {', '.join(CORES)}")  # fmt: skip

    @classmethod
    def require_c(cls) -> None:
        """There is the target `c`."""

    @property
    def in_c(self) -> str:
        limits = (f"{name}={self.settings[name]}" for name in ("flash", "ram") if name in self.settings)
        return ",".join(["c", *limits])

    @property
    def core(self) -> Core:
        """The core's facts besides those of every CPU."""
        return CORES[self.cpu]

    @property
    def machine(self) -> Machine:
        core, cpu = self.core, self.model
        flags = (f"-mcpu={cpu.name}", "-mthumb", *core.float_flags)
        return Machine(core.architecture, tuple(sorted(cpu.features)), tuple(sorted(cpu.absent)), core.system,
                       cpu.name, flags)  # fmt: skip

    @property
    def host(self) -> str:
        """This machine, where floats are computed for calibration."""
        return DEFAULT_TARGET

    @property
    def emulated_boards(self) -> Mapping[str, str]:
        return {name: CORES[name].board for name in (self.cpu, *self.core.stronger)}

    def emit(
        self, module: Module, name: str, kernels: Mapping[str, bytes], *, weights: WeightsName | None = None
    ) -> Source:
        source = super().emit(module, name, kernels, weights=weights)
        assert isinstance(source, ModelSource)
        return replace(source, room=self.room_for(module))

    def candidates(
        self, anchor: Op, constants: Container[int], halos: Halos = NO_HALOS, *, weights: int = 0
    ) -> tuple[Candidate, ...]:
        found = super().candidates(anchor, constants, halos, weights=weights)
        return tuple(each for each in found if each.algorithm in self.algorithms)

    def _vectors(self, anchor: Op) -> Vectors:
        vectors = super()._vectors(anchor)
        if isinstance(anchor, ConvSum | MatMulSum):
            return replace(vectors, registers=INTEGER_REGISTERS)
        return vectors
