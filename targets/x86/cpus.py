"""x86 CPUs by LLVM's names: instruction sets, vector registers, caches."""

from __future__ import annotations

import platform
from pathlib import Path

from rtcc.errors import InvalidInput
from rtcc.targets.cpu.model import Cpu, Reach

_V2 = frozenset("cx16 popcnt sse3 ssse3 sse4.1 sse4.2".split())
_V3 = _V2 | frozenset("avx avx2 bmi bmi2 f16c fma lzcnt movbe".split())
_V4 = _V3 | frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split())
_SKYLAKE = _V4 | frozenset("adx aes pclmul".split())
_CASCADE = _SKYLAKE | frozenset("avx512vnni".split())
_ICELAKE = _CASCADE | frozenset(
    "avx512vbmi avx512vbmi2 avx512bitalg avx512vpopcntdq avx512ifma gfni vaes vpclmulqdq".split()
)
_SAPPHIRE = _ICELAKE | frozenset("sha avx512bf16 avxvnni avx512fp16".split())
_ZEN3 = _V3 | frozenset("adx aes pclmul sha vaes vpclmulqdq".split())

INTEL = Reach(24 << 20, 48, 10, 12)
ZEN2 = Reach(16 << 20, 24, 20, 20)
ZEN3 = Reach(32 << 20, 24, 20, 20)
ZEN5 = Reach(32 << 20, 48, 28, 30)
"""Rates are about three quarters of the peak in the vendors' manuals: Intel 248966 (L2 64, L3 16 to 32 bytes
a cycle), AMD 56305, 57647 and 58455 (L2 32, from Zen 5 on 64; L3 32)."""


def _cpu(
    name: str, vendor: str, features: frozenset[str], vector_bits: int, l1: int = 32 << 10, l2: int = 1 << 20,
    reach: Reach = INTEL, gigahertz: float = 2.5,
) -> Cpu:  # fmt: skip
    """A model with as many registers as its instructions can name."""
    registers = 32 if "avx512f" in features else 16
    return Cpu(name, vendor, features, vector_bits, registers, reach, l1, l2, gigahertz)


_ALL = (
    _cpu("znver5", "AuthenticAMD", _ICELAKE | _ZEN3 | {"avx512bf16", "avxvnni"}, 512, 48 << 10, reach=ZEN5,
         gigahertz=4.1),
    _cpu("znver4", "AuthenticAMD", _ICELAKE | _ZEN3 | {"avx512bf16"}, 512, reach=ZEN3, gigahertz=3.3),
    _cpu("znver3", "AuthenticAMD", _ZEN3, 256, l2=512 << 10, reach=ZEN3, gigahertz=3.2),
    _cpu("znver2", "AuthenticAMD", _V3 | {"adx", "aes", "pclmul", "sha"}, 256, l2=512 << 10, reach=ZEN2,
         gigahertz=3.0),
    _cpu("sapphirerapids", "GenuineIntel", _SAPPHIRE, 512, 48 << 10, 2 << 20),
    _cpu("icelake-server", "GenuineIntel", _ICELAKE | {"sha"}, 512, 48 << 10, 1280 << 10),
    _cpu("cascadelake", "GenuineIntel", _CASCADE, 512),
    _cpu("skylake-avx512", "GenuineIntel", _SKYLAKE, 512),
    _cpu("haswell", "GenuineIntel", _V3 | {"pclmul", "aes"}, 256, l2=256 << 10),
    _cpu("x86-64-v4", "", _V4, 512),
    _cpu("x86-64-v3", "", _V3, 256, l2=256 << 10),
    _cpu("x86-64-v2", "", _V2, 128, l2=256 << 10),
)  # fmt: skip
CPUS = {cpu.name: cpu for cpu in _ALL}

_KERNEL_NAMES = {
    "sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "bmi": "bmi1", "lzcnt": "abm",
    "pclmul": "pclmulqdq",
    "avx512vnni": "avx512_vnni", "avx512vbmi2": "avx512_vbmi2", "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq", "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni", "sha": "sha_ni",
}  # fmt: skip
"""What /proc/cpuinfo calls a feature, where it differs from LLVM."""


def host_cpu(cpuinfo: str | None = None) -> Cpu:
    """The best model in the table whose features this machine has; the vendor's own models first."""
    if cpuinfo is None:
        if platform.machine() != "x86_64":
            raise InvalidInput("target-needs-cpu", f"this machine is {platform.machine()}, not x86-64",
                               hint="name the CPU: --target x86:x86-64-v3")  # fmt: skip
        cpuinfo = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in cpuinfo.splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(facts.get("flags", "").split())
    for cpu in _ALL:
        if (
            cpu.identity in ("", facts.get("vendor_id"))
            and {_KERNEL_NAMES.get(f, f) for f in cpu.features} <= flags
        ):
            return cpu
    raise InvalidInput("cpu-too-old", "this CPU lacks SSE4.2, the least that rtcc compiles for")
