"""What is known of GPUs: one product of each architecture that nvcc compiles for."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Gpu:
    """A GPU, by NVIDIA's name of its architecture, with the facts of its usual product.

    block_bytes: the most shared memory that one block can have. l2: bytes of the second cache.
    gigabytes_per_second: of its memory. gigahertz: when it is busy. lanes: float32 multiply-adds that a
    multiprocessor starts in a cycle; tensor_lanes: those of float16 on its tensor cores. registers: 32-bit
    ones of a multiprocessor. host: its usual CPU. toolkit: the first CUDA release whose nvcc
    knows it, of those that are supported (PTX ISA, "Release Notes").
    """

    name: str
    product: str
    multiprocessors: int
    block_bytes: int
    l2: int
    gigabytes_per_second: float
    gigahertz: float
    tensor_lanes: int
    lanes: int = 128
    registers: int = 65536
    host: str = "x86-64"
    toolkit: tuple[int, int] = (12, 0)

    @property
    def capability(self) -> tuple[int, int]:
        """The compute capability, 8.6 of sm_86."""
        number = int(self.name.removeprefix("sm_"))
        return number // 10, number % 10

    @property
    def flops(self) -> float:
        """The most float32 operations in a second, without tensor cores."""
        return 2.0 * self.lanes * self.multiprocessors * self.gigahertz * 1e9

    def lanes_for(self, element: str, *, tf32: bool = False) -> int | None:
        """The most multiply-adds of elements of a type that a multiprocessor starts in a cycle, by whichever
        of its units; None where NVIDIA says nothing of that type."""
        rates = {
            "f16": self.tensor_lanes, "bf16": self.tensor_lanes,
            "i8": 2 * self.tensor_lanes, "u8": 2 * self.tensor_lanes,
            "f32": self.tensor_lanes // 2 if tf32 else self.lanes,
        }  # fmt: skip
        return rates.get(element)


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("sm_75", "T4", 40, 64 * KIB, 4 * MIB, 320, 1.59, 512, lanes=64),
        Gpu("sm_80", "A100", 108, 163 * KIB, 40 * MIB, 1555, 1.41, 1024, lanes=64),
        Gpu("sm_86", "A10", 72, 99 * KIB, 6 * MIB, 600, 1.7, 512),
        Gpu("sm_87", "Jetson AGX Orin", 16, 163 * KIB, 4 * MIB, 204, 1.3, 1024, host="aarch64"),
        Gpu("sm_89", "L4", 58, 99 * KIB, 48 * MIB, 300, 2.04, 512),
        Gpu("sm_90", "H100", 132, 227 * KIB, 50 * MIB, 3350, 1.83, 2048),
        Gpu("sm_100", "B200", 148, 227 * KIB, 126 * MIB, 8000, 1.85, 4096, toolkit=(12, 8)),
        Gpu("sm_110", "Jetson AGX Thor", 20, 227 * KIB, 32 * MIB, 273, 1.57, 4096, host="aarch64",
            toolkit=(13, 0)),
        Gpu("sm_120", "RTX PRO 6000", 188, 99 * KIB, 128 * MIB, 1792, 2.6, 512, toolkit=(12, 8)),
        Gpu("sm_121", "GB10", 48, 99 * KIB, 24 * MIB, 273, 2.5, 512, host="aarch64", toolkit=(12, 9)),
    )
}
"""Shared memory of a block is the CUDA C++ Programming Guide's, by compute capability: tiles are legal by it.
The rest differs from product to product, and costs alone go by it: nothing was measured. As NVIDIA publishes
it, rounded; a clock is the one at which the lanes give the published rates of float32 and of tensor cores.

A100: "NVIDIA Ampere Architecture In-Depth" (108 of 128 multiprocessors, 1,024 products of tensor cores each,
1,555 GB/s, 40 MB; 312 teraflops). T4: its data sheet (65 teraflops, 320 GB/s). A10, L4: their product briefs
(125 and 121 teraflops; 600 and 300 GB/s). Orin: "Jetson AGX Orin Series Technical Brief" (16 multiprocessors,
4 MB, 5.3 teraflops in float32, 170 sparse int8). H100 SXM: "Hopper Architecture In-Depth" and its data sheet
(132, 50 MB, 3.35 TB/s; 989 teraflops). B200: its data sheet (8 TB/s, 2.25 petaflops); 148 and 126 MB are what
the driver reports (chipsandcheese.com, "Nvidia's B200"). Thor: 20 and 32 MB, as the driver reports
(forums.developer.nvidia.com/t/356355), of up to 24; 1,035 teraflops in FP8, sparse. RTX PRO 6000: 188,
128 MB, 1,792 GB/s, 125 teraflops in float32. GB10: 6,144 lanes, 273 GB/s, 31 teraflops (Hot Chips 2025)."""
