"""Seconds for what a kernel asks of a core.

t = t_compute + t_memory + t_communication. Summed, not the larger taken: the cycles of a demand hold the
loads from near caches already, and what remains (streams through the second cache and beyond) is waited for
where a tile starts and the hardware's prefetchers have nothing to go by yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from math import prod

from rtcc.ir import DType, Graph, Layout, Op, TensorType, Value
from rtcc.target import Cost
from rtcc.targets.cpu.model import Cpu
from rtcc.targets.tvm.demand import Demand, Stream

START_SECONDS = 1.5e-6
"""Waking the threads of a pool that spins, and waiting for the last of them."""

PART_SECONDS = 2.5e-6
"""Work that each thread should have at least: less costs more in waiting for the others than it saves."""

WAKING_SECONDS = 50e-6
"""What a run must save for threads to be used at all: waking those that have gone to sleep costs as much."""

LOOP_CYCLES = 1.0
"""Of one operation of plain loops, or of one element that they move: measured 0.5 to 3."""

SQUARE_CYCLES, ELEMENT_CYCLES = 0.3, 1.2
"""Of one element stored in another layout, measured: by squares in registers, and where there is no room."""

FLOPS_PER_LANE = 2
"""Of one vector of multiply-adds."""

ASSUMED_MULTIPLIES = 2.0
"""Vectors of multiply-adds, and of loads, in a cycle of those that demands count."""

SHORT_SHARE, LONG_SHARE, LEARNT_SECONDS = 0.6, 2.0, 10e-6
"""How weights that come from memory are drawn, in shares of the rate that copying them has.

While the hardware does not yet know what will be asked for, a line after the other is waited for; after as
many seconds they come ahead of their use, while other cores' rates are not asked for. Fitted to what
`benchmarks/conv_layers.py` and the same with `--alone` differ by, 55 KB to 9.4 MB of weights.
"""

LAUNCH_CYCLES = 400.0
"""Of one more kernel in the plan."""


BYTE_CYCLES = 8.0
"""Of one byte of a tensor's copy where memory is saved: so much longer a layer may take without it."""


class Home(Enum):
    """Where a run finds its weights, after all the others of the model have passed by."""

    SECOND_CACHE = auto()
    LAST_CACHE = auto()
    MEMORY = auto()


def home_of_weights(model_bytes: int, cpu: Cpu) -> Home:
    """Half of a cache is left to what else passes by; 0 where it is not known how many there are."""
    if model_bytes > cpu.reach.l3 / 2:
        return Home.MEMORY
    return Home.SECOND_CACHE if 0 < model_bytes <= cpu.l2 / 2 else Home.LAST_CACHE


def cost_of(demand: Demand, cpu: Cpu, tasks: int, home: Home = Home.LAST_CACHE) -> Cost:
    """What a demand costs when `tasks` cores share it; home: of the model's weights."""
    hertz = cpu.gigahertz * 1e9
    compute = demand.cycles * (ASSUMED_MULTIPLIES / cpu.multiplies_per_cycle) / hertz
    memory = sum(_stream_seconds(stream, cpu, home) for stream in demand.streams)
    far = sum(_far_weights_seconds(each.size, cpu) for each in demand.streams if _is_far(each, cpu, home))
    if tasks == 1:
        return Cost(compute, memory, far=far)
    moved = sum(map(_size, demand.streams))
    communication = START_SECONDS + moved / tasks / (cpu.reach.l3_bytes_per_cycle * hertz)
    return Cost(
        compute * demand.busiest(tasks), memory / tasks, communication, compute + memory, far / tasks
    )


def tasks_of(seconds: float, threads: int) -> int:
    """Into how many parts a kernel that takes so long is best divided."""
    return max(1, min(threads, int(seconds / PART_SECONDS)))


def loops_seconds(kernel: Graph, cpu: Cpu) -> float:
    """About how long a kernel that no candidate computes takes on one thread, by plain loops."""
    work, values = sum(op.operations() for op in kernel.ops), (*kernel.parameters, *kernel.returned)
    cycles = LOOP_CYCLES * max(work, sum(value.type.elements for value in kernel.returned))
    return _peak_seconds(0, values, cpu) + cycles / (cpu.gigahertz * 1e9)


def anchor_seconds(anchor: Op, cpu: Cpu) -> float:
    """About how long a micro-kernel takes for an anchor on one thread."""
    return _peak_seconds(anchor.operations(), (*anchor.present_operands, *anchor.results), cpu)


def _peak_seconds(work: int, values: Iterable[Value], cpu: Cpu) -> float:
    """Arithmetic as fast as a core can do it, and all values once to or from the second cache."""
    lanes = cpu.vector_bits // DType.F32.bits
    cycles = work / (FLOPS_PER_LANE * cpu.multiplies_per_cycle * lanes)
    moved = sum(value.type.storage_bytes for value in values)
    return (cycles + moved / cpu.reach.l2_bytes_per_cycle) / (cpu.gigahertz * 1e9)


def conversion_cost(type: TensorType, layout: Layout | None, cpu: Cpu) -> Cost:
    """Reading a tensor as it lies and writing it in another layout."""
    written = type.with_layout(layout).storage_bytes
    has_room = type.rank > 2 and prod(type.sizes[2:]) >= cpu.vector_bits // DType.F32.bits
    by_squares = has_room and type.dtype in (DType.F32, DType.F16, DType.U8, DType.I8)
    each = SQUARE_CYCLES if by_squares else ELEMENT_CYCLES
    cycles = LAUNCH_CYCLES + each * written / type.dtype.bytes
    return cost_of(Demand(cycles, (Stream(type.storage_bytes), Stream(written))), cpu, 1)


def worth(size: int, cpu: Cpu) -> float:
    """Seconds that so many bytes of memory are worth where memory is saved."""
    return BYTE_CYCLES * size / (cpu.gigahertz * 1e9)


def _size(stream: Stream) -> float:
    return 0.0 if stream.is_constant else stream.size


def _stream_seconds(stream: Stream, cpu: Cpu, home: Home) -> float:
    """The first time from where the bytes were left, the others from where the kernel itself leaves them."""
    again = stream.size * (stream.times - 1) * _seconds_per_byte(max(stream.reach, stream.size), cpu)
    if _is_far(stream, cpu, home):
        return _far_weights_seconds(stream.size, cpu) + again
    is_near = not stream.is_constant or home is Home.SECOND_CACHE
    return stream.size * _seconds_per_byte(stream.size, cpu, is_near=is_near) + again


def _is_far(stream: Stream, cpu: Cpu, home: Home) -> bool:
    """Whether it is weights that come from memory."""
    return stream.is_constant and (home is Home.MEMORY or stream.size > cpu.reach.l3 / 2)


def _far_weights_seconds(size: float, cpu: Cpu) -> float:
    """Of weights that come from memory: few wait for it, many are asked for ahead of their use."""
    seconds = size / (cpu.reach.dram_gigabytes_per_second * 1e9)
    return min(seconds / SHORT_SHARE, LEARNT_SECONDS + seconds / LONG_SHARE)


def _seconds_per_byte(reach: float, cpu: Cpu, *, is_near: bool = True) -> float:
    """Of bytes that come by again after `reach` others; half of a cache is left to what else passes by."""
    hertz = cpu.gigahertz * 1e9
    if is_near and reach <= cpu.l2 / 2:
        return 1 / (cpu.reach.l2_bytes_per_cycle * hertz)
    if reach <= cpu.reach.l3 / 2:
        return 1 / (cpu.reach.l3_bytes_per_cycle * hertz)
    return 1 / (cpu.reach.dram_gigabytes_per_second * 1e9)
