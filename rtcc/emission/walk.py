"""Steps as C: the launch list that every thread walks, with barriers where one thread's bytes matter to
another.

A step that is divided runs on all threads, a serial one on its own: the first, or a loop's. A barrier stands
before a step that touches what an earlier step wrote, or writes what an earlier one touched, unless one and
the same thread did both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from rtcc.emission.steps import (
    Address,
    Base,
    Call,
    Copy,
    If,
    Loop,
    Step,
    conditions,
    owner_of,
    reads_and_writes,
)


@dataclass(frozen=True)
class _Access:
    """Bytes touched since the last barrier, by one thread or (None) by any."""

    address: Address
    is_write: bool
    thread: int | None


_Pending = frozenset[_Access]
"""What was touched since the last barrier."""


def _conflict(pending: _Pending, accesses: Iterable[_Access]) -> bool:
    """Whether some bytes matter to two threads of which one writes them."""
    return any(
        (old.is_write or new.is_write)
        and (old.thread is None or old.thread != new.thread)
        and old.address.may_overlap(new.address)
        for new in accesses
        for old in pending
    )


class WalkWriter:
    """The body of the walk, line by line."""

    def __init__(self, symbols: Mapping[str, str], threads: int) -> None:
        self.symbols = symbols
        self.threads = threads
        self.lines: list[str] = []
        self.depth = 1
        self.pending: _Pending = frozenset()

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def block(self, head: str, steps: Sequence[Step], serial: bool) -> None:
        """A braced block of steps; `serial`: inside what the first thread does alone."""
        self.line(head)
        self.depth += 1
        for step in steps:
            if serial:
                self.step(step, "")
            else:
                self.synchronised(step)
        self.depth -= 1

    def all_of(self, steps: Sequence[Step]) -> None:
        """The steps of a run; before those of several threads in a row the barrier that any of them needs, so
        that none has to wait for another.
        """
        for at_once, some in groupby(steps, lambda step: isinstance(step, Copy | Loop)):
            group = list(some)
            owners = {step: owner_of(step) for step in group} if at_once else {}
            if self.threads > 1 and len(set(owners.values()) - {None}) > 1:
                self.barrier_where(
                    [each for step, owner in owners.items() for each in _accesses([step], owner)]
                )
            for step in group:
                self.synchronised(step)

    def synchronised(self, step: Step) -> None:
        """A step, after a barrier where it needs one."""
        if self.threads == 1:
            self.step(step, "")
            return
        owner = owner_of(step)
        if owner is not None or isinstance(step, Call):
            self.barrier_before(_accesses([step], owner))
            self.step(step, "" if owner is None else self.is_owner(owner))
        else:
            assert isinstance(step, If | Loop)
            self.parallel_region(step)

    def is_owner(self, thread: int) -> str:
        """The condition that a thread does what is another's, or its own where that one does not run."""
        if thread == 0 or thread >= self.threads:
            return "task == 0"
        return f"task == (tasks > {thread} ? {thread} : 0)"

    def barrier_before(self, accesses: Sequence[_Access]) -> None:
        self.barrier_where(accesses)
        self.pending |= frozenset(accesses)

    def barrier_where(self, accesses: Sequence[_Access]) -> None:
        """A barrier, where what was touched before it matters to those accesses."""
        if _conflict(self.pending, accesses):
            self.barrier()

    def barrier(self) -> None:
        self.line("if ((code = rtcc_barrier(w, code)) != 0)")
        self.line("    return code;")
        self.pending = frozenset()

    def parallel_region(self, step: If | Loop) -> None:
        """A nested step that all threads enter: each reads the condition, so it must be complete."""
        tests = [_Access(address, False, None) for address in conditions(step)]
        if isinstance(step, If):
            self.barrier_before(tests)
            self.branches(step, serial=False)
            return
        self.barrier_before(tests)
        # The end of a round precedes the beginning of the next: repeat until what is pending there is stable.
        entry, start = self.pending, len(self.lines)
        back: _Pending = frozenset()
        while True:
            del self.lines[start:]
            self.pending = entry | back
            self.rounds(step, tests)
            if self.pending <= back:
                break
            back |= self.pending
        self.pending = entry | back

    def rounds(self, step: Loop, tests: Sequence[_Access]) -> None:
        """The loop of all threads; the condition of the next round is complete at the end of each."""
        self.line(loop_head(step))
        self.depth += 1
        self.test(step)
        for inner in step.body:
            self.synchronised(inner)
        self.barrier_before(tests)
        self.depth -= 1
        self.line("}")

    def branches(self, step: If, serial: bool) -> None:
        before = self.pending
        self.block(f"if ({self.byte(step.condition)}) {{", step.then, serial)
        after = self.pending
        self.pending = before
        if step.otherwise:
            self.block("} else {", step.otherwise, serial)
        self.line("}")
        self.pending |= after

    def test(self, step: Loop) -> None:
        """Leave the loop where its condition does not hold."""
        if step.first == step.again:
            texts = [f"!{self.byte(step.first)}"] if step.first else []
        else:
            texts = [f"i{step.counter} == 0 && !{self.byte(step.first)}"] if step.first else []
            texts += [f"i{step.counter} != 0 && !{self.byte(step.again)}"] if step.again else []
        for text in texts:
            self.line(f"if ({text})")
            self.line("    break;")

    def byte(self, address: Address) -> str:
        """A truth value in memory."""
        return f"*(const char *)({self.pointer(address)})"

    def pointer(self, address: Address) -> str:
        """An address, as a kernel takes it."""
        match address.base:
            case Base.ARENA | Base.WEIGHTS:
                return f"{address.base.value} + {address.offset}"
            case Base.INPUT | Base.OUTPUT:
                const = "const char" if address.base is Base.INPUT else "char"
                tensor = f"{address.base.value}[{address.index}]"
                return tensor if address.offset == 0 else f"({const} *){tensor} + {address.offset}"
            case Base.ITERATION:
                return f"&i{address.index}"

    def step(self, step: Step, guard: str) -> None:
        """A step without barriers; `guard` is a condition on the thread, or empty."""
        guards = f"code == 0 && {guard}" if guard else "code == 0"
        match step:
            case Call():
                self.call(step, guards)
            case Copy():
                self.line(f"if ({guards})")
                source, destination = self.pointer(step.source), self.pointer(step.destination)
                self.line(f"    memmove({destination}, {source}, {step.destination.bytes});")
            case If() | Loop():
                self.line(f"if ({guards}) {{")
                self.depth += 1
                if isinstance(step, If):
                    self.branches(step, serial=True)
                else:
                    self.line(loop_head(step, "code == 0 && "))
                    self.depth += 1
                    self.test(step)
                    for inner in step.body:
                        self.step(inner, "")
                    self.depth -= 1
                    self.line("}")
                self.depth -= 1
                self.line("}")

    def call(self, step: Call, guards: str) -> None:
        task, tasks = ("0", "1") if step.tasks == 1 or self.threads == 1 else ("task", "tasks")
        if 1 < step.tasks < self.threads:
            guards += f" && task < {step.tasks}"
            tasks = f"(tasks < {step.tasks} ? tasks : {step.tasks})"
        arguments = [task, tasks, *map(self.pointer, (*step.reads, *step.writes))]
        if step.scratch is not None:
            base = self.pointer(step.scratch)
            arguments.append(base if task == "0" else f"task == 0 ? {base} : own")
        self.line(f"if ({guards}) /* {comment_text(step.comment)} */")
        self.line(f"    {self.symbols[step.kernel]}({', '.join([*arguments, '&code'])});")


def walk_text(steps: Sequence[Step], symbols: Mapping[str, str], threads: int) -> str:
    """The C function `rtcc_walk`; `symbols` gives each kernel's C name, `threads` the largest number of
    threads.
    """
    writer = WalkWriter(symbols, threads)
    writer.all_of(steps)
    return "\n".join(
        [
            "static int32_t rtcc_walk(struct rtcc_workspace *w, int32_t task, const void *const *in,",
            "                         void *const *out)",
            "{",
            "    char *const arena = (char *)w + RTCC_HEAD_BYTES;",
            "    const char *const weights = RTCC_WEIGHTS(w);",
            "    char *const own = arena + RTCC_ARENA_BYTES",
            "                      + RTCC_THREAD_BYTES * (size_t)(task == 0 ? 0 : task - 1);",
            "    const int32_t tasks = w->threads;",
            "    int32_t code = 0;",
            "    (void)task, (void)tasks, (void)in, (void)out, (void)arena, (void)weights, (void)own;",
            *writer.lines,
            "    return rtcc_barrier(w, code);",
            "}",
            "",
        ]
    )


def comment_text(text: str) -> str:
    """Text that can stand in a C comment, on one line, in ASCII."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)
    return printable.replace("*/", "* /").replace("/*", "/ *").replace("??", "? ?")


def _accesses(steps: Sequence[Step], thread: int | None) -> list[_Access]:
    reads, writes = reads_and_writes(steps)
    never_written = (Base.WEIGHTS, Base.ITERATION)
    seen = [_Access(address, False, thread) for address in reads if address.base not in never_written]
    return seen + [_Access(address, True, thread) for address in writes]


def loop_head(step: Loop, condition: str = "") -> str:
    i = f"i{step.counter}"
    return f"for (int64_t {i} = 0; {condition}{i} < {step.trip}; {i}++) {{"
