"""Whether units that wait for each other by tokens alone do what the sequence of instructions says.

Units take their instructions in order, and the k-th pop of a channel takes the token of the k-th push. So
which instruction has surely ended before which other one starts does not depend on timing, and every pair
that touches the same rows, one of them writing, must be so ordered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rtcc.targets.fpga.compiler.accesses import Access, Memory, accesses, rows_of
from rtcc.targets.fpga.compiler.tokens import SHARED, UNITS
from rtcc.targets.fpga.core import MOST_TOKENS, Core
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Exec, Finish


@dataclass(frozen=True)
class Finding:
    """What is wrong, and at which instruction."""

    index: int
    message: str

    def __str__(self) -> str:
        return f"instruction {self.index}: {self.message}"


def check_order(program: Sequence[Instruction], core: Core, rows: int, constants: int) -> list[Finding]:
    """Everything that is wrong with addresses and tokens; nothing where the program is sound.

    rows: of the DRAM image. constants: its first rows, which no instruction may write.
    """
    found = [
        finding
        for index, each in enumerate(program)
        for finding in _reach(index, each, core, rows, constants)
    ]
    found += _ends(program)
    clocks = _clocks(program, core, found)
    if clocks is not None:
        found += _races(program, core, clocks)
    return found


def _reach(index: int, each: Instruction, core: Core, rows: int, constants: int) -> list[Finding]:
    """Fields that mean nothing, and rows that are not there."""
    problem = each.fault()
    if problem is not None:
        return [Finding(index, problem)]
    found: list[Finding] = []
    for access in accesses(each, core):
        limit = rows if access.memory is Memory.DRAM else rows_of(access.memory, core)
        what = f"{access.memory.value} rows {access.first} to {access.end - 1}"
        if not 0 <= access.first < access.end <= limit:
            found.append(Finding(index, f"{what}, of which there are {limit}"))
        elif access.memory is Memory.DRAM and access.writes and access.first < constants:
            found.append(
                Finding(index, f"{what} are written, the first {constants} hold the program's constants")
            )
    if isinstance(each, Exec) and each.acc + each.pixels > core.acc_rows:
        what = f"ACC rows {each.acc} to {each.acc + each.pixels - 1}"
        found.append(Finding(index, f"{what}, of which there are {core.acc_rows}"))
    return found


def _ends(program: Sequence[Instruction]) -> list[Finding]:
    """FINISH is the last instruction, and no other one: nothing after it is fetched."""
    last = len(program) - 1
    if not program or not isinstance(program[last], Finish):
        return [Finding(last, "the last instruction is not FINISH")]
    early = (n for n, each in enumerate(program[:last]) if isinstance(each, Finish))
    return [Finding(n, "instructions follow FINISH, which are never fetched") for n in early]


def _neighbours(unit: int, each: Instruction) -> tuple[list[int], list[int]]:
    """The units whose tokens an instruction takes, and those that it gives tokens to."""
    before, after = (unit - 1) % UNITS, (unit + 1) % UNITS
    pops = [other for other, has in ((before, each.pop_previous), (after, each.pop_next)) if has]
    pushes = [other for other, has in ((before, each.push_previous), (after, each.push_next)) if has]
    return pops, pushes


def _clocks(program: Sequence[Instruction], core: Core, found: list[Finding]) -> list[list[int]] | None:
    """For each instruction how many of each unit have ended before it starts; None where some never start.

    As the core does it: instructions are dispatched in order, each while its unit's queue has a slot, which
    is free again when an instruction is complete. What waits for what is fixed, so that how long they take
    does not tell which ones start.
    """
    queues = [deque[int]() for _ in range(UNITS)]
    tokens = {(a, b): deque[int]() for a in range(UNITS) for b in range(UNITS) if a != b}
    clocks: list[list[int]] = [[] for _ in program]
    now = [[0] * UNITS for _ in range(UNITS)]
    dispatched, moved = 0, True
    while moved:
        moved = False
        while dispatched < len(program) and len(queues[program[dispatched].UNIT]) < core.queue:
            queues[program[dispatched].UNIT].append(dispatched)
            dispatched, moved = dispatched + 1, True
        for unit, queue in enumerate(queues):
            while queue and _may_start(unit, program[queue[0]], tokens):
                index, moved = queue.popleft(), True
                _run(index, unit, program[index], tokens, clocks, now)
    stuck = [queue[0] for queue in queues if queue]
    found += [
        Finding(index, "it waits for a token that is never given, or for room for one") for index in stuck
    ]
    if dispatched < len(program):
        found.append(Finding(dispatched, "it is never dispatched: its unit's queue stays full"))
    found += [
        Finding(given[-1], f"{len(given)} tokens that nobody takes") for given in tokens.values() if given
    ]
    return None if stuck else clocks


def _run(
    index: int, unit: int, each: Instruction, tokens: dict[tuple[int, int], deque[int]],
    clocks: list[list[int]], now: list[list[int]],
) -> None:  # fmt: skip
    """Take an instruction's tokens, note what has ended before it, and give its own."""
    pops, pushes = _neighbours(unit, each)
    for other in pops:
        giver = tokens[other, unit].popleft()
        ended = [*clocks[giver]]
        ended[other] += 1
        now[unit] = [max(a, b) for a, b in zip(now[unit], ended, strict=True)]
    clocks[index] = [*now[unit]]
    now[unit][unit] += 1
    for other in pushes:
        tokens[unit, other].append(index)


def _may_start(unit: int, each: Instruction, tokens: dict[tuple[int, int], deque[int]]) -> bool:
    pops, pushes = _neighbours(unit, each)
    has_all = all(tokens[other, unit] for other in pops)
    return has_all and all(len(tokens[unit, other]) < MOST_TOKENS for other in pushes)


@dataclass(frozen=True)
class _Use:
    """An access of the instruction that is the `number`-th of its unit, behind so many of the other one."""

    access: Access
    index: int
    number: int
    behind: int


def _races(program: Sequence[Instruction], core: Core, clocks: list[list[int]]) -> list[Finding]:
    uses: dict[tuple[Memory, int], list[_Use]] = {}
    for index, each in enumerate(program):
        for access in accesses(each, core):
            (other,) = (unit for unit in SHARED[access.memory] if unit != each.UNIT)
            use = _Use(access, index, clocks[index][each.UNIT], clocks[index][other])
            uses.setdefault((access.memory, each.UNIT), []).append(use)
    found: dict[tuple[int, int], Finding] = {}
    for memory, (one, two) in SHARED.items():
        for a, b in _unordered(uses.get((memory, one), []), uses.get((memory, two), [])):
            message = f"it touches {memory.value} rows that instruction {a.index} touches, and neither waits"
            found.setdefault((a.index, b.index), Finding(b.index, message))
    return list(found.values())


def _unordered(ones: list[_Use], twos: list[_Use]) -> list[tuple[_Use, _Use]]:
    """Pairs of uses of the same rows, one of them a write, of which neither is behind the other."""
    found: list[tuple[_Use, _Use]] = []
    start = 0
    for two in twos:
        while start < len(ones) and ones[start].number < two.behind:
            start += 1
        for one in ones[start:]:
            if one.behind > two.number:
                break
            a, b = one.access, two.access
            if (a.writes or b.writes) and a.first < b.end and b.first < a.end:
                found.append((one, two))
    return found
