"""The process that `--verify-kernels` runs kernels in: `python -m rtcc.verification.child FOLDER`.

It reads the job and the kernels' text from the folder, and before each kernel writes there which it is, so
that the parent knows what it died of.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rtcc.errors import RtccError
from rtcc.ir.op import Array
from rtcc.text import read_module
from rtcc.verification.check import check_kernel
from rtcc.verification.library import KernelLibrary

JOB, KERNELS, ANSWER = "job.json", "kernels.rtir", "answer.json"
"""Files in the folder: what to do, the kernels as text, what was found."""


@dataclass(frozen=True)
class Job:
    """The shared object, its kernels in order, scratch bytes by kernel, the seed, seconds for each kernel."""

    library: str
    names: list[str]
    scratch: dict[str, int]
    seed: int
    seconds: float


@dataclass(frozen=True)
class Answer:
    """The kernel that is being checked, and what is wrong with it."""

    kernel: str = ""
    message: str | None = None
    hint: str | None = None


def main(folder: Path) -> None:
    """Check every kernel in order, up to the first that is wrong."""
    job = Job(**json.loads((folder / JOB).read_text()))
    module = read_module(folder / KERNELS)
    library = KernelLibrary(Path(job.library), job.names, job.scratch)

    def run(name: str, operands: Sequence[Array], results: Sequence[Array], tasks: int) -> int:
        # nobody handles SIGALRM: a kernel that does not end dies of it
        signal.setitimer(signal.ITIMER_REAL, job.seconds)
        try:
            return library.run(name, operands, results, tasks)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    for name, kernel in module.kernels.items():
        _answer(folder, Answer(name))
        try:
            check_kernel(name, kernel, run, job.seed)
        except RtccError as error:
            _answer(folder, Answer(name, error.message, error.hint))
            return


def _answer(folder: Path, answer: Answer) -> None:
    (folder / ANSWER).write_text(json.dumps(asdict(answer)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
