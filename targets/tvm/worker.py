"""The worker process: reads kernels as text, answers object bytes or what went wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from typing import Any

from rtcc.errors import RtccError
from rtcc.targets.tvm.worker_pool import Fault, Job, read_frame, write_frame

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until the parent closes the pipe. Standard output is the pipe: nothing else may print to it."""
    _end_with(int(sys.argv[1]))
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from rtcc.targets.tvm.lower.compile import compile_text

    while True:
        try:
            job = read_frame(requests)
        except EOFError:
            return
        write_frame(answers, _answer(compile_text, job))


def _end_with(parent: int) -> None:
    """Have this process killed when its parent ends, however that comes: one kernel may take minutes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _answer(compile_text: Any, job: Job) -> bytes | Fault:
    try:
        return compile_text(*job)
    except RtccError as error:
        return Fault(error, traceback.format_exc())
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        return Fault(said, traceback.format_exc())


if __name__ == "__main__":
    main()
