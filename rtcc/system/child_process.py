"""Functions run in a process of their own: one that crashes, hangs or exits there becomes an error here.

What is called is pickled by its name, so it is a function of a module, and so are its arguments and result.
`python -m rtcc.system.child_process FOLDER` is the other side.
"""

from __future__ import annotations

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
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, ParamSpec, TypeVar

from rtcc.errors import RtccError

KEPT_LINES = 20
"""How many of the last lines of the process's standard error are kept."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Fault:
    """What the process answers where a call raised: the error, or an unforeseen one's words, and where."""

    error: RtccError | str
    traceback: str


class ChildTraceback(Exception):
    """The cause of an error that was raised in a process of ours: its text is what was said there."""

    def __str__(self) -> str:
        return f"in the worker process:\n{self.args[0]}"


class ChildRaised(Exception):
    """A call raised what is no RtccError; the text says what."""


class ChildDied(Exception):
    """The process ended during a call.

    code: its exit status, -N after signal N. is_late: it was stopped since the call took too long. said: the
    last line of its standard error.
    """

    def __init__(self, code: int, is_late: bool, said: str) -> None:
        self.code, self.is_late, self.said = code, is_late, said
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        super().__init__(f"{cause}: {said}" if said else cause)


class Child:
    """A process that runs one call at a time, until it is stopped or this process ends.

    It imports from where this process does, and never from the current folder (-P), which may hold a
    stranger's files beside a stranger's model. The folder of its temporary files is cleared here, as it may
    die at any moment, and by itself, as this process may. Ctrl-C and SIGTERM are for this process to answer.
    """

    def __init__(self) -> None:
        self.environment, self._cores = child_environment(), os.sched_getaffinity(0)
        self._folder = tempfile.mkdtemp(prefix="rtcc-child-")
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rtcc.system.child_process", self._folder],
                env={**self.environment, "TMPDIR": self._folder},
                cwd="/",
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
            )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._requests, self._answers, self._errors = (
            self.process.stdin,
            self.process.stdout,
            self.process.stderr,
        )
        self._said: list[str] = []
        self._is_stopped = False
        self._unread = 0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def begin(
        self, function: Callable[Arguments, object], *arguments: Arguments.args, **keywords: Arguments.kwargs
    ) -> None:
        """Have a function called of which nothing is wanted, not even its error; later calls wait for it."""
        with contextlib.suppress(BrokenPipeError):  # it died: the next call says so
            _write_frame(self._requests, pickle.dumps((function, arguments, keywords)))
            self._unread += 1

    def call(
        self,
        seconds: float | None,
        function: Callable[Arguments, Result],
        *arguments: Arguments.args,
        **keywords: Arguments.kwargs,
    ) -> Result:
        """What the function returns there; None seconds are as many as it takes.

        Raises the RtccError that it raised, `ChildRaised` for anything else that it raised, `ChildDied` where
        the process ended or had to be stopped.
        """
        is_late = threading.Event()
        timer = threading.Timer(seconds or 0, self._stop_late, (is_late,))
        if seconds is not None:
            timer.start()
        try:
            _write_frame(self._requests, pickle.dumps((function, arguments, keywords)))
            while self._unread:
                _read_frame(self._answers)
                self._unread -= 1
            answer: Any = pickle.loads(_read_frame(self._answers))
        except (EOFError, BrokenPipeError):
            raise self._died(is_late.is_set()) from self._last_words()
        finally:
            timer.cancel()
        if not isinstance(answer, Fault):
            return answer
        cause = ChildTraceback(answer.traceback)
        raise (ChildRaised(answer.error) if isinstance(answer.error, str) else answer.error) from cause

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended, nor been told to."""
        return not self._is_stopped and self.process.poll() is None

    @property
    def is_usable(self) -> bool:
        """Whether the process is alive, and what a new one would be."""
        same = self.environment == child_environment() and self._cores == os.sched_getaffinity(0)
        return same and self.is_alive

    def kill(self) -> None:
        """End the process at once, whatever it is at."""
        self.process.kill()
        self.stop()

    def stop(self) -> None:
        """End the process, which leaves as soon as its pipe is closed, and what it leaves behind."""
        with contextlib.suppress(BrokenPipeError):  # it died with a request unread
            self._requests.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._answers.close()
        self._listener.join()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _stop_late(self, is_late: threading.Event) -> None:
        is_late.set()
        self._is_stopped = True
        self.process.kill()

    def _died(self, is_late: bool) -> ChildDied:
        code = self.process.wait()
        self._listener.join()
        return ChildDied(code, is_late, self._said[-1] if self._said else "")

    def _last_words(self) -> ChildTraceback | None:
        """What the process, which has ended, wrote to standard error."""
        self.process.wait()
        self._listener.join()
        return ChildTraceback("\n".join(self._said)) if self._said else None

    def _listen(self) -> None:
        for line in self._errors:
            self._said = [*self._said[1 - KEPT_LINES :], line.decode("utf-8", "replace").rstrip()]


def child_environment() -> dict[str, str]:
    """The variables that a child gets: where to find programs and modules, what TVM, LLVM and NumPy read."""
    names = ("PATH", "HOME", "LANG", "LC_", "LD_", "PYTHON", "TVM_", "LLVM_", "OPENBLAS_", "OMP_")
    kept = {name: value for name, value in os.environ.items() if name.startswith(names)}
    return {**kept, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}


def _write_frame(stream: IO[bytes], payload: bytes) -> None:
    """Send bytes: eight of their number, then they."""
    stream.write(struct.pack("<Q", len(payload)) + payload)
    stream.flush()


def _read_frame(stream: IO[bytes]) -> bytes:
    """Receive bytes; EOFError where the other side is gone."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (length,) = struct.unpack("<Q", head)
    payload = stream.read(length)
    if len(payload) < length:
        raise EOFError
    return payload


def serve(folder: str) -> None:
    """Run calls until the parent closes the pipe. Standard output is the pipe: nothing else prints to it."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group: we leave when the parent does
        signal.signal(number, signal.SIG_IGN)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, requests, folder), daemon=True).start()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        _write_frame(answers, _answer(requests.get()))


def _receive(stream: IO[bytes], requests: queue.SimpleQueue[bytes], folder: str) -> None:
    """Read requests; end the process when the parent is gone, though a call be half done."""
    try:
        while True:
            requests.put(_read_frame(stream))
    except EOFError:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _answer(request: bytes) -> bytes:
    try:
        function, arguments, keywords = pickle.loads(request)
        return pickle.dumps(function(*arguments, **keywords))
    except RtccError as error:
        return pickle.dumps(Fault(error, traceback.format_exc()))
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return pickle.dumps(Fault(said, traceback.format_exc()))


if __name__ == "__main__":
    # under its importable name, so that what is pickled here is known there
    from rtcc.system.child_process import serve as serve_calls

    serve_calls(sys.argv[1])
