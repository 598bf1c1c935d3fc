"""Tokens for a sequence of instructions: units that run on their own then compute what the sequence does.

Wherever two instructions of different units touch the same rows and one of them writes, the later one must
wait for the earlier one. A channel between two units counts tokens and the units work in order, so waiting
for an instruction is waiting for all before it on its unit: of each pair of units only waits for later ones
than before are left, each of them one push and one pop. Where more pushes than a channel has room for would
come before their pops, neighbouring waits are joined: the earlier one of two waits for what both need.

No program deadlocks, since whatever an instruction waits for comes before it in the sequence: its tokens,
because waits point backwards; room for the k-th push of a channel that holds N, because the pop k - N comes
before that push; a slot in its unit's queue, because instructions are dispatched in order and a slot is
free when an earlier instruction of the unit is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rtcc.targets.fpga.compiler.accesses import Access, Memory, accesses
from rtcc.targets.fpga.core import MOST_TOKENS, Core
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


@dataclass(frozen=True)
class _Wait:
    """A token: the instruction that gives it, the one that takes it, and how many waits are joined in it."""

    push: int
    pop: int
    joined: int = 1


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
    pushes: set[tuple[int, int]] = set()
    pops: set[tuple[int, int]] = set()
    for (giver, taker), waits in order.waits.items():
        for wait in _bounded(waits):
            pushes.add((wait.push, taker))
            pops.add((wait.pop, giver))
    return [_marked(each, index, pushes, pops) for index, each in enumerate(program)]


def _bounded(waits: list[_Wait]) -> list[_Wait]:
    """The waits of one channel, in order, joined so that in the sequence it never holds above MOST_TOKENS.

    All that are held at a push are popped after it, so that any two neighbours of them can be joined; those
    with the fewest joined so far are, which keeps waits evenly fine.
    """
    kept: list[_Wait] = []
    held = 0
    for wait in waits:
        kept.append(wait)
        while kept[held].pop < wait.push:
            held += 1
        if len(kept) - held > MOST_TOKENS:
            place = min(range(held, len(kept) - 1), key=lambda n: kept[n].joined + kept[n + 1].joined)
            one, two = kept[place : place + 2]
            kept[place : place + 2] = [_Wait(two.push, one.pop, one.joined + two.joined)]
    return kept


class _Order:
    """waited[of][by]: the last instruction of a unit that another one has waited for."""

    def __init__(self) -> None:
        self.waited = [[-1] * UNITS for _ in range(UNITS)]
        self.needed = [-1] * UNITS
        self.waits: dict[tuple[int, int], list[_Wait]] = {}
        """Of each channel, which two units name: who gives, who takes."""
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
                self.waits.setdefault((other, unit), []).append(_Wait(needed, index))
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


def _marked(
    instruction: Instruction, index: int, pushes: set[tuple[int, int]], pops: set[tuple[int, int]]
) -> Instruction:
    unit = instruction.UNIT
    following, before = (unit + 1) % UNITS, (unit - 1) % UNITS
    return replace(
        instruction,
        pop_previous=int((index, before) in pops), pop_next=int((index, following) in pops),
        push_previous=int((index, before) in pushes), push_next=int((index, following) in pushes),
    )  # fmt: skip
