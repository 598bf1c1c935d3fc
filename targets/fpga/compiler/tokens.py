"""Tokens for a sequence of instructions: units that run on their own then compute what the sequence does.

Wherever two instructions of different units touch the same rows and one of them writes, the later one must
wait for the earlier one. A channel between two units counts tokens and the units work in order, so waiting
for an instruction is waiting for all before it on its unit: of each pair of units only waits for later ones
than before are left, each of them one push and one pop. Waits point backwards in the sequence, and so no
program deadlocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rtcc.targets.fpga.compiler.accesses import Access, Memory, accesses
from rtcc.targets.fpga.core import Core
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Unit

UNITS = len(Unit)

SHARED = {
    Memory.INP: (Unit.LOAD, Unit.EXEC), Memory.WGT: (Unit.LOAD, Unit.EXEC),
    Memory.PRM: (Unit.LOAD, Unit.EXEC), Memory.OUT: (Unit.EXEC, Unit.STORE),
    Memory.DRAM: (Unit.LOAD, Unit.STORE),
}  # fmt: skip
"""The two units that touch a memory."""


@dataclass(frozen=True)
class _Touch:
    """Rows that instruction `index` touches."""

    first: int
    end: int
    index: int


@dataclass
class _History:
    """Who touched a memory: per unit, reads and writes that the other one has not waited for yet."""

    reads: list[list[_Touch]] = field(default_factory=lambda: [[] for _ in range(UNITS)])
    writes: list[list[_Touch]] = field(default_factory=lambda: [[] for _ in range(UNITS)])


def with_tokens(program: Sequence[Instruction], core: Core) -> list[Instruction]:
    """The same instructions, each with the tokens that it takes and gives."""
    order = _Order()
    for index, instruction in enumerate(program):
        for access in accesses(instruction, core):
            order.require(access, instruction.UNIT, index)
        order.settle(instruction.UNIT, index)
        for access in accesses(instruction, core):
            order.note(access, instruction.UNIT, index)
    return [_marked(each, index, order) for index, each in enumerate(program)]


class _Order:
    """waited[of][by]: the last instruction of a unit that another one has waited for."""

    def __init__(self) -> None:
        self.waited = [[-1] * UNITS for _ in range(UNITS)]
        self.needed = [-1] * UNITS
        self.pushes: set[tuple[int, int]] = set()
        self.pops: set[tuple[int, int]] = set()
        self.memories = {memory: _History() for memory in Memory}

    def require(self, access: Access, unit: int, index: int) -> None:
        """Note what an access has to wait for."""
        history = self.memories[access.memory]
        for other in range(UNITS):
            if other == unit:
                continue
            touched = history.writes[other] + (history.reads[other] if access.writes else [])
            for touch in touched:
                if touch.first < access.end and access.first < touch.end:
                    self.needed[other] = max(self.needed[other], touch.index)

    def settle(self, unit: int, index: int) -> None:
        """Make tokens of what instruction `index` has to wait for."""
        for other, needed in enumerate(self.needed):
            if needed > self.waited[other][unit]:
                self.waited[other][unit] = needed
                self.pushes.add((needed, unit))
                self.pops.add((index, other))
                self._forget(other, unit, needed)
        self.needed = [-1] * UNITS

    def note(self, access: Access, unit: int, index: int) -> None:
        """Keep an access for later ones to wait for."""
        history = self.memories[access.memory]
        kept = history.writes if access.writes else history.reads
        kept[unit].append(_Touch(access.first, access.end, index))

    def _forget(self, unit: int, by: int, done: int) -> None:
        """Drop what the only other unit that touches a memory has waited for."""
        for memory, history in self.memories.items():
            if {unit, by} == set(SHARED[memory]):
                for kept in (history.reads, history.writes):
                    kept[unit] = [touch for touch in kept[unit] if touch.index > done]


def _marked(instruction: Instruction, index: int, order: _Order) -> Instruction:
    unit = instruction.UNIT
    following, before = (unit + 1) % UNITS, (unit - 1) % UNITS
    return replace(
        instruction,
        pop_previous=int((index, before) in order.pops), pop_next=int((index, following) in order.pops),
        push_previous=int((index, before) in order.pushes), push_next=int((index, following) in order.pushes),
    )  # fmt: skip
