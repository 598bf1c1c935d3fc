"""How to tell at run time whether a CPU has an instruction set, by the names LLVM gives them; as C, too.

x86: a cpuid leaf, subleaf, register and bit (Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E), and
the XCR0 bits of the registers that the operating system must save. AArch64: bits of AT_HWCAP (leaf 0) and
AT_HWCAP2 (leaf 1), as in Linux's Documentation/arch/arm64/elf_hwcaps.rst. Cortex-M: registers of the system
control space (ARMv7-M Architecture Reference Manual, B3.2.20 and B4).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from rtcc.errors import CodegenError
from rtcc.system.machine import Machine

EAX, EBX, ECX, EDX = range(4)

_AVX = 0x06
_AVX512 = 0xE6
_AMX = 0x60000


@dataclass(frozen=True)
class Requirement:
    """All bits of `mask` must be set in one word that the CPU or the kernel reports."""

    leaf: int
    subleaf: int
    word: int
    mask: int


@dataclass(frozen=True)
class Requirements:
    """What init checks: words with the bits they need, and the bits of XCR0 (x86 only)."""

    words: tuple[Requirement, ...]
    xcr0: int


# name: (leaf, subleaf, register, bit, XCR0 bits)
_X86: dict[str, tuple[int, int, int, int, int]] = {
    "sse3": (1, 0, ECX, 0, 0),
    "pclmul": (1, 0, ECX, 1, 0),
    "ssse3": (1, 0, ECX, 9, 0),
    "fma": (1, 0, ECX, 12, _AVX),
    "cx16": (1, 0, ECX, 13, 0),
    "sse4.1": (1, 0, ECX, 19, 0),
    "sse4.2": (1, 0, ECX, 20, 0),
    "movbe": (1, 0, ECX, 22, 0),
    "popcnt": (1, 0, ECX, 23, 0),
    "aes": (1, 0, ECX, 25, 0),
    "avx": (1, 0, ECX, 28, _AVX),
    "f16c": (1, 0, ECX, 29, _AVX),
    "rdrnd": (1, 0, ECX, 30, 0),
    "sse": (1, 0, EDX, 25, 0),
    "sse2": (1, 0, EDX, 26, 0),
    "bmi": (7, 0, EBX, 3, 0),
    "avx2": (7, 0, EBX, 5, _AVX),
    "bmi2": (7, 0, EBX, 8, 0),
    "avx512f": (7, 0, EBX, 16, _AVX512),
    "avx512dq": (7, 0, EBX, 17, _AVX512),
    "adx": (7, 0, EBX, 19, 0),
    "avx512ifma": (7, 0, EBX, 21, _AVX512),
    "avx512cd": (7, 0, EBX, 28, _AVX512),
    "sha": (7, 0, EBX, 29, 0),
    "avx512bw": (7, 0, EBX, 30, _AVX512),
    "avx512vl": (7, 0, EBX, 31, _AVX512),
    "avx512vbmi": (7, 0, ECX, 1, _AVX512),
    "avx512vbmi2": (7, 0, ECX, 6, _AVX512),
    "gfni": (7, 0, ECX, 8, 0),
    "vaes": (7, 0, ECX, 9, _AVX),
    "vpclmulqdq": (7, 0, ECX, 10, _AVX),
    "avx512vnni": (7, 0, ECX, 11, _AVX512),
    "avx512bitalg": (7, 0, ECX, 12, _AVX512),
    "avx512vpopcntdq": (7, 0, ECX, 14, _AVX512),
    "avx512vp2intersect": (7, 0, EDX, 8, _AVX512),
    "amx-bf16": (7, 0, EDX, 22, _AMX),
    "avx512fp16": (7, 0, EDX, 23, _AVX512),
    "amx-tile": (7, 0, EDX, 24, _AMX),
    "amx-int8": (7, 0, EDX, 25, _AMX),
    "avxvnni": (7, 1, EAX, 4, _AVX),
    "avx512bf16": (7, 1, EAX, 5, _AVX512),
    "avxifma": (7, 1, EAX, 23, _AVX),
    "avxvnniint8": (7, 1, EDX, 4, _AVX),
    "avxneconvert": (7, 1, EDX, 5, _AVX),
    "avxvnniint16": (7, 1, EDX, 10, _AVX),
    "sahf": (0x80000001, 0, ECX, 0, 0),
    "lzcnt": (0x80000001, 0, ECX, 5, 0),
    "sse4a": (0x80000001, 0, ECX, 6, 0),
    "prfchw": (0x80000001, 0, ECX, 8, 0),
    "fma4": (0x80000001, 0, ECX, 16, _AVX),
}

# name: (leaf: 0 AT_HWCAP, 1 AT_HWCAP2; bit)
_AARCH64: dict[str, tuple[int, int]] = {
    "fp-armv8": (0, 0),
    "neon": (0, 1),
    "aes": (0, 3),
    "sha2": (0, 6),
    "crc": (0, 7),
    "lse": (0, 8),
    "fullfp16": (0, 10),
    "rdm": (0, 12),
    "complxnum": (0, 14),
    "sha3": (0, 17),
    "dotprod": (0, 20),
    "sve": (0, 22),
    "fp16fml": (0, 23),
    "sve2": (1, 1),
    "svei8mm": (1, 9),
    "i8mm": (1, 13),
    "bf16": (1, 14),
}


# name: (address of a register, bits of it)
_CORTEX_M: dict[str, tuple[tuple[int, int], ...]] = {
    "thumb2": ((0xE000ED60, 1 << 24),),  # ID_ISAR0: division
    "dsp": (),  # of ARMv7-M, each core with a float unit has it
    "vfp4d16sp": ((0xE000ED88, 0xF << 20), (0xE000EF40, 2 << 4)),  # CPACR: on; MVFR0: single precision
    "fp-armv8d16sp": ((0xE000ED88, 0xF << 20), (0xE000EF40, 2 << 4), (0xE000EF48, 4 << 4)),  # MVFR2: FPv5
}
_CORTEX_M_V8 = {**_CORTEX_M, "dsp": ((0xE000ED6C, 2 << 4),)}  # ID_ISAR3: parallel sums of halfwords


def requirements(architecture: str, features: Iterable[str]) -> Requirements:
    """What a CPU must report to have all the features.

    `architecture` is "x86_64", "aarch64", one of "thumb…", or another, for which none can be checked. Raises
    `CodegenError` for a feature that this table does not know: an artefact must not run where it could
    crash.
    """
    found: dict[tuple[int, int, int], int] = {}
    xcr0 = 0
    for feature in sorted(set(features)):
        if architecture == "x86_64" and feature in _X86:
            leaf, subleaf, word, bit, saved = _X86[feature]
            xcr0 |= saved
        elif architecture == "aarch64" and feature in _AARCH64:
            (leaf, bit), subleaf, word = _AARCH64[feature], 0, 0
        elif architecture.startswith("thumb") and feature in _CORTEX_M:
            rows = _CORTEX_M_V8 if architecture.startswith("thumbv8m") else _CORTEX_M
            for leaf, mask in rows[feature]:
                found[leaf, 0, 0] = found.get((leaf, 0, 0), 0) | mask
            continue
        else:
            raise CodegenError(
                "unknown-cpu-feature",
                f"no run-time check is known for the CPU feature {feature!r} of {architecture}",
                hint="compile for a CPU without it, or add it to rtcc/emission/features.py",
            )
        found[leaf, subleaf, word] = found.get((leaf, subleaf, word), 0) | 1 << bit
    return Requirements(tuple(Requirement(*key, mask) for key, mask in sorted(found.items())), xcr0)


def cpu_text(machine: Machine) -> str:
    """C that checks for the machine's features and sets its floating-point mode: the table, and `cpu.c`.

    Raises `CodegenError` as `requirements`.
    """
    needed = requirements(machine.architecture, machine.features)
    rows = [f"    {{0x{w.leaf:x}u, {w.subleaf}, {w.word}, 0x{w.mask:x}u}}," for w in needed.words]
    table = ["static const struct rtcc_feature rtcc_features[] = {", *rows, "};"] if rows else []
    return "\n".join([
        "#include <stddef.h>",
        "#include <stdint.h>",
        f"#define RTCC_FEATURE_COUNT {len(rows)}",
        f"#define RTCC_XCR0_MASK 0x{needed.xcr0:x}u",
        _FEATURE,
        *table,
        files("rtcc.emission").joinpath("cpu.c").read_text(encoding="ascii"),
    ])  # fmt: skip


_FEATURE = """\
/* x86: bits of a cpuid register that must be set. AArch64: of AT_HWCAP (leaf 0) or AT_HWCAP2 (leaf 1).
 * Cortex-M: of the register at an address (leaf). */
struct rtcc_feature {
    uint32_t leaf, subleaf, word; /* word: 0 eax, 1 ebx, 2 ecx, 3 edx */
    uint64_t mask;
};
"""
