"""Kernels as TIR text, for `--dump-ir`: lowered in a process of its own, since this one may never import TVM.

    python -m rtcc.targets.tvm.listing < pickled {kernel: job} > pickled {kernel: text}
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping

from rtcc.errors import CodegenError
from rtcc.ir import Module
from rtcc.target import Target
from rtcc.targets.tvm.compile_kernels import kernel_text
from rtcc.targets.tvm.worker_pool import Job


def tir_texts(module: Module, target: Target) -> dict[str, str]:
    """The TIR of each kernel as TVM prints it, by kernel name; raises CodegenError `no-listing`."""
    jobs: dict[str, Job] = {}
    for name, kernel in module.kernels.items():
        text, blobs = kernel_text(kernel)
        jobs[name] = (text, blobs, str(target))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "rtcc.targets.tvm.listing"], input=pickle.dumps(jobs),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        last = said[-1] if said else f"exit code {done.returncode}"
        raise CodegenError("no-listing", f"kernels could not be listed as TIR: {last}")
    return pickle.loads(done.stdout)


def main() -> None:
    """Answer the request on standard input; nothing else may be printed to standard output."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: Mapping[str, Job] = pickle.load(sys.stdin.buffer)
    sys.modules["torch"] = None  # type: ignore[assignment]  # TVM would import it where it finds it: seconds
    from rtcc.targets.tvm.lower.compile import text_of

    with answers:
        pickle.dump({name: text_of(*job) for name, job in jobs.items()}, answers)


if __name__ == "__main__":
    main()
