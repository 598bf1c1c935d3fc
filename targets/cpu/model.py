"""The facts about a CPU model that costs, tiles and code go by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reach:
    """What one core draws from farther off, sustained; only costs and tiles go by this, and ratios matter.

    l3: bytes of the last cache that one core may fill.
    """

    l3: int
    l2_bytes_per_cycle: float
    l3_bytes_per_cycle: float
    dram_gigabytes_per_second: float


@dataclass(frozen=True)
class Cpu:
    """One CPU model.

    identity: what /proc/cpuinfo calls its vendor or part; "" for any. features: what LLVM may use, by its
    names; init checks for them. vector_bits: width of a vector register that arithmetic runs at full rate in.
    vector_registers: architectural ones. reach: what lies behind the caches of a core. l1, l2: bytes of
    those, of data. gigahertz: with all cores at work in full vectors, for the cost model.
    multiplies_per_cycle: whole vectors of multiply-adds that a core finishes in a cycle. absent: what LLVM
    takes the model to have, and code must not use. asks_ahead: whether kernels name memory ahead of its use.
    """

    name: str
    identity: str
    features: frozenset[str]
    vector_bits: int
    vector_registers: int
    reach: Reach
    l1: int = 32 << 10
    l2: int = 1 << 20
    gigahertz: float = 2.5
    multiplies_per_cycle: float = 2.0
    absent: frozenset[str] = frozenset()
    asks_ahead: bool = True
