"""What is known of GPUs: one product of each architecture that nvcc compiles for."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Gpu:
    """A GPU, by NVIDIA's name of its architecture, with the facts of its usual product.

    block_bytes: the most shared memory that one block can have. l2: bytes of the second cache.
    gigabytes_per_second: of its memory. gigahertz: when it is busy. lanes: float32 multiply-adds that a
    multiprocessor starts in a cycle. registers: 32-bit ones of a multiprocessor. host: its usual CPU.
    """

    name: str
    product: str
    multiprocessors: int
    block_bytes: int
    l2: int
    gigabytes_per_second: float
    gigahertz: float
    lanes: int = 128
    registers: int = 65536
    host: str = "x86-64"

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability, 8.6 of sm_86."""
        number = int(self.name.removeprefix("sm_"))
        return number // 10, number % 10

    @property
    def flops(self) -> float:
        """The most float32 operations in a second, without tensor cores."""
        return 2.0 * self.lanes * self.multiprocessors * self.gigahertz * 1e9


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("sm_75", "T4", 40, 64 * KIB, 4 * MIB, 320, 1.59, lanes=64),
        Gpu("sm_80", "A100", 108, 163 * KIB, 40 * MIB, 1555, 1.41, lanes=64),
        Gpu("sm_86", "A10", 72, 99 * KIB, 6 * MIB, 600, 1.7),
        Gpu("sm_87", "Jetson AGX Orin", 16, 163 * KIB, 4 * MIB, 204, 1.3, host="aarch64"),
        Gpu("sm_89", "L4", 58, 99 * KIB, 48 * MIB, 300, 2.04),
        Gpu("sm_90", "H100", 132, 227 * KIB, 50 * MIB, 3350, 1.83),
        Gpu("sm_100", "B200", 148, 227 * KIB, 126 * MIB, 8000, 1.85),
        Gpu("sm_110", "Jetson AGX Thor", 20, 227 * KIB, 32 * MIB, 273, 1.57, host="aarch64"),
        Gpu("sm_120", "RTX PRO 6000", 188, 99 * KIB, 128 * MIB, 1792, 2.4),
        Gpu("sm_121", "GB10", 48, 99 * KIB, 24 * MIB, 273, 2.4, host="aarch64"),
    )
}
"""Shared memory of a block is the CUDA C++ Programming Guide's, by compute capability: tiles are legal by it.
What differs from product to product is as NVIDIA publishes it, rounded: costs alone go by it, and nothing was
measured."""
