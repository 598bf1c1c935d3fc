"""Steps as C: the launch list that every thread walks, with barriers where one thread's bytes matter to
another.

A step that is divided runs on all threads, a serial one on the first. A barrier stands before a step that
touches what an earlier step wrote, or writes what an earlier one touched, unless the first thread alone did
both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rtcc.emission.steps import (
    Address,
    Base,
    Call,
    Copy,
    If,
    Loop,
    Step,
    conditions,
    is_serial,
    reads_and_writes,
)


@dataclass(frozen=True)
class _Access:
    """Bytes touched since the last barrier."""

    address: Address
    is_write: bool


@dataclass(frozen=True)
class _Pending:
    """What was touched since the last barrier: by the first thread, and by any thread."""

    first: frozenset[_Access] = frozenset()
    every: frozenset[_Access] = frozenset()

    def union(self, other: _Pending) -> _Pending:
        return _Pending(self.first | other.first, self.every | other.every)

    def plus(self, accesses: Iterable[_Access], serial: bool) -> _Pending:
        if serial:
            return _Pending(self.first | frozenset(accesses), self.every)
        return _Pending(self.first, self.every | frozenset(accesses))

    def conflicts(self, accesses: Sequence[_Access], serial: bool) -> bool:
        earlier = self.every if serial else self.first | self.every
        return any(
            (old.is_write or new.is_write) and old.address.may_overlap(new.address)
            for new in accesses
            for old in earlier
        )


class _Writer:
    """The body of the walk, line by line."""

    def __init__(self, symbols: Mapping[str, str], threads: int) -> None:
        self.symbols = symbols
        self.threads = threads
        self.lines: list[str] = []
        self.depth = 1
        self.pending = _Pending()

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

    def synchronised(self, step: Step) -> None:
        """A step, after a barrier where it needs one."""
        if self.threads == 1:
            self.step(step, "")
            return
        serial = is_serial([step])
        if serial or isinstance(step, Call):
            self.barrier_before(_accesses([step]), serial)
            self.step(step, "task == 0" if serial else "")
        else:
            assert isinstance(step, If | Loop)
            self.parallel_region(step)

    def barrier_before(self, accesses: Sequence[_Access], serial: bool) -> None:
        if self.pending.conflicts(accesses, serial):
            self.barrier()
        self.pending = self.pending.plus(accesses, serial)

    def barrier(self) -> None:
        self.line("if ((code = rtcc_barrier(w, code)) != 0)")
        self.line("    return code;")
        self.pending = _Pending()

    def parallel_region(self, step: If | Loop) -> None:
        """A nested step that all threads enter: each reads the condition, so it must be complete."""
        tests = [_Access(address, False) for address in conditions(step)]
        if isinstance(step, If):
            self.barrier_before(tests, serial=False)
            self.branches(step, serial=False)
            return
        self.barrier_before(tests, serial=False)
        # The end of a round precedes the beginning of the next: repeat until what is pending there is stable.
        entry, start, back = self.pending, len(self.lines), _Pending()
        while True:
            del self.lines[start:]
            self.pending = entry.union(back)
            self.rounds(step, tests)
            if self.pending.union(back) == back:
                break
            back = self.pending.union(back)
        self.pending = entry.union(back)

    def rounds(self, step: Loop, tests: Sequence[_Access]) -> None:
        """The loop of all threads; the condition of the next round is complete at the end of each."""
        self.line(_loop_head(step))
        self.depth += 1
        self.test(step)
        for inner in step.body:
            self.synchronised(inner)
        self.barrier_before(tests, serial=False)
        self.depth -= 1
        self.line("}")

    def branches(self, step: If, serial: bool) -> None:
        before = self.pending
        self.block(f"if ({_byte(step.condition)}) {{", step.then, serial)
        after = self.pending
        self.pending = before
        if step.otherwise:
            self.block("} else {", step.otherwise, serial)
        self.line("}")
        self.pending = after.union(self.pending)

    def test(self, step: Loop) -> None:
        """Leave the loop where its condition does not hold."""
        if step.first == step.again:
            texts = [f"!{_byte(step.first)}"] if step.first else []
        else:
            texts = [f"i{step.counter} == 0 && !{_byte(step.first)}"] if step.first else []
            texts += [f"i{step.counter} != 0 && !{_byte(step.again)}"] if step.again else []
        for text in texts:
            self.line(f"if ({text})")
            self.line("    break;")

    def step(self, step: Step, guard: str) -> None:
        """A step without barriers; `guard` is a condition on the thread, or empty."""
        guards = f"code == 0 && {guard}" if guard else "code == 0"
        match step:
            case Call():
                self.call(step, guards)
            case Copy():
                self.line(f"if ({guards})")
                source, destination = _pointer(step.source), _pointer(step.destination)
                self.line(f"    memmove({destination}, {source}, {step.destination.bytes});")
            case If() | Loop():
                self.line(f"if ({guards}) {{")
                self.depth += 1
                if isinstance(step, If):
                    self.branches(step, serial=True)
                else:
                    self.line(_loop_head(step, "code == 0 && "))
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
        arguments = [task, tasks, *map(_pointer, step.reads), *map(_pointer, step.writes)]
        if step.scratch is not None:
            base = _pointer(step.scratch)
            arguments.append(base if task == "0" else f"task == 0 ? {base} : own")
        self.line(f"if ({guards}) /* {comment_text(step.comment)} */")
        self.line(f"    {self.symbols[step.kernel]}({', '.join([*arguments, '&code'])});")


def walk_text(steps: Sequence[Step], symbols: Mapping[str, str], threads: int) -> str:
    """The C function `rtcc_walk`; `symbols` gives each kernel's C name, `threads` the largest number of
    threads.
    """
    writer = _Writer(symbols, threads)
    for step in steps:
        writer.synchronised(step)
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
    return printable.replace("*/", "* /").replace("/*", "/ *")


def _accesses(steps: Sequence[Step]) -> list[_Access]:
    reads, writes = reads_and_writes(steps)
    never_written = (Base.WEIGHTS, Base.ITERATION)
    seen = [_Access(address, False) for address in reads if address.base not in never_written]
    return seen + [_Access(address, True) for address in writes]


def _loop_head(step: Loop, condition: str = "") -> str:
    i = f"i{step.counter}"
    return f"for (int64_t {i} = 0; {condition}{i} < {step.trip}; {i}++) {{"


def _byte(address: Address) -> str:
    return f"*(const char *)({_pointer(address)})"


def _pointer(address: Address) -> str:
    match address.base:
        case Base.ARENA | Base.WEIGHTS:
            return f"{address.base.value} + {address.offset}"
        case Base.INPUT | Base.OUTPUT:
            const = "const char" if address.base is Base.INPUT else "char"
            tensor = f"{address.base.value}[{address.index}]"
            return tensor if address.offset == 0 else f"({const} *){tensor} + {address.offset}"
        case Base.ITERATION:
            return f"&i{address.index}"
