"""Code generation in worker processes: a crash of TVM or LLVM becomes an error that names the kernel."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rtcc.errors import CodegenError, RtccError

MOST_SECONDS = 300.0
"""The longest one kernel may take; past it the worker is stopped."""

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
    process died or took too long. No process outlives the call, however it ends.
    """
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for name in jobs:
        waiting.put(name)
    failures: list[Exception] = []
    lock = threading.Lock()
    started: list[_Worker] = []

    def serve() -> None:
        try:
            worker = _Worker(folder)
        except OSError as error:
            failures.append(error)
            return
        started.append(worker)
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
        finally:
            worker.stop()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, len(jobs)))]
    with tempfile.TemporaryDirectory(prefix="rtcc-workers-", ignore_cleanup_errors=True) as folder:
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # interrupted: what the workers are at is of no use any more
            for worker in started:
                worker.process.kill()
            for worker in started:
                worker.process.wait()
            raise
    if failures:
        raise failures[0]


class _Worker:
    """One process that compiles one kernel at a time.

    It imports from where this process does, and never from the current folder (-P), which may hold a
    stranger's files beside a stranger's model.
    """

    def __init__(self, folder: str) -> None:
        """folder: for its temporary files, which are not its own to clean up: it may die at any moment."""
        command = [sys.executable, "-P", *WORKER, str(os.getpid())]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": folder}
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def compile(self, name: str, job: Job) -> bytes:
        """The object of one kernel; raises CodegenError for it however it fails."""
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

    def stop(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._listener.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

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
