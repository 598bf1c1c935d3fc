"""Cortex-M cores by LLVM's names: instruction sets, and what a cycle does.

None has vectors. Kernels are written in vectors all the same, of four lanes, which LLVM takes apart: four
results that are computed side by side in registers of their own. A vector register then is four of those.
"""

from __future__ import annotations

from dataclasses import dataclass

from rtcc.targets.cpu.model import Cpu, Reach

LANES_BITS = 128
"""Of the vectors that kernels are written in: four results of 32 bits."""

FLOAT_REGISTERS = 8
"""Fours of the 32 registers of the float unit."""

INTEGER_REGISTERS = 3
"""Fours of the 13 that are free: four sums of one place, what they are made of, and addresses. Tiles of eight
sums were tried: a DS-CNN takes 2 % fewer instructions on the M4, 6 to 9 % more on the others, and 2 KB more
of flash."""


@dataclass(frozen=True)
class Core:
    """A core: its facts for the cost model, how compilers are told of it, and what QEMU runs it on.

    system: how its triple ends. float_flags: what a C compiler is told of its float unit. board: QEMU's
    machine. stronger: other cores that have all its instructions. requantizes: how integer sums are scaled.
    """

    cpu: Cpu
    architecture: str
    system: str
    float_flags: tuple[str, ...]
    board: str
    stronger: tuple[str, ...] = ()
    requantizes: str = "f32"


def _cpu(
    name: str, features: tuple[str, ...], absent: tuple[str, ...], megahertz: int, multiplies: float
) -> Cpu:
    """The facts of a core; multiplies: fours of multiply-adds in a cycle. Its memory is near, all of it."""
    near = Reach(l3=1 << 30, l2_bytes_per_cycle=4, l3_bytes_per_cycle=4,
                 dram_gigabytes_per_second=4 * megahertz / 1000)  # fmt: skip
    return Cpu(
        name, "", frozenset(features), LANES_BITS, FLOAT_REGISTERS, near, 16 << 10, 1 << 30, megahertz / 1000,
        multiplies, frozenset(absent), asks_ahead=False,
    )  # fmt: skip


CORES = {
    core.cpu.name: core
    for core in (
        Core(
            _cpu("cortex-m7", ("thumb2", "dsp", "fp-armv8d16sp"), ("fp64",), 480, 0.25),
            "thumbv7em", "none-eabihf", ("-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"), "mps2-an500",
        ),
        Core(
            _cpu("cortex-m33", ("thumb2", "dsp", "fp-armv8d16sp"), ("fp64",), 160, 0.125),
            "thumbv8m.main", "none-eabihf", ("-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"), "mps2-an505",
        ),
        Core(
            _cpu("cortex-m4", ("thumb2", "dsp", "vfp4d16sp"), ("fp64",), 168, 0.125),
            "thumbv7em", "none-eabihf", ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"), "mps2-an386",
            ("cortex-m7", "cortex-m33"),
        ),
        Core(
            _cpu("cortex-m3", ("thumb2",), ("dsp",), 72, 0.01),
            "thumbv7m", "none-eabi", ("-mfloat-abi=soft",), "mps2-an385",
            ("cortex-m4", "cortex-m7", "cortex-m33"), "fixed25",
        ),
    )
}  # fmt: skip
"""Clocks are those of an STM32H743, an STM32U575, an STM32F407 and an STM32F103. The M7's float unit is taken
to be the one of single precision: its code runs on cores with the other one too."""
