"""64-bit ARM CPUs by LLVM's names: instruction sets, caches, what a cycle does.

Vectors are 128 bits wide on all of them, and there are 32. Sizes of caches that a licensee chooses, and the
clock, are those of one common chip each, named beside its row; costs go by them, correctness does not.
"""

from __future__ import annotations

import platform
from pathlib import Path

from rtcc.errors import InvalidInput
from rtcc.targets.cpu.model import Cpu, Reach

VECTOR_BITS, VECTOR_REGISTERS = 128, 32

_V8 = frozenset({"fp-armv8", "neon"})
_V8_CRC = _V8 | {"crc"}
_V82 = _V8_CRC | {"dotprod", "fullfp16", "lse", "rdm"}
_V90 = _V82 | {"bf16", "complxnum", "fp16fml", "i8mm"}

_CRYPTOGRAPHY = frozenset({"aes", "sha2"})
"""What chips leave out, such as those of the Raspberry Pi 3 and 4, and kernels have no use for."""

_SCALABLE = frozenset({"sve", "sve-bitperm"})
"""And all that builds on it: vectors are no longer than NEON's there, and kernels are written for those."""

_FORESEEING = frozenset({"neoverse-n2", "neoverse-n1", "cortex-a78ae", "cortex-a76"})
"""Cores that fetch long regular streams of reads to both near caches by themselves, by virtual addresses, so
that a page's end does not stop them; Arm's manual of the A76 (A6.5) leaves prefetches to short and irregular
ones, which kernels do not have."""

PI3 = Reach(512 << 10, 8, 6, 2)
PI4 = Reach(1 << 20, 12, 10, 4)
PI5 = Reach(2 << 20, 24, 10, 8)
ORIN = Reach(2 << 20, 24, 10, 15)
GRAVITON2 = Reach(32 << 20, 24, 8, 15)
YITIAN = Reach(32 << 20, 24, 8, 20)
"""Estimates, three quarters of the widths in Arm's technical reference manuals where those tell; measured on
none of them. Without a third cache the second one's size and a rate a little lower stand in for it."""


def _cpu(
    name: str, part: str, features: frozenset[str], reach: Reach, l1: int, l2: int, gigahertz: float,
    multiplies: float, absent: frozenset[str] = _CRYPTOGRAPHY,
) -> Cpu:  # fmt: skip
    """A model; part: of the ID register MIDR_EL1, by Arm as implementer. l1, l2: KiB."""
    return Cpu(
        name, part, features, VECTOR_BITS, VECTOR_REGISTERS, reach, l1 << 10, l2 << 10, gigahertz,
        multiplies, absent, asks_ahead=name not in _FORESEEING,
    )  # fmt: skip


_ALL = (
    _cpu("neoverse-n2", "0xd49", _V90, YITIAN, 64, 1024, 2.7, 2, _CRYPTOGRAPHY | _SCALABLE),  # Yitian 710
    _cpu("neoverse-n1", "0xd0c", _V82, GRAVITON2, 64, 1024, 2.5, 2),  # Graviton2
    _cpu("cortex-a78ae", "0xd42", _V82, ORIN, 64, 256, 2.0, 2),  # Jetson Orin
    _cpu("cortex-a76", "0xd0b", _V82, PI5, 64, 512, 2.4, 2),  # Raspberry Pi 5
    _cpu("cortex-a72", "0xd08", _V8_CRC, PI4, 32, 1024, 1.5, 1),  # Raspberry Pi 4
    _cpu("cortex-a53", "0xd03", _V8_CRC, PI3, 32, 512, 1.4, 1),  # Raspberry Pi 3 B+
    _cpu("generic", "", _V8, PI4, 32, 512, 1.5, 1, frozenset()),
)
CPUS = {cpu.name: cpu for cpu in _ALL}

EMULATED = {
    "neoverse-n2": ("neoverse-n2", "max,sve-max-vq=1"),
    "neoverse-n1": ("neoverse-n1",),
    "cortex-a78ae": ("cortex-a78ae", "cortex-a76"),
    "generic": ("cortex-a53",),
}
"""QEMU's name of a CPU where it has it, then that of the nearest one which has its instructions; the same
name where none is given. QEMU has the Neoverse N2 from 8.2 on; Debian 12 has 7.2."""

SCHEDULED = {"cortex-a76": "neoverse-n1", "cortex-a78ae": "neoverse-n1", "generic": "cortex-a53"}
"""By whose model llvm-mca estimates a CPU where LLVM's own is another's: it takes the A76 and the A78AE for
an A57, which finishes half as many vectors. The Neoverse N1 is the A76's core; the A78AE finishes as many."""

CACHE_WAYS = (4, 8, 16)
"""Of the caches that are simulated while counting, the first one's, the second's, the last's."""

_KERNEL_NAMES = {
    "fp-armv8": "fp", "neon": "asimd", "crc": "crc32", "lse": "atomics", "rdm": "asimdrdm",
    "fullfp16": "asimdhp", "dotprod": "asimddp", "complxnum": "fcma", "fp16fml": "asimdfhm",
}  # fmt: skip
"""What /proc/cpuinfo calls a feature, where it differs from LLVM."""


def host_cpu(cpuinfo: str | None = None) -> Cpu:
    """The model of this machine's cores; the strongest of several kinds, all of which run its code.

    The system tells features that all cores have. One that is in no table is taken for `generic`.
    """
    if cpuinfo is None:
        if platform.machine() != "aarch64":
            raise InvalidInput("target-needs-cpu", f"this machine is {platform.machine()}, not 64-bit ARM",
                               hint="name the CPU: --target arm:cortex-a76")  # fmt: skip
        cpuinfo = Path("/proc/cpuinfo").read_text()
    fields = [line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line]
    found = [(key.strip(), value.strip()) for key, value in fields]
    parts = {value for key, value in found if key == "CPU part"}
    features = next((set(value.split()) for key, value in found if key == "Features"), set[str]())
    for cpu in _ALL:
        needed = {_KERNEL_NAMES.get(each, each) for each in cpu.features}
        if cpu.identity in ("", *parts) and needed <= features:
            return cpu
    raise InvalidInput("cpu-too-old", "this CPU lacks NEON, the least that rtcc compiles for")
