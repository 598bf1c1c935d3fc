"""The cycle model: an event simulation of queues, tokens and the memory port, instruction by instruction.

The constants are the RTL's: what instructions take is in `durations.py`, numbers of registers on a path are
said where they stand. What is not modelled: faults, and a memory that is not of constant latency. Tests hold
it within 2 % of the RTL.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from rtcc.errors import InvalidInput
from rtcc.targets.fpga.core import MOST_TOKENS, Core
from rtcc.targets.fpga.cycles.durations import (
    QUIET,
    STORE_BURSTS,
    VISIT_GAP,
    WEIGHTED,
    WORKS,
    bursts,
    drain_cycles,
    instruction_beats,
    line_parts,
)
from rtcc.targets.fpga.cycles.events import Clock, Process, Signal
from rtcc.targets.fpga.cycles.memory import ReadPort, Timing
from rtcc.targets.fpga.isa.fields import Instruction
from rtcc.targets.fpga.isa.table import Exec, Finish, Load, Store, Unit


@dataclass
class Stalls:
    """Cycles in which the array took no pixel, by what it waited for.

    load, store: a token of that unit. fetch: the next instruction. weights: a tile of weights, because a tap
    has fewer pixels than the array has rows. turn: between instructions or short taps, and while filling up.
    """

    load: int = 0
    store: int = 0
    fetch: int = 0
    weights: int = 0
    turn: int = 0

    @property
    def total(self) -> int:
        return self.load + self.store + self.fetch + self.weights + self.turn


@dataclass
class Span:
    """When an instruction started and was complete; of EXEC also pixels taken and what was waited for."""

    start: int
    end: int
    array_cycles: int = 0
    stalls: Stalls = field(default_factory=Stalls)


@dataclass(frozen=True)
class CycleReport:
    """cycles: of the whole program. spans: of its instructions. rows_read, rows_written: DRAM traffic."""

    cycles: int
    spans: list[Span]
    rows_read: int
    rows_written: int

    @property
    def array_cycles(self) -> int:
        return sum(span.array_cycles for span in self.spans)

    def stalls(self, first: int = 0, last: int | None = None) -> Stalls:
        """The sum over a range of instructions, all by default."""
        chosen = [span.stalls for span in self.spans[first:last]]
        names = ("load", "store", "fetch", "weights", "turn")
        return Stalls(*(sum(getattr(each, name) for each in chosen) for name in names))


def count_cycles(
    core: Core, program: Sequence[Instruction], timing: Timing | None = None, first_row: int = 0
) -> CycleReport:
    """How long a program takes, which begins at a row of DRAM; it must be free of faults.

    InvalidInput "fpga-deadlock" where instructions wait for tokens that never come.
    """
    model = _Model(core, program, timing or Timing(), first_row)
    model.clock.run()
    for index, span in enumerate(model.spans):
        if span is None:
            raise InvalidInput(
                "fpga-deadlock",
                f"instruction {index}, {program[index].NAME}, never runs: it waits for a token or its queue",
            )
    spans = [span for span in model.spans if span is not None]
    end = max((span.end for span in spans), default=0)
    return CycleReport(end + QUIET, spans, model.rows_read, model.rows_written)


class _Channel:
    """Tokens from one unit to another: those there, those announced, and who waits for either."""

    def __init__(self) -> None:
        self.visible = self.reserved = 0


class _Queue:
    """A unit's instructions that are dispatched and not started, and how many are not complete."""

    def __init__(self) -> None:
        self.entries: deque[int] = deque()
        self.outstanding = 0


class _Model:
    """Everything that the processes share."""

    def __init__(self, core: Core, program: Sequence[Instruction], timing: Timing, first_row: int) -> None:
        self.core = core
        self.program = program
        self.first_row = first_row
        self.latency = timing.latency
        self.clock = Clock()
        self.reads = ReadPort(timing)
        self.spans: list[Span | None] = [None] * len(program)
        self.queues = [_Queue() for _ in Unit]
        self.forward = [_Channel() for _ in Unit]
        self.backward = [_Channel() for _ in Unit]
        self.changed = Signal()
        """Anything that a process may wait for."""
        self.beats_ready: deque[int] = deque()
        """Of the program, when they were read."""
        self.credit = 8 * instruction_beats(core)
        self.fetch_asks = False
        self.rows_read = self.rows_written = 0
        for process in (self.fetch(), self.dispatch(), self.load(), self.execute(), self.store()):
            self.clock.begin(process)

    # ---- Tokens ------------------------------------------------------------------------------------------

    def lacks(self, unit: Unit, instruction: Instruction) -> tuple[bool, bool, bool]:
        """Whether it wants a token of the previous unit, of the next one, or room for its own."""
        before, after = (unit - 1) % len(Unit), (unit + 1) % len(Unit)
        is_full = (instruction.push_next and self.forward[unit].reserved >= MOST_TOKENS) or (
            instruction.push_previous and self.backward[unit].reserved >= MOST_TOKENS
        )
        return (
            bool(instruction.pop_previous and not self.forward[before].visible),
            bool(instruction.pop_next and not self.backward[after].visible),
            bool(is_full),
        )

    def begin(self, unit: Unit, index: int) -> None:
        """An instruction leaves its queue: its tokens are taken, room for others is reserved."""
        instruction = self.program[index]
        self.queues[unit].entries.popleft()
        before, after = (unit - 1) % len(Unit), (unit + 1) % len(Unit)
        for channel, taken in (
            (self.forward[before], instruction.pop_previous),
            (self.backward[after], instruction.pop_next),
        ):
            channel.visible -= taken
            channel.reserved -= taken
        self.forward[unit].reserved += instruction.push_next
        self.backward[unit].reserved += instruction.push_previous
        self.clock.wake(self.changed)

    def complete(self, unit: Unit, index: int, start: int, end: int) -> Span:
        """An instruction gives its tokens in cycle `end`; they are there in the next one."""
        span = self.spans[index] = Span(start, end)
        self.clock.at(end + 1, partial(self._give, unit, self.program[index]))
        return span

    def _give(self, unit: Unit, instruction: Instruction) -> None:
        self.forward[unit].visible += instruction.push_next
        self.backward[unit].visible += instruction.push_previous
        self.queues[unit].outstanding -= 1
        self.clock.wake(self.changed)

    def next_of(self, unit: Unit) -> int | None:
        """The instruction of a unit that can start now."""
        entries = self.queues[unit].entries
        if not entries or any(self.lacks(unit, self.program[entries[0]])):
            return None
        return entries[0]

    # ---- Fetch -------------------------------------------------------------------------------------------

    def fetch(self) -> Process:
        """Asks for four instructions at a time, while eight fit; a beat shows one cycle after it came."""
        row, left = self.first_row, len(self.program) * self.core.instruction_rows
        while left:
            rows = next(bursts(self.core, row, min(left, 4 * self.core.instruction_rows)))
            beats = rows * self.core.beats_per_row
            while self.credit < beats:
                yield self.changed
            self.fetch_asks = True  # from the next cycle on, and it goes first
            yield self.clock.now + 1
            while (free := self.reads.free_at(self.clock.now)) > self.clock.now:
                yield free
            self.fetch_asks = False
            self.credit -= beats
            begin = self.reads.request(self.clock.now, beats, 0)
            self.rows_read += rows
            self.beats_ready.extend(range(begin + 1, begin + 1 + beats))
            row += rows
            left -= rows
            self.clock.wake(self.changed)

    def dispatch(self) -> Process:
        """Puts an instruction together beat by beat; it goes to its queue in the cycle after the last."""
        for index, instruction in enumerate(self.program):
            for _ in range(instruction_beats(self.core)):
                while not self.beats_ready:
                    yield self.changed
                yield max(self.beats_ready.popleft(), self.clock.now)
                self.credit += 1
                self.clock.wake(self.changed)
                yield self.clock.now + 1
            queue = self.queues[instruction.UNIT]
            while queue.outstanding == self.core.queue:
                yield self.changed
            queue.outstanding += 1
            self.clock.at(self.clock.now + 1, partial(self._arrive, queue, index))

    def _arrive(self, queue: _Queue, index: int) -> None:
        queue.entries.append(index)
        self.clock.wake(self.changed)

    # ---- LOAD --------------------------------------------------------------------------------------------

    def load(self) -> Process:
        """Asks for lines; what is written when follows from when beats come. Two instructions may be open."""
        open_until: deque[int] = deque()
        writer = 0  # the cycle in which the next row can be written
        while True:
            while (index := self.next_of(Unit.LOAD)) is None:
                yield self.changed
            if len(open_until) == WORKS and (free := open_until.popleft() + 1) > self.clock.now:
                yield free
                continue
            start = self.clock.now
            self.begin(Unit.LOAD, index)
            instruction = self.program[index]
            assert isinstance(instruction, Load)
            writer = max(writer, start + 2)
            yield start + 2 + instruction.pad_top
            for rows, before, after in line_parts(self.core, instruction):
                while (free := self.reads.free_at(self.clock.now)) > self.clock.now or self.fetch_asks:
                    yield max(free, self.clock.now + 1)
                writer += before
                begin = self.reads.request(self.clock.now, rows * self.core.beats_per_row, writer)
                writer = begin + rows * self.core.beats_per_row + after
                self.rows_read += rows
                yield self.clock.now + 1
            # The last row is written in `writer` - 1; the next instruction's rows follow after two cycles.
            self.complete(Unit.LOAD, index, start, max(writer, self.clock.now))
            open_until.append(max(writer, self.clock.now))
            writer += 2

    # ---- EXEC --------------------------------------------------------------------------------------------

    def execute(self) -> Process:
        """Each tap takes as long as its pixels, or as its weights; the next instruction's tile is ahead."""
        array = _Array(self.core.n)
        idle_since, reason = 0, "fetch"
        while True:
            while (index := self.next_of(Unit.EXEC)) is None:
                reason = self._reason()
                yield self.changed
            if array.loader_free > self.clock.now:
                yield array.loader_free
                continue
            start = self.clock.now
            self.begin(Unit.EXEC, index)
            instruction = self.program[index]
            assert isinstance(instruction, Exec)
            was_waiting = start > array.loader_free
            first, last, weights = array.run(start, instruction)
            span = self.complete(Unit.EXEC, index, start, last + drain_cycles(self.core))
            span.array_cycles = instruction.taps * instruction.pixels
            span.stalls.weights = weights
            idle = first - idle_since
            turn = min(idle, VISIT_GAP - 1) if idle_since else 0
            setattr(span.stalls, reason if was_waiting else "turn", idle - turn)
            span.stalls.turn += turn + last + 1 - first - span.array_cycles - weights
            idle_since = last + 1

    def _reason(self) -> str:
        """What EXEC waits for."""
        entries = self.queues[Unit.EXEC].entries
        if not entries:
            return "fetch"
        return "load" if self.lacks(Unit.EXEC, self.program[entries[0]])[0] else "store"

    # ---- STORE -------------------------------------------------------------------------------------------

    def store(self) -> Process:
        """Bursts go out one after the other; an instruction is complete with the last one's answer."""
        answers: deque[int] = deque([0] * STORE_BURSTS, STORE_BURSTS)
        beats_free = 0
        while True:
            while (index := self.next_of(Unit.STORE)) is None:
                yield self.changed
            instruction = self.program[index]
            if isinstance(instruction, Finish) and answers[-1] >= self.clock.now:
                yield answers[-1] + 1
                continue
            start = self.clock.now
            self.begin(Unit.STORE, index)
            if isinstance(instruction, Finish):
                self.complete(Unit.STORE, index, start, start)
                continue
            assert isinstance(instruction, Store)
            handed = start + 1
            for rows, _, _ in line_parts(self.core, instruction):
                handed = max(handed + 1, answers[0] + 1)
                # The row is read in the next cycle, and passes two registers.
                beats_free = max(beats_free, handed + 3) + rows * self.core.beats_per_row
                answers.append(max(beats_free - 1 + self.latency, answers[-1] + 1))
                self.rows_written += rows
            self.complete(Unit.STORE, index, start, answers[-1])
            yield handed + 1


class _Array:
    """The weight loader and the sweep: when tiles are loaded and pixels issued."""

    def __init__(self, n: int) -> None:
        self._n = n
        self.loader_free = 0
        """When the next instruction can start."""
        self._tile_taken = 0
        self._last: int = -VISIT_GAP

    def run(self, start: int, instruction: Exec) -> tuple[int, int, int]:
        """An instruction that starts: the cycles of its first and last pixel, and those lost for weights.

        Tile j + 1 begins to load when tile j is in, and when tap j began; tap j + 1 begins a cycle after its
        tile, and when tap j has had its pixels.
        """
        n, taps, pixels = self._n, instruction.taps, max(instruction.pixels, VISIT_GAP)
        taken = max(start + 1, self._last)
        tile = max(start + 1, self._tile_taken)
        first = max(tile + 1, start + 2, self._last + VISIT_GAP)
        last_begin = first + (taps - 1) * pixels
        weights = 0
        self._tile_taken = first
        if instruction.mode in WEIGHTED and taps > 1:
            second = max(tile + n, first)
            tile = max(second + (taps - 2) * n, last_begin - pixels if pixels >= n else 0)
            weights = max(tile + 1 - last_begin, 0)
            last_begin += weights
            self._tile_taken = last_begin
        self._last = last_begin + instruction.pixels - 1
        self.loader_free = max(tile + n, taken + 1)
        return first, self._last, weights
