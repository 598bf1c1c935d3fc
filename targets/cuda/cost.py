"""Seconds for what a kernel asks of a GPU: ratios matter, not the absolute values."""

from __future__ import annotations

from collections.abc import Iterable

from rtcc.ir import TensorType, Value
from rtcc.target import Cost
from rtcc.targets.cuda.gpus import Gpu

LAUNCH_SECONDS = 2e-6
"""Of one kernel in a graph of launches, one behind the other."""

PLAIN_SHARE = 0.05
"""Of the arithmetic that a GPU could do, what plain loops reach: each operand is loaded anew."""

THREADS = 1024
"""Of a multiprocessor, that keep it busy."""


def demand_cost(operations: int, values: Iterable[Value], threads: int, gpu: Gpu) -> Cost:
    """Plain loops that do so much arithmetic, on so many threads."""
    busy = min(1.0, max(1, threads) / (THREADS * gpu.multiprocessors))
    moved = sum(value.type.storage_bytes for value in values)
    return Cost(operations / (gpu.flops * PLAIN_SHARE * busy), _moving(moved, gpu), LAUNCH_SECONDS)


def tiled_cost(
    cycles: float, values: Iterable[Value], gpu: Gpu, *, constants: int = 0, of_model: int = 0
) -> Cost:
    """A kernel whose multiprocessors are busy for so many cycles, and that reads and writes values once.

    constants: bytes of the kernel's own, besides. of_model: bytes of all that a run reads; where they are
    more than a cache holds, they come from memory.
    """
    moved = sum(value.type.storage_bytes for value in values)
    memory = _moving(moved, gpu) + constants / bytes_per_second(max(constants, of_model), gpu)
    return Cost(cycles / (gpu.gigahertz * 1e9), memory, LAUNCH_SECONDS)


def loops_cost(types: Iterable[TensorType], gpu: Gpu) -> Cost:
    """One kernel that reads and writes tensors once."""
    return Cost(0.0, _moving(sum(type.storage_bytes for type in types), gpu), LAUNCH_SECONDS)


def _moving(size: int, gpu: Gpu) -> float:
    """Bytes to and from memory, or the second cache."""
    return size / bytes_per_second(size, gpu)


def bytes_per_second(size: int, gpu: Gpu) -> float:
    """How fast so many bytes come; what fits into the second cache is there, three times as fast."""
    faster = 3.0 if size <= gpu.l2 // 2 else 1.0
    return faster * gpu.gigabytes_per_second * 1e9
