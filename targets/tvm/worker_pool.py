"""Code generation in worker processes: a crash of TVM or LLVM becomes an error that names the kernel."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import queue
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rtcc.errors import CodegenError, RtccError

MOST_SECONDS = 300.0
"""The longest one kernel may take; past it the worker is stopped."""

IDLE_SECONDS = 20.0
"""How long a worker waits for the next compilation: starting one costs more than most kernels do."""

MOST_KERNELS = 500
"""After so many kernels a worker is replaced, so that what TVM keeps cannot pile up."""

WORKER = ("-m", "rtcc.targets.tvm.worker")
"""What Python runs in a worker process."""

Job = tuple[str, dict[str, bytes], str]
"""A kernel's text, the bytes of its large constants by hash, and the target's text."""


@dataclass(frozen=True)
class Fault:
    """What a worker answers where it could not compile: an error, or an unforeseen one's words, and where."""

    error: RtccError | str
    traceback: str


class WorkerTraceback(Exception):
    """The cause of an error that happened in a worker: its text is the traceback there."""

    def __str__(self) -> str:
        return f"in the worker process:\n{self.args[0]}"


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
            worker.kill()
        raise
    if failures:
        raise failures[0]


class _Worker:
    """One process that compiles one kernel at a time.

    It imports from where this process does, and never from the current folder (-P), which may hold a
    stranger's files beside a stranger's model. The folder of its temporary files is cleared here, as it may
    die at any moment, and by itself, as this process may.
    """

    def __init__(self) -> None:
        self._environment = _environment()
        self._kind = WORKER
        self._cores = os.sched_getaffinity(0)
        self._folder = tempfile.mkdtemp(prefix="rtcc-worker-")
        environment, pipe = {**self._environment, "TMPDIR": self._folder}, subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *WORKER, self._folder],
                env=environment,
                cwd="/",
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
            )
        except OSError:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._served = 0
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def is_usable(self) -> bool:
        """Whether the process is alive, not due for replacement, and what a new one would be."""
        same = self._environment == _environment() and self._kind == WORKER
        fresh = self._served < MOST_KERNELS and self._cores == os.sched_getaffinity(0)
        return same and fresh and self.process.poll() is None

    def compile(self, name: str, job: Job) -> bytes:
        """The object of one kernel; raises CodegenError for it however it fails."""
        self._served += 1
        is_late = threading.Event()
        timer = threading.Timer(MOST_SECONDS, self._kill, (is_late,))
        timer.start()
        try:
            answer = self._exchange(job)
        except (EOFError, BrokenPipeError, struct.error):
            raise self._died(name, is_late.is_set()) from self._last_words()
        finally:
            timer.cancel()
        if isinstance(answer, bytes):
            return answer
        assert isinstance(answer, Fault)
        cause, where = WorkerTraceback(answer.traceback), f"kernel @{name}"
        if isinstance(answer.error, RtccError):
            answer.error.where = answer.error.where or where
            raise answer.error from cause
        hint = "-v shows the traceback; please report it"
        raise CodegenError(
            "codegen-failed", f"kernel @{name}: {answer.error}", where=where, hint=hint
        ) from cause

    def kill(self) -> None:
        """End the process at once, whatever it is at."""
        self.process.kill()
        self.stop()

    def stop(self) -> None:
        """End the process, which leaves as soon as its pipe is closed, and what it leaves behind."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        with contextlib.suppress(BrokenPipeError):  # it died with a request unread
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self._listener.join()
        self.process.stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _exchange(self, job: Job) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        write_frame(self.process.stdin, job)
        return read_frame(self.process.stdout)

    def _kill(self, is_late: threading.Event) -> None:
        is_late.set()
        self.process.kill()

    def _last_words(self) -> WorkerTraceback | None:
        """What the process, which has ended, wrote to standard error."""
        self.process.wait()
        self._listener.join()
        return WorkerTraceback("\n".join(self._said)) if self._said else None

    def _died(self, name: str, is_late: bool) -> CodegenError:
        code = self.process.wait()
        self._listener.join()
        if is_late:
            message = f"generating code for kernel @{name} timed out after {MOST_SECONDS:g} s"
            hint = "--dump-ir shows the kernel: make it smaller, as with fuse{most_ops=8}; please report it"
            return CodegenError("codegen-timeout", message, where=f"kernel @{name}", hint=hint)
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = f": {self._said[-1]}" if self._said else ""
        return CodegenError(
            "codegen-crashed", f"generating code for kernel @{name} ended with {cause}{last}",
            where=f"kernel @{name}", hint="--dump-ir shows the kernel; please report it",
        )  # fmt: skip

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._said = [*self._said[-20:], line.decode("utf-8", "replace").rstrip()]


class _Idle:
    """Workers between two compilations. A forked child starts with none: the pipes are its parent's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._timer: threading.Timer | None = None
        self._is_registered = False

    def take(self) -> _Worker:
        """A usable worker, else a new one."""
        with self._lock:
            self._cancel()
            kept = [worker for worker in self._workers if worker.is_usable]
            spent = [worker for worker in self._workers if worker not in kept]
            found = kept.pop() if kept else None
            self._workers = kept
            self._schedule()
        for worker in spent:
            worker.stop()
        return found or _Worker()

    def give(self, worker: _Worker) -> None:
        """Keep a worker for the next compilation, for a while."""
        if not worker.is_usable:
            worker.stop()
            return
        with self._lock:
            if not self._is_registered:
                atexit.register(self.clear)
                os.register_at_fork(after_in_child=self.__init__)
                self._is_registered = True
            self._workers.append(worker)
            self._schedule()

    def clear(self) -> None:
        """Stop all idle workers."""
        with self._lock:
            self._cancel()
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.stop()

    def _schedule(self) -> None:
        self._cancel()
        if self._workers:
            self._timer = threading.Timer(IDLE_SECONDS, self.clear)
            self._timer.daemon = True
            self._timer.start()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


_idle: Final = _Idle()


def _environment() -> dict[str, str]:
    """The variables that a worker gets: where to find programs and modules, and what TVM and LLVM read."""
    names = ("PATH", "HOME", "LANG", "LC_", "LD_", "PYTHON", "TVM_", "LLVM_")
    kept = {name: value for name, value in os.environ.items() if name.startswith(names)}
    return {**kept, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}


def write_frame(stream: Any, value: object) -> None:
    """Send one value: eight bytes of length, then its pickle."""
    payload = pickle.dumps(value)
    stream.write(struct.pack("<Q", len(payload)) + payload)
    stream.flush()


def read_frame(stream: Any) -> Any:
    """Receive one value; EOFError where the other side is gone."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (length,) = struct.unpack("<Q", head)
    payload = stream.read(length)
    if len(payload) < length:
        raise EOFError
    return pickle.loads(payload)
