"""Runs programs on the verilated core."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.isa.table import Register
from rtcc.targets.fpga.simulator.machine import Outcome, image_rows
from rtcc.targets.fpga.verilated.build import library

NEVER = NOWHERE = (1 << 64) - 1
MOST_ANSWERS = 1 << 20
"""Bursts of STORE whose answers are noted, besides one for each row of the image."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How the DRAM behaves.

    latency: cycles from an accepted address to the first beat, and from the last beat written to the answer.
    jitter: up to so many more, at random. stall_percent: of cycles in which a channel of the bus is idle.
    bad_beat: the beat, counted from the image's first, that answers with an error.
    """

    latency: int = 24
    jitter: int = 0
    stall_percent: int = 0
    seed: int = 1
    bad_beat: int | None = None

    def __post_init__(self) -> None:
        if self.latency < 1 or self.jitter < 0 or not 0 <= self.stall_percent < 100:
            raise InvalidInput(
                "fpga-memory",
                "latency must be at least 1, jitter 0, and stall_percent 0 to 99; "
                f"found {self.latency}, {self.jitter}, {self.stall_percent}",
            )


@dataclass(frozen=True)
class RtlOutcome(Outcome):
    """What the RTL leaves behind: besides the image, all of its registers and when it wrote."""

    registers: dict[Register, int] = field(default_factory=dict[Register, int])
    answers: NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.uint32))
    """The cycle in which each burst of STORE was answered, in order."""
    stopped: int = 0
    """The register FAULTS of a run that was stopped before this one."""

    @property
    def cycles(self) -> int:
        return self.registers[Register.CYCLES]


class _Settings(ctypes.Structure):
    _fields_ = [
        ("seed", ctypes.c_uint32),
        ("latency", ctypes.c_uint32),
        ("jitter", ctypes.c_uint32),
        ("stall_percent", ctypes.c_uint32),
        ("most_cycles", ctypes.c_uint64),
        ("bad_beat", ctypes.c_uint64),
        ("abort_after", ctypes.c_uint64),
        ("again", ctypes.c_uint32),
    ]


def run_rtl(
    core: Core,
    image: NDArray[np.uint8],
    program: int,
    length: int,
    memory: Memory | None = None,
    most_cycles: int = 50_000_000,
    abort_after: int | None = None,
    *,
    again: bool = True,
) -> RtlOutcome:
    """Run a program that lies in a DRAM image on the RTL; as `simulate`, and cycle by cycle.

    abort_after: stop it after so many cycles by the register CONTROL, and run it once more to its end, unless
    not `again`. ToolMissing without verilator or g++. The core never hangs, its bursts are as AXI4 demands,
    and none is open when it was stopped: where not, or where it takes more than most_cycles, an assertion
    fails.
    """
    memory = memory or Memory()
    simulated = ctypes.CDLL(str(library(core)))
    dram = image_rows(core, image).reshape(-1)
    registers = (ctypes.c_uint32 * len(Register))()
    bad = NOWHERE if memory.bad_beat is None else memory.bad_beat
    settings = _Settings(
        memory.seed, memory.latency, memory.jitter, memory.stall_percent, most_cycles, bad,
        NEVER if abort_after is None else abort_after, int(again),
    )  # fmt: skip
    stopped = ctypes.c_uint32()
    answers = np.zeros(dram.size // core.row_bytes + MOST_ANSWERS, np.uint32)
    answered = ctypes.c_uint64()
    status = simulated.rtcc_run(
        ctypes.byref(settings),
        dram.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_uint64(dram.size),
        ctypes.c_uint32(core.row_bytes),
        ctypes.c_uint32(program),
        ctypes.c_uint32(length),
        registers,
        answers.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_uint64(answers.size),
        ctypes.byref(answered),
        ctypes.byref(stopped),
    )
    assert status != 1, f"the core is not done after {most_cycles} cycles"
    assert status != 3, "the core was stopped and left a transaction of its memory port open"
    assert status == 0, "the core broke the protocol of its memory port"
    values = {register: registers[register // 4] for register in Register}
    completed = (values[Register.LOADS], values[Register.EXECS], values[Register.STORES])
    wrote = answers[: answered.value]
    return RtlOutcome(dram, values[Register.FAULTS], completed, values, wrote, stopped.value)
