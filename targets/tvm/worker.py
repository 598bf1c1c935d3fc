"""The worker process: reads kernels as text, answers object bytes or what went wrong."""

from __future__ import annotations

import os
import queue
import shutil
import sys
import threading
import traceback
from typing import Any

from rtcc.errors import RtccError
from rtcc.targets.tvm.worker_pool import Fault, Job, read_frame, write_frame


def main() -> None:
    """Serve until the parent closes the pipe. Standard output is the pipe: nothing else may print to it."""
    requests: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(sys.stdin.buffer, requests, sys.argv[1]), daemon=True).start()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM would import it where it finds it: seconds
    from rtcc.targets.tvm.lower.compile import compile_text

    while True:
        write_frame(answers, _answer(compile_text, requests.get()))


def _receive(stream: Any, requests: queue.SimpleQueue[Job], folder: str) -> None:
    """Read requests; end the process when the parent is gone, though a kernel be half done."""
    try:
        while True:
            requests.put(read_frame(stream))
    except EOFError:
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


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
