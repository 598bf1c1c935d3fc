"""The worker process: reads kernels as text, answers object bytes or what went wrong."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

from rtcc.errors import RtccError
from rtcc.targets.tvm.workers import Job, read_frame, write_frame


def main() -> None:
    """Serve until the parent closes the pipe. Standard output is the pipe: nothing else may print to it."""
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


def _answer(compile_text: Any, job: Job) -> bytes | RtccError | str:
    try:
        return compile_text(*job)
    except RtccError as error:
        return error
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


if __name__ == "__main__":
    main()
