"""What a core is between two instructions: buffers, queues, tokens, faults; and when one starts."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rtcc.errors import InvalidInput
from rtcc.targets.fpga.core import MOST_TOKENS, Core
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Fault, FaultField, Unit

FIELD_OF_UNIT = {Unit.LOAD: FaultField.LOAD, Unit.EXEC: FaultField.EXEC, Unit.STORE: FaultField.STORE}


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: the DRAM image, the register FAULTS, and instructions completed by each unit."""

    dram: NDArray[np.uint8]
    faults: int
    completed: tuple[int, int, int]

    def fault(self, where: FaultField) -> Fault:
        return Fault(self.faults >> where & 15)

    def fault_text(self) -> str:
        """`LOAD SRAM_RANGE` and so on, comma-separated; empty where nothing is wrong."""
        found = [f"{where.name} {self.fault(where).name}" for where in FaultField if self.fault(where)]
        return ", ".join(found)


def image_rows(core: Core, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy of a DRAM image as rows of n bytes; InvalidInput where it is not a whole number of rows."""
    if image.dtype != np.uint8 or image.ndim != 1 or not image.size or image.size % core.row_bytes:
        raise InvalidInput(
            "fpga-image",
            f"a DRAM image is u8[a multiple of {core.row_bytes}], found {image.dtype}{list(image.shape)}",
        )
    return image.reshape(-1, core.row_bytes).copy()


@dataclass
class Channels:
    """The six token channels of the ring; `count[unit][0]` is from the previous unit, `[1]` the next."""

    count: list[list[int]] = field(default_factory=lambda: [[0, 0] for _ in Unit])

    def has_all(self, unit: Unit, instruction: Instruction) -> bool:
        """Whether the tokens that an instruction pops are there, and room for those that it pushes."""
        before, after = _neighbours(unit)
        return not (
            (instruction.pop_previous and not self.count[unit][0])
            or (instruction.pop_next and not self.count[unit][1])
            or (instruction.push_previous and self.count[before][1] >= MOST_TOKENS)
            or (instruction.push_next and self.count[after][0] >= MOST_TOKENS)
        )

    def take(self, unit: Unit, instruction: Instruction) -> None:
        self.count[unit][0] -= instruction.pop_previous
        self.count[unit][1] -= instruction.pop_next

    def give(self, unit: Unit, instruction: Instruction) -> None:
        before, after = _neighbours(unit)
        self.count[before][1] += instruction.push_previous
        self.count[after][0] += instruction.push_next


def _neighbours(unit: Unit) -> tuple[Unit, Unit]:
    """The previous and the next unit of the ring."""
    return Unit((unit - 1) % len(Unit)), Unit((unit + 1) % len(Unit))


class Machine:
    """The state of a core that runs one program, instruction by instruction."""

    def __init__(self, core: Core, dram: NDArray[np.uint8]) -> None:
        self.core = core
        self.dram = dram
        self.inp = np.zeros((core.inp_rows, core.n), np.float32)
        """Bytes as floats, which count exactly and multiply fast."""
        self.wgt = np.zeros((core.wgt_rows, core.n), np.float32)
        self.prm = np.zeros((core.prm_rows, core.n), np.uint8)
        self.acc = np.zeros((core.acc_rows, core.n), np.int32)
        self.out = np.zeros((core.out_rows, core.n), np.uint8)
        self.queues: tuple[deque[Instruction], ...] = tuple(deque() for _ in Unit)
        self.channels = Channels()
        self.completed = [0, 0, 0]
        self.faults = 0
        self.is_finished = False

    def set_fault(self, where: FaultField, fault: Fault) -> None:
        self.faults |= fault << where

    def is_frozen(self, unit: Unit) -> bool:
        """A unit that met a fault starts no instruction any more."""
        return bool(self.faults >> FIELD_OF_UNIT[unit] & 15)

    def ready(self, unit: Unit) -> Instruction | None:
        """The unit's next instruction, where it can start."""
        queue = self.queues[unit]
        if not queue or self.is_frozen(unit) or not self.channels.has_all(unit, queue[0]):
            return None
        return queue[0]

    def outcome(self) -> Outcome:
        """After nothing moves any more."""
        is_done = self.is_finished and not any(self.queues)
        if not is_done and not self.faults:
            self.set_fault(FaultField.CORE, Fault.DEADLOCK)
        loads, execs, stores = self.completed
        return Outcome(self.dram.reshape(-1), self.faults, (loads, execs, stores))
