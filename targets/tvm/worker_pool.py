"""Code generation in worker processes: a crash of TVM or LLVM becomes an error that names the kernel."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from rtcc.errors import CodegenError, RtccError
from rtcc.system.child_process import Child, ChildDied, ChildRaised
from rtcc.system.idle_processes import IdleProcesses
from rtcc.targets.tvm.worker import Job, get_ready, object_of

Result = TypeVar("Result")

MOST_SECONDS = 300.0
"""The longest one kernel may take; past it the worker is stopped."""

IDLE_SECONDS = 20.0
"""How long a worker waits for the next compilation: starting one costs more than most kernels do."""

MOST_KERNELS = 500
"""After so many kernels a worker is replaced, so that what TVM keeps cannot pile up."""

MOST_AHEAD = 4
"""Processes started before it is known how many kernels there are."""

WRITE_FAILED = "IO failure on output stream"
"""What LLVM says before it ends the process."""

COMPILE: Callable[[Job], bytes] = object_of
"""What workers do."""


def generate(jobs: Mapping[str, Job], workers: int, done: Callable[[str, bytes], None]) -> None:
    """Compile kernels to objects on `workers` processes; `done(name, object)` as each finishes, in any order.

    The first failure stops the rest and is raised: a `CodegenError` that names the kernel, also where the
    process died or took too long. Workers stay for IDLE_SECONDS after the call, to serve the next one; an
    interrupted call kills its own.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in jobs:
        waiting.put(name)
    failures: list[Exception] = []
    lock = threading.Lock()
    taken: list[_Worker] = []

    def serve() -> None:
        try:
            worker = _idle.take()
        except OSError as error:
            failures.append(error)
            return
        taken.append(worker)
        try:
            while not failures:
                name = waiting.get_nowait()
                result = worker.compile(name, jobs[name])
                with lock:
                    done(name, result)
        except queue.Empty:
            pass
        except Exception as error:  # raised again by the caller's thread
            failures.append(error)
        _idle.give(worker)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, len(jobs)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:  # interrupted: what the workers are at is of no use any more
        failures.append(CodegenError("interrupted", "the compilation was interrupted"))
        for worker in taken:
            worker.child.kill()
        for thread in threads:  # one may be starting a worker, which must not be left behind
            if thread.ident is not None:
                thread.join()
        raise
    if failures:
        raise failures[0]


def get_workers_ready(packages: tuple[Path, ...], workers: int, generator: str) -> None:
    """Start processes that `generate` will soon want: they import the code generator meanwhile."""
    with suppress(OSError):  # none can be started: `generate` says so, if it needs one
        started = [_idle.take() for _ in range(min(workers, MOST_AHEAD))]
        for worker in started:
            worker.child.begin(get_ready, packages, generator)
            _idle.give(worker)


class _Worker:
    """One process that compiles one kernel at a time."""

    def __init__(self) -> None:
        self.child = Child()
        self._served = 0

    @property
    def is_usable(self) -> bool:
        """Whether the process is what a new one would be, and not due for replacement."""
        return self._served < MOST_KERNELS and self.child.is_usable

    def compile(self, name: str, job: Job) -> bytes:
        """The object of one kernel; raises RtccError for it however it fails."""
        self._served += 1
        return call_for_kernel(self.child, name, COMPILE, job)

    def stop(self) -> None:
        """End the process."""
        self.child.stop()


def call_for_kernel(child: Child, name: str, function: Callable[[Job], Result], job: Job) -> Result:
    """What a function of a worker makes of a kernel.

    Raises `CodegenError` naming the kernel: codegen-crashed, codegen-timeout, codegen-failed, disk-full; or
    the function's own error.
    """
    where = f"kernel @{name}"
    try:
        return child.call(MOST_SECONDS, function, job)
    except RtccError as error:
        error.where = error.where or where
        raise
    except ChildRaised as fault:
        hint = "-v shows the traceback; please report it"
        raise CodegenError("codegen-failed", f"{where}: {fault}", where=where, hint=hint) from fault
    except ChildDied as death:
        if death.is_late:
            message = f"generating code for {where} timed out after {MOST_SECONDS:g} s"
            hint = "--dump-ir shows the kernel: make it smaller, as with fuse{most_ops=8}; please report it"
            raise CodegenError("codegen-timeout", message, where=where, hint=hint) from death
        if WRITE_FAILED in death.said:
            message = f"the object of {where} could not be written: {death.said.rpartition(': ')[2]}"
            hint = "free some space in $TMPDIR"
            raise CodegenError("disk-full", message, where=where, hint=hint) from death
        message = f"generating code for {where} ended with {death}"
        hint = "--dump-ir shows the kernel; please report it"
        raise CodegenError("codegen-crashed", message, where=where, hint=hint) from death


_idle: Final = IdleProcesses(_Worker, lambda: IDLE_SECONDS)
